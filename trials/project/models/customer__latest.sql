select
    customer_id,
    occurred_at as event_timestamp,
    ingested_at as created_timestamp,
    amount_eur as last_amount
from {{ ref('stg_payments') }}
