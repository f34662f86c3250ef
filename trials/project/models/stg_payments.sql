select * from {{ source('payments', 'transactions') }}
qualify row_number() over (partition by transaction_id order by ingested_at desc) = 1
