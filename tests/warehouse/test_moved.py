"""What was built in a copy of the warehouse is moved into it whole, with what its build noted."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from feature_server.definitions.models import Model
from feature_server.errors import WarehouseError
from feature_server.warehouse.moved import copied, move

SPEND = Model(
    unique_id="model.shop.spend", package="shop", path="spend.sql", relation='"warehouse"."main"."spend"'
)  # fmt: skip
LOGS = (
    "create table feature_builds(model varchar, invocation_id varchar, made_from varchar)",
    "create table built_sql(hash varchar, text varchar)",
    "create table built_models(model varchar, hash varchar)",
    "create table failed_tests(model varchar, test varchar)",
    "create schema staging",
    "create table staging.built_sql(hash varchar, text varchar)",
)


def execute(path: Path, *statements: str) -> None:
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A warehouse, and a copy of it in which one relation was built anew."""
    path, copy = tmp_path / "warehouse.duckdb", tmp_path / "copy" / "warehouse.duckdb"
    copy.parent.mkdir()
    execute(
        path,
        *LOGS,
        "create table spend(customer_id bigint not null, eur integer)",
        "create table visits(n integer)",
        "insert into spend values (1, 10)",
        "insert into visits values (1)",
        "insert into feature_builds values ('spend', 'first', 'a')",
        "insert into built_sql values ('a', 'select 1')",
        "insert into built_models values ('model.shop.spend', 'a'), ('model.shop.stg', 's')",
        "insert into failed_tests values ('spend', 'build: error'), ('visits', 'not_null')",
    )
    copied(path, copy, wait_seconds=0)
    execute(
        copy,
        "drop table spend",
        "create table spend(customer_id bigint not null, eur varchar)",
        "create index by_customer on spend(customer_id)",
        "insert into spend values (1, '-10'), (2, '-20')",
        "insert into visits values (2)",
        "insert into feature_builds values ('spend', 'second', 'b'), ('visits', 'second', 'v')",
        "insert into built_sql values ('b', 'select -1'), ('v', 'select 2')",
        "insert into built_models values ('model.shop.spend', 'b'), ('model.shop.stg', 't')",
        "insert into staging.built_sql values ('t', 'select 3')",
        "delete from failed_tests where model = 'spend'",
    )
    return path, copy


def test_a_relation_is_moved_whole_with_its_notes_and_nothing_else_is(files: tuple[Path, Path]) -> None:
    path, copy = files
    execute(path, "insert into visits values (3)")  # a build that went on meanwhile
    move(path, copy, [SPEND], invocation="second", wait_seconds=0)
    assert rows(path, "from spend order by 1") == [(1, "-10"), (2, "-20")]
    assert rows(path, "select is_nullable from information_schema.columns where column_name = 'customer_id'") == [
        ("NO",)
    ]
    assert rows(path, "select index_name from duckdb_indexes()") == [("by_customer",)]
    assert rows(path, "from visits") == [(1,), (3,)]
    assert rows(path, "from feature_builds") == [("spend", "first", "a"), ("spend", "second", "b")]
    assert rows(path, "from built_models where model = 'model.shop.spend' order by rowid desc limit 1") == [
        ("model.shop.spend", "b")
    ]
    assert rows(path, "select max(hash) from built_models where model = 'model.shop.stg'") == [("s",)]
    assert rows(path, "select text from built_sql order by hash") == [("select 1",), ("select -1",), ("select 2",)]
    assert rows(path, "select text from staging.built_sql") == [("select 3",)]
    assert rows(path, "from failed_tests") == [("visits", "not_null")]


def test_a_relation_that_was_a_view_gives_way(files: tuple[Path, Path]) -> None:
    path, copy = files
    execute(path, "drop table spend", "create view spend as select 1 as customer_id")
    move(path, copy, [SPEND], invocation="second", wait_seconds=0)
    assert rows(path, "select count(*) from spend") == [(2,)]


def test_nothing_is_moved_where_a_table_is_missing(files: tuple[Path, Path]) -> None:
    path, copy = files
    execute(copy, "drop table visits")
    visits = Model(unique_id="model.shop.visits", package="shop", path="v.sql", relation='"warehouse"."main"."visits"')
    with pytest.raises(WarehouseError, match="made no such table"):
        move(path, copy, [SPEND, visits], invocation="second", wait_seconds=0)
    assert rows(path, "from spend") == [(1, 10)]
    assert rows(path, "select count(*) from feature_builds") == [(1,)]


def test_a_warehouse_without_logs_has_its_relations_moved(tmp_path: Path) -> None:
    path, copy = tmp_path / "warehouse.duckdb", tmp_path / "copy.duckdb"
    execute(path, "create table spend(eur integer)")
    copied(path, copy, wait_seconds=0)
    execute(copy, "insert into spend values (1)")
    move(path, copy, [SPEND], invocation="second", wait_seconds=0)
    assert rows(path, "from spend") == [(1,)]
