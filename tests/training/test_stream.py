"""A stream view's training values are those of its SQL on extra rows, through publishing, index and kernel."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pytest

from feature_server.compiler.layers import EVENTS
from feature_server.compiler.model import CompiledModel, compile_stream_view
from feature_server.definitions.facts import Entity, Feature, FeatureView, JoinKey
from feature_server.definitions.registry import Registry
from feature_server.definitions.stream import EventSource, SourceColumn
from feature_server.dtypes import parse_sql_type
from feature_server.errors import OfflineStoreError, RequestError
from feature_server.manifest.views import fingerprint
from feature_server.offline.session import event_types
from feature_server.offline.store import OfflineStore
from feature_server.publish.run import publish
from feature_server.warehouse.relations import open_warehouse
from feature_server.windows import reduce as stream_reduce
from tests.support.published import training_store

START = datetime(2024, 5, 1, tzinfo=UTC)
COLUMNS = {
    "payment_id": "bigint", "customer": "bigint", "merchant": "varchar", "kind": "varchar", "amount": "decimal(12,2)",
    "score": "double", "items": "integer", "due": "date", "paid_at": "timestamptz", "ingested_at": "timestamptz",
}  # fmt: skip
FEATURES = {
    "n": "bigint", "n_late": "bigint", "n_items": "bigint", "spent": "decimal(38,2)", "mean": "double",
    "largest": "decimal(12,2)", "smallest": "decimal(12,2)", "merchants": "bigint", "total_score": "double",
    "spread": "double", "spread_amount": "double", "q_score": "double", "q_amount": "decimal(12,2)",
    "middle": "decimal(12,2)", "q_items": "integer", "best": "varchar", "any_refund": "boolean",
    "all_refunds": "boolean", "first_merchant": "varchar", "latest_due": "date", "last_items": "integer[]",
    "ever": "bigint", "items_ever": "bigint", "peak_to_mean": "double", "label": "varchar", "merchant": "varchar",
    "amount": "decimal(12,2)",
}  # fmt: skip
ORDERED: tuple[str, ...] = ("first_merchant", "last_items")

STAGING = """
    select *, kind = 'refund' as is_refund from {events}
    qualify row_number() over (partition by payment_id order by ingested_at desc) = 1
"""
MODEL = """
    select
        customer, paid_at as event_timestamp, {marker}
        count(*) {real} over minute as n,
        count(*) {real} over late as n_late,
        count(items) over day as n_items,
        sum(amount) filter (where not is_refund) over minute as spent,
        avg(amount) over minute as mean,
        max(amount) over day as largest,
        min(amount) filter (where items > 1) over late as smallest,
        count(distinct merchant) over day as merchants,
        sum(score) over minute as total_score,
        stddev(score) over day as spread,
        var_pop(amount) over minute as spread_amount,
        quantile_cont(score, 0.9) over day as q_score,
        quantile_cont(amount, 0.3) over day as q_amount,
        median(amount) over late as middle,
        quantile_disc(items, 0.4) over day as q_items,
        arg_max(merchant, score) over day as best,
        bool_or(is_refund) over minute as any_refund,
        bool_and(is_refund) over minute as all_refunds,
        first(merchant) over day as first_merchant,
        max(due) over day as latest_due,
        (list(items) over late)[-2:] as last_items,
        count(*) {real} over lifetime as ever,
        coalesce(cast(sum(items) over lifetime as bigint), 0) as items_ever,
        max(amount) over day / nullif(avg(amount) over minute, 0) as peak_to_mean,
        case when count(*) {real} over minute > 1 then 'busy' else 'calm' end as label,
        merchant,
        amount
    from ({staging}) as payments
    where kind <> 'test' {extra}
    window
        minute as (partition by customer order by paid_at range between interval 1 minute preceding and current row),
        day as (partition by customer order by paid_at range between interval 5 minutes preceding and current row),
        late as (
            partition by customer order by paid_at
            range between interval 5 minutes preceding and interval 30 seconds preceding
        ),
        lifetime as (partition by customer order by paid_at range between unbounded preceding and current row)
