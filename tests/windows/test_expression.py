"""Output expressions give what DuckDB gives."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_server.compiler.expressions import read_node
from feature_server.compiler.refusals import Refusals
from feature_server.dtypes import DType, parse_sql_type
from feature_server.errors import RequestError
from feature_server.windows.expression import Column, evaluate

TYPES = ("bigint", "integer", "double", "decimal(12,2)", "boolean", "bigint")
ROWS = 6
INTEGERS = st.sampled_from([0, 1, -1, 2, 3, 7, -7, 10, 100]) | st.integers(-1000, 1000)
VALUES = {
    "bigint": INTEGERS,
    "integer": INTEGERS,
    "double": st.sampled_from([0.0, 0.5, -2.5, 1.5, 2.5, 1e6, math.nan, math.inf]) | st.floats(-1e4, 1e4),
    "decimal(12,2)": st.integers(-100_000, 100_000).map(lambda cents: Decimal(cents).scaleb(-2)),
    "boolean": st.booleans(),
}

numbers = st.recursive(
    st.sampled_from(["g0", "g1", "g2", "g3", "g5", "0", "1", "2", "3", "0.5", "1.25", "null"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.sampled_from(["abs", "floor", "ceil", "round", "-", "sign", "sqrt"]), inner).map(
            lambda t: f"{t[0]}({t[1]})"
        ),
        inner.map(lambda x: f"round({x}, 1)"),
        inner.map(lambda x: f"cast({x} as double)"),
        st.tuples(st.sampled_from(["coalesce", "greatest", "least", "nullif"]), inner, inner).map(
            lambda t: f"{t[0]}({t[1]}, {t[2]})"
        ),
        st.tuples(inner, inner, inner, inner).map(lambda t: f"case when {t[0]} < {t[1]} then {t[2]} else {t[3]} end"),
        st.tuples(inner, inner).map(lambda t: f"case when g4 and {t[0]} is not null then {t[1]} end"),
    ),
    max_leaves=5,
)
conditions = (
    st.tuples(numbers, st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), numbers).map(" ".join)
    | st.tuples(numbers, st.sampled_from(["and", "or"])).map(lambda t: f"({t[0]} > 1 {t[1]} g4)")
    | st.one_of(
        st.tuples(numbers, numbers, numbers).map(lambda t: f"{t[0]} between {t[1]} and {t[2]}"),
        st.tuples(numbers, numbers, numbers).map(lambda t: f"{t[0]} not in ({t[1]}, {t[2]})"),
        st.tuples(numbers, numbers).map(lambda t: f"{t[0]} is distinct from {t[1]}"),
        st.tuples(numbers, numbers).map(lambda t: f"{t[0]} is not distinct from {t[1]}"),
    )
)


def column(values: list[Any], sql_type: str) -> Column:
    dtype = parse_sql_type(sql_type)
    null = np.array([value is None for value in values])
    plain = [0 if value is None else int(value.scaleb(2)) if isinstance(value, Decimal) else value for value in values]
    kind = {"double": np.float64, "boolean": np.bool_}.get(sql_type, np.int64)
    return Column(np.array(plain, dtype=kind), null, dtype)


def python(found: Column) -> list[Any]:
    scale = found.dtype.scale
    values = [value if scale is None else Decimal(int(value)).scaleb(-scale) for value in found.values.tolist()]
    return [None if null else value for value, null in zip(values, found.null.tolist(), strict=True)]


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return (math.isnan(ours) and math.isnan(theirs)) or ours == theirs or math.isclose(ours, theirs, rel_tol=1e-12)
    return bool(ours == theirs)


@settings(max_examples=250, deadline=None)
@given(expression=numbers | conditions, data=st.data())
def test_expressions_give_what_duckdb_gives(expression: str, data: st.DataObject) -> None:
    rows = [data.draw(st.tuples(*(st.none() | VALUES[sql_type] for sql_type in TYPES))) for _ in range(ROWS)]
    columns = [column([row[i] for row in rows], sql_type) for i, sql_type in enumerate(TYPES)]
    with duckdb.connect() as connection:
        connection.execute("create table t (n int, " + ", ".join(f"g{i} {t}" for i, t in enumerate(TYPES)) + ")")
        connection.executemany("insert into t values (?, ?, ?, ?, ?, ?, ?)", [(n, *row) for n, row in enumerate(rows)])
        try:
            ((_, sql_type, *_),) = connection.execute(f"describe select {expression} from t").fetchall()
            wanted = [value for (value,) in connection.execute(f"select {expression} from t order by n").fetchall()]
        except duckdb.Error:
            return  # types or values that DuckDB refuses
    if sql_type == '"NULL"':
        return
    dtype = DType("decimal", precision=38, scale=0) if sql_type == "HUGEINT" else parse_sql_type(sql_type)
    refusals = Refusals()
    node = read_node(sqlglot.parse_one(expression, dialect="duckdb"), refusals)
    assert not refusals.found
    found = python(evaluate(node, columns, [], dtype, ROWS))
    assert all(same(*pair) for pair in zip(found, wanted, strict=True)), (expression, rows, found, wanted)


@pytest.mark.parametrize(
    ("expression", "sql_type", "wanted"),
    [
        ("-7 // 2", "bigint", -3),
        ("-7 % 3", "bigint", -1),
        ("cast(2.5 as bigint)", "bigint", 3),
        ("cast(cast(2.5 as double) as bigint)", "bigint", 2),
        ("1 / 0", "double", math.inf),
        ("cast(1.005 as decimal(12,2))", "decimal(12,2)", Decimal("1.01")),
        ("case when 0 <> 0 then 1 // 0 else 5 end", "bigint", 5),
        ("coalesce(null, 3)", "bigint", 3),
        ("round(0.49999999999999994e0)", "double", 0.0),
        ("round(-2.5e0)", "double", -3.0),
    ],
)
def test_rules_that_differ_between_languages(expression: str, sql_type: str, wanted: Any) -> None:
    node = read_node(sqlglot.parse_one(expression, dialect="duckdb"), Refusals())
    assert python(evaluate(node, [], [], parse_sql_type(sql_type), 1)) == [wanted]


@pytest.mark.parametrize("expression", ["1 // 0", "1 % 0", "cast(1000 as tinyint)", "cast(1.0 / 0 as bigint)"])
def test_what_duckdb_refuses_is_refused(expression: str) -> None:
    with duckdb.connect() as connection, pytest.raises(duckdb.Error):
        connection.execute(f"select {expression}").fetchall()
    node = read_node(sqlglot.parse_one(expression, dialect="duckdb"), Refusals())
    with pytest.raises(RequestError, match=re.compile("division by zero|cannot hold")):
        evaluate(node, [], [], parse_sql_type("bigint"), 1)


@pytest.mark.parametrize(
    ("expression", "sql_type", "value", "result", "wanted"),
    [
        ("g0 > 5", "ubigint", 2**63 + 5, "boolean", True),
        ("g0 - 1", "ubigint", 2**63 + 5, "ubigint", 2**63 + 4),
        ("g0 > 0", "decimal(38,30)", Decimal("5e-30"), "boolean", True),
        ("round(g0)", "decimal(38,20)", Decimal(0), "double", 0.0),
        ("round(g0)", "decimal(38,18)", Decimal("9.2"), "double", 9.0),
        ("cast(g0 as bigint)", "decimal(38,18)", Decimal("-8.5"), "bigint", -9),
        ("g0 // -1", "bigint", -(2**63) + 1, "bigint", 2**63 - 1),
    ],
)
def test_numbers_near_the_end_of_64_bits_are_exact(
    expression: str, sql_type: str, value: Any, result: str, wanted: Any
) -> None:
    with duckdb.connect() as connection:
        query = f"select cast({expression} as {result}) from (select cast(? as {sql_type}) as g0)"
        assert connection.execute(query, [str(value)]).fetchall() == [(wanted,)]
    dtype = parse_sql_type(sql_type)
    unscaled = int(Decimal(value).scaleb(dtype.scale or 0))
    values = np.array([unscaled], dtype=np.uint64 if sql_type == "ubigint" else np.int64)
    node = read_node(sqlglot.parse_one(expression, dialect="duckdb"), Refusals())
    found = evaluate(node, [Column(values, np.array([False]), dtype)], [], parse_sql_type(result), 1)
    assert python(found) == [wanted]
