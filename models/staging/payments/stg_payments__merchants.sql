with

merchants as (
    select * from {{ source('payments', 'merchants') }}
),

final as (
    select
        merchant_id,
        category,
        country,
        onboarded_at,
        ingested_at as known_at
    from merchants
    where ingested_at <= {{ feature_warehouse.as_of() }}
)

select * from final