"""
SOURCE = EventSource(
    name="shop.payments",
    columns=tuple(SourceColumn(name, parse_sql_type(text)) for name, text in COLUMNS.items()),
    event_id="payment_id",
    event_timestamp="paid_at",
    created_timestamp="ingested_at",
    relation="warehouse.main.landed",
)


def model_sql(**parts: str) -> str:
    defaults = {"marker": "", "real": "", "extra": "", "staging": STAGING.format(events="landed")}
    return MODEL.format(**(defaults | parts))


def make_view(ttl: timedelta | None = None) -> FeatureView:
    model = CompiledModel(
        sql=model_sql(),
        join_keys=("customer",),
        event_timestamp="event_timestamp",
        created_timestamp=None,
        features=tuple(FEATURES),
        types={name: parse_sql_type(text) for name, text in FEATURES.items()},
    )
    with event_types(SOURCE) as describe:
        plan = compile_stream_view(model, SOURCE, lambda table: EVENTS, describe)
    view = FeatureView(
        name="customer__payments",
        entities=("customer",),
        join_keys=(JoinKey("customer", parse_sql_type("bigint")),),
        ttl_us=None if ttl is None else ttl // timedelta(microseconds=1),
        features=tuple(Feature(name=name, dtype=parse_sql_type(text)) for name, text in FEATURES.items()),
        stream=plan,
        relation='"warehouse"."main"."customer__payments"',
    )
    return msgspec.structs.replace(view, fingerprint=fingerprint(view))


class Shop:
    """A warehouse with landed payments, its offline store and the registry of one stream view."""

    def __init__(self, folder: Path, *, ttl: timedelta | None = None) -> None:
        self.folder, self.view = folder, make_view(ttl)
        entity = Entity(name="customer", join_keys=self.view.join_keys)
        self.registry = Registry(project="shop", entities=(entity,), sources=(SOURCE,), feature_views=(self.view,))
        self.offline = OfflineStore(folder / "offline")

    def land(self, rows: list[tuple[Any, ...]]) -> None:
        with duckdb.connect(str(self.folder / "warehouse.duckdb")) as connection:
            connection.execute("set TimeZone = 'UTC'")
            insert(connection, "landed", rows)
        with open_warehouse(self.folder / "warehouse.duckdb", sources=[SOURCE]) as warehouse:
            self.published = publish(self.view, warehouse, self.offline)

    def train(self, spine: list[tuple[int | None, datetime | None]], **options: Any) -> list[dict[str, Any]]:
        return self.training_set(spine, **options).to_arrow().to_pylist()

    def training_set(self, spine: list[tuple[int | None, datetime | None]], **options: Any) -> Any:
        table = pa.table(
            {
                "customer": pa.array([key for key, _ in spine], pa.int64()),
                "event_timestamp": pa.array([at for _, at in spine], pa.timestamp("us", "UTC")),
            }
        )
        features = [f"customer__payments:{name}" for name in FEATURES]
        return training_store(self.folder, self.registry).get_historical_features(table, features, **options)


def insert(connection: duckdb.DuckDBPyConnection, name: str, rows: list[tuple[Any, ...]]) -> None:
    listed = ", ".join(f"{column} {text}" for column, text in COLUMNS.items())
    connection.execute(f"create table if not exists {name} ({listed})")
    if rows:
        connection.executemany(f"insert into {name} values ({', '.join('?' * len(COLUMNS))})", rows)


def random_payments(chance: random.Random, *, ties: bool) -> list[tuple[Any, ...]]:
    """Payments with ties, late ones, nulls, refunds, tests and corrections; an id stays with its customer."""
    rows: list[tuple[Any, ...]] = []
    for number in range(chance.randint(0, 60)):
        at = START + timedelta(seconds=chance.randint(0, 40) * 15)
        known = at + timedelta(seconds=chance.choice([0, 0, 1, 100, 1000]))
        customer = chance.randint(1, 3)
        for version in range(chance.choice([1, 1, 1, 2, 3])):
            moved = timedelta(seconds=15 * chance.choice([0, 0, 1, -1]) if version else 0)
            rows.append(
                (
                    number, customer, chance.choice([None, "A", "B", "é", "Z"]),
                    chance.choice(["buy", "buy", "refund", "test"]),
                    chance.choice([None, Decimal(chance.randint(-5000, 5000)).scaleb(-2)]),
                    chance.choice([None, chance.uniform(-10, 10)]), chance.choice([None, 1, 2, 3]),
                    chance.choice([None, START.date() + timedelta(days=chance.randint(0, 9))]),
                    at + moved + timedelta(microseconds=0 if ties else 10 * number + version),
                    known + timedelta(seconds=version * chance.choice([1, 400]), microseconds=version),
                )
            )  # fmt: skip
    chance.shuffle(rows)
    return rows


def by_sql(rows: list[tuple[Any, ...]], spine: list[tuple[int, datetime]], as_known: bool) -> list[dict[str, Any]]:
    """The model's own SQL over the rows with an extra row for each (key, time), each in a world of its own key."""
    worlds = []
    for number, (key, at) in enumerate(spine):
        worlds += [
            (number * 1000 + row[0], number, *row[2:])
            for row in rows
            if row[1] == key and (not as_known or row[-1] <= at)
        ]
        worlds.append((-1 - number, number, *[None] * 6, at, at))
    sql = model_sql(
        marker="payment_id,",
        real="filter (where payment_id >= 0)",
        extra="or payment_id < 0",
        staging=STAGING.format(events="worlds"),
    )
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        insert(connection, "worlds", worlds)
        found = connection.sql(f"select * from ({sql}) where payment_id < 0 order by customer").to_arrow_table()
        latest = connection.execute(
            f"""select customer, arg_max(struct_pack(m := merchant, a := amount), struct_pack(p := paid_at,
                    i := ingested_at)) filter (where paid_at <= until)
                from (select * from ({STAGING.format(events="worlds")}) where payment_id >= 0 and kind <> 'test')
                join (select customer, paid_at as until from worlds where payment_id < 0) using (customer)
                group by all"""
        ).fetchall()
    wanted = found.to_pylist()
    plain = dict(latest)
    for number, row in enumerate(wanted):
        of_latest = plain.get(number) or {"m": None, "a": None}
        row["merchant"], row["amount"] = of_latest["m"], of_latest["a"]
    return wanted


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return (math.isnan(ours) and math.isnan(theirs)) or math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-9)
    return bool(ours == theirs)


