{%- set keys = ['customer_id'] -%}
{%- set tick = '1 day' -%}
{%- set windows = ['7 days', '30 days'] -%}

-- depends_on: {{ ref('customers') }}

with

transactions as (
    {{ feature_warehouse.window_input(ref('stg_payments__transactions'), tick, windows) | indent(4) }}
),

ticks as (
    {{ feature_warehouse.window_ticks('transactions', keys, tick, windows) | indent(4) }}
),

final as (
    select
        ticks.customer_id,
        ticks.event_timestamp,
        ticks.created_timestamp,
        count(*) filter (
            where not transactions.is_refund and transactions.occurred_at >= ticks.event_timestamp - interval '7 days'
        ) as purchases_7d,
        count(*) filter (where not transactions.is_refund) as purchases_30d,
        avg(transactions.amount_eur) filter (where not transactions.is_refund) as amount_eur_mean_30d,
        coalesce(
            sum(case when transactions.is_refund then -transactions.amount_eur else transactions.amount_eur end), 0
        )::decimal(18, 2) as net_amount_eur_sum_30d,
        count(*) filter (where not transactions.is_refund) > 0 as is_active_30d,
        count(*) filter (where not transactions.is_refund) > 1 as is_repeat_buyer_30d
    from {{ feature_warehouse.in_window('ticks', 'transactions', keys, '30 days') }}
    group by all
)

select * from final
