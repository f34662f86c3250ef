"""Offline tables committed file by file, and what must be online of them by a brute force of its own."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import redis
from msgspec import UNSET

from feature_server.definitions.facts import Feature, FeatureView, JoinKey, parse_duration
from feature_server.definitions.registry import Registry
from feature_server.dtypes import DType, parse_dtype
from feature_server.layout.keys import key_encoder
from feature_server.offline.commit import arrow_schema, commit
from feature_server.offline.store import DataFile, OfflineStore, PublishedState
from feature_server.online.store import OnlineStore
from feature_server.sync.run import SyncOptions, SyncReport, SyncResult, grace_us, sync
from feature_server.times import to_us
from tests.support.packed import RowCodec

START = datetime(2024, 1, 1, tzinfo=UTC)
Row = tuple[Any, ...]  # join keys, event timestamp, created timestamp (if any), features


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def make_view(
    name: str = "customer__spend",
    keys: dict[str, str] | None = None,
    features: dict[str, str] | None = None,
    *,
    ttl: str | None = None,
    created: bool = False,
    online: bool = True,
    refresh: str | None = None,
    pii: Collection[str] = (),
) -> FeatureView:
    keys, features = keys or {"customer_id": "int64"}, features or {"spend": "float64"}
    return FeatureView(
        name=name,
        entities=("customer",),
        join_keys=tuple(JoinKey(key, parse_dtype(dtype)) for key, dtype in keys.items()),
        created_timestamp="created_timestamp" if created else None,
        ttl_us=parse_duration(ttl) if ttl else None,
        online=online,
        refresh=refresh,
        features=tuple(
            Feature(name=feature, dtype=parse_dtype(dtype), pii=feature in pii or UNSET)
            for feature, dtype in features.items()
        ),
        fingerprint=f"{keys} {features} {created}",
    )


class Tables:
    """Offline tables in one folder; each `commit` makes the next version of one."""

    def __init__(self, root: Path) -> None:
        self.store = OfflineStore(root)
        self._files = 0

    def commit(self, view: FeatureView, added: Iterable[Sequence[Row]] = (), removed: Iterable[DataFile] = ()) -> int:
        """Add a file for each group of rows and remove files; the version made."""
        folder = self.store.path(view.id)
        base = self.store.table(view.id) if self.store.exists(view.id) else None
        files = [self._write(view, folder, rows) for rows in added]
        state = PublishedState(view=view, grain="year", hash_check="")
        commit(folder, state, base=base, added=files, removed=removed, replace=base is not None and base.view() != view)
        return self.store.table(view.id).version

    def rows(self, view: FeatureView) -> list[Row]:
        """All rows of the table's latest version."""
        return [row for file in self.store.table(view.id).files() for row in rows_of(file)]

    def _write(self, view: FeatureView, folder: Path, rows: Sequence[Row]) -> DataFile:
        schema = arrow_schema(view)
        schema = schema.remove(len(schema) - 1)
        kinds = [key.dtype for key in view.join_keys] + [DType("timestamptz")] * (1 + bool(view.created_timestamp))
        kinds += [feature.dtype for feature in view.features]
        arrays = [
            pa.array([_stored(kind, row[i]) for row in rows], field.type)
            for i, (kind, field) in enumerate(zip(kinds, schema, strict=True))
        ]
        table = pa.table(arrays, schema=schema)
        order = [*view.key_names, view.event_timestamp, *filter(None, [view.created_timestamp])]
        table = table.sort_by([(name, "ascending") for name in order])  # nulls last, as DuckDB sorts
        self._files += 1
        if self._files % 2:  # Parquet files differ in whether a column without nulls is declared so
            table = table.cast(
                pa.schema([field.with_nullable(False) if i < 2 else field for i, field in enumerate(schema)])
            )
        path = folder / "_bucket=2024" / f"{os.getpid()}-{self._files}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=5 if len(rows) < 1000 else 10_000)
        events = [to_us(row[len(view.join_keys)]) for row in rows]
        return DataFile(path, len(rows), min(events), max(events), "2024")


