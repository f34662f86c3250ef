"""`features new`: entities, views and services of relations that exist, which pass dbt's tests and `features check`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from feature_server.project.process import dbt_command
from feature_server.warehouse import columns
from tests.scaffold.shop import write_shop
from tests.support.typed import Typed

KINDS = """
    create table raw.everything as
    select 7::bigint as customer, timestamptz '2024-01-01 10:00:00+00' as at,
        timestamptz '2024-01-01 10:00:05+00' as landed, 3 as "Odd name", 4 as "on", 5 as "null",
        true as flag, 1::utinyint as small, 1.5::float as real_, 2.5::double as double_, 'a' as text,
        1.25::decimal(12, 2) as money, date '2024-01-01' as day, timestamp '2024-01-01' as plain,
        '00000000-0000-0000-0000-00000000000a'::uuid as id, [1.5, 2.5]::double[] as numbers, [1, 2]::integer[2] as pair,
        interval 1 day as length, {'a': 1} as record, 'x'::blob as bytes
"""
VIEW = ("new", "view", "customer__orders", "--from", "ref(stg_orders)", "--time", "ordered_at")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """The shop, begun and built."""
    shop = Typed(write_shop(tmp_path), {}, monkeypatch, capsys)
    assert shop.features("init")[0] == 0
    build(shop)
    return shop


def build(shop: Typed) -> None:
    run = subprocess.run(
        [*dbt_command(), "build", "--quiet"], cwd=shop.folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout


def good(shop: Typed, *arguments: str) -> str:
    code, said = shop.features(*arguments)
    assert code == 0, said
    return said


def test_from_a_table_to_an_online_read(shop: Typed) -> None:
    said = good(shop, *VIEW, "--entity", "customer", "--key", "customer_id")
    assert "wrote transform/features/customer__orders.sql" in said
    build(shop)
    assert "1 entity, 1 feature view, 2 features" in good(shop, "check")
    good(shop, "new", "service", "reorder_v1", "customer__orders:euros")
    for command in ("lint", "apply", "publish", "sync", "verify"):
        good(shop, command)
    assert "euros  195.0" in good(shop, "get", "reorder_v1", "customer_id=1")


def test_columns_of_every_type_are_features_and_others_are_named(shop: Typed) -> None:
    with duckdb.connect(str(shop.folder / "data" / "jaffle.duckdb")) as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(KINDS)
    sources = shop.folder / "transform" / "staging" / "sources.yml"
    sources.write_text(sources.read_text() + "      - name: everything\n")
    said = good(shop, "new", "view", "customer__all", "--from", "source('raw', 'everything')", "--entity", "customer",
                "--key", "customer", "--time", "at", "--created", "landed", "--refresh", "hourly")  # fmt: skip
    for name in ("length", "record", "bytes", "Odd name"):
        assert f"left out {name}: its name or its type is none of a feature" in said
    build(shop)
    assert "1 entity, 1 feature view, 13 features" in good(shop, "check")
    for command in ("apply", "publish", "sync", "verify"):
        good(shop, command)
    assert "1.25" in good(shop, "get", "customer__all:money", "customer=7")


def test_columns_by_which_dbt_keeps_a_snapshot_are_no_features(shop: Typed) -> None:
    """dbt writes `dbt_valid_to` anew when a row ends: a training set would know what came later."""
    (shop.folder / "snapshots").mkdir()
    named = "snapshot_meta_column_names: {dbt_valid_to: ended_at}"
    (shop.folder / "snapshots" / "kept.yml").write_text(
        "snapshots:\n  - name: kept\n    relation: source('raw', 'orders')\n"
        f"    config: {{unique_key: id, strategy: timestamp, updated_at: ordered_at, {named}}}\n"
    )
    build(shop)
    view = ("new", "view", "customer__kept", "--from", "ref(kept)", "--time", "dbt_valid_from")
    said = good(shop, *view, "--entity", "customer", "--key", "customer")
    sql = (shop.folder / "transform" / "features" / "customer__kept.sql").read_text()
    for name in ("ended_at", "dbt_scd_id", "dbt_updated_at"):
        assert f"left out {name}: " in said
        assert name not in sql
    assert "amount" in sql
    build(shop)


def test_an_entity_of_several_keys_and_a_dry_run(shop: Typed) -> None:
    entity = ("new", "entity", "basket", "--from", "stg_orders", "--key", "customer_id", "--key", "order_id")
    said = good(shop, *entity, "--dry-run")
    assert "+select distinct customer_id, order_id from {{ ref('stg_orders') }}" in said
    assert not (shop.folder / "transform" / "entities").exists()
    good(shop, *entity)
    good(shop, "new", "view", "basket__orders", "--from", "stg_orders", "--entity", "basket", "--time", "ordered_at")
    build(shop)
    assert "1 entity, 1 feature view, 1 feature" in good(shop, "check")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*VIEW, "--entity", "customer"), "the project has no entity 'customer'"),
        ((*VIEW, "--entity", "customer", "--key", "custmer_id"), "did you mean 'customer_id'?"),
        ((*VIEW, "--entity", "customer", "--key", "zzz"), "or have a model rename its column to that"),
        ((*VIEW, "--entity", "customer", "--entity", "order", "--key", "customer_id"), "one new entity a command"),
        (("new", "entity", "customer", "--from", "ref(stg_orders, v=2)", "--key", "x"), "its versions: none"),
        ((*VIEW[:-1], "orderd_at", "--entity", "customer", "--key", "customer_id"), "did you mean 'ordered_at'?"),
        (("new", "entity", "customer", "--from", "ref(stg_order)", "--key", "x"), "did you mean 'stg_orders'?"),
        (("new", "entity", "customer", "--from", "raw.order", "--key", "x"), "did you mean 'raw.orders'?"),
        (("new", "entity", "a customer", "--from", "stg_orders", "--key", "customer_id"), "cannot have this name"),
        ((*VIEW, "--entity", "customer", "--key", "customer_id", "--group", "ours"), "has no such group"),
        ((*VIEW[:-1], "euros", "--entity", "customer", "--key", "customer_id"), "has a type that it cannot have"),
        ((*VIEW, "--entity", "customer", "--key", "euros"), "has a type that it cannot have"),
        ((*VIEW, "--entity", "customer", "--key", "customer_id", "--refresh", "monthly"), "views are not refreshed so"),
        (("new", "view", "stg_orders", *VIEW[3:], "--entity", "customer", "--key", "customer_id"), "already"),
        (("new", "service", "reorder_v1", "customer__orders"), "there is no feature view 'customer__orders'"),
    ],
)
def test_what_does_not_exist_is_named_with_the_nearest_that_does(
    shop: Typed, arguments: tuple[str, ...], words: str
) -> None:
    code, said = shop.features(*arguments)
    assert (code, words in said, "Traceback" in said) == (1, True, False), said
    assert not (shop.folder / "transform" / "features").exists()


def test_nothing_is_written_over_what_is_there(shop: Typed) -> None:
    path = shop.folder / "transform" / "features" / "customer__orders.yml"
    path.parent.mkdir()
    path.write_text("models: []\n")
    code, said = shop.features(*VIEW, "--entity", "customer", "--key", "customer_id")
    assert (code, "nothing is written over it" in said) == (1, True), said
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    assert path.read_text() == "models: []\n"


def test_an_entitys_model_takes_a_name_that_is_free(shop: Typed) -> None:
    """A shop has `customers` of its own."""
    own = shop.folder / "transform" / "customers.sql"
    own.write_text("select distinct customer_id from {{ ref('stg_orders') }}\n")
    build(shop)
    said = good(shop, *VIEW, "--entity", "customer", "--key", "customer_id")
    assert "wrote transform/entities/customer_entity.sql" in said
    build(shop)
    assert "1 entity, 1 feature view, 2 features" in good(shop, "check")
    (shop.folder / "transform" / "baskets.sql").write_text("select 1 as one\n")
    (shop.folder / "transform" / "basket_entity.sql").write_text("select 1 as one\n")
    code, said = shop.features("new", "entity", "basket", "--from", "ref(stg_orders)", "--key", "order_id")
    assert code == 1
    assert "models baskets and basket_entity" in said
    assert "join_keys" in said


def test_a_key_of_another_integer_type_is_cast_to_the_entitys(shop: Typed) -> None:
    """A seed's small numbers are integers, a table's are bigint; nothing is written that `check` would refuse."""
    (shop.folder / "seeds").mkdir()
    (shop.folder / "seeds" / "raw_payments.csv").write_text("id,customer_id,paid_at\n1,1,2024-01-01 10:00:00\n")
    (shop.folder / "seeds" / "raw_texts.csv").write_text("id,customer_id,paid_at\n1,a,2024-01-01 10:00:00\n")
    build(shop)
    good(shop, *VIEW, "--entity", "customer", "--key", "customer_id")
    paid = ("--entity", "customer", "--time", "paid_at")
    good(shop, "new", "view", "customer__payments", "--from", "ref(raw_payments)", *paid)
    sql = (shop.folder / "transform" / "features" / "customer__payments.sql").read_text()
    assert "cast(customer_id as bigint) as customer_id" in sql
    build(shop)
    assert "1 entity, 2 feature views" in good(shop, "check")
    before = sorted(shop.folder.rglob("*"))
    for more, name, remedy in (
        (("--stream",), "raw_payments", "column_types"), ((), "raw_texts", "cast the column in a model"),
    ):  # fmt: skip
        code, said = shop.features("new", "view", "customer__more", "--from", f"ref({name})", *paid, *more)
        assert code == 1
        assert "has another type than the entity's key" in said
        assert remedy in said
    assert [path for path in sorted(shop.folder.rglob("*")) if path not in before and "build" not in path.parts] == []


@pytest.mark.heavy
def test_columns_may_be_reserved_words(shop: Typed) -> None:
    with duckdb.connect(str(shop.folder / "data" / "jaffle.duckdb")) as connection:
        connection.execute(
            'create table raw.words as select 1 + i % 5 as "order", i // 5 as "group", 2 * i as "user", '
            "timestamp '2024-01-01' + to_hours(i::int) as \"at\" from range(10) as numbers (i)"
        )
    sources = shop.folder / "transform" / "staging" / "sources.yml"
    sources.write_text(sources.read_text() + "      - name: words\n")
    good(shop, "new", "view", "basket__words", "--from", "raw.words", "--entity", "basket", "--key", "order",
         "--key", "group", "--time", "at")  # fmt: skip
    path = shop.folder / "transform" / "features" / "basket__words.yml"
    test = "      - feature_warehouse.in_range: {arguments: {column_name: user, min: 0}}\n    columns:\n"
    path.write_text(path.read_text().replace("    columns:\n", test, 1))
    build(shop)
    assert "1 entity, 1 feature view, 1 feature" in good(shop, "check")
    for command in ("lint", "apply", "publish", "sync", "verify"):
        good(shop, command)
    assert "user  14" in good(shop, "get", "basket__words:user", "order=3", "group=1")


def test_a_process_that_holds_the_warehouse_is_named_with_what_helps(
    shop: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "_WAIT_SECONDS", 0.3)
    path = shop.folder / "data" / "jaffle.duckdb"
    code = f"import duckdb\nheld = duckdb.connect({str(path)!r})\nprint('held', flush=True)\ninput()"
    arguments = ("new", "entity", "customer", "--from", "stg_orders", "--key", "customer_id")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        returned, said = shop.features(*arguments)
        process.communicate(b"\n")
    assert (returned, f"by process {process.pid}" in said, "end that process or wait for it" in said) == (1, True, True)
    good(shop, *arguments)
