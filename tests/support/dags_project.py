"""A dbt project whose rows come from a CSV file: an entity, hourly and daily feature views, tests of several kinds."""

from __future__ import annotations

DBT_PROJECT = """
name: till
version: "1.0"
profile: till
model-paths: [models]
test-paths: [checks]
vars: {as_of: "2024-01-01T00:00:00Z"}
flags: {send_anonymous_usage_stats: false}
"""

PROFILES = """
till:
  target: local
  outputs:
    local: {type: duckdb, path: "{{ env_var('FEATURES_WAREHOUSE') }}", threads: 1, settings: {TimeZone: UTC}}
"""

MODELS = """
sources:
  - name: till
    config: {meta: {external_location: "{{ env_var('TILL_LANDING') }}/{name}/*.parquet"}}
    tables:
      - name: receipts
        config:
          meta:
            event_stream: {event_id: receipt_id, event_timestamp: printed_at, created_timestamp: received_at}
        columns:
          - {name: receipt_id, data_type: bigint}
          - {name: account_id, data_type: bigint}
          - {name: printed_at, data_type: timestamptz}
          - {name: received_at, data_type: timestamptz}

groups:
  - name: money
    owner: {name: Money team, email: money@example.com}

models:
  - name: accounts
    description: Accounts. One row per account.
    config:
      materialized: table
      meta: {entity: {name: account, join_keys: [account_id]}}
    columns:
      - {name: account_id, data_type: bigint, description: The account., data_tests: [unique, not_null]}
  - name: account__activity
    description: Payments of an account. One row per payment.
    latest_version: 2
    config: &feature_view
      group: money
      materialized: table
      contract: {enforced: true}
      meta: {feature_view: {entities: [account], refresh: hourly}}
    columns:
      - name: account_id
        data_type: bigint
        description: The account.
        data_tests: [{relationships: {arguments: {to: ref('accounts'), field: account_id}}}]
      - {name: event_timestamp, data_type: timestamptz, description: When it was paid.}
      - {name: amount_cents, data_type: bigint, description: The payment in cents., data_tests: [not_null]}
    versions:
      - {v: 1}
      - {v: 2}
  - name: account__totals
    description: All payments of an account. One row per account.
    config: *feature_view
    columns:
      - {name: account_id, data_type: bigint, description: The account.}
      - {name: event_timestamp, data_type: timestamptz, description: When it last paid.}
      - {name: payments, data_type: bigint, description: How often it has paid.}
  - name: account__receipts
    description: Receipts of an account. One row per receipt.
    config:
      <<: *feature_view
      meta: {feature_view: {entities: [account], refresh: hourly, stream: till.receipts}}
    columns:
      - {name: account_id, data_type: bigint, description: The account.}
      - {name: event_timestamp, data_type: timestamptz, description: When it was printed.}
      - {name: receipts_1h, data_type: bigint, description: Receipts in the last hour.}
  - name: account__daily
    description: Payments of an account a day. One row per account and day.
    config:
      <<: *feature_view
      meta: {feature_view: {entities: [account], refresh: daily}}
    columns:
      - {name: account_id, data_type: bigint, description: The account.}
      - {name: event_timestamp, data_type: timestamptz, description: The end of the day.}
      - {name: amount_cents_sum_1d, data_type: bigint, description: Paid that day in cents.}

exposures:
  - name: risk_v1
    type: ml
    owner: {name: Risk, email: risk@example.com}
    description: Compares the last payment of an account with how often it has paid.
    depends_on:
      - ref('account__activity', v=2)
      - ref('account__totals')
    config:
      meta:
        feature_service:
          consistent: run
          features: [account__activity@v2:amount_cents, account__totals:payments]
"""

PAYMENTS_SQL = """
select account_id, occurred_at, amount_cents
from read_csv(
    '{{ env_var("TILL_PAYMENTS") }}',
    columns = {'account_id': 'bigint', 'occurred_at': 'timestamptz', 'amount_cents': 'bigint'}
)
where occurred_at <= timestamptz '{{ var("as_of") }}'
"""
ACTIVITY_SQL = "select account_id, occurred_at as event_timestamp, amount_cents from {{ ref('stg_payments') }}"
TOTALS_SQL = """
select account_id, max(occurred_at) as event_timestamp, count(*) as payments from {{ ref('stg_payments') }} group by all
"""
DAILY_SQL = """
select
    account_id,
    time_bucket(interval 1 day, occurred_at) + interval 1 day as event_timestamp,
    sum(amount_cents)::bigint as amount_cents_sum_1d
from {{ ref('stg_payments') }}
group by all
"""

RECEIPTS_SQL = """
select
    account_id,
    printed_at as event_timestamp,
    count(*) over last_hour as receipts_1h
from {{ source('till', 'receipts') }}
where received_at <= timestamptz '{{ var("as_of") }}'
window
    last_hour as (partition by account_id order by printed_at range between interval 1 hour preceding and current row)
"""

FILES = {
    "dbt_project.yml": DBT_PROJECT,
    "profiles/profiles.yml": PROFILES,
    "models/models.yml": MODELS,
    "models/stg_payments.sql": PAYMENTS_SQL,
    "models/accounts.sql": "select distinct account_id from {{ ref('stg_payments') }}",
    "models/account__activity_v1.sql": ACTIVITY_SQL,
    "models/account__activity_v2.sql": ACTIVITY_SQL,
    "models/account__totals.sql": TOTALS_SQL,
    "models/account__receipts.sql": RECEIPTS_SQL,
    "models/account__daily.sql": DAILY_SQL,
    "checks/daily_and_activity_agree.sql": """
        select account_id from {{ ref('account__daily') }}
        where account_id not in (select account_id from {{ ref('account__activity', v=1) }})
    """,
}