def rows_of(file: DataFile) -> list[Row]:
    rows = pq.read_table(file.path, partitioning=None).to_pylist()
    return [tuple(int(value) if isinstance(value, Decimal) else value for value in row.values()) for row in rows]


def _stored(dtype: DType, value: Any) -> Any:
    return str(value) if dtype.kind == "uuid" and value is not None else value


def registry_of(*views: FeatureView, project: str = "test") -> Registry:
    return Registry(project=project, feature_views=tuple(sorted(views, key=lambda view: view.id)))


def run_sync(
    url: str, tables: Tables, *views: FeatureView, now: datetime, names: Sequence[str] | None = None, **options: Any
) -> SyncReport:
    """A sync of `views` that raises the first failure."""
    options.setdefault("expire", False)
    with OnlineStore(url) as online:
        report = sync(
            online,
            tables.store,
            registry_of(*views),
            views=names,
            now_us=lambda: to_us(now),
            options=SyncOptions(**options),
        )
    for error in report.failures.values():
        raise error
    return report


def sync_one(url: str, tables: Tables, view: FeatureView, *, now: datetime, **options: Any) -> SyncResult:
    (result,) = run_sync(url, tables, view, now=now, **options).results
    return result


def online_rows(url: str, view: FeatureView) -> dict[tuple[str, ...], tuple[int, list[Any]]]:
    """Every row under the view's codes, by key text: event timestamp and values. Fails when other codes have rows, and
    where a row has a part too few or too many, or parts of two times."""
    with OnlineStore(url) as store, redis.Redis.from_url(url) as client:
        registry = store.registry()
        assert registry is not None
        found = registry.views.get(view.id)
        codes = {part.code.encode() for entry in registry.views.values() for part in entry.parts}
        parts = {part.code.encode(): part.definition for part in (found.parts if found else ())}
        held: dict[tuple[str, ...], dict[str, Any]] = {}
        for key in client.scan_iter(count=1000):
            code, brace, rest = key.partition(b"{")
            if not brace:
                continue
            assert code in codes, f"{key!r} belongs to no view"
            if code in parts:
                event_us, values = RowCodec(parts[code].features).decode(client.get(key))
                row = held.setdefault(tuple(rest[:-1].decode().split("|")), {"": event_us})
                assert row[""] == event_us, key
                row |= zip(parts[code].feature_names, values, strict=True)
        assert all(row.keys() == {"", *view.feature_names} for row in held.values())
        return {key: (row[""], [row[name] for name in view.feature_names]) for key, row in held.items()}


def expected_rows(
    view: FeatureView, rows: Iterable[Row], now: datetime
) -> dict[tuple[str, ...], tuple[int, list[Any]]]:
    """The latest row of each key at `now`, less those whose time in Redis is over."""
    keys, latest = len(view.join_keys), {}
    encoders = [key_encoder(key) for key in view.join_keys]
    never = datetime.min.replace(tzinfo=UTC)
    for row in rows:
        if row[keys] > now or None in row[:keys]:
            continue
        rank = (row[keys], (row[keys + 1] or never) if view.created_timestamp else never)
        if row[:keys] not in latest or rank > latest[row[:keys]][0]:
            latest[row[:keys]] = (rank, row)
    grace = grace_us(view)
    return {
        tuple(str(encode(value)) for encode, value in zip(encoders, key, strict=True)): (
            to_us(rank[0]),
            list(row[keys + 1 + bool(view.created_timestamp) :]),
        )
        for key, (rank, row) in latest.items()
        if grace is None or to_us(rank[0]) + grace > to_us(now)
    }


VIEW = make_view()


def spend(url: str, view: FeatureView = VIEW) -> dict[str, float]:
    """The first feature of each key that is online, by the first part of its key."""
    return {key[0]: values[0] for key, (_, values) in online_rows(url, view).items()}
