with

flights as (
    select * from {{ ref('stg_flights__flights') }}
),

-- A departure and its delay are known when the plane leaves, a cancellation at the scheduled time.
outcomes as (
    select
        *,
        case when is_cancelled then scheduled_departure_at else departed_at end as occurred_at
    from flights
),

final as (
    select
        carrier,
        airport,
        flight_number,
        destination_airport,
        tail_number,
        scheduled_departure_at,
        is_cancelled,
        departure_delay_minutes,
        departure_delay_minutes > 15 as is_late,
        occurred_at,
        occurred_at as known_at,
        null::timestamptz as superseded_at
    from outcomes
    where occurred_at is not null
)

select * from final
