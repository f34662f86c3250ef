with

airports as (
    select
        faa as airport,
        name,
        tzone as time_zone,
        lat as latitude_degrees,
        lon as longitude_degrees,
        alt::integer as altitude_feet
    from {{ source('flights', 'airports') }}
),

-- Destinations that flights name and the file lacks.
missing_airports as (
    select
        missing.airport,
        missing.name,
        missing.time_zone
    from (
        values
        ('BQN', 'Rafael Hernandez', 'America/Puerto_Rico'),
        ('PSE', 'Mercedita', 'America/Puerto_Rico'),
        ('SJU', 'Luis Munoz Marin Intl', 'America/Puerto_Rico'),
        ('STT', 'Cyril E King', 'America/St_Thomas')
    ) as missing (airport, name, time_zone)
    where missing.airport not in (select airports.airport from airports)
),

final as (
    select * from airports
    union all by name
    select * from missing_airports
)

select * from final
