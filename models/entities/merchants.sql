with

merchants as (
    select * from {{ ref('stg_payments__merchants') }}
),

final as (
    select
        merchant_id,
        category,
        country,
        onboarded_at
    from merchants
)

select * from final
