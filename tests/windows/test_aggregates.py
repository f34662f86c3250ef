"""Every aggregate of every type, in training and in online reads, is what DuckDB gives on an extra row."""

from __future__ import annotations

import math
import random
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pytest

from feature_server.client.features import FeatureClient
from feature_server.compiler.layers import EVENTS
from feature_server.compiler.model import CompiledModel, compile_stream_view
from feature_server.definitions.aggregates import FUNCTIONS, listed
from feature_server.definitions.facts import Entity, Feature, FeatureView, JoinKey
from feature_server.definitions.registry import Registry
from feature_server.definitions.stream import EventSource, SourceColumn
from feature_server.dtypes import parse_sql_type
from feature_server.history.log import land
from feature_server.ingest.transaction import Ingestor
from feature_server.manifest.views import fingerprint
from feature_server.offline.session import event_types
from feature_server.offline.store import OfflineStore
from feature_server.online.store import OnlineStore
from feature_server.publish.run import publish
from feature_server.settings import load_settings
from feature_server.sync.run import SyncOptions, sync
from feature_server.times import to_us
from feature_server.verify.events import verify_events
from feature_server.warehouse.relations import open_warehouse
from feature_server.windows.reduce import KERNELS
from tests.support.published import training_store

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
COLUMNS = {
    "id": "bigint", "k": "integer", "happened": "timestamptz", "known": "timestamptz", "ok": "boolean", "i": "integer",
    "n": "bigint", "un": "ubigint", "dec": "decimal(12,2)", "wide": "decimal(30,4)", "x": "double", "f": "float",
    "b": "boolean", "d": "date", "ts": "timestamp", "tz": "timestamptz", "s": "varchar", "u": "uuid", "l": "double[]",
}  # fmt: skip
SOURCE = EventSource(
    name="shop.things",
    columns=tuple(SourceColumn(name, parse_sql_type(text)) for name, text in COLUMNS.items()),
    event_id="id",
    event_timestamp="happened",
    created_timestamp="known",
    relation="'landing/*.parquet'",
)
NUMBERS = ("i", "n", "un", "dec", "wide", "x", "f")
ORDERED = (*NUMBERS, "b", "d", "ts", "tz", "s", "u")
ANY = (*ORDERED, "l")
WINDOW = "(partition by k order by happened range between {} and {})"
FRAMES = (
    WINDOW.format("interval 1 hour preceding", "current row"),
    WINDOW.format("interval 1 day preceding", "interval 20 minutes preceding"),
    WINDOW.format("unbounded preceding", "current row"),
)
CALLS = (
    [("count(*)", False), ("count(*)", True)]
    + [(f"{call}({c})", call == "count" and c in ("dec", "x")) for call in ("count", "first", "last") for c in ANY]
    + [(f"{call}({c})", c in ("n", "s")) for call in ("min", "max") for c in ORDERED]
    + [(f"count(distinct {c})", c in ("s", "d")) for c in ORDERED]
    + [(f"sum({c})" if c in ("dec", "wide", "x", "f") else f"sum({c})::bigint", False) for c in NUMBERS]
    + [(f"{call}({c})", c == "n") for call in ("avg", "product", "median") for c in NUMBERS]
    + [(f"{call}({c})", False) for call in ("stddev", "stddev_pop", "var_samp", "var_pop") for c in NUMBERS]
    + [(f"quantile_cont({c}, {level})", False) for c in NUMBERS for level in (0, 0.9)]
    + [(f"quantile_disc({c}, {level})", False) for c in ORDERED for level in (0.25, 1)]
    + [(f"arg_min({c}, n)", False) for c in ANY]
    + [(f"arg_max(n, {c})", False) for c in ORDERED]
    + [("count_if(b)::bigint", False), ("count_if(x > 1)::bigint", True)]
    + [("bool_and(b)", False), ("bool_or(b)", True), ("bool_or(x > 1)", False)]
    + [(f"{call} ignore nulls)", False) for call in ("first_value(n", "last_value(s", "first(x", "last(d")]
    + [("any_value(s)", False), ("last_value(n respect nulls)", False)]
    + [(f"list({c})", c == "x") for c in NUMBERS if c not in ("dec", "wide")]
)


def aggregate(call: str, condition: str | None, frame: str) -> str:
    """A window function as a model has it."""
    call, _, cast = call.partition("::")
    filtered = f"{call} filter (where {condition}) over {frame}" if condition else f"{call} over {frame}"
    whole = f"({filtered})[-3:]" if call.startswith("list") else filtered
    return f"cast({whole} as {cast})" if cast else whole


LIFETIME = ("count(*)", "count(", "count_if", "sum", "avg", "min", "max", "first", "last", "any", "arg_", "bool")


