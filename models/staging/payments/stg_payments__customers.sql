with

customers as (
    select * from {{ source('payments', 'customers') }}
),

final as (
    select
        customer_id,
        country,
        signed_up_at,
        ingested_at as known_at
    from customers
    where ingested_at <= {{ feature_warehouse.as_of() }}
)

select * from final
