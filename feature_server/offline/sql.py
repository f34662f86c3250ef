"""How the offline store keeps each type, and the SQL that gives it back exactly.

Delta Lake has no unsigned integers and no UUID: those are kept in the next wider type and cast when read. Event and
created timestamps are always kept as UTC instants.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..definitions.facts import FeatureView
from ..definitions.stream import EventSource
from ..dtypes import DType

BUCKET = "_bucket"  # hidden partition column: the event time's year, month or day

_SQL_TYPES = {
    "int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT",
    "uint8": "UTINYINT", "uint16": "USMALLINT", "uint32": "UINTEGER", "uint64": "UBIGINT",
    "float32": "FLOAT", "float64": "DOUBLE", "bool": "BOOLEAN", "string": "VARCHAR", "date": "DATE",
    "timestamp": "TIMESTAMP", "timestamptz": "TIMESTAMP WITH TIME ZONE", "uuid": "UUID",
}  # fmt: skip
_STORED_AS = {
    "uint8": DType("int16"),
    "uint16": DType("int32"),
    "uint32": DType("int64"),
    "uint64": DType("decimal", precision=20, scale=0),
    "uuid": DType("string"),
}
INSTANT = DType("timestamptz")


class Column(NamedTuple):
    """A column of an offline table."""

    name: str
    dtype: DType


def columns(view: FeatureView) -> Iterator[Column]:
    """The columns of a view's offline table, in order: join keys, event timestamp, created timestamp, features."""
    for key in view.join_keys:
        yield Column(key.name, key.dtype)
    yield Column(view.event_timestamp, INSTANT)
    if view.created_timestamp is not None:
        yield Column(view.created_timestamp, INSTANT)
    for feature in view.features:
        yield Column(feature.name, feature.dtype)


def quote(identifier: str) -> str:
    """A SQL identifier in double quotes."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def stored(dtype: DType) -> DType:
    """The type that a column, or the items of a list, have in the Parquet files."""
    return _STORED_AS.get(dtype.kind, dtype)


def sql_type(dtype: DType) -> str:
    """DuckDB's name of a type, as DuckDB itself spells it."""
    if dtype.kind == "decimal":
        return f"DECIMAL({dtype.precision},{dtype.scale})"
    if dtype.kind == "list":
        return f"{_SQL_TYPES[str(dtype.item)]}[]"
    return _SQL_TYPES[dtype.kind]


def stored_sql_type(dtype: DType) -> str:
    """DuckDB's name of the type that a column of `dtype` has in the Parquet files."""
    if dtype.kind == "list":
        return f"{stored_sql_type(DType(str(dtype.item)))}[]"
    return sql_type(stored(dtype))


def restore(column: Column) -> str:
    """The SQL expression that gives a stored column its declared type."""
    name, declared = quote(column.name), sql_type(column.dtype)
    return name if declared == stored_sql_type(column.dtype) else f"cast({name} as {declared})"


def restore_list(view: FeatureView, names: Sequence[str] | None = None) -> str:
    """The SELECT list that gives the columns of a view's files, or those in `names`, their declared types."""
    known = {column.name: column for column in columns(view)}
    chosen = known if names is None else names
    return ", ".join(f"{restore(known[name])} as {quote(name)}" for name in chosen)


def cast_list(view: FeatureView, type_of: Callable[[DType], str], value: str | None = None) -> str:
    """The SELECT list that gives a view's columns, or `value` for each, the types that `type_of` names."""
    return ", ".join(
        f"cast({value or quote(name)} as {type_of(dtype)}) as {quote(name)}" for name, dtype in columns(view)
    )


def events_table(source: EventSource) -> str:
    """The statement part that declares a relation `events` with the source's columns."""
    return f"table events ({', '.join(f'{quote(column.name)} {sql_type(column.dtype)}' for column in source.columns)})"
