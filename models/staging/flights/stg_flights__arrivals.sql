with

arrivals as (
    select * from {{ source('flights', 'arrivals') }}
),

-- An arrival may be sent twice, and is not corrected.
final as (
    select
        arrival_id,
        carrier,
        flight_number,
        airport,
        destination_airport,
        tail_number,
        departed_at,
        departure_delay_minutes,
        arrival_delay_minutes,
        occurred_at,
        ingested_at as known_at
    from arrivals
    where ingested_at <= {{ feature_warehouse.as_of() }}
    qualify row_number() over (partition by arrival_id order by ingested_at desc) = 1
)

select * from final
