select
    customer_id,
    occurred_at as event_timestamp,
    count(*) over ten_minutes as payments_10m,
    sum(amount_eur) over hour as spent_1h,
    count(*) over lifetime as payments_lifetime,
    sum(amount_eur) over lifetime as spent_lifetime,
    merchant as last_merchant
from {{ ref('stg_payments') }}
window
    ten_minutes as (
        partition by customer_id order by occurred_at range between interval 10 minutes preceding and current row
    ),
    hour as (partition by customer_id order by occurred_at range between interval 1 hour preceding and current row),
    lifetime as (partition by customer_id order by occurred_at range between unbounded preceding and current row)
