-- depends_on: {{ ref('planes') }}

with

arrivals as (
    select * from {{ ref('stg_flights__arrivals') }}
),

final as (
    select
        tail_number,
        occurred_at as event_timestamp,
        known_at as created_timestamp,
        departure_delay_minutes as previous_departure_delay_minutes,
        arrival_delay_minutes as previous_arrival_delay_minutes,
        departure_delay_minutes - arrival_delay_minutes as previous_minutes_gained,
        (extract(epoch from occurred_at - departed_at) / 60)::integer as previous_gate_to_gate_minutes,
        destination_airport as previous_destination_airport
    from arrivals
)

select * from final
