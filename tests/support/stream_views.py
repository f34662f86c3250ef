"""A stream view over card payments, compiled from its SQL, and a Valkey that it is online in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from feature_server.compiler.model import CompiledModel, compile_stream_view
from feature_server.definitions.facts import Entity, Feature, FeatureView, JoinKey, parse_duration
from feature_server.definitions.registry import Registry
from feature_server.definitions.stream import EventSource, SourceColumn
from feature_server.dtypes import parse_dtype, parse_sql_type
from feature_server.ingest.transaction import put_streams_online
from feature_server.offline.session import event_types
from feature_server.online.registry import OnlineRegistry
from feature_server.online.store import OnlineStore

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
COLUMNS = {
    "transaction_id": "bigint", "customer_id": "bigint", "merchant": "varchar", "kind": "varchar",
    "amount_eur": "decimal(12,2)", "occurred_at": "timestamptz", "ingested_at": "timestamptz",
}  # fmt: skip
FEATURES = {
    "payments_10m": "int64", "spent_1h": "decimal(38,2)", "merchants_1h": "int64", "largest_10m": "decimal(12,2)",
    "mean_1h": "float64", "before_5m": "int64", "peak_to_mean": "float64", "first_merchant_1h": "string",
    "any_refund_1h": "bool", "median_1h": "float64", "total_1h": "float64", "least_10m": "float64",
    "last_merchant": "string",
}  # fmt: skip
SQL = """
select
    customer_id,
    occurred_at as event_timestamp,
    ingested_at as created_timestamp,
    count(*) over last_10m as payments_10m,
    sum(amount_eur) filter (where kind <> 'refund') over last_1h as spent_1h,
    count(distinct merchant) over last_1h as merchants_1h,
    max(amount_eur) over last_10m as largest_10m,
    avg(amount_eur) over last_1h as mean_1h,
    count(*) over delayed as before_5m,
    max(amount_eur) over last_1h / nullif(avg(amount_eur) over last_1h, 0) as peak_to_mean,
    first(merchant) over last_1h as first_merchant_1h,
    bool_or(kind = 'refund') over last_1h as any_refund_1h,
    median(amount_eur::double) over last_1h as median_1h,
    sum(amount_eur::double) over last_1h as total_1h,
    min(amount_eur::double) over last_10m as least_10m,
    merchant as last_merchant
from events
where amount_eur > 0
window
    last_10m as (
        partition by customer_id order by occurred_at range between interval 10 minutes preceding and current row
    ),
    last_1h as (
        partition by customer_id order by occurred_at range between interval 1 hour preceding and current row
    ),
    delayed as (
        partition by customer_id order by occurred_at
        range between interval 1 hour preceding and interval 5 minutes preceding
    )
"""


def event_source(columns: Mapping[str, str] = COLUMNS) -> EventSource:
    return EventSource(
        name="payments.transactions",
        columns=tuple(SourceColumn(name, parse_sql_type(data_type)) for name, data_type in columns.items()),
        event_id="transaction_id",
        event_timestamp="occurred_at",
        created_timestamp="ingested_at",
    )


def stream_view(
    sql: str = SQL,
    features: Mapping[str, str] = FEATURES,
    *,
    ttl: str | None = "30m",
    columns: Mapping[str, str] = COLUMNS,
    name: str = "customer__payments",
) -> FeatureView:
    with event_types(event_source(columns)) as session:
        model = CompiledModel(
            sql=sql,
            join_keys=("customer_id",),
            event_timestamp="event_timestamp",
            created_timestamp="created_timestamp",
            features=tuple(features),
        )
        plan = compile_stream_view(model, event_source(columns), lambda table: "events", session)
    return FeatureView(
        name=name,
        entities=("customer",),
        join_keys=(JoinKey("customer_id", parse_dtype("int64")),),
        created_timestamp="created_timestamp",
        ttl_us=None if ttl is None else parse_duration(ttl),
        stream=plan,
        features=tuple(Feature(name=feature, dtype=parse_dtype(dtype)) for feature, dtype in features.items()),
        fingerprint=plan.row_sql,
    )


def put_online(redis_url: str, *views: FeatureView, source: EventSource | None = None) -> None:
    """Publish the definitions, with stream views as a first sync of a history without events leaves them."""
    registry = Registry(
        project="test",
        entities=(Entity(name="customer", join_keys=views[0].join_keys),),
        sources=(source or event_source(),),
        feature_views=tuple(sorted(views, key=lambda view: view.id)),
    )
    with OnlineStore(redis_url) as store:
        store.publish(lambda now: OnlineRegistry(registry=registry, views=now.views if now else {}))
        now = store.registry()
        streams = [view.id for view in views if view.stream is not None and (now is None or view.id not in now.views)]
        put_streams_online(store, registry, streams, now_us=0)
        store.publish(lambda now: _filled(now, streams))


def _filled(now: OnlineRegistry | None, streams: list[str]) -> OnlineRegistry:
    assert now is not None
    filled = {view_id: msgspec.structs.replace(now.views[view_id], table_id="empty") for view_id in streams}
    return msgspec.structs.replace(now, views={**now.views, **filled})


def payment(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A payment of customer 42 at 11:30, as JSON would have it."""
    return {
        "transaction_id": number, "customer_id": 42, "merchant": "bakery", "kind": "purchase", "amount_eur": "12.50",
        "occurred_at": "2026-03-01T11:55:00Z", "ingested_at": "2026-03-01T11:55:01Z",
    } | changes  # fmt: skip
