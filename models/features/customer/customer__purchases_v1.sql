{%- set keys = ['customer_id'] -%}
{%- set tick = '1 day' -%}
{%- set windows = ['30 days'] -%}

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
        count(*) filter (where not transactions.is_refund) as purchases_30d,
        avg(transactions.amount_eur) as amount_eur_mean_30d,
        count(transactions.transaction_id) > 0 as is_active_30d
    from {{ feature_warehouse.in_window('ticks', 'transactions', keys, '30 days') }}
    group by all
)

select * from final
