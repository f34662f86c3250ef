"""Opening dbt's DuckDB file, and what is checked of a relation before anything is published."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from feature_server.errors import WarehouseError
from feature_server.warehouse.relations import open_warehouse
from tests.support.relations import Relations, view_of

BUILD = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('building', flush=True); sys.stdin.read()"
VIEW = view_of("spend", {"customer_id": "bigint"}, {"spend_eur": "decimal(9,2)", "city": "varchar"}, created="known_at")


@pytest.fixture
def relations(tmp_path: Path) -> Relations:
    return Relations(tmp_path)


def build(path: Path) -> subprocess.Popen[bytes]:
    """A process that holds the warehouse as dbt does, until its standard input closes."""
    process = subprocess.Popen([sys.executable, "-c", BUILD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"building\n"
    return process


def test_a_build_that_holds_the_warehouse_is_named(relations: Relations) -> None:
    process = build(relations.path)
    try:
        with pytest.raises(WarehouseError) as raised, open_warehouse(relations.path, wait_seconds=0.3):
            pass
    finally:
        process.communicate()
    assert raised.value.what == f"the warehouse is being built by process {process.pid}"
    assert str(raised.value.remedy).startswith("end that process or wait for it, then try again")


def test_waiting_outlasts_a_build(relations: Relations) -> None:
    process = build(relations.path)
    ending = threading.Timer(0.5, process.communicate)
    ending.start()
    with open_warehouse(relations.path, wait_seconds=60) as warehouse:
        assert warehouse.rows("select 1") == [(1,)]
    ending.join()


def test_a_reader_does_not_keep_others_from_reading(relations: Relations) -> None:
    with open_warehouse(relations.path), open_warehouse(relations.path) as second:
        assert second.rows("select 1") == [(1,)]


def test_nothing_can_be_written(relations: Relations) -> None:
    relations.execute("create table spend(i int)")
    with open_warehouse(relations.path) as warehouse, pytest.raises(WarehouseError, match="read-only"):
        warehouse.rows("insert into warehouse.main.spend values (1)")


@pytest.mark.parametrize(("content", "what"), [(None, "does not exist"), ("not a database", "cannot be opened")])
def test_a_file_that_is_no_warehouse_is_an_error(tmp_path: Path, content: str | None, what: str) -> None:
    path = tmp_path / "warehouse.duckdb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(WarehouseError, match=what), open_warehouse(path):
        pass
    assert path.exists() == (content is not None)


def test_a_missing_relation_says_how_to_build_it(relations: Relations) -> None:
    with pytest.raises(WarehouseError) as raised:
        relations.publish(VIEW)
    assert raised.value.expected == '"warehouse"."main"."spend"'
    assert raised.value.remedy == "run `dbt build --select +spend`"
    assert not relations.store.exists("spend")


def test_every_column_that_differs_from_the_definition_is_named_before_anything_is_written(
    relations: Relations,
) -> None:
    relations.execute(
        "create table spend(customer_id integer, event_timestamp timestamp_ns, known_at date, spend_eur decimal(10,2), "
        "_bucket varchar, extra hugeint)"
    )
    with pytest.raises(WarehouseError) as raised:
        relations.publish(VIEW)
    times = "TIMESTAMP or TIMESTAMP WITH TIME ZONE"
    assert raised.value.expected == (
        "_bucket: no column of this name: the offline store uses it; customer_id: BIGINT; "
        f"event_timestamp: {times}; known_at: {times}; spend_eur: DECIMAL(9,2); city: VARCHAR"
    )
    assert raised.value.got == (
        "_bucket: VARCHAR; customer_id: INTEGER; event_timestamp: TIMESTAMP_NS; known_at: DATE; "
        "spend_eur: DECIMAL(10,2); city: no such column"
    )
    assert not relations.store.path("spend").exists()


def test_columns_that_are_no_features_are_left_out(relations: Relations) -> None:
    relations.execute(
        "create table spend as select 1::bigint as CUSTOMER_ID, now() as event_timestamp, now() as known_at, 'x' as y, "
        "1::decimal(9,2) as spend_eur, 'c' as city"
    )
    relations.publish(VIEW)
    with open_warehouse(relations.path) as warehouse:
        columns = [row[0] for row in warehouse.rows(f"describe {relations.store.table('spend').scan_sql()}")]
    assert columns == ["customer_id", "event_timestamp", "known_at", "spend_eur", "city"]


def test_a_relation_is_found_in_a_copy_of_the_warehouse_and_behind_a_view(relations: Relations) -> None:
    relations.execute(
        "create schema marts",
        "create table marts.rows as select 1::bigint as k, timestamptz '2013-01-01' as event_timestamp, 2 as f",
        "create view main.plain as from warehouse.marts.rows",
    )
    relations.publish(view_of("plain", {"k": "bigint"}, {"f": "integer"}))
    assert relations.store.table("plain").rows == 1
    copy = relations.path.with_name("copy of it.duckdb")
    copy.write_bytes(relations.path.read_bytes())
    view = view_of("rows", {"k": "bigint"}, {"f": "integer"})
    with open_warehouse(copy) as warehouse:
        assert warehouse.row_count(msgspec.structs.replace(view, relation='"warehouse"."marts"."rows"')) == 1


def test_a_query_that_fails_while_publishing_is_an_error_of_the_view(relations: Relations) -> None:
    relations.execute(
        "create table texts as select 1::bigint as k, timestamptz '2013-01-01' as event_timestamp, 'x' as f",
        "create view broken as select k, event_timestamp, f::integer as f from texts",
    )
    with pytest.raises(WarehouseError, match="Could not convert string 'x' to INT32"):
        relations.publish(view_of("broken", {"k": "bigint"}, {"f": "integer"}))


def test_times_are_read_in_utc_whatever_the_environment_says(
    relations: Relations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    with open_warehouse(relations.path) as warehouse:
        assert warehouse.rows("select cast(timestamptz '2013-01-01 00:00+00' as varchar)") == [
            ("2013-01-01 00:00:00+00",)
        ]
