with

weather as (
    select * from {{ source('flights', 'weather') }}
),

-- An observation is filed under the hour in which it was made, mostly near its end: it is surely known when the hour
-- is over. One wind speed of 1048 mph is an instrument error.
final as (
    select
        origin as airport,
        time_hour as observed_hour_at,
        time_hour + interval '1 hour' as known_at,
        temp as temperature_fahrenheit,
        dewp as dew_point_fahrenheit,
        humid as relative_humidity_percent,
        wind_dir::integer as wind_direction_degrees,
        case when wind_speed <= 200 then wind_speed end as wind_speed_mph,
        wind_gust as wind_gust_mph,
        precip as precipitation_inches,
        pressure as pressure_millibars,
        visib as visibility_miles
    from weather
    where time_hour + interval '1 hour' <= {{ feature_warehouse.as_of() }}
)

select * from final
