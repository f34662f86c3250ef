with

airlines as (
    select * from {{ ref('stg_flights__airlines') }}
),

final as (
    select
        carrier,
        name
    from airlines
)

select * from final
