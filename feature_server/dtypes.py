"""The closed list of types that a join key or a feature can have.

Names are those of the registry's JSON. Each is read from the SQL type of a dbt column and keeps every value exactly,
offline, online and over HTTP. A SQL type outside the list is an error, never a string.
"""

import math
import re
from decimal import Decimal
from typing import Any

import msgspec

INTEGER_WIDTHS = {
    "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
}  # fmt: skip
FLOAT_WIDTHS = {"float32": 4, "float64": 8}
_FIXED_WIDTHS = {**INTEGER_WIDTHS, **FLOAT_WIDTHS, "bool": 1, "date": 4, "timestamp": 8, "timestamptz": 8, "uuid": 16}

_SQL_NAMES = {
    "tinyint": "int8", "int1": "int8",
    "smallint": "int16", "int2": "int16", "short": "int16",
    "integer": "int32", "int": "int32", "int4": "int32", "signed": "int32",
    "bigint": "int64", "int8": "int64", "long": "int64",
    "utinyint": "uint8", "usmallint": "uint16", "uinteger": "uint32", "ubigint": "uint64",
    "real": "float32", "float": "float32", "float4": "float32",
    "double": "float64", "float8": "float64", "double precision": "float64",
    "boolean": "bool", "bool": "bool", "logical": "bool",
    "varchar": "string", "text": "string", "string": "string", "char": "string", "bpchar": "string",
    "date": "date",
    "timestamp": "timestamp", "datetime": "timestamp", "timestamp without time zone": "timestamp",
    "timestamptz": "timestamptz", "timestamp with time zone": "timestamptz",
    "uuid": "uuid",
}  # fmt: skip

_DECIMAL = re.compile(r"(?:decimal|numeric|dec)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?$")
_VARCHAR = re.compile(r"(?:varchar|char|bpchar|character varying)\s*\(\s*\d+\s*\)$")
_LIST = re.compile(r"(.*)\[\s*\d*\s*\]$")


def integer_bounds(kind: str) -> tuple[int, int]:
    """The least and the largest value of an integer type."""
    bits = 8 * INTEGER_WIDTHS[kind]
    return (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


class DType(msgspec.Struct, frozen=True):
    """One type of the list.

    `kind` is a name such as `int64`, `decimal`, `string` or `list`; a decimal has `precision` and `scale`, a list has
    `item`, the kind of its numbers.
    """

    kind: str
    precision: int | None = None
    scale: int | None = None
    item: str | None = None

    def __str__(self) -> str:
        if self.kind == "decimal":
            return f"decimal({self.precision},{self.scale})"
        return f"list<{self.item}>" if self.kind == "list" else self.kind

    @property
    def fixed_width(self) -> int | None:
        """Bytes of one value in a packed row; None for a string or a list, whose width varies."""
        if self.kind == "decimal":
            assert self.precision is not None
            return 8 if self.precision <= 18 else 16
        return _FIXED_WIDTHS.get(self.kind)

    @property
    def is_number(self) -> bool:
        return self.kind in INTEGER_WIDTHS or self.kind in FLOAT_WIDTHS

    @property
    def is_timestamp(self) -> bool:
        return self.kind in ("timestamp", "timestamptz")

    @property
    def can_be_join_key(self) -> bool:
        """Integers, strings, UUIDs, dates and booleans identify an entity; floats, decimals, times and lists do not."""
        return self.kind in INTEGER_WIDTHS or self.kind in ("string", "uuid", "date", "bool")


class UnknownType(ValueError):
    """A SQL type outside the list; the message says which types there are."""


_WRITTEN = re.compile(r"decimal\((\d+),(\d+)\)|list<(\w+)>|(\w+)")


def parse_dtype(text: str) -> DType:
    """The DType that `str()` wrote; UnknownType for any other text."""
    found = _WRITTEN.fullmatch(text)
    if found and found[1]:
        return DType("decimal", precision=int(found[1]), scale=int(found[2]))
    if found and found[3] in {**INTEGER_WIDTHS, **FLOAT_WIDTHS}:
        return DType("list", item=found[3])
    if found and (found[4] in _FIXED_WIDTHS or found[4] == "string"):
        return DType(found[4])
    raise UnknownType(f"{text!r} is not a feature type")


def parse_sql_type(data_type: str) -> DType:
    """The DType of a DuckDB type as dbt's YAML or catalog spells it, e.g. `bigint`, `DECIMAL(12,2)`, `FLOAT[384]`.

    Raises UnknownType for anything outside the list (hugeint, blob, struct, map, time, interval, lists of non-numbers).
    """
    text = " ".join(data_type.strip().lower().split())
    if text in _SQL_NAMES:
        return DType(_SQL_NAMES[text])
    if _VARCHAR.match(text):
        return DType("string")
    if found := _DECIMAL.match(text):
        precision = int(found[1]) if found[1] else 18
        scale = int(found[2]) if found[2] else (0 if found[1] else 3)
        if not (1 <= precision <= 38 and 0 <= scale <= precision):
            raise UnknownType(f"{data_type!r}: a decimal has 1 to 38 digits and a scale of at most that")
        return DType("decimal", precision=precision, scale=scale)
    if found := _LIST.match(text):
        item = parse_sql_type(found[1])
        if item.is_number:
            return DType("list", item=item.kind)
    raise UnknownType(
        f"{data_type!r} is not a feature type; use an integer of at most 64 bits, real, double, decimal, boolean, "
        "varchar, date, timestamp, timestamptz, uuid, or a list of integers, reals or doubles"
    )


def known_sql_type(data_type: str) -> DType | None:
    """As `parse_sql_type`; None for anything outside the list."""
    try:
        return parse_sql_type(data_type)
    except UnknownType:
        return None


def json_value(value: Any) -> Any:
    """A value, also in a dict or list, as JSON can say it: NaN and infinities by name, a decimal with its digits."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, dict):
        return {name: json_value(item) for name, item in value.items()}
    return [json_value(item) for item in value] if isinstance(value, list | tuple) else value
