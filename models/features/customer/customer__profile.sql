-- depends_on: {{ ref('customers') }}

with

customers as (
    select * from {{ ref('stg_payments__customers') }}
),

final as (
    select
        customer_id,
        signed_up_at as event_timestamp,
        known_at as created_timestamp,
        country,
        signed_up_at::date as signed_up_date
    from customers
    where known_at > {{ feature_warehouse.known_after() }}
)

select * from final
