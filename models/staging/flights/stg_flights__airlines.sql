with

airlines as (
    select * from {{ source('flights', 'airlines') }}
),

final as (
    select
        carrier,
        name
    from airlines
)

select * from final
