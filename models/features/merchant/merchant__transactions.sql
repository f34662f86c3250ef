{%- set keys = ['merchant_id'] -%}
{%- set tick = '1 hour' -%}
{%- set windows = ['24 hours'] -%}

-- depends_on: {{ ref('merchants') }}

with

transactions as (
    {{ feature_warehouse.window_input(ref('stg_payments__transactions'), tick, windows) | indent(4) }}
),

ticks as (
    {{ feature_warehouse.window_ticks('transactions', keys, tick, windows) | indent(4) }}
),

final as (
    select
        ticks.merchant_id,
        ticks.event_timestamp,
        ticks.created_timestamp,
        count(*) filter (where not transactions.is_refund) as transactions_24h,
        avg(transactions.amount_eur) filter (where not transactions.is_refund) as amount_eur_mean_24h,
        count(distinct transactions.customer_id) filter (where not transactions.is_refund) as customers_24h,
        count(*) filter (where transactions.is_refund) as refunds_24h
    from {{ feature_warehouse.in_window('ticks', 'transactions', keys, '24 hours') }}
    group by all
)

select * from final
