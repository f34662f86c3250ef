"""One incremental view of a staging model, as its definitions and models stand in a registry."""

from __future__ import annotations

from msgspec.structs import replace

from feature_server.definitions.models import Model
from tests.support.relations import view_of

NAME, STAGING = "model.shop.spend", "model.shop.stg_orders"
VIEW = replace(view_of("spend", {"customer_id": "bigint"}, {"spend_eur": "integer"}), unique_id=NAME)
WHOLE = "select customer_id, event_timestamp, spend_eur from stg_orders where known_at > '-infinity'"
PART = "select customer_id, event_timestamp, spend_eur from stg_orders where known_at > '2000-01-01T00:00:00Z'"
STAGED = "select * from orders where not is_refund"
MODELS = {
    NAME: Model(
        unique_id=NAME, package="shop", path="models/spend.sql", relation="spend", sql=WHOLE, incremental_sql=PART,
        reads={"stg_orders": STAGING},
    ),
    STAGING: Model(unique_id=STAGING, package="shop", path="models/stg_orders.sql", relation="stg_orders", sql=STAGED),
}  # fmt: skip
REFUNDS = "select * from orders where is_refund"
REWRITTEN = "-- the same\nSELECT * FROM orders WHERE (NOT is_refund)"
