{%- set keys = ['carrier', 'airport'] -%}
{%- set tick = '1 hour' -%}
{%- set windows = ['6 hours'] -%}

-- depends_on: {{ ref('carriers') }}
-- depends_on: {{ ref('airports') }}

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
        ticks.airport,
        ticks.event_timestamp,
        ticks.created_timestamp,
        count(departures.departure_delay_minutes) as departures_6h,
        avg(departures.departure_delay_minutes) as departure_delay_minutes_mean_6h,
        avg(departures.is_late::integer) as late_share_6h
    from {{ feature_warehouse.in_window('ticks', 'departures', keys, '6 hours') }}
    group by all
)

select * from final
