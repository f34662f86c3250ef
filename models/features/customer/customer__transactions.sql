{%- set keys = ['customer_id'] -%}
{%- set tick = '1 hour' -%}
{%- set windows = ['1 hour', '24 hours'] -%}

-- depends_on: {{ ref('customers') }}

with

transactions as (
    {{ window_input(ref('stg_payments__transactions'), tick, windows) | indent(4) }}
),

ticks as (
    {{ window_ticks('transactions', keys, tick, windows) | indent(4) }}
),

final as (
    select
        ticks.customer_id,
        ticks.event_timestamp,
        ticks.created_timestamp,
        count(*) filter (
            where not transactions.is_refund and transactions.occurred_at >= ticks.event_timestamp - interval '1 hour'
        ) as transactions_1h,
        count(*) filter (where not transactions.is_refund) as transactions_24h,
        coalesce(sum(transactions.amount_eur) filter (where not transactions.is_refund), 0)::decimal(18, 2)
            as amount_eur_sum_24h,
        max(transactions.amount_eur) filter (where not transactions.is_refund) as amount_eur_max_24h,
        count(*) filter (where transactions.is_refund) as refunds_24h,
        count(distinct transactions.merchant_id) filter (where not transactions.is_refund) as merchants_24h
    from {{ in_window('ticks', 'transactions', keys, '24 hours') }}
    group by all
)

select * from final
