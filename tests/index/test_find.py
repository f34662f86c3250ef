"""The local index of an offline table: built once a version, reused, bounded in memory and in number."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_server.errors import OfflineStoreError, SettingsError
from feature_server.index import columns as index_columns
from feature_server.index.find import KEEP_VERSIONS, Index, open_index
from feature_server.times import to_us
from tests.support.published import Project, make_view

T0 = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def open_at(project: Project, view_id: str, names: list[str], version: int | None = None, **options: Any) -> Index:
    table = project.offline.table(view_id)
    table = table if version is None else table.at(version)
    return open_index(table, names, project.home / "index", **options)


def look_up(index: Index, keys: list[pa.Array], at: datetime, names: list[str]) -> list[list[Any]]:
    at_us = np.full(len(keys[0]), to_us(at), dtype=np.int64)
    return [column.to_pylist() for column in index.take(names, index.find(keys, at_us))]


def files_written(project: Project) -> dict[str, int]:
    root = project.home / "index"
    return {str(path.relative_to(root)): path.stat().st_ino for path in root.rglob("*") if path.is_file()}


ORDERS = make_view("orders", {"customer": "bigint"}, {"amount": "double", "count": "bigint"})


def test_an_index_is_built_once_and_then_only_read(project: Project) -> None:
    project.publish(ORDERS, [(1, T0, 1.5, 2)])
    open_at(project, "orders", ["amount", "count"])
    before = files_written(project)
    index = open_at(project, "orders", ["amount", "count"])
    assert look_up(index, [pa.array([1, 2])], T0, ["amount", "count"]) == [[1.5, None], [2, None]]
    assert files_written(project) == before


def test_a_column_is_written_when_it_is_first_asked_for(project: Project) -> None:
    project.publish(ORDERS, [(1, T0, 1.5, 2)])
    open_at(project, "orders", ["amount"])
    before = files_written(project)
    index = open_at(project, "orders", ["amount", "count"])
    assert look_up(index, [pa.array([1])], T0, ["count", "amount"]) == [[2], [1.5]]
    after = files_written(project)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 3  # the column, what is in its folder, and the folder's seal


def test_a_new_version_writes_columns_only_for_its_new_files(project: Project) -> None:
    rows = "select range, timestamptz '2024-01-01', range, range from range(1000)"
    project.publish(ORDERS, rows)
    open_at(project, "orders", ["amount"])
    before = {path for path in files_written(project) if path.startswith("orders/columns")}
    project.publish(ORDERS, f"{rows} union all select 7, timestamptz '2025-02-04', 0.5, 0")
    index = open_at(project, "orders", ["amount"])
    added = {path for path in files_written(project) if path.startswith("orders/columns")} - before
    sizes = sorted((project.home / "index" / path).stat().st_size for path in added)
    assert len(sizes) == 3
    assert sizes[2] < 1000
    assert look_up(index, [pa.array([7, 8])], T0 + timedelta(days=400), ["amount"]) == [[0.5, 8.0]]


def test_a_column_spread_over_many_versions_is_read_in_order_and_in_time_written_as_one(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_columns, "MAX_FOLDERS", 3)
    rows: list[tuple[Any, ...]] = []
    for version in range(6):
        rows += [(customer, T0 + timedelta(days=31 * version), float(version), customer) for customer in (1, 2, 3)]
        project.publish(ORDERS, rows)
        index = open_at(project, "orders", ["amount"])
        for day in range(0, 31 * version + 1, 31):
            found = look_up(index, [pa.array([3, 1])], T0 + timedelta(days=day), ["amount"])
            assert found == [[day / 31, day / 31]]
    assert index.rows == 18


def test_an_earlier_version_is_read_as_it_was(project: Project) -> None:
    first = project.publish(ORDERS, [(1, T0, 1.0, 1)])
    second = project.publish(ORDERS, [(1, T0, 2.0, 1)])
    for version, expected in ((second, 2.0), (first, 1.0), (second, 2.0)):
        index = open_at(project, "orders", ["amount"], version)
        assert look_up(index, [pa.array([1])], T0, ["amount"]) == [[expected]]


def test_only_the_versions_used_last_are_kept(project: Project) -> None:
    for version in range(6):
        project.publish(ORDERS, [(1, T0, float(version), 1)])
        open_at(project, "orders", ["amount"])
        for path in (project.home / "index" / "orders").iterdir():  # as if a minute had passed
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 60))
    folder = project.home / "index" / "orders"
    assert len(list(folder.glob("order-*"))) == KEEP_VERSIONS
    assert len(list(folder.glob("columns-*"))) == KEEP_VERSIONS


def test_what_a_killed_build_left_behind_is_removed_later_and_never_read(project: Project) -> None:
    project.publish(ORDERS, [(1, T0, 1.0, 1)])
    left = project.home / "index" / "orders" / ".building-dead"
    left.mkdir(parents=True)
    (left / "order").mkdir()
    os.utime(left, (time.time() - 2 * 86400,) * 2)
    index = open_at(project, "orders", ["amount"])
    assert look_up(index, [pa.array([1])], T0, ["amount"]) == [[1.0]]
    assert not left.exists()


def test_processes_that_build_the_same_index_at_once_do_not_disturb_one_another(project: Project) -> None:
    rows = "select range % 1000, timestamptz '2024-01-01' - to_seconds(range), range, range from range(100000)"
    project.publish(ORDERS, rows)

    def build(number: int) -> list[list[Any]]:
        index = open_at(project, "orders", ["amount", "count"][: 1 + number % 2])
        return look_up(index, [pa.array([number])], T0, ["amount"])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(build, range(8)))
    assert all(0 <= value[0][0] < 100_000 and value[0][0] % 1000 == number for number, value in enumerate(found))
    assert not list((project.home / "index" / "orders").glob(".building-*"))


def test_an_index_that_was_deleted_is_built_again(project: Project) -> None:
    project.publish(ORDERS, [(1, T0, 1.0, 1)])
    open_at(project, "orders", ["amount"])
    for path in (project.home / "index" / "orders").iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    index = open_at(project, "orders", ["amount"])
    assert look_up(index, [pa.array([1])], T0, ["amount"]) == [[1.0]]


def test_a_table_without_rows_has_an_index_that_finds_nothing(project: Project) -> None:
    project.publish(ORDERS, [])
    index = open_at(project, "orders", ["amount"])
    assert look_up(index, [pa.array([1, None])], T0, ["amount"]) == [[None, None]]


def test_building_spills_when_the_memory_limit_is_far_below_the_data(project: Project) -> None:
    wide = make_view("wide", {"customer": "bigint"}, {f"f{n}": "double" for n in range(20)}, created=True)
    project.publish(
        wide,
        "select (range * 7919) % 50000, timestamptz '2024-01-01' + to_seconds(range), timestamptz '2024-01-02', "
        + ", ".join(f"range + {n}" for n in range(20))
        + " from range(300000)",
    )
    index = open_at(project, "wide", ["f0", "f19"], memory_limit="30MB")
    last = 300_000 - 1
    assert index.rows == 300_000
    found = look_up(index, [pa.array([(last * 7919) % 50000])], T0 + timedelta(days=30), ["f0", "f19"])
    assert found == [[float(last)], [float(last + 19)]]


def test_a_memory_limit_too_small_for_anything_is_an_error(project: Project) -> None:
    project.publish(ORDERS, "select range, timestamptz '2024-01-01', range, range from range(200000)")
    with pytest.raises(SettingsError, match="the memory limit is too small to build the index"):
        open_at(project, "orders", ["amount"], memory_limit="1MB")


@pytest.mark.parametrize("limit", ["plenty", "-", "12 parsecs"])
def test_a_memory_limit_that_is_no_amount_is_an_error(project: Project, limit: str) -> None:
    project.publish(ORDERS, [(1, T0, 1.0, 1)])
    with pytest.raises(SettingsError, match="memory_limit: not an amount of memory"):
        open_at(project, "orders", ["amount"], memory_limit=limit)


def test_a_lost_parquet_file_is_an_error_that_names_the_view(project: Project) -> None:
    project.publish(ORDERS, [(1, T0, 1.0, 1)])
    project.offline.table("orders").files()[0].path.unlink()
    with pytest.raises(OfflineStoreError, match="orders version 0"):
        open_at(project, "orders", ["amount"])


VALUES: dict[str, tuple[Any, Any]] = {
    "tinyint": (-128, 127),
    "smallint": (-32768, 32767),
    "integer": (-(2**31), 2**31 - 1),
    "bigint": (-(2**63), 2**63 - 1),
    "utinyint": (0, 255),
    "usmallint": (0, 65535),
    "uinteger": (0, 2**32 - 1),
    "ubigint": (2**53 + 1, 2**64 - 1),
    "real": (1.5, float("inf")),
    "double": (0.1, float("-inf")),
    "boolean": (True, False),
    "varchar": ("", "naïve ❄ \x00"),
    "date": (date(1, 1, 1), date(9999, 12, 31)),
    "timestamp": (datetime(1969, 12, 31, 23, 59, 59, 999999), datetime(2024, 1, 1)),
    "timestamptz": (datetime(1969, 12, 31, tzinfo=UTC), datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
    "decimal(5,2)": (Decimal("-999.99"), Decimal("0.01")),
    "decimal(38,10)": (Decimal("1234567890123456789012345678.0123456789"), Decimal("-0.0000000001")),
    "bigint[]": ([], [2**63 - 1, None, -1]),
    "double[]": ([0.1, float("inf")], [1e300]),
    "uuid": ("00000000-0000-0000-0000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
}


def test_values_of_every_type_come_back_exactly(project: Project) -> None:
    names = {sql: f"f{number}" for number, sql in enumerate(VALUES)}
    view = make_view("typed", {"k": "bigint"}, {names[sql]: sql for sql in VALUES})
    rows = [
        (1, T0, *(low for low, _ in VALUES.values())),
        (2, T0, *(high for _, high in VALUES.values())),
        (3, T0, *(None for _ in VALUES)),
    ]
    project.publish(view, rows)
    index = open_at(project, "typed", list(names.values()))
    found = look_up(index, [pa.array([2, 4, 3, 1, 2])], T0, list(names.values()))
    assert found == [[high, None, None, low, high] for low, high in VALUES.values()]


def test_nan_is_not_null(project: Project) -> None:
    project.publish(ORDERS, [(1, T0, float("nan"), 1), (2, T0, None, 1)])
    values = open_at(project, "orders", ["amount"])
    at = np.full(2, to_us(T0), dtype=np.int64)
    found = values.take(["amount"], values.find([pa.array([1, 2])], at))[0]
    assert [value.is_valid for value in found] == [True, False]
    assert np.isnan(found[0].as_py())
