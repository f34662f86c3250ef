"""A stream view compiled from the SQL that a test writes."""

from __future__ import annotations

from typing import Any

from feature_server.compiler.layers import EVENTS
from feature_server.compiler.model import CompiledModel, compile_stream_view
from feature_server.definitions.stream import EventSource, SourceColumn, StreamPlan
from feature_server.dtypes import parse_sql_type
from feature_server.offline.session import event_types

COLUMNS = {
    "payment_id": "bigint", "customer_id": "bigint", "shop": "varchar", "kind": "varchar", "amount": "decimal(12,2)",
    "items": "bigint", "tags": "integer[]", "paid_at": "timestamptz", "ingested_at": "timestamptz",
}  # fmt: skip


SOURCE = EventSource(
    name="shop.payments",
    columns=tuple(SourceColumn(name, parse_sql_type(text)) for name, text in COLUMNS.items()),
    event_id="payment_id",
    event_timestamp="paid_at",
    created_timestamp="ingested_at",
)


STAGING = """
    with payments as (select * from raw.payments where ingested_at <= timestamptz '2024-01-01 00:00:00+00'),
    final as (
        select payment_id, customer_id, shop, kind = 'refund' as is_refund, amount, paid_at, ingested_at as known_at
        from payments where shop <> 'test'
        qualify row_number() over (partition by payment_id order by ingested_at desc) = 1
    )
    select * from final where amount is not null
"""


HOUR = "over (partition by customer_id order by paid_at range between interval 1 hour preceding and current row)"


def compiled(
    sql: str, features: str, *, staging: str = STAGING, source: EventSource = SOURCE, **parts: Any
) -> StreamPlan:
    model = CompiledModel(
        sql=sql,
        join_keys=parts.pop("join_keys", ("customer_id",)),
        event_timestamp="event_timestamp",
        created_timestamp=parts.pop("created_timestamp", None),
        features=tuple(features.split()),
        types=parts.pop("types", {}),
    )
    upstream = {"stg_payments": staging, "payments": EVENTS}
    with event_types(source) as describe:
        return compile_stream_view(model, source, lambda table: upstream.get(table.name), describe)
