-- What a customer ordered on a day is known when the day is over, and the last of its rows has landed.
with

days as (
    select
        customer_id,
        date_trunc('day', ordered_at) + interval 1 day as event_timestamp,
        greatest(date_trunc('day', ordered_at) + interval 1 day, max(landed_at)) as created_timestamp,
        count(*) as orders_on_day,
        max(amount_eur) as largest_order_eur
    from {{ ref('stg_orders') }}
    group by customer_id, date_trunc('day', ordered_at)
)

select * from days
where event_timestamp <= {{ feature_warehouse.as_of() }}
