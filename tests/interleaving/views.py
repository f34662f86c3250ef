"""Stream views with every aggregate, over event sources with string and UUID ids, and what their SQL gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from feature_server.compiler.layers import EVENTS
from feature_server.compiler.model import CompiledModel, compile_stream_view
from feature_server.definitions.facts import Entity, Feature, FeatureView, JoinKey, parse_duration
from feature_server.definitions.registry import Registry
from feature_server.definitions.stream import EventSource, SourceColumn
from feature_server.dtypes import parse_sql_type
from feature_server.manifest.views import fingerprint
from feature_server.offline.session import event_types

Event = dict[str, Any]


def _source(name: str, columns: Mapping[str, str], event_id: str, time: str, created: str | None) -> EventSource:
    return EventSource(
        name=name,
        columns=tuple(SourceColumn(column, parse_sql_type(text)) for column, text in columns.items()),
        event_id=event_id,
        event_timestamp=time,
        created_timestamp=created,
        relation=f"'landing/{name}/*.parquet'",
    )


PAYMENT = {
    "payment_id": "varchar", "customer": "uuid", "store": "varchar", "group": "varchar", "kind": "varchar",
    "amount": "decimal(12,2)", "score": "double", "order": "integer", "device": "uuid", "is_online": "boolean",
    "paid_at": "timestamptz", "ingested_at": "timestamptz",
}  # fmt: skip
CLICK = {"click_id": "uuid", "user": "bigint", "page": "varchar", "load_ms": "integer", "clicked_at": "timestamp"}
PAYMENTS = _source("shop.payments", PAYMENT, "payment_id", "paid_at", "ingested_at")
CLICKS = _source("app.clicks", CLICK, "click_id", "clicked_at", None)
SOURCES = (PAYMENTS, CLICKS)
COLUMNS = {PAYMENTS.name: PAYMENT, CLICKS.name: CLICK}


@dataclass(frozen=True)
class Model:
    """A stream view as its analyst writes it, in parts: `features` map to their SQL and type.

    `frames` gives each window's bounds, None for a lifetime. `plain` features are the latest event's own, `mixed` ones
    are null without it, `lifetime` ones count very late events only after a sync.
    """

    name: str
    source: EventSource
    keys: tuple[str, ...]
    staging: str
    where: str
    frames: dict[str, tuple[timedelta | None, timedelta]]
    features: dict[str, tuple[str, str]]
    plain: frozenset[str]
    mixed: frozenset[str] = frozenset()
    lifetime: frozenset[str] = frozenset()
    ttl: str | None = None
    more: tuple[dict[str, tuple[str, str]], ...] = field(default=())  # what later definitions add

    def at(self, level: int) -> Model:
        """The definition with the features of the first so many additions."""
        added = {name: feature for more in self.more[:level] for name, feature in more.items()}
        return replace(self, features=self.features | added, more=())

    @property
    def time(self) -> str:
        return self.source.event_timestamp

    def sql(self, relation: str, *, exclude: str = "", before: str = "") -> str:
        """The model over `relation`; `exclude` ends each frame, `before` begins the columns."""
        keys = ", ".join(map(_quoted, self.keys))
        columns = ",\n    ".join(f"{sql} as {name}" for name, (sql, _) in self.features.items())
        windows = ",\n    ".join(
            f"{name} as (partition by {keys} order by {self.time} range between "
            f"{_interval(start)} and {_interval(end) if end else 'current row'}{exclude})"
            for name, (start, end) in self.frames.items()
        )
        return (
            f"select {before}{keys}, {self.time} as event_timestamp,\n    {columns}\n"
            f"from {relation} as rows_of_{self.source.event_id}\nwhere {self.where}\nwindow\n    {windows}"
        )

    @cache  # noqa: B019 - a handful of models
    def view(self) -> FeatureView:
        model = CompiledModel(
            sql=self.sql(f"({self.staging})"),
            join_keys=self.keys,
            event_timestamp="event_timestamp",
            created_timestamp=None,
            features=tuple(self.features),
            types={name: parse_sql_type(text) for name, (_, text) in self.features.items()},
        )
        with event_types(self.source) as describe:
            plan = compile_stream_view(model, self.source, lambda table: EVENTS, describe)
        types = {column.name: column.dtype for column in self.source.columns}
        view = FeatureView(
            name=self.name,
            entities=("_".join(self.keys),),
            join_keys=tuple(JoinKey(key, types[key]) for key in self.keys),
            features=tuple(Feature(name=n, dtype=parse_sql_type(text)) for n, (_, text) in self.features.items()),
            ttl_us=None if self.ttl is None else parse_duration(self.ttl),
            stream=plan,
            relation=f'"warehouse"."main"."{self.name}"',
            identifier=self.name,
        )
        return msgspec.structs.replace(view, fingerprint=fingerprint(view))

    def __hash__(self) -> int:
        return hash((self.name, len(self.features)))


def _quoted(name: str) -> str:
    return f'"{name}"'


def _interval(length: timedelta | None) -> str:
    if length is None:
        return "unbounded preceding"
    seconds = length // timedelta(seconds=1)
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds % size == 0:
            return f"interval {seconds // size} {unit} preceding"
    return f"interval {seconds} seconds preceding"


def _span(**length: float) -> tuple[timedelta, timedelta]:
    return timedelta(**length), timedelta()


_LATEST_VERSIONS = """
    select *, kind = 'refund' as is_refund from landed
    qualify row_number() over (partition by payment_id order by ingested_at desc) = 1
