{%- set keys = ['carrier'] -%}
{%- set tick = '1 hour' -%}
{%- set windows = ['24 hours'] -%}

-- depends_on: {{ ref('carriers') }}

with

departures as (
    {{ feature_warehouse.window_input(ref('stg_flights__departures'), tick, windows) | indent(4) }}
),

ticks as (
    {{ feature_warehouse.window_ticks('departures', keys, tick, windows) | indent(4) }}
),

final as (
    select
        ticks.carrier,
        ticks.event_timestamp,
        ticks.created_timestamp,
        count(departures.departure_delay_minutes) as departures_24h,
        avg(departures.departure_delay_minutes) as departure_delay_minutes_mean_24h,
        avg(departures.is_late::integer) as late_share_24h,
        avg(departures.is_cancelled::integer) as cancelled_share_24h
    from {{ feature_warehouse.in_window('ticks', 'departures', keys, '24 hours') }}
    group by all
)

select * from final
