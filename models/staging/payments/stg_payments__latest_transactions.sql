with

transactions as (
    select * from {{ source('payments', 'transactions') }}
),

-- A corrected transaction lands again: the version that landed last counts.
final as (
    select
        transaction_id,
        customer_id,
        merchant_id,
        kind = 'refund' as is_refund,
        amount_eur,
        occurred_at,
        ingested_at as known_at
    from transactions
    where ingested_at <= {{ feature_warehouse.as_of() }}
    qualify row_number() over (partition by transaction_id order by ingested_at desc) = 1
)

select * from final
