with

registered as (
    select * from {{ ref('stg_flights__planes') }}
),

flown as (
    select distinct tail_number
    from {{ ref('stg_flights__flights') }}
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
