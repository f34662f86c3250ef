{%- set keys = ['customer_id'] -%}
{%- set tick = '1 day' -%}
{%- set windows = ['7 days', '30 days'] -%}

-- depends_on: {{ ref('customers') }}

with

visits as (
    {{ feature_warehouse.window_input(ref('stg_payments__visits'), tick, windows) | indent(4) }}
),

ticks as (
    {{ feature_warehouse.window_ticks('visits', keys, tick, windows) | indent(4) }}
),

final as (
    select
        ticks.customer_id,
        ticks.event_timestamp,
        ticks.created_timestamp,
        count(visits.visit_id) filter (
            where visits.occurred_at >= ticks.event_timestamp - interval '7 days'
        ) as visits_7d,
        count(visits.visit_id) as visits_30d,
        avg(visits.time_on_site_seconds) as time_on_site_seconds_mean_30d,
        max(visits.time_on_site_seconds) as time_on_site_seconds_max_30d,
        avg(visits.pages) as pages_mean_30d
    from {{ feature_warehouse.in_window('ticks', 'visits', keys, '30 days') }}
    group by all
)

select * from final
