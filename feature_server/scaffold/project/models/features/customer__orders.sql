select
    customer_id,
    ordered_at as event_timestamp,
    landed_at as created_timestamp,
    count(*) over last_hour as orders_1h,
    count(*) over last_week as orders_7d,
    coalesce(sum(amount_eur) over last_week, 0) as amount_eur_7d
from {{ ref('stg_orders') }}
window
    last_hour as (partition by customer_id order by ordered_at range between interval 1 hour preceding and current row),
    last_week as (partition by customer_id order by ordered_at range between interval 7 days preceding and current row)
