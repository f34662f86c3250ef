{%- set keys = ['merchant_id'] -%}
{%- set tick = '1 day' -%}
{%- set windows = ['30 days'] -%}

-- depends_on: {{ ref('merchants') }}

with

activity as (
    {{ feature_warehouse.window_input(ref('int_payments__merchant_activity'), tick, windows) | indent(4) }}
),

ticks as (
    {{ feature_warehouse.window_ticks('activity', keys, tick, windows) | indent(4) }}
),

final as (
    select
        ticks.merchant_id,
        ticks.event_timestamp,
        ticks.created_timestamp,
        count(*) filter (where not activity.is_fraud_report) as transactions_30d,
        count(*) filter (where activity.is_fraud_report) as fraud_reports_30d,
        count(*) filter (where activity.is_fraud_report)
        / nullif(count(*) filter (where not activity.is_fraud_report), 0) as fraud_report_ratio_30d
    from {{ feature_warehouse.in_window('ticks', 'activity', keys, '30 days') }}
    group by all
)

select * from final
