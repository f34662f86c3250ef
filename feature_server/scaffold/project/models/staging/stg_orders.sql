-- Each order as it is known now: the last row that landed of it.
select order_id, customer_id, amount_eur, ordered_at, landed_at
from {{ source('shop', 'orders') }}
where landed_at <= {{ feature_warehouse.as_of() }}
qualify row_number() over (partition by order_id order by landed_at desc) = 1
