"""A small dbt project with pii: contacts of a seed, and payments that arrive live, through staging to three views."""

from __future__ import annotations

from tests.support.tiny_project import DBT_PROJECT, PROFILES

SEEDS = """
seeds:
  - name: contacts
    config: {column_types: {customer_id: bigint, email: varchar, plan: varchar, since: timestamptz}}
    columns:
      - name: email
        config: {meta: {pii: true}}
"""

SOURCES = """
sources:
  - name: payments
    config: {meta: {external_location: "landing/{name}/*.parquet"}}
    tables:
      - name: transactions
        config:
          meta:
            event_stream: {event_id: transaction_id, event_timestamp: occurred_at, created_timestamp: ingested_at}
        columns:
          - {name: transaction_id, data_type: bigint}
          - {name: customer_id, data_type: bigint}
          - {name: card_holder, data_type: varchar, meta: {pii: true}}
          - {name: ip, data_type: varchar, config: {meta: {pii: true}}}
          - {name: amount_eur, data_type: "decimal(12,2)"}
          - {name: occurred_at, data_type: timestamptz}
          - {name: ingested_at, data_type: timestamptz}
"""

MODELS = """
groups:
  - name: risk
    owner: {name: Risk, email: risk@example.com}
  - name: growth
    owner: {name: Growth, email: growth@example.com}

models:
  - name: customers
    description: Customers. One row per customer.
    config: {meta: {entity: {name: customer, join_keys: [customer_id]}}}
    columns:
      - {name: customer_id, data_type: bigint, description: The customer.}
  - name: stg_payments
    columns:
      - name: ip_region
        config: {meta: {pii: false, pii_reason: the first number of an address is that of a whole region}}
  - name: customer__contact
    description: How a customer is reached. One row per change.
    config:
      group: growth
      materialized: table
      meta: {feature_view: {entities: [customer], ttl: 30d, refresh: daily}}
    columns:
      - {name: customer_id, data_type: bigint, description: The customer.}
      - {name: event_timestamp, data_type: timestamptz, description: Since when.}
      - {name: plan, data_type: varchar, description: What the customer pays for.}
      - {name: email, data_type: varchar, description: Address.}
      - {name: email_hash, data_type: varchar, description: Hash of the address.}
      - {name: has_email, data_type: boolean, description: Whether there is an address.}
      - name: email_domain
        data_type: varchar
        description: Domain of the address.
        config: {meta: {pii: false, pii_reason: a domain is that of many}}
  - name: customer__payments
    description: Card payments of a customer.
    config:
      group: risk
      materialized: table
      meta: {feature_view: {entities: [customer], ttl: 30d, refresh: hourly, stream: payments.transactions}}
    columns:
      - {name: customer_id, data_type: bigint, description: The customer.}
      - {name: event_timestamp, data_type: timestamptz, description: When it was paid.}
      - {name: payments_1h, data_type: bigint, description: Payments in the last hour.}
      - {name: holders_1h, data_type: bigint, description: Card holders of the last hour.}
      - {name: last_holder, data_type: varchar, description: Card holder of the latest payment of the last hour.}
      - {name: region, data_type: varchar, description: Region of the latest payment.}
  - name: customer__spending
    description: What a customer spends.
    config:
      group: risk
      materialized: table
      meta: {feature_view: {entities: [customer], ttl: 30d, refresh: hourly, stream: payments.transactions}}
    columns:
      - {name: customer_id, data_type: bigint, description: The customer.}
      - {name: event_timestamp, data_type: timestamptz, description: When it was paid.}
      - {name: spent_eur_1h, data_type: "decimal(38,2)", description: Euros spent in the last hour.}
      - {name: region, data_type: varchar, description: Region of the latest payment.}
"""

SERVICES = """
exposures:
  - name: fraud_v1
    type: ml
    owner: {name: Risk models, email: models@example.com}
    description: Scores a payment.
    depends_on: [ref('customer__payments'), ref('customer__contact')]
    config:
      meta:
        feature_service:
          features: ["customer__payments:payments_1h", "customer__contact:plan", "customer__contact:email"]
  - name: plain_v1
    type: ml
    owner: {name: Risk models, email: models@example.com}
    description: Scores a payment without knowing who pays.
    depends_on: [ref('customer__spending'), ref('customer__contact')]
    config:
      meta:
        feature_service:
          features: ["customer__spending:spent_eur_1h", "customer__contact:plan", "customer__contact:has_email"]
"""

STAGING = """
select transaction_id, customer_id, upper(card_holder) as holder, split_part(ip, '.', 1) as ip_region, amount_eur,
    occurred_at, ingested_at
from {{ source('payments', 'transactions') }}
qualify row_number() over (partition by transaction_id order by ingested_at desc) = 1
"""

CONTACT = """
with contacts as (select * from {{ ref('recent_contacts') }})
select
    customer_id, since as event_timestamp, plan, email, md5(lower(email)) as email_hash,
    email is not null as has_email, split_part(email, '@', 2) as email_domain
from contacts
"""

WINDOW = """
from {{ ref('stg_payments') }}
window last_hour as (
    partition by customer_id order by occurred_at range between interval 1 hour preceding and current row
)
"""

FILES = {
    "dbt_project.yml": DBT_PROJECT + "seed-paths: [seeds]\n",
    "profiles/profiles.yml": PROFILES,
    "seeds/contacts.csv": "customer_id,email,plan,since\n"
    "1,ada@example.com,gold,2024-05-01 00:00:00+00\n2,bob@example.org,free,2024-05-01 00:00:00+00\n",
    "models/customers.sql": "select 1::bigint as customer_id",
    "models/recent_contacts.sql": "{{ config(materialized='ephemeral') }}\n"
    "select * from {{ ref('contacts') }} where since > timestamptz '2020-01-01 00:00:00+00'",
    "models/stg_payments.sql": STAGING,
    "models/customer__contact.sql": CONTACT,
    "models/customer__payments.sql": "select customer_id, occurred_at as event_timestamp, "
    "count(*) over last_hour as payments_1h, count(distinct holder) over last_hour as holders_1h, "
    "last(holder) over last_hour as last_holder, ip_region as region" + WINDOW,
    "models/customer__spending.sql": "select customer_id, occurred_at as event_timestamp, "
    "sum(amount_eur) over last_hour as spent_eur_1h, ip_region as region" + WINDOW,
    "seeds/seeds.yml": SEEDS,
    "models/sources.yml": SOURCES,
    "models/models.yml": MODELS,
    "models/services.yml": SERVICES,
}
