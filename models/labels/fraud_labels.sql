{{ config(location=labels_directory() ~ '/fraud_labels.parquet') }}

with

transactions as (
    select * from {{ ref('stg_payments__transactions') }}
),

fraud_reports as (
    select * from {{ ref('stg_payments__fraud_reports') }}
),

-- The first version is what there was to score when the card was used, and the payment itself is not yet in any window.
first_versions as (
    select *
    from transactions
    where not is_refund
    qualify row_number() over (partition by transaction_id order by known_at) = 1
),

final as (
    select
        first_versions.customer_id,
        first_versions.merchant_id,
        first_versions.occurred_at - interval '1 microsecond' as event_timestamp,
        fraud_reports.transaction_id is not null as is_fraud,
        first_versions.transaction_id
    from first_versions
    left join fraud_reports using (transaction_id)
    where first_versions.occurred_at <= {{ feature_warehouse.as_of() }} - interval '14 days'
    order by event_timestamp, transaction_id
)

select * from final
