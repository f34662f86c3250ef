{{ config(materialized='table') }}

-- depends_on: {{ ref('planes') }}

with

planes as (
    select * from {{ ref('stg_flights__planes') }}
),

final as (
    select
        tail_number,
        timestamptz '2013-01-01T00:00:00Z' as event_timestamp,
        2013 - built_year as age_years,
        seats,
        engines,
        engine_type,
        manufacturer
    from planes
    where timestamptz '2013-01-01T00:00:00Z' <= {{ feature_warehouse.as_of() }}
)

select * from final
