with

visits as (
    select * from {{ source('payments', 'visits') }}
),

final as (
    select
        visit_id,
        customer_id,
        started_at,
        ended_at as occurred_at,
        date_diff('second', started_at, ended_at)::integer as time_on_site_seconds,
        pages,
        ingested_at as known_at,
        null::timestamptz as superseded_at
    from visits
    where ingested_at <= {{ feature_warehouse.as_of() }}
)

select * from final
