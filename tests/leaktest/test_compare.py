"""Two builds of a relation compared, against a brute force over their rows."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_server.leaktest.compare import Compared, Table, compare

BY_US = 3_000_000
NAN = math.nan
TYPES = {
    "key": pa.int64(),
    "at": pa.timestamp("us"),
    "number": pa.float64(),
    "text": pa.string(),
    "listed": pa.list_(pa.float64()),
    "parts": pa.struct({"a": pa.int32(), "b": pa.string()}),
}
ROW = st.fixed_dictionaries(
    {
        "key": st.sampled_from([1, 2, None]),
        "at": st.sampled_from([1_000_000, 3_000_000, 3_000_001, None]),
        "number": st.sampled_from([0.0, 1.0, 1.0 + 1e-12, 2.5, NAN, math.inf, -math.inf, 1.7e308, -1.7e308, None]),
        "text": st.sampled_from(["", "a", None]),
        "listed": st.sampled_from([None, [], [1.0], [NAN, None]]),
        "parts": st.sampled_from([None, {"a": 1, "b": None}, {"a": None, "b": None}]),
    }
)
ROWS = st.lists(ROW, max_size=6)


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Table:
    data = pa.table({each: pa.array([row[each] for row in rows], type=kind) for each, kind in TYPES.items()})
    file = folder / f"{name}.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute("create table rows as from data")
    assert len(data) == len(rows)
    return Table(file, "main", "rows")


def compared(first: list[dict[str, Any]], later: list[dict[str, Any]], keys: list[str]) -> Compared:
    with TemporaryDirectory() as name:
        tables = [write(Path(name), each, rows) for each, rows in (("first", first), ("later", later))]
        return compare(tables[0], tables[1], known_at="at", by_us=BY_US, keys=keys)


def same(one: Any, other: Any) -> bool:
    """Whether two values of a column are, by hand: null and NaN like themselves, floats but for rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return (one != one and other != other) or one == other or math.isclose(one, other, rel_tol=1e-9)
    return repr(one) == repr(other)


def order(number: float | None) -> tuple[int, float]:
    """As DuckDB orders numbers: NaN after all others, null last."""
    return (2, 0.0) if number is None else (1, 0.0) if number != number else (0, number)


def known(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["at"] is not None and row["at"] <= BY_US]


@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS)
def test_rows_with_their_keys_once_are_compared_column_by_column(
    first: list[dict[str, Any]], later: list[dict[str, Any]]
) -> None:
    one, other = ({(row["key"], row["at"]): row for row in known(rows)} for rows in (first, later))
    found = compared(list(one.values()), list(other.values()), ["key", "at"])
    both = one.keys() & other.keys()
    assert (found.rows, found.appeared, found.gone, found.repeated) == (
        len(both), len(other.keys() - both), len(one.keys() - both), 0,
    )  # fmt: skip
    differ = {
        name: count
        for name in TYPES
        if name not in ("key", "at") and (count := sum(not same(one[key][name], other[key][name]) for key in both))
    }
    assert {column.column: column.rows for column in found.columns} == differ
    assert {column.column: column.share for column in found.columns} == {
        name: count / len(both) for name, count in differ.items()
    }
    assert found.same == (one.keys() == other.keys() and not differ)


@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS)
def test_rows_without_keys_are_compared_as_often_as_they_are_there(
    first: list[dict[str, Any]], later: list[dict[str, Any]]
) -> None:
    found = compared(first, later, [])
    if found.by:
        assert found == compared(first, later, list(found.by))
        assert found.repeated == 0
        return
    groups: dict[str, tuple[list[Any], list[Any]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((first, later)):
        for row in known(rows):
            groups[repr([row[name] for name in TYPES if name != "number"])][side].append(row["number"])
    pairs = [
        pair
        for one, other in groups.values()
        for pair in zip(sorted(one, key=order), sorted(other, key=order), strict=False)
    ]
    differ = sum(not same(one, other) for one, other in pairs)
    assert (found.rows, found.appeared, found.gone, found.repeated) == (
        len(pairs),
        sum(max(0, len(later) - len(first)) for first, later in groups.values()),
        sum(max(0, len(first) - len(later)) for first, later in groups.values()),
        0,
    )
    assert {column.column: column.rows for column in found.columns} == ({"number": differ} if differ else {})
    unclaimed = [sum(row["at"] is None for row in rows) for rows in (first, later)]
    assert found.unclaimed == max(unclaimed)


@settings(max_examples=30, deadline=None)
@given(ROWS, st.randoms())
def test_the_same_rows_in_another_order_are_the_same_though_keys_repeat(rows: list[dict[str, Any]], by: Any) -> None:
    found = compared(rows, by.sample(rows, len(rows)), ["key"])
    assert (found.same, found.rows) == (True, len(known(rows)))


def test_columns_that_are_unique_are_taken_for_keys_where_none_are_named() -> None:
    empty = {"text": "a", "listed": None, "parts": None}
    first = [{"key": key, "at": 1_000_000, "number": 1.0} | empty for key in (1, 2, 3)]
    later = [{"key": key, "at": 1_000_000, "number": key / 2} | empty for key in (3, 2, 1)]
    found = compared(first, later, [])
    assert (found.by, found.rows, [(each.column, each.rows) for each in found.columns]) == (
        ("key",),
        3,
        [("number", 2)],
    )
    assert found.columns[0].example == {"key": "1"}
    again = compared([*first, first[0] | {"at": 2_000_000}], [*later, later[2] | {"at": 2_000_000}], [])
    assert (again.by, again.rows) == (("key", "at"), 4)


def test_a_column_of_another_type_or_in_one_build_alone_is_told_by_its_name() -> None:
    with TemporaryDirectory() as name:
        tables = []
        for side, columns in (("first", "1 as a, 'x' as b, 2 as c"), ("later", "1 as a, 5 as b, 3 as d")):
            file = Path(name) / f"{side}.duckdb"
            with duckdb.connect(str(file)) as connection:
                connection.execute(f"create table rows as select timestamp '1970-01-01' as at, {columns}")
            tables.append(Table(file, "main", "rows"))
        found = compare(tables[0], tables[1], known_at="at", by_us=BY_US, keys=["a"])
    assert [(each.column, each.first, each.later, each.example) for each in found.columns] == [
        ("b", "VARCHAR", "INTEGER", {}), ("c", "INTEGER", None, {}), ("d", None, "INTEGER", {}),
    ]  # fmt: skip
