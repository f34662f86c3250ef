"""Deterministic data: views of feature history as Parquet files sorted by event time, and spines.

A view's file has entity_id (int64), event_timestamp, created_timestamp and the features NAME_f0, NAME_f1…: doubles, one
in a hundred null, and unless `doubles` is asked for the last two an int64 and a string of ten letters. Each entity has
the same number of rows, at random times of 30 days. Feast needs feature names that differ between views.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_server.definitions.facts import Entity, Feature, FeatureView, JoinKey
from feature_server.definitions.registry import Registry, write_registry
from feature_server.dtypes import DType
from feature_server.manifest.views import fingerprint
from feature_server.offline.store import OfflineStore
from feature_server.publish.batch import publish_all
from feature_server.settings import Settings, load_settings

START_US = 1_735_689_600_000_000  # 2025-01-01T00:00:00Z
DAY_US = 86_400_000_000
WINDOW_US = 30 * DAY_US
TIME = pa.timestamp("us", tz="UTC")
TTL_DAYS = 7
CHUNK_ROWS = 1_000_000
SEED = 42


class ViewSize(msgspec.Struct, frozen=True):
    """How much history: `entities` × `history` rows × `features`."""

    entities: int
    history: int = 10
    features: int = 10
    doubles: bool = False

    @property
    def rows(self) -> int:
        return self.entities * self.history

    @property
    def folder(self) -> str:
        return f"{self.entities}x{self.history}x{self.features}{'d' if self.doubles else ''}"


def feature_types(size: ViewSize) -> list[pa.DataType]:
    doubles = size.features if size.doubles else size.features - 2
    return [pa.float64() for _ in range(doubles)] + ([] if size.doubles else [pa.int64(), pa.string()])


def feature_names(name: str, size: ViewSize) -> list[str]:
    return [f"{name}_f{i}" for i in range(size.features)]


def view_file(work: Path, name: str, size: ViewSize) -> Path:
    """The Parquet file of a view's history, made unless it is there."""
    path = work / size.folder / f"{name}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        features = zip(feature_names(name, size), feature_types(size), strict=True)
        times = [("event_timestamp", TIME), ("created_timestamp", TIME)]
        schema = pa.schema([("entity_id", pa.int64()), *times, *features])
        with pq.ParquetWriter(temporary, schema, compression="snappy") as writer:
            for chunk in _chunks(name, size, schema):
                writer.write_table(chunk, row_group_size=122_880)
        temporary.replace(path)
    return path


def _chunks(name: str, size: ViewSize, schema: pa.Schema) -> Iterator[pa.Table]:
    random = np.random.default_rng([SEED, sum(map(ord, name)), size.entities, size.history, size.features])
    times = START_US + random.integers(0, WINDOW_US // 1000, size.rows, dtype=np.int64) * 1000
    entities = np.tile(np.arange(size.entities, dtype=np.int64), size.history)
    order = np.argsort(times, kind="stable")
    times, entities = times[order], entities[order]
    created = times + random.integers(1_000_000, 3_600_000_000, size.rows, dtype=np.int64)
    words = pa.array([f"cat_{i:06d}" for i in range(5000)])
    for low in range(0, size.rows, CHUNK_ROWS):
        part = slice(low, min(low + CHUNK_ROWS, size.rows))
        rows = part.stop - part.start
        arrays = [pa.array(entities[part]), pa.array(times[part]).cast(TIME), pa.array(created[part]).cast(TIME)]
        for kind in feature_types(size):
            if pa.types.is_string(kind):
                arrays.append(words.take(pa.array(random.integers(0, len(words), rows))))
            elif pa.types.is_integer(kind):
                arrays.append(pa.array(random.integers(0, 1_000_000, rows, dtype=np.int64)))
            else:
                arrays.append(pa.array(random.standard_normal(rows), mask=random.random(rows) < 0.01))
        yield pa.Table.from_arrays(arrays, schema=schema)


def spine_file(work: Path, rows: int, size: ViewSize) -> Path:
    """The Parquet file of a spine: entity_id (two in a hundred without history), event_timestamp, label."""
    path = work / size.folder / f"spine_{rows}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng([SEED, 77, rows, size.entities])
        times = START_US + DAY_US + random.integers(0, (WINDOW_US + 2 * DAY_US) // 1000, rows, dtype=np.int64) * 1000
        spine = pa.table(
            {
                "entity_id": random.integers(0, int(size.entities * 1.02), rows, dtype=np.int64),
                "event_timestamp": pa.array(times).cast(TIME),
                "label": random.integers(0, 2, rows, dtype=np.int64),
            }
        )
        temporary = path.with_suffix(f".{os.getpid()}")
        pq.write_table(spine, temporary)
        temporary.replace(path)
    return path


def feature_view(name: str, size: ViewSize, ttl_days: int | None = TTL_DAYS) -> FeatureView:
    kinds = {pa.float64(): DType("float64"), pa.int64(): DType("int64"), pa.string(): DType("string")}
    view = FeatureView(
        name=name,
        entities=("entity",),
        join_keys=(JoinKey("entity_id", DType("int64")),),
        created_timestamp="created_timestamp",
        ttl_us=None if ttl_days is None else ttl_days * DAY_US,
        refresh="manual",
        features=tuple(
            Feature(name=feature, dtype=kinds[kind])
            for feature, kind in zip(feature_names(name, size), feature_types(size), strict=True)
        ),
        relation=f'"warehouse"."main"."{name}"',
        identifier=name,
    )
    return msgspec.structs.replace(view, fingerprint=fingerprint(view))


def registry(views: Sequence[FeatureView]) -> Registry:
    entity = Entity(name="entity", join_keys=(JoinKey("entity_id", DType("int64")),))
    return Registry(project="bench", entities=(entity,), feature_views=tuple(sorted(views, key=lambda view: view.id)))


def published(work: Path, names: Sequence[str], size: ViewSize, *, ttl_days: int | None = TTL_DAYS) -> Settings:
    """Settings of a project whose views `names` have this history in the offline store; published unless they are.

    `settings.clock` is two days after the last event, so that about a quarter of the rows are within the ttl of 7 days.
    """
    home = work / size.folder / "home"
    settings = load_settings({}, project_dir=work, home=home, clock="2025-02-02T00:00:00Z")
    views = [feature_view(name, size, ttl_days) for name in names]
    write_registry(settings.registry_path, registry(views))
    store = OfflineStore(settings.offline)
    missing = [view for view in views if not store.exists(view.id)]
    if missing:
        with duckdb.connect(str(settings.warehouse)) as warehouse:
            for view in missing:
                source = view_file(work, view.name, size).resolve()
                warehouse.execute(f"create or replace view main.{view.name} as from read_parquet('{source}')")
        _, failed = publish_all(missing, settings)
        for error in failed.values():
            raise error
    return settings
