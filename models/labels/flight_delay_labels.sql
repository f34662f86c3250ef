{{ config(location=labels_directory() ~ '/flight_delay_labels.parquet') }}

with

departures as (
    select * from {{ ref('stg_flights__departures') }}
),

-- No flight has left a day late, so a day after the schedule every label is known and late ones are not missing.
final as (
    select
        airport,
        carrier,
        tail_number,
        scheduled_departure_at - interval '1 hour' as event_timestamp,
        is_late,
        flight_number,
        destination_airport,
        scheduled_departure_at
    from departures
    where
        not is_cancelled
        and scheduled_departure_at <= {{ feature_warehouse.as_of() }} - interval '1 day'
    order by event_timestamp, carrier, flight_number, airport
)

select * from final
