with

transactions as (
    select * from {{ ref('stg_payments__transactions') }}
),

fraud_reports as (
    select * from {{ ref('stg_payments__fraud_reports') }}
),

first_versions as (
    select
        transaction_id,
        min(known_at) as known_at
    from transactions
    group by all
),

purchases as (
    select
        merchant_id,
        false as is_fraud_report,
        occurred_at,
        known_at,
        superseded_at
    from transactions
    where not is_refund
),

-- A report may land before its transaction does; the merchant is the one of the version in force by then.
usable_reports as (
    select
        fraud_reports.transaction_id,
        fraud_reports.occurred_at,
        greatest(fraud_reports.known_at, first_versions.known_at) as known_at
    from fraud_reports
    inner join first_versions using (transaction_id)
),

reports as (
    select
        transactions.merchant_id,
        true as is_fraud_report,
        usable_reports.occurred_at,
        usable_reports.known_at,
        null::timestamptz as superseded_at
    from usable_reports
    inner join transactions
        on
            usable_reports.transaction_id = transactions.transaction_id
            and usable_reports.known_at >= transactions.known_at
            and coalesce(usable_reports.known_at < transactions.superseded_at, true)
),

final as (
    select * from purchases
    union all
    select * from reports
)

select * from final
