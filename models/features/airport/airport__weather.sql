-- depends_on: {{ ref('airports') }}

with

weather as (
    select * from {{ ref('stg_flights__weather') }}
),

final as (
    select
        airport,
        known_at as event_timestamp,
        temperature_fahrenheit,
        relative_humidity_percent,
        wind_direction_degrees,
        wind_speed_mph,
        coalesce(wind_gust_mph, wind_speed_mph) as wind_gust_mph,
        precipitation_inches,
        pressure_millibars,
        visibility_miles,
        precipitation_inches > 0 and temperature_fahrenheit <= 32 as is_freezing_precipitation
    from weather
    where known_at > {{ feature_warehouse.known_after() }}
)

select * from final