def features(frame: str) -> dict[str, tuple[str, str]]:
    """Each feature's SQL in the model and in the check, where the extra row adds nothing."""
    found = {}
    for place, (call, filtered) in enumerate(CALLS):
        if "unbounded" in frame and (not call.startswith(LIFETIME) or "distinct" in call):
            continue
        plain, kept = ("ok", "ok and not extra") if filtered else (None, "not extra")
        if call.startswith(("first", "last", "any_value")):  # DuckDB has no FILTER for these
            argument = call.partition("(")[2].removesuffix(")").split()[0]
            only = f" and {argument} is not null" if "ignore" in call or "any" in call else ""
            listed = f"list({argument}) filter (where not extra{only}) over {frame}"
            expected = f"({listed})[{-1 if call.startswith('last') else 1}]"
        else:
            expected = aggregate(call, kept, frame)
        found[f"f{place}"] = aggregate(call, plain, frame), expected
    return found


def model_sql(frame: str) -> str:
    listed = "".join(f", {sql} as {name}" for name, (sql, _) in features(frame).items())
    return f"select k, happened as event_timestamp{listed} from things"


def make_view(frame: str) -> FeatureView:
    with event_types(SOURCE) as session:
        session.rows("create view things as from events")
        types = {name: parse_sql_type(text) for name, text in session(model_sql(frame)).items() if name[0] == "f"}
        model = CompiledModel(
            sql=model_sql(frame), join_keys=("k",), event_timestamp="event_timestamp", created_timestamp=None,
            features=tuple(types), types=types,
        )  # fmt: skip
        plan = compile_stream_view(model, SOURCE, lambda table: EVENTS, session)
    view = FeatureView(
        name="thing__all", entities=("thing",), join_keys=(JoinKey("k", parse_sql_type("integer")),),
        features=tuple(Feature(name=name, dtype=dtype) for name, dtype in types.items()),
        stream=plan, relation='"warehouse"."main"."thing__all"', identifier="thing__all",
    )  # fmt: skip
    return msgspec.structs.replace(view, fingerprint=fingerprint(view))


def events(chance: random.Random, count: int, special: bool) -> list[dict[str, Any]]:
    """Events of four keys, of key 3 with nulls alone; with `special`, NaN and infinities among the floats."""
    floats = [0.5, -1.25, 2.0, 1e6, *([math.nan, math.inf, -math.inf] if special else [])]
    found = []
    for number in range(count):
        at = NOW - timedelta(seconds=chance.randint(0, 3 * 3600)) + timedelta(microseconds=number)
        values = {
            "ok": chance.random() < 0.6, "i": chance.randint(-3, 3), "n": chance.randint(-(2**40), 2**40) * 8 + number,
            "un": chance.choice([0, 1, 2**55 + 1]), "dec": Decimal(chance.randint(-500, 500)).scaleb(-2),
            "wide": Decimal(chance.randint(-(10**22), 10**22)).scaleb(-4), "x": chance.choice(floats),
            "f": chance.choice(floats), "b": chance.random() < 0.7,
            "d": date(2026, 1, 1) + timedelta(chance.randint(0, 9)),
            "ts": datetime(1969, 12, 31) + timedelta(hours=chance.randint(0, 99)),
            "tz": NOW - timedelta(hours=chance.randint(0, 9)), "s": chance.choice(["", "a", "b", "é", "Z", "aa"]),
            "u": uuid.UUID(int=chance.choice([0, 1, 2**127, 2**128 - 1])), "l": [float(number), None],
        }  # fmt: skip
        key = chance.randint(1, 4)
        gone = {name for name in values if key == 3 or chance.random() < 0.25}
        kept = {name: None if name in gone else value for name, value in values.items()}
        found.append({"id": number, "k": key, "happened": at, "known": at + timedelta(seconds=1), **kept})
    return found


def by_sql(frame: str, rows: list[dict[str, Any]], at: datetime, keys: list[int]) -> list[list[Any]]:
    """What the model gives on an extra row of each key, which no aggregate counts."""
    checked = ", ".join(sql for _, sql in features(frame).values())
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        listed = ", ".join(f"{name} {text}" for name, text in COLUMNS.items())
        connection.execute(f"create table things ({listed}, extra boolean)")
        extra = [dict.fromkeys(COLUMNS) | {"k": key, "happened": at, "extra": True} for key in keys]
        values = [list((row | {"extra": row.get("extra", False)}).values()) for row in [*rows, *extra]]
        connection.executemany(f"insert into things values ({', '.join('?' * (len(COLUMNS) + 1))})", values)
        found = connection.execute(f"select * from (select k, extra, {checked} from things) where extra order by k")
        return [list(row[2:]) for row in found.fetchall()]


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(same(*pair) for pair in zip(ours, theirs, strict=True))
    if isinstance(ours, float) and isinstance(theirs, float):
        return (math.isnan(ours) and math.isnan(theirs)) or math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(theirs, uuid.UUID):
        return str(ours) == str(theirs)
    return type(ours) is type(theirs) and bool(ours == theirs)