@pytest.mark.parametrize("seed", range(12))
def test_random_events_and_spines_give_what_the_models_sql_gives(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_reduce, "PAIRS_AT_ONCE", 1_000_000 if seed % 3 else 5)
    chance = random.Random(seed)
    shop, rows = Shop(tmp_path), random_payments(chance, ties=seed % 2 == 0)
    shop.land(rows)
    spine = [
        (chance.randint(1, 4), START + timedelta(seconds=chance.randint(-2, 70) * 15 + chance.choice([0, 0, 1])))
        for _ in range(40)
    ]
    for as_known in (False, True):
        found, wanted = shop.train(spine, as_known=as_known), by_sql(rows, spine, as_known)
        for (key, at), ours, theirs in zip(spine, found, wanted, strict=True):
            # Events at one time come in any order in SQL; the latest of them is the one known last.
            own = [row for row in rows if row[1] == key]
            skipped = ORDERED if len({row[-2] for row in own}) < len(own) else ()
            skipped += ("merchant", "amount") if len({row[-2:] for row in own}) < len(own) else ()
            for name in FEATURES:
                if name not in skipped:
                    assert same(ours[name], theirs[name]), (name, key, at, as_known, ours[name], theirs[name])


def payment(number: int, seconds: float, *, amount: str = "10", kind: str = "buy", known: float | None = None) -> Any:
    at = START + timedelta(seconds=seconds)
    ingested = at if known is None else START + timedelta(seconds=known)
    return (number, 1, f"M{number}", kind, Decimal(amount), 1.0, 1, START.date(), at, ingested)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_both_ends_of_a_frame_count(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.land([payment(1, 0)])
    times = [-0.000001, 0, 30, 60, 60.000001]
    assert [row["n"] for row in shop.train([(1, at(seconds)) for seconds in times])] == [0, 1, 1, 1, 0]
    assert [row["n_late"] for row in shop.train([(1, at(s)) for s in (29.999999, 30, 300, 300.000001)])] == [0, 1, 1, 0]


def test_a_correction_that_is_filtered_out_takes_its_event_out_once_known(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.land([payment(1, 0), payment(1, 0, kind="test", known=20), payment(2, 5, amount="3")])
    found = [(row["n"], row["spent"], row["merchant"]) for row in shop.train([(1, at(10)), (1, at(30))], as_known=True)]
    assert found == [(2, Decimal("13.00"), "M2"), (1, Decimal("3.00"), "M2")]
    assert [row["n"] for row in shop.train([(1, at(10))])] == [1]


def test_an_unknown_key_has_counts_of_zero_and_a_null_key_or_time_has_nothing(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.land([payment(1, 0)])
    unknown, keyless, timeless = shop.train([(9, at(1)), (None, at(1)), (1, None)])
    assert (unknown["n"], unknown["spent"], unknown["items_ever"], unknown["label"]) == (0, None, 0, "calm")
    assert {keyless[name] for name in FEATURES} == {timeless[name] for name in FEATURES} == {None}


def test_ttl_holds_for_plain_columns_and_not_for_windows(tmp_path: Path) -> None:
    shop = Shop(tmp_path, ttl=timedelta(seconds=10))
    shop.land([payment(1, 0)])
    found = [(row["ever"], row["merchant"], row["label"]) for row in shop.train([(1, at(10)), (1, at(10.1))])]
    assert found == [(1, "M1", "calm"), (1, None, "calm")]


def test_later_events_are_published_as_a_new_version_and_old_training_sets_are_made_again(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.land([payment(1, 0)])
    shop.training_set([(1, at(50))]).write_parquet(tmp_path / "set.parquet")
    shop.land([payment(2, 40), payment(3, 86_400 * 40)])
    assert (shop.published.version, shop.published.rows) == (1, 3)
    assert [row["n"] for row in shop.train([(1, at(50))])] == [2]
    assert [row["n"] for row in shop.train([(1, at(50))], versions={"customer__payments": 0})] == [1]
    again = training_store(tmp_path, shop.registry).reproduce(tmp_path / "set.parquet")
    again.write_parquet(tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "set.parquet").read_bytes()


def test_a_view_published_for_other_arguments_must_be_published_again(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.land([payment(1, 0)])
    assert shop.view.stream is not None
    plan = msgspec.structs.replace(shop.view.stream, row_sql=shop.view.stream.row_sql + " limit 5")
    other = msgspec.structs.replace(shop.view, stream=plan)
    other = msgspec.structs.replace(other, fingerprint=fingerprint(other))
    shop.registry = msgspec.structs.replace(shop.registry, feature_views=(other,))
    with pytest.raises(OfflineStoreError, match="published by another definition"):
        shop.train([(1, at(0))])


def test_an_event_without_an_id_is_refused_when_published(tmp_path: Path) -> None:
    row = list(payment(1, 0))
    row[0] = None
    with pytest.raises(Exception, match="event_id") as raised:
        Shop(tmp_path).land([tuple(row)])
    assert type(raised.value).__name__ == "WarehouseError"


def test_a_sum_beyond_its_type_is_an_error_and_not_another_number(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.view = make_view()
    rows = [list(payment(number, 0)) for number in range(2)]
    for row in rows:
        row[4] = Decimal("9999999999.99")
    shop.land([tuple(row) for row in rows])
    assert [row["spent"] for row in shop.train([(1, at(0))])] == [Decimal("19999999999.98")]
    assert RequestError.status == 422
