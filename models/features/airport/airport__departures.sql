{%- set keys = ['airport'] -%}
{%- set tick = '15 minutes' -%}
{%- set windows = ['1 hour', '3 hours'] -%}

-- depends_on: {{ ref('airports') }}

with

departures as (
    {{ window_input(ref('int_flights__departures'), tick, windows) | indent(4) }}
),

ticks as (
    {{ window_ticks('departures', keys, tick, windows) | indent(4) }}
),

final as (
    select
        ticks.airport,
        ticks.event_timestamp,
        count(departures.departure_delay_minutes) filter (
            where departures.occurred_at >= ticks.event_timestamp - interval '1 hour'
        ) as departures_1h,
        count(departures.departure_delay_minutes) as departures_3h,
        avg(departures.departure_delay_minutes) as departure_delay_minutes_mean_3h,
        max(departures.departure_delay_minutes) as departure_delay_minutes_max_3h,
        avg(departures.is_late::integer) as late_share_3h,
        count(*) filter (where departures.is_cancelled) as cancellations_3h
    from {{ in_window('ticks', 'departures', keys, '3 hours') }}
    group by all
)

select * from final
