-- depends_on: {{ ref('customers') }}

with

transactions as (
    select * from {{ ref('stg_payments__latest_transactions') }}
),

final as (
    select
        customer_id,
        occurred_at as event_timestamp,
        known_at as created_timestamp,
        count(*) filter (where not is_refund) over last_hour as transactions_1h,
        count(*) filter (where not is_refund) over last_day as transactions_24h,
        coalesce(sum(amount_eur) filter (where not is_refund) over last_day, 0)::decimal(18, 2) as amount_eur_sum_24h,
        max(amount_eur) filter (where not is_refund) over last_day as amount_eur_max_24h,
        count(*) filter (where is_refund) over last_day as refunds_24h,
        count(distinct merchant_id) filter (where not is_refund) over last_day as merchants_24h,
        count(*) filter (where not is_refund) over lifetime as transactions_lifetime,
        merchant_id as last_merchant_id
    from transactions
    window
        last_hour as (
            partition by customer_id order by occurred_at range between interval 1 hour preceding and current row
        ),
        last_day as (
            partition by customer_id order by occurred_at range between interval 24 hours preceding and current row
        ),
        lifetime as (
            partition by customer_id order by occurred_at range between unbounded preceding and current row
        )
)

select * from final
