"""SQL types become feature types, exactly those of the list."""

from __future__ import annotations

import numpy as np
import pytest

from feature_server.dtypes import INTEGER_WIDTHS, DType, UnknownType, integer_bounds, parse_sql_type

KNOWN = [
    ("tinyint", "int8", 1), ("SMALLINT", "int16", 2), ("integer", "int32", 4), ("Int", "int32", 4),
    ("bigint", "int64", 8), (" BigInt ", "int64", 8),
    ("utinyint", "uint8", 1), ("usmallint", "uint16", 2), ("uinteger", "uint32", 4), ("ubigint", "uint64", 8),
    ("float", "float32", 4), ("real", "float32", 4), ("double", "float64", 8), ("double  precision", "float64", 8),
    ("boolean", "bool", 1), ("bool", "bool", 1), ("date", "date", 4), ("uuid", "uuid", 16),
    ("timestamp", "timestamp", 8), ("datetime", "timestamp", 8),
    ("timestamptz", "timestamptz", 8), ("TIMESTAMP WITH TIME ZONE", "timestamptz", 8),
    ("varchar", "string", None), ("text", "string", None), ("varchar(20)", "string", None),
    ("decimal(12,2)", "decimal(12,2)", 8), ("NUMERIC(18, 0)", "decimal(18,0)", 8), ("decimal(9)", "decimal(9,0)", 8),
    ("decimal", "decimal(18,3)", 8), ("decimal(38,10)", "decimal(38,10)", 16),
    ("double[]", "list<float64>", None), ("FLOAT[384]", "list<float32>", None), ("bigint [ ]", "list<int64>", None),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "name", "width"), KNOWN)
def test_a_sql_type_of_the_list_is_known_with_its_width(sql: str, name: str, width: int | None) -> None:
    dtype = parse_sql_type(sql)
    assert (str(dtype), dtype.fixed_width) == (name, width)


OUTSIDE = [
    "", "hugeint", "uhugeint", "blob", "json", "interval", "time", "timestamp_ns", "struct(a integer)",
    "map(varchar, integer)", "varchar[]", "double[][]", "boolean[]", "decimal(39,2)", "decimal(5,6)", "decimal(0,0)",
    "bigint unsigned", "customer",
]  # fmt: skip


@pytest.mark.parametrize("sql", OUTSIDE)
def test_a_sql_type_outside_the_list_is_an_error_and_never_a_string(sql: str) -> None:
    with pytest.raises(UnknownType):
        parse_sql_type(sql)


def test_what_identifies_an_entity_compares_exactly() -> None:
    kinds = {str(parse_sql_type(sql)) for sql, _, _ in KNOWN if parse_sql_type(sql).can_be_join_key}
    integers = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    assert kinds == integers | {"string", "uuid", "date", "bool"}


def test_only_a_timestamp_with_or_without_zone_is_a_timestamp() -> None:
    kinds = {str(parse_sql_type(sql)) for sql, _, _ in KNOWN if parse_sql_type(sql).is_timestamp}
    assert kinds == {"timestamp", "timestamptz"}


def test_a_decimal_knows_its_digits() -> None:
    assert parse_sql_type("decimal(12,2)") == DType("decimal", precision=12, scale=2)


@pytest.mark.parametrize("kind", INTEGER_WIDTHS)
def test_the_bounds_of_integers_are_those_of_numpy(kind: str) -> None:
    assert integer_bounds(kind) == (np.iinfo(kind).min, np.iinfo(kind).max)
