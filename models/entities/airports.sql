with

airports as (
    select * from {{ ref('stg_flights__airports') }}
),

final as (
    select
        airport,
        name,
        time_zone,
        latitude_degrees,
        longitude_degrees,
        altitude_feet
    from airports
)

select * from final
