"""A stream view over card payments in Parquet files: landed, published, synced and pushed, without dbt."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from feature_server.arrow import arrow_type
from feature_server.compiler.layers import EVENTS
from feature_server.compiler.model import CompiledModel, compile_stream_view
from feature_server.definitions.facts import Entity, Feature, FeatureView, JoinKey
from feature_server.definitions.registry import Registry, write_registry
from feature_server.definitions.stream import EventSource, SourceColumn
from feature_server.dtypes import parse_sql_type
from feature_server.ingest.transaction import Ingestor
from feature_server.layout.events import LENGTH_BYTES, record_view
from feature_server.layout.keys import BASE
from feature_server.layout.records import Records
from feature_server.manifest.views import fingerprint
from feature_server.offline.session import event_types
from feature_server.offline.store import OfflineStore
from feature_server.online.store import OnlineStore
from feature_server.publish.run import publish
from feature_server.sync.run import SyncOptions, SyncReport, sync
from feature_server.times import to_us
from feature_server.warehouse.relations import open_warehouse
from tests.support.packed import RowCodec

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
COLUMNS = {
    "payment_id": "bigint", "customer": "bigint", "merchant": "varchar", "amount": "decimal(12,2)",
    "paid_at": "timestamptz", "ingested_at": "timestamptz",
}  # fmt: skip
SOURCE = EventSource(
    name="shop.payments",
    columns=tuple(SourceColumn(name, parse_sql_type(text)) for name, text in COLUMNS.items()),
    event_id="payment_id",
    event_timestamp="paid_at",
    created_timestamp="ingested_at",
    relation="'landing/payments/*.parquet'",
)
MODEL = """
    select customer, paid_at as event_timestamp,
        count(*) over hour as n, sum(amount) over hour as spent, max(amount) over day as largest {more}
    from (
        select * from landed
        qualify row_number() over (partition by payment_id order by ingested_at desc) = 1
    ) as payments
    where amount > 0
    window
        hour as (partition by customer order by paid_at range between interval 1 hour preceding and current row),
        day as (partition by customer order by paid_at range between interval 1 day preceding and current row)
