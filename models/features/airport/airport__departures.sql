-- depends_on: {{ ref('airports') }}

with

departures as (
    select * from {{ ref('stg_flights__departures') }}
),

final as (
    select
        airport,
        occurred_at as event_timestamp,
        known_at as created_timestamp,
        count(departure_delay_minutes) over last_hour as departures_1h,
        count(departure_delay_minutes) over last_3_hours as departures_3h,
        avg(departure_delay_minutes) over last_3_hours as departure_delay_minutes_mean_3h,
        max(departure_delay_minutes) over last_3_hours as departure_delay_minutes_max_3h,
        avg(is_late::integer) over last_3_hours as late_share_3h,
        count(*) filter (where is_cancelled) over last_3_hours as cancellations_3h
    from departures
    window
        last_hour as (
            partition by airport order by occurred_at range between interval 1 hour preceding and current row
        ),
        last_3_hours as (
            partition by airport order by occurred_at range between interval 3 hours preceding and current row
        )
)

select * from final
