"""A small dbt project with a stream view over card payments that lie in Parquet files."""

from __future__ import annotations

from tests.support.tiny_project import DBT_PROJECT, PROFILES

SOURCES = """
sources:
  - name: payments
    config: {meta: {external_location: "landing/{name}/*.parquet"}}
    tables:
      - name: transactions
        config:
          meta:
            event_stream:
              event_id: transaction_id
              event_timestamp: occurred_at
              created_timestamp: ingested_at
        columns:
          - {name: transaction_id, data_type: bigint}
          - {name: customer_id, data_type: bigint}
          - {name: merchant, data_type: varchar}
          - {name: kind, data_type: varchar}
          - {name: amount_eur, data_type: "decimal(12,2)"}
          - {name: occurred_at, data_type: timestamptz}
          - {name: ingested_at, data_type: timestamptz}
"""

ENTITIES = """
groups:
  - name: risk
    owner: {name: Risk, email: risk@example.com}

models:
  - name: customers
    description: Customers. One row per customer.
    config: {meta: {entity: {name: customer, join_keys: [customer_id]}}}
    columns:
      - {name: customer_id, data_type: bigint, description: The customer.}
"""

FEATURES = """
models:
  - name: customer__payments
    description: Card payments of a customer.
    config:
      group: risk
      materialized: table
      meta:
        feature_view: {entities: [customer], ttl: 30d, refresh: hourly, stream: payments.transactions}
    columns:
      - {name: customer_id, data_type: bigint, description: The customer.}
      - {name: event_timestamp, data_type: timestamptz, description: When it was paid.}
      - {name: payments_1h, data_type: bigint, description: Payments in the last hour.}
      - {name: spent_eur_1d, data_type: "decimal(38,2)", description: Euros spent in the last day.}
      - {name: merchants_1d, data_type: bigint, description: Merchants of the last day.}
      - {name: peak_to_mean, data_type: double, description: Largest payment over the mean one.}
      - {name: payments_lifetime, data_type: bigint, description: Payments ever.}
      - {name: last_merchant, data_type: varchar, description: Merchant of the latest payment.}
  - name: customer__country
    description: Where a customer lives.
    config:
      group: risk
      materialized: table
      meta: {feature_view: {entities: [customer], refresh: daily}}
    columns:
      - {name: customer_id, data_type: bigint, description: The customer.}
      - {name: event_timestamp, data_type: timestamptz, description: Since when.}
      - {name: country, data_type: varchar, description: Country.}
"""

SERVICES = """
exposures:
  - name: fraud_v1
    type: ml
    owner: {name: Risk models, email: models@example.com}
    description: Scores a payment.
    depends_on: [ref('customer__payments'), ref('customer__country')]
    config:
      meta:
        feature_service:
          features: ["customer__payments:payments_1h", "customer__country:country", "customer__payments:last_merchant"]
"""

STAGING = """
with transactions as (
    select * from {{ source('payments', 'transactions') }}
    where ingested_at <= timestamptz '2024-05-02 00:00:00+00'
)
select
    transaction_id,
    customer_id,
    merchant,
    kind = 'refund' as is_refund,
    amount_eur,
    occurred_at,
    ingested_at as known_at
from transactions
qualify row_number() over (partition by transaction_id order by ingested_at desc) = 1
"""

PAYMENTS = """
select
    customer_id,
    occurred_at as event_timestamp,
    count(*) over last_hour as payments_1h,
    sum(amount_eur) filter (where not is_refund) over last_day as spent_eur_1d,
    count(distinct merchant) over last_day as merchants_1d,
    max(amount_eur) over last_day / nullif(avg(amount_eur) over last_day, 0) as peak_to_mean,
    count(*) over lifetime as payments_lifetime,
    merchant as last_merchant
from {{ ref('stg_payments__transactions') }}
where amount_eur > 0
window
    last_hour as (
        partition by customer_id order by occurred_at range between interval 1 hour preceding and current row
    ),
    last_day as (
        partition by customer_id order by occurred_at range between interval 1 day preceding and current row
    ),
    lifetime as (partition by customer_id order by occurred_at range between unbounded preceding and current row)
"""

FILES = {
    "dbt_project.yml": DBT_PROJECT,
    "profiles/profiles.yml": PROFILES,
    "models/customers.sql": "select 1::bigint as customer_id",
    "models/stg_payments__transactions.sql": STAGING,
    "models/customer__payments.sql": PAYMENTS,
    "models/customer__country.sql": (
        "select 1::bigint as customer_id, timestamptz '2024-01-01 00:00:00+00' as event_timestamp, 'NL' as country"
    ),
    "models/sources.yml": SOURCES,
    "models/entities.yml": ENTITIES,
    "models/features.yml": FEATURES,
    "models/services.yml": SERVICES,
}
