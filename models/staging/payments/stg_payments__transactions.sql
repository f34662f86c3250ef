with

-- A live event that was sent twice lands twice.
transactions as (
    select distinct * from {{ source('payments', 'transactions') }}
),

-- A corrected transaction lands again: each version is in force from known_at until superseded_at.
final as (
    select
        transaction_id,
        customer_id,
        merchant_id,
        kind = 'refund' as is_refund,
        amount_eur,
        refunded_transaction_id,
        occurred_at,
        ingested_at as known_at,
        lead(ingested_at) over (partition by transaction_id order by ingested_at) as superseded_at
    from transactions
    where ingested_at <= {{ feature_warehouse.as_of() }}
)

select * from final
