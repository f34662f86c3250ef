-- depends_on: {{ ref('planes') }}

with

flights as (
    select * from {{ ref('stg_flights__flights') }}
),

-- The file once has a plane arrive at two cities in the same minute: the flight that left last counts.
legs as (
    select
        *,
        extract(epoch from arrived_at - departed_at) / 60 as gate_to_gate_minutes
    from flights
    where arrived_at is not null and tail_number is not null
    qualify row_number() over (partition by tail_number, arrived_at order by departed_at desc) = 1
),

final as (
    select
        tail_number,
        arrived_at as event_timestamp,
        departure_delay_minutes as previous_departure_delay_minutes,
        arrival_delay_minutes as previous_arrival_delay_minutes,
        departure_delay_minutes - arrival_delay_minutes as previous_minutes_gained,
        gate_to_gate_minutes::integer as previous_gate_to_gate_minutes,
        destination_airport as previous_destination_airport
    from legs
    where arrived_at > {{ known_after() }}
)

select * from final
