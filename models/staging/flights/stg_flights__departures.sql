with

departures as (
    select * from {{ source('flights', 'departures') }}
),

-- A departure may be sent twice, and is not corrected.
final as (
    select
        departure_id,
        carrier,
        flight_number,
        airport,
        destination_airport,
        tail_number,
        scheduled_departure_at,
        is_cancelled,
        departure_delay_minutes,
        departure_delay_minutes > 15 as is_late,
        occurred_at,
        ingested_at as known_at,
        null::timestamptz as superseded_at
    from departures
    where ingested_at <= {{ feature_warehouse.as_of() }}
    qualify row_number() over (partition by departure_id order by ingested_at desc) = 1
)

select * from final
