"""What the benchmark of live events pushes: payments, the view over them, and a Valkey that it is online in."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

BATCH, KEYS = 1_000, 5_000
SOURCE, VIEW, CODE = "payments.transactions", "customer__payments", "e"
COLUMNS = {
    "transaction_id": "bigint", "customer_id": "bigint", "merchant_id": "bigint", "amount_eur": "double",
    "occurred_at": "timestamptz", "ingested_at": "timestamptz",
}  # fmt: skip
FEATURES = {
    "payments_1h": "int64", "spent_1d": "float64", "largest_1d": "float64", "smallest_1h": "float64",
    "mean_1d": "float64",
}  # fmt: skip
READ = [f"{VIEW}:{name}" for name in FEATURES]
SQL = """
select
    customer_id, occurred_at as event_timestamp, ingested_at as created_timestamp, count(*) over h as payments_1h,
    sum(amount_eur) over d as spent_1d, max(amount_eur) over d as largest_1d, min(amount_eur) over h as smallest_1h,
    avg(amount_eur) over d as mean_1d
from events
window
    h as (partition by customer_id order by occurred_at range between interval 1 hour preceding and current row),
    d as (partition by customer_id order by occurred_at range between interval 1 day preceding and current row)
"""


def define(sql: str = SQL, columns: Mapping[str, str] = COLUMNS, source: str = SOURCE, name: str = VIEW) -> Any:
    """The event source, and the view over it."""
    from feature_server.compiler.model import CompiledModel, compile_stream_view
    from feature_server.definitions.facts import Feature, FeatureView, JoinKey
    from feature_server.definitions.stream import EventSource, SourceColumn
    from feature_server.dtypes import parse_dtype, parse_sql_type
    from feature_server.offline.session import event_types

    events = EventSource(
        name=source,
        columns=tuple(SourceColumn(column, parse_sql_type(kind)) for column, kind in columns.items()),
        event_id="transaction_id",
        event_timestamp="occurred_at",
        created_timestamp="ingested_at",
    )
    model = CompiledModel(
        sql=sql,
        join_keys=("customer_id",),
        event_timestamp="event_timestamp",
        created_timestamp="created_timestamp",
        features=tuple(FEATURES),
    )
    with event_types(events) as session:
        plan = compile_stream_view(model, events, lambda table: "events", session)
    view = FeatureView(
        name=name,
        entities=("customer",),
        join_keys=(JoinKey("customer_id", parse_dtype("int64")),),
        created_timestamp="created_timestamp",
        stream=plan,
        features=tuple(Feature(name=feature, dtype=parse_dtype(kind)) for feature, kind in FEATURES.items()),
    )
    return events, view


def online_view(view: Any, code: str = CODE) -> Any:
    """How a view is online that a sync has filled."""
    from feature_server.online.registry import ONLINE_FORMAT, OnlineView

    return OnlineView(
        format=ONLINE_FORMAT, code=code, definition=view, table_version=0, synced_at_us=0, rows=0, table_id="empty"
    )


def put_online(url: str, sql: str = SQL) -> Any:
    """The view, its definitions published."""
    from feature_server.definitions.facts import Entity
    from feature_server.definitions.registry import Registry
    from feature_server.online.registry import OnlineRegistry
    from feature_server.online.store import OnlineStore

    source, view = define(sql)
    entity = Entity(name="customer", join_keys=view.join_keys)
    registry = Registry(project="bench", entities=(entity,), sources=(source,), feature_views=(view,))
    with OnlineStore(url) as store:
        store.publish(lambda now: OnlineRegistry(registry=registry, views={view.id: online_view(view)}))
    return view


def events(count: int, keys: int = KEYS) -> Iterator[dict[str, Any]]:
    """Payments of the last 50 minutes, in the order of their time."""
    chosen, begin, step = random.Random(1), time.time() - 3000, 2900 / count
    for i in range(count):
        yield {
            "transaction_id": i, "customer_id": chosen.randrange(keys), "merchant_id": chosen.randrange(200),
            "amount_eur": chosen.randrange(1, 99_999) / 100,
            "occurred_at": datetime.fromtimestamp(begin + i * step, UTC).isoformat(),
            "ingested_at": datetime.fromtimestamp(begin + i * step + 1, UTC).isoformat(),
        }  # fmt: skip


def batches(count: int, keys: int = KEYS) -> list[list[bytes]]:
    """The events as lines of JSON."""
    lines = [json.dumps(event, separators=(",", ":")).encode() for event in events(count, keys)]
    return [lines[start : start + BATCH] for start in range(0, count, BATCH)]


def bodies(count: int, push_source: str = SOURCE) -> list[bytes]:
    """The events as bodies of POST /push, Feast's and ours."""
    sent = list(events(count))
    found = []
    for start in range(0, count, BATCH):
        part = sent[start : start + BATCH]
        columns = {name: [event[name] for event in part] for name in COLUMNS}
        found.append(json.dumps({"push_source_name": push_source, "df": columns}).encode())
    return found


@contextmanager
def filled(folder: str, sent: Sequence[list[bytes]]) -> Iterator[tuple[str, Any, Any]]:
    """A server that has taken the events in: its URL, a connection, the view."""
    from feature_server.ingest.transaction import Ingestor

    from .sync import server

    with server(folder) as (url, client):
        view = put_online(url)
        with Ingestor(url, lambda: time.time_ns() // 1000) as ingestor:
            for lines in sent:
                assert ingestor.push_lines(SOURCE, lines).accepted == len(lines)
        yield url, client, view
