with

fraud_reports as (
    select * from {{ source('payments', 'fraud_reports') }}
),

final as (
    select
        transaction_id,
        reported_at as occurred_at,
        ingested_at as known_at,
        null::timestamptz as superseded_at
    from fraud_reports
    where ingested_at <= {{ feature_warehouse.as_of() }}
)

select * from final
