with

customers as (
    select * from {{ ref('stg_payments__customers') }}
),

final as (
    select
        customer_id,
        country,
        signed_up_at
    from customers
)

select * from final