class Shop:
    """Things in a warehouse, an offline store and online."""

    def __init__(self, folder: Path, url: str, frame: str) -> None:
        self.folder, self.url, self.frame, self.view = folder, url, frame, make_view(frame)
        self.names = [f"thing__all:{feature.name}" for feature in self.view.features]
        entity = Entity(name="thing", join_keys=self.view.join_keys)
        self.registry = Registry(project="test", entities=(entity,), sources=(SOURCE,), feature_views=(self.view,))
        self.offline = OfflineStore(folder / "offline")
        (folder / "landing").mkdir()
        duckdb.connect(str(folder / "warehouse.duckdb")).close()
        with duckdb.connect() as connection:
            listed = ", ".join(f"null::{text} as {name}" for name, text in COLUMNS.items())
            connection.sql(f"select {listed} limit 0").write_parquet(str(folder / "landing" / "none.parquet"))

    def publish(self) -> None:
        with open_warehouse(self.folder / "warehouse.duckdb", sources=[SOURCE], project_dir=self.folder) as warehouse:
            publish(self.view, warehouse, self.offline)
        with OnlineStore(self.url) as online:
            options = SyncOptions(expire=False, project_dir=self.folder)
            found = sync(online, self.offline, self.registry, now_us=lambda: to_us(NOW), options=options)
            assert not found.failures, found.failures

    def push(self, rows: list[dict[str, Any]]) -> None:
        with Ingestor(self.url, lambda: to_us(NOW), expire=False) as ingestor:
            assert ingestor.push(SOURCE.name, rows).rejected == []

    def land(self) -> None:
        with OnlineStore(self.url) as online:
            assert land(online, SOURCE, self.folder / "landing")

    def online(self, at: datetime, keys: list[int]) -> list[list[Any]]:
        with FeatureClient(self.url, settings=load_settings({})) as client:
            client._reader.now_us = lambda: to_us(at)
            found = client.get_many(features=self.names, k=keys)
        return [list(row) for row in zip(*(found.values[name.partition(":")[2]] for name in self.names), strict=True)]

    def trained(self, at: datetime, keys: list[int]) -> list[list[Any]]:
        times = pa.array([at] * len(keys), pa.timestamp("us", "UTC"))
        spine = pa.table({"k": pa.array(keys, pa.int32()), "event_timestamp": times})
        found = training_store(self.folder, self.registry).get_historical_features(spine, self.names).to_arrow()
        return [list(row.values())[2:] for row in found.to_pylist()]

    def wrong(self, found: list[list[Any]], wanted: list[list[Any]], keys: list[int]) -> list[Any]:
        sql = [sql for sql, _ in features(self.frame).values()]
        return [
            (sql[i], keys[row], ours, theirs)
            for row in range(len(keys))
            for i, (ours, theirs) in enumerate(zip(found[row], wanted[row], strict=True))
            if not same(ours, theirs)
        ]


def test_every_function_has_a_kernel_a_place_in_the_docs_and_is_tried_here() -> None:
    page = (Path(__file__).parents[2] / "docs" / "realtime.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith("| aggregates |"))
    stream = make_view(FRAMES[0]).stream
    assert stream is not None
    assert set(KERNELS) == {aggregate.function for aggregate in stream.aggregates} == set(FUNCTIONS)
    written = row.partition(";")[0].split("`")[1::2]
    assert sorted(written) == sorted([*listed(lifetime=False).split(", "), "(list(x) over w)[-n:]"])


@pytest.mark.parametrize(("frame", "special"), zip(FRAMES, (False, True, True), strict=True))
def test_aggregates_of_every_type(tmp_path: Path, valkey: str, frame: str, special: bool) -> None:
    shop = Shop(tmp_path, valkey, frame)
    rows = events(random.Random(7), 60, special)
    keys = [1, 2, 3, 4, 5]
    shop.publish()
    shop.push(rows)
    instants = [NOW, NOW + timedelta(minutes=75), NOW + timedelta(days=3)]
    wanted = {at: by_sql(frame, rows, at, keys) for at in instants}
    for at in instants:
        assert shop.wrong(shop.online(at, keys), wanted[at], keys) == []
    shop.land()
    shop.publish()
    for at in instants:
        assert shop.wrong(shop.online(at, keys), wanted[at], keys) == []
        assert shop.wrong(shop.trained(at, keys), wanted[at], keys) == []
    with OnlineStore(valkey) as online:
        verified = verify_events(shop.view, online, shop.offline, now_us=to_us(NOW), project_dir=tmp_path, sample=0)
    assert verified.differences == ()
