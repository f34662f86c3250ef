with

planes as (
    select * from {{ source('flights', 'planes') }}
),

final as (
    select
        tailnum as tail_number,
        year::integer as built_year,
        manufacturer,
        model,
        engine as engine_type,
        engines::integer as engines,
        seats::integer as seats
    from planes
)

select * from final