"""
CUSTOMER = Model(
    name="customer__payments",
    source=PAYMENTS,
    keys=("customer",),
    staging=_LATEST_VERSIONS,
    where="amount > 0",
    frames={
        "moment": _span(seconds=90), "hour": _span(hours=1), "day": _span(days=1),
        "delayed": (timedelta(hours=1), timedelta(minutes=5)),
    },
    features={
        "n_90s": ("count(*) over moment", "bigint"),
        "n_1h": ("count(*) over hour", "bigint"),
        "n_delayed": ("count(*) over delayed", "bigint"),
        "refunds_1d": ("count(*) filter (where is_refund) over day", "bigint"),
        "scored_1h": ("count(score) over hour", "bigint"),
        "merchants_1h": ("count(distinct \"group\") over hour", "bigint"),
        "devices_1d": ("count(distinct device) filter (where not is_refund) over day", "bigint"),
        "spent_1h": ("sum(amount) filter (where not is_refund) over hour", "decimal(38,2)"),
        "spent_delayed": ("sum(amount) over delayed", "decimal(38,2)"),
        "score_1h": ("sum(score) over hour", "double"),
        "items_1d": ("cast(sum(\"order\") over day as bigint)", "bigint"),
        "mean_1h": ("avg(amount) over hour", "double"),
        "mean_score_90s": ("avg(score) over moment", "double"),
        "least_1h": ("min(amount) over hour", "decimal(12,2)"),
        "largest_1d": ("max(amount) over day", "decimal(12,2)"),
        "least_score_1h": ("min(score) over hour", "double"),
        "last_name_1h": ("max(\"group\") over hour", "varchar"),
        "first_paid_1h": ("min(paid_at) over hour", "timestamptz"),
        "spread_1d": ("stddev(score) over day", "double"),
        "variance_1h": ("var_pop(amount) over hour", "double"),
        "middle_1h": ("median(score) over hour", "double"),
        "upper_1d": ("quantile_cont(amount::double, 0.9) over day", "double"),
        "usual_items_1h": ("quantile_disc(\"order\", 0.4) over hour", "integer"),
        "first_merchant_1h": ("first(\"group\") over hour", "varchar"),
        "last_device_1h": ("last(device) over hour", "uuid"),
        "best_merchant_1d": ("arg_max(\"group\", amount) over day", "varchar"),
        "worst_device_1h": ("arg_min(device, score) over hour", "uuid"),
        "any_refund_1h": ("bool_or(is_refund) over hour", "boolean"),
        "all_online_90s": ("bool_and(is_online) over moment", "boolean"),
        "last_items_1h": ("(list(\"order\") over hour)[-3:]", "integer[]"),
        "peak_to_mean": ("max(amount) over hour / nullif(avg(amount) over day, 0)", "double"),
        "label": ("case when count(*) over moment > 1 then 'busy' else coalesce(max(kind) over day) end", "varchar"),
        "last_merchant": ('"group"', "varchar"),
        "last_device": ("device", "uuid"),
        "last_doubled": ("cast(amount * 2 as decimal(13,2))", "decimal(13,2)"),
    },
    plain=frozenset({"last_merchant", "last_device", "last_doubled"}),
    ttl="6h",
    more=(
        {"spent_90s": ("sum(amount) over moment", "decimal(38,2)")},
        {"stores_1d": ("count(distinct store) over day", "bigint"), "last_store": ("max(store) over day", "varchar")},
    ),
)  # fmt: skip
STORE = Model(
    name="store_customer__payments",
    source=PAYMENTS,
    keys=("store", "customer"),
    staging=_LATEST_VERSIONS,
    where="kind <> 'test'",
    frames={"six_hours": _span(hours=6), "week": _span(days=7), "older": (timedelta(days=7), timedelta(hours=6))},
    features={
        "n_6h": ("count(*) over six_hours", "bigint"),
        "n_7d": ("count(*) over week", "bigint"),
        "n_older": ("count(*) over older", "bigint"),
        "spent_7d": ("sum(amount) over week", "decimal(38,2)"),
        "score_7d": ("avg(score) over week", "double"),
        "merchants_7d": ('count(distinct "group") over week', "bigint"),
        "last_amount": ("amount", "decimal(12,2)"),
        "last_kind": ("upper(kind)", "varchar"),
        "to_mean": ("amount / nullif(avg(amount) over week, 0)", "double"),
    },
    plain=frozenset({"last_amount", "last_kind"}),
    mixed=frozenset({"to_mean"}),
    more=({"n_21d": ("count(*) over three_weeks", "bigint")},),
)
_EVER = {
    "n_ever": ("count(*) over ever", "bigint"),
    "refunds_ever": ("count(*) filter (where is_refund) over ever", "bigint"),
    "items_counted_ever": ('count("order") over ever', "bigint"),
    "spent_ever": ("sum(amount) over ever", "decimal(38,2)"),
    "score_ever": ("sum(score) filter (where not is_refund) over ever", "double"),
    "mean_ever": ("avg(amount) over ever", "double"),
    "least_ever": ("min(amount) over ever", "decimal(12,2)"),
    "last_name_ever": ('max("group") over ever', "varchar"),
    "first_merchant_ever": ('first("group") over ever', "varchar"),
    "last_device_ever": ("last(device) over ever", "uuid"),
    "best_merchant_ever": ('arg_max("group", amount) over ever', "varchar"),
    "worst_device_ever": ("arg_min(device, score) over ever", "uuid"),
    "any_refund_ever": ("bool_or(is_refund) over ever", "boolean"),
    "all_online_ever": ("bool_and(is_online) over ever", "boolean"),
    "day_to_ever": ("sum(amount) over day / nullif(sum(amount) over ever, 0)", "double"),
    "n_before": ("count(*) over before", "bigint"),
}
EVER = Model(
    name="customer__ever",
    source=PAYMENTS,
    keys=("customer",),
    staging=_LATEST_VERSIONS,
    where="amount > 0",
    frames={"ever": (None, timedelta()), "before": (None, timedelta(hours=6)), "day": _span(days=1)},
    features=_EVER | {"n_1d": ("count(*) over day", "bigint"), "last_merchant": ('"group"', "varchar")},
    plain=frozenset({"last_merchant"}),
    lifetime=frozenset({*_EVER, "items_ever"}),
    more=({"items_ever": ('cast(sum("order") over ever as bigint)', "bigint")},),
)
USER = Model(
    name="user__clicks",
    source=CLICKS,
    keys=("user",),
    staging='select click_id, "user", page, load_ms / 1000 as seconds, load_ms, clicked_at from landed',
    where="load_ms >= 0 or load_ms is null",
    frames={"moment": _span(seconds=30), "days": _span(days=3)},
    features={
        "clicks_30s": ("count(*) over moment", "bigint"),
        "clicks_3d": ("count(*) over days", "bigint"),
        "pages_3d": ("count(distinct page) over days", "bigint"),
        "mean_s_30s": ("avg(seconds) over moment", "double"),
        "slowest_s_3d": ("max(seconds) over days", "double"),
        "total_s_3d": ("sum(seconds) over days", "double"),
        "least_ms_3d": ("min(load_ms) over days", "integer"),
    },
    plain=frozenset(),
    more=({"spread_3d": ("stddev_pop(seconds) over days", "double")},),
)
STORE = replace(STORE, frames=STORE.frames | {"three_weeks": _span(days=21)})
MODELS = (CUSTOMER, STORE, EVER, USER)


def registry_of(models: tuple[Model, ...]) -> Registry:
    views = [model.view() for model in models]
    entities = {view.entities[0]: Entity(name=view.entities[0], join_keys=view.join_keys) for view in views}
    return Registry(
        project="test",
        entities=tuple(entities.values()),
        sources=SOURCES,
        feature_views=tuple(sorted(views, key=lambda view: view.id)),
    )


class Analyst:
    """What DuckDB gives for a model's own SQL over some events and an extra row (key, now) that adds nothing.

    The extra row is in no frame, its own included: each frame ends with `exclude current row`. It is a copy of the
    latest event that counts, at another time and with an id of its own, so that it has that event's plain columns.
    """

    def __init__(self) -> None:
        self._duckdb = duckdb.connect()
        self._duckdb.execute("set TimeZone = 'UTC'; set threads = 1")

    def close(self) -> None:
        self._duckdb.close()

    def load(self, source: EventSource, events: Iterable[Event]) -> None:
        """Make `landed`: all versions that came, or, where the source has no time of creation, each event once."""
        columns = COLUMNS[source.name]
        rows = [{name: _plain(value) for name, value in event.items()} for event in events]
        schema = pa.schema([(name, _arrow(text)) for name, text in columns.items()])
        self._duckdb.register("given", pa.Table.from_pylist(rows, schema=schema))
        listed = ", ".join(f"{_quoted(name)}::{text} as {_quoted(name)}" for name, text in columns.items())
        once = "" if source.created_timestamp else f"distinct on ({source.event_id})"
        self._duckdb.execute(f"create or replace temp table landed as select {once} {listed} from given")
        self._duckdb.unregister("given")

    def values(self, model: Model, keys: list[tuple[Any, ...]], now: datetime) -> list[dict[str, Any]]:
        """The features of each key, and its latest event's time as `latest_at`."""
        event_id, time, created = model.source.event_id, model.time, model.source.created_timestamp or model.time
        by, moment = ", ".join(map(_quoted, model.keys)), f"{_timestamp(model)} '{now:%Y-%m-%d %H:%M:%S.%f}'"
        run = self._duckdb.execute
        run(f"create or replace temp table staged as select * from ({model.staging}) order by {time}, {created}")
        types = {row[0]: row[1] for row in run("describe staged").fetchall()}
        listed = ", ".join(f"{_quoted(name)} {types[name]}" for name in model.keys)
        run(f"create or replace temp table asked (place integer, {listed})")
        marks = ", ".join("?" * (len(model.keys) + 1))
        self._duckdb.executemany(f"insert into asked values ({marks})", [(i, *key) for i, key in enumerate(keys)])
        run(
            f"create or replace temp table latest as select *, {time} as latest_at from staged "
            f"where ({model.where}) and {time} <= {moment} "
            f"qualify row_number() over (partition by {by} order by {time} desc, {created} desc) = 1"
        )
        filler = {"amount": "1", "kind": "'buy'"}
        copied = ", ".join(
            f"asked.{_quoted(name)}" if name in model.keys
            else moment if name == time
            else f"{_id_of_extra_row(types[name])} as {name}" if name == event_id
            else f"case when latest_at is null then {filler.get(name, 'null')} else latest.{_quoted(name)} end"
            for name in types
        )  # fmt: skip
        run(
            f"create or replace temp table events as (select * from staged) union all "
            f"(select {copied} from asked left join latest using ({by}))"
        )
        sql = model.sql("events", exclude=" exclude current row", before=f"{event_id} as id, ")
        same_key = " and ".join(f"latest.{_quoted(name)} = asked.{_quoted(name)}" for name in model.keys)
        found = self._duckdb.execute(
            f"select asked.place, latest_at, given.* exclude (id, event_timestamp, {by}) from asked "
            f"join ({sql}) as given on given.id = {_id_of_extra_row(types[event_id])} "
            f"left join latest on {same_key} order by place"
        )
        names = [column[0] for column in found.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        assert len(rows) == len(keys)
        return rows


def _id_of_extra_row(text: str) -> str:
    if text == "UUID":
        return "('ffffffff-ffff-4fff-bfff-' || lpad(asked.place::varchar, 12, '0'))::uuid"
    return "('extra row ' || asked.place)"


def _timestamp(model: Model) -> str:
    text = next(str(column.dtype) for column in model.source.columns if column.name == model.time)
    return "timestamptz" if text == "timestamptz" else "timestamp"


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | Decimal | datetime) else str(value)


def _arrow(text: str) -> pa.DataType:
    if text.startswith("decimal"):
        return pa.decimal128(12, 2)
    return {
        "bigint": pa.int64(), "integer": pa.int32(), "double": pa.float64(), "boolean": pa.bool_(),
        "timestamptz": pa.timestamp("us", "UTC"), "timestamp": pa.timestamp("us"),
    }.get(text, pa.string())  # fmt: skip
