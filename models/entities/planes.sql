with

registered as (
    select * from {{ ref('stg_flights__planes') }}
),

flown as (
    select tail_number
    from {{ ref('stg_flights__departures') }}
    where tail_number is not null
    union
    select tail_number
    from {{ ref('stg_flights__arrivals') }}
    where tail_number is not null
),

final as (
    select
        tail_number,
        registered.manufacturer,
        registered.model
    from flown
    full outer join registered using (tail_number)
)

select * from final