"""
FEATURES = {"n": "bigint", "spent": "decimal(38,2)", "largest": "decimal(12,2)"}
KEPT = timedelta(days=1, hours=1)  # the longest frame, and the hour that clocks may differ by
Payment = tuple[int, int, str | None, str, datetime, datetime]  # the source's columns


def make_live_view(
    more: dict[str, tuple[str, str]] | None = None, name: str = "customer__payments", source: EventSource = SOURCE
) -> FeatureView:
    """`more` maps features to their SQL and type."""
    types = FEATURES | {feature: text for feature, (_, text) in (more or {}).items()}
    model = CompiledModel(
        sql=MODEL.format(more="".join(f", {sql} as {feature}" for feature, (sql, _) in (more or {}).items())),
        join_keys=("customer",),
        event_timestamp="event_timestamp",
        created_timestamp=None,
        features=tuple(types),
        types={feature: parse_sql_type(text) for feature, text in types.items()},
    )
    with event_types(source) as describe:
        plan = compile_stream_view(model, source, lambda table: EVENTS, describe)
    view = FeatureView(
        name=name,
        entities=("customer",),
        join_keys=(JoinKey("customer", parse_sql_type("bigint")),),
        features=tuple(Feature(name=feature, dtype=parse_sql_type(text)) for feature, text in types.items()),
        stream=plan,
        relation=f'"warehouse"."main"."{name}"',
        identifier=name,
    )
    return msgspec.structs.replace(view, fingerprint=fingerprint(view))


def payment(number: int, customer: int, minutes_ago: float, amount: str = "10.00", *, version: int = 0) -> Payment:
    at = NOW - timedelta(minutes=minutes_ago)
    return number, customer, f"shop {number % 7}", amount, at, at + timedelta(seconds=1 + version)


class LiveProject:
    """A folder with landed payments, a registry of `views`, an offline store; online is the Redis at `url`."""

    def __init__(self, folder: Path, url: str, *views: FeatureView, source: EventSource = SOURCE) -> None:
        self.folder, self.url, self.source = folder, url, source
        self.landing = folder / "landing" / "payments"
        self.landing.mkdir(parents=True, exist_ok=True)
        self.offline = OfflineStore(folder / "offline")
        self.warehouse = folder / "warehouse.duckdb"
        duckdb.connect(str(self.warehouse)).close()
        self.define(*views)

    def define(self, *views: FeatureView) -> None:
        key = JoinKey("customer", parse_sql_type("bigint"))
        self.registry = Registry(
            project="test",
            entities=(Entity(name="customer", join_keys=(key,)),),
            sources=(self.source,),
            feature_views=views,
        )

    def landed(self, name: str, payments: Iterable[Payment]) -> None:
        """A file of payments, as a batch load brings it; no payments: no file."""
        rows = list(payments)
        path = self.landing / f"{name}.parquet"
        path.unlink(missing_ok=True)
        if rows:
            schema = pa.schema(
                [(column.name, arrow_type(column.dtype, uuid=pa.uuid())) for column in self.source.columns]
            )
            columns = [list(values) for values in zip(*rows, strict=True)]
            columns[3] = [Decimal(amount) for amount in columns[3]]
            arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
            pq.write_table(pa.table(arrays, schema=schema), path)

    def publish(self) -> None:
        with open_warehouse(self.warehouse, sources=[self.source], project_dir=self.folder) as warehouse:
            for view in self.registry.feature_views:
                publish(view, warehouse, self.offline)

    def sync(self, *, now: datetime = NOW, views: list[str] | None = None, **options: Any) -> SyncReport:
        with OnlineStore(self.url) as online:
            chosen = SyncOptions(**{"expire": False, "project_dir": self.folder, **options})
            report = sync(online, self.offline, self.registry, views=views, now_us=lambda: to_us(now), options=chosen)
        for error in report.failures.values():
            raise error
        return report

    def push(self, *payments: Payment, now: datetime = NOW) -> None:
        events = [dict(zip(COLUMNS, (*p[:3], Decimal(p[3]), *p[4:]), strict=True)) for p in payments]
        with Ingestor(self.url, lambda: to_us(now), expire=False) as ingestor:
            assert ingestor.push(self.source.name, events).rejected == []

    def online(self, view: FeatureView) -> dict[str, set[tuple[int, int]]]:
        """Event id and created timestamp of every record online, by key. Fails when other codes have keys."""
        records, codec = Records(view), RowCodec(record_view(view).features)
        skipped = LENGTH_BYTES if codec.variable else 0
        found: dict[str, set[tuple[int, int]]] = {}
        with OnlineStore(self.url) as store, redis.Redis.from_url(self.url) as client:
            registry = store.registry()
            assert registry is not None
            codes = {entry.code.encode() for entry in registry.views.values()}
            for key in client.scan_iter(count=1000):
                code, brace, rest = key.partition(b"{")
                if not brace:
                    continue
                assert code.removesuffix(BASE) in codes, f"{key!r} belongs to no view"
                if view.id in registry.views and code == registry.views[view.id].code.encode():
                    decoded = [codec.decode(record[skipped:])[1] for record in records.split(client.get(key))]
                    found[rest[:-1].decode()] = {(values[1], to_us(values[0])) for values in decoded}
        return found


def versions(*payments: Payment) -> dict[str, set[tuple[int, int]]]:
    """What `LiveProject.online` gives where just these payments are online."""
    found: dict[str, set[tuple[int, int]]] = {}
    for number, customer, _, _, _, ingested_at in payments:
        found.setdefault(str(customer), set()).add((number, to_us(ingested_at)))
    return found


def settings_of(project: LiveProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of commands for a project with its registry in force."""
    home = project.folder / ".features"
    write_registry(home / "registry.json", project.registry)
    for name, value in {
        "PROJECT_DIR": project.folder, "HOME": home, "OFFLINE": project.offline.root, "CLOCK": NOW.isoformat(),
        "REDIS_URL": project.url,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"FEATURES_{name}", str(value))
