with

flights as (
    select * from {{ source('flights', 'flights') }}
),

airports as (
    select * from {{ ref('stg_flights__airports') }}
),

-- time_hour is UTC already, so adding minutes to it needs no calendar and survives daylight saving.
departures as (
    select
        carrier,
        flight::integer as flight_number,
        origin as airport,
        dest as destination_airport,
        tailnum as tail_number,
        time_hour + to_minutes(minute) as scheduled_departure_at,
        time_hour + to_minutes(minute) + to_minutes(dep_delay) as departed_at,
        dep_delay::integer as departure_delay_minutes,
        sched_arr_time,
        arr_time,
        arr_delay::integer as arrival_delay_minutes,
        distance::integer as distance_miles
    from flights
),

-- Arrival times are a clock on the wall of the destination: the first time after departure that it shows the time.
clocks as (
    select
        departures.*,
        airports.time_zone,
        {{ next_clock_time('departures.scheduled_departure_at', 'departures.sched_arr_time', 'airports.time_zone') }}
            as scheduled_arrival_at,
        {{ next_clock_time('departures.departed_at', 'departures.arr_time', 'airports.time_zone') }} as clock_arrived_at
    from departures
    left join airports on departures.destination_airport = airports.airport
),

-- The hour that the clock shows twice in autumn is settled by the delay; a diverted flight has the clock alone.
outcomes as (
    select
        *,
        coalesce(scheduled_arrival_at + to_minutes(arrival_delay_minutes), clock_arrived_at) as arrived_at
    from clocks
),

final as (
    select
        carrier,
        flight_number,
        airport,
        destination_airport,
        scheduled_departure_at,
        tail_number,
        distance_miles,
        scheduled_arrival_at,
        departed_at is null and scheduled_departure_at <= {{ as_of() }} as is_cancelled,
        case when departed_at <= {{ as_of() }} then departed_at end as departed_at,
        case when departed_at <= {{ as_of() }} then departure_delay_minutes end as departure_delay_minutes,
        case when arrived_at <= {{ as_of() }} then arrived_at end as arrived_at,
        case when arrived_at <= {{ as_of() }} then arrival_delay_minutes end as arrival_delay_minutes
    from outcomes
)

select * from final
