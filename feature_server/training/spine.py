"""The spine of a training set: where it comes from, whether it fits the views, its keys and times in exact form."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..arrow import arrow_type, numpy_bools, numpy_integers
from ..definitions.facts import FeatureView, JoinKey
from ..dtypes import INTEGER_WIDTHS, integer_bounds
from ..errors import RequestError, shown
from ..point_in_time import Int64s
from ..settings import local_path
from .given import as_table, check_names, is_frame

Connected = AbstractContextManager[duckdb.DuckDBPyConnection]
READ_ROWS = 1 << 18
_SQL = re.compile(r"(?>\s|--[^\n]*\n|/\*.*?\*/)*+((select|with|from)[\s(*'\"]|\()", re.IGNORECASE | re.DOTALL)
_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


class Spine:
    """Rows to find features for, read again for each `chunks()`.

    `given` is the user's own object, `rows` None as long as it is unknown. `schema` has the types that the columns come
    back with from a Parquet file, so that a training set on disk holds its own spine.
    """

    def __init__(
        self, given: Any, schema: pa.Schema, rows: int | None, read: Callable[[], Iterator[pa.RecordBatch]]
    ) -> None:
        self.given, self.rows, self._read = given, rows, read
        check_names(schema.names)
        self.schema = _as_in_parquet(schema)
        for field in self.schema:
            _check_zone(field)

    def chunks(self, rows: int) -> Iterator[pa.Table]:
        """The rows in order, `rows` at a time, each column in one piece; one empty chunk when there are none."""
        pending: list[pa.RecordBatch] = []
        count, empty = 0, True
        for batch in self._read():
            while count + batch.num_rows >= rows:
                head = batch.slice(0, rows - count)
                yield self._table([*pending, head])
                batch, pending, count, empty = batch.slice(head.num_rows), [], 0, False
            if batch.num_rows:
                pending.append(batch)
                count += batch.num_rows
        if pending or empty:
            yield self._table(pending)

    def _table(self, batches: Sequence[pa.RecordBatch]) -> pa.Table:
        if not batches:
            return self.schema.empty_table()
        given = pa.Table.from_batches(batches)
        columns = [_plain(given.column(i), field) for i, field in enumerate(self.schema)]
        return pa.table(columns, schema=self.schema).combine_chunks()


def _as_in_parquet(schema: pa.Schema) -> pa.Schema:
    """Plain values instead of dictionaries and runs, and what Parquet makes of the types it lacks."""
    return pa.schema([_field_in_parquet(field.name, _plain_type(field.type)) for field in schema])


def _field_in_parquet(name: str, type_: pa.DataType) -> pa.Field:
    sink = pa.BufferOutputStream()
    try:
        pq.ParquetWriter(sink, pa.schema([(name, type_)])).close()
    except (pa.ArrowException, OSError) as error:
        raise RequestError(
            "a column has a type that Parquet lacks", where=f"spine column {name!r}", got=str(error),
            remedy="cast it to another, or leave the column out",
        ) from None  # fmt: skip
    return pa.field(name, pq.read_schema(pa.BufferReader(sink.getvalue())).field(0).type)


def _plain_type(type_: pa.DataType) -> pa.DataType:
    encoded: Any = type_
    if pa.types.is_dictionary(type_):
        views: dict[Any, pa.DataType] = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
        return views.get(encoded.value_type, encoded.value_type)
    return encoded.value_type if pa.types.is_run_end_encoded(type_) else type_


def _plain(column: Any, field: pa.Field) -> Any:
    """A column's values in the type of the spine's schema; RequestError where it cannot hold one, or is no UTF-8."""
    try:
        if pa.types.is_dictionary(column.type):
            plain = [chunk.dictionary.cast(field.type).take(chunk.indices) for chunk in column.chunks]
            column = pa.chunked_array(plain, field.type)
        elif pa.types.is_run_end_encoded(column.type):
            column = pa.chunked_array(
                [pc.call_function("run_end_decode", [chunk]) for chunk in column.chunks], column.type.value_type
            )
        column = column.cast(field.type)
        if any(is_string(field.type) for is_string in _STRINGS):
            column.validate(full=True)
    except pa.ArrowException as error:
        raise RequestError(
            "a value cannot be read as its column's type", where=f"spine column {field.name!r}",
            expected=str(field.type), got=str(error).splitlines()[0],
        ) from None  # fmt: skip
    return column


def _check_zone(field: pa.Field) -> None:
    if not pa.types.is_timestamp(field.type) or field.type.tz is None:
        return
    try:
        pa.lib.string_to_tzinfo(field.type.tz)
    except (KeyError, ValueError, OSError):
        raise RequestError(
            "no such time zone", where=f"spine column {field.name!r}", expected="a zone such as Europe/Amsterdam",
            got=field.type.tz, remedy="give the times in UTC",
        ) from None  # fmt: skip


def open_spine(given: Any, connect: Callable[[str], Connected]) -> Spine:
    """A spine from a DataFrame of pandas or polars, a LazyFrame, an Arrow table, a Parquet file's path or a query.

    `connect` opens the DuckDB session in which a given query runs.
    """
    if isinstance(given, str) and _SQL.match(given):
        return _sql_spine(given, connect)
    if isinstance(given, str | Path):
        return parquet_spine(given)
    if is_frame(given, "pandas", "DataFrame"):
        copies_on_write = not sys.modules["pandas"].__version__.startswith("2.")
        given = given.copy(deep=not copies_on_write)  # what is done to the frame from now on is not done to this one
    table = as_table(given)
    return Spine(given, table.schema, table.num_rows, lambda: iter(table.to_batches()))


def parquet_spine(path: str | Path, columns: Sequence[str] | None = None) -> Spine:
    """The rows of a Parquet file, or some of its columns."""
    path = local_path(path, where="spine")
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except FileNotFoundError:
        raise RequestError(
            "there is no such file",
            where=f"spine {path}",
            expected="the path of a Parquet file, or a query that starts with select, with or from",
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise RequestError(
            "not a Parquet file", where=f"spine {path}", expected="a Parquet file", got=str(error).splitlines()[0],
            remedy=f"give a file of another kind by a query: select * from '{path}'",
        ) from None  # fmt: skip
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])

    def read() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=READ_ROWS, columns=schema.names)

    return Spine(path, schema, rows, read)


def _sql_spine(sql: str, connect: Callable[[str], Connected]) -> Spine:
    @contextmanager
    def session() -> Iterator[duckdb.DuckDBPyConnection]:
        try:
            with connect(sql) as connection:
                yield connection
        except duckdb.Error as error:
            raise RequestError(
                "the query fails",
                where="spine",
                got=str(error).splitlines()[0],
                remedy="it may read files, and published feature views by their names",
            ) from None

    def read() -> Iterator[pa.RecordBatch]:
        with session() as connection:
            yield from connection.sql(sql).to_arrow_reader(READ_ROWS)

    with session() as connection:
        relation = connection.sql(sql)
        if relation is None:
            raise RequestError("the query gives no rows", where="spine", expected="a select", got=sql)
        schema = relation.limit(0).to_arrow_table().schema
    return Spine(sql, schema, None, read)


def check_spine(spine: Spine, views: Sequence[FeatureView], event_timestamp: str) -> None:
    """RequestError unless the spine has a time column and each view's join keys, of types that compare exactly."""
    names = spine.schema.names
    if event_timestamp not in names:
        raise RequestError(
            f"no column {event_timestamp!r}, the time of each row",
            where="spine",
            expected=f"a timestamp column {event_timestamp!r}",
            got=f"columns {', '.join(names)}",
            remedy="name it so, or give event_timestamp=(--event-timestamp)",
        )
    time_type = spine.schema.field(event_timestamp).type
    if not pa.types.is_timestamp(time_type) and not pa.types.is_date(time_type):
        raise RequestError(
            "the time of each row is not a timestamp",
            where=f"spine column {event_timestamp!r}",
            expected="a timestamp, one without a time zone in UTC, or a date, whose first instant in UTC is meant",
            got=str(time_type),
            remedy="convert it, e.g. with pandas.to_datetime(…, utc=True) or cast(… as timestamptz)",
        )
    wanted = {key.name: (key, view) for view in reversed(views) for key in view.join_keys}
    missing = [name for name in wanted if name not in names]
    if missing:
        needed_by = ", ".join(f"{name} (for {wanted[name][1].id})" for name in sorted(missing))
        raise RequestError(
            f"join keys are missing: {needed_by}",
            where="spine",
            expected=f"columns {', '.join(sorted(wanted))}",
            got=f"columns {', '.join(names)}",
            remedy="name the columns so; a pandas index is no column: reset_index()",
        )
    for key, view in wanted.values():
        _check_key_type(key, view, spine.schema.field(key.name).type)


def _check_key_type(key: JoinKey, view: FeatureView, found: pa.DataType) -> None:
    integer = pa.types.is_integer(found) or (pa.types.is_decimal(found) and found.scale == 0)
    text = any(is_string(found) for is_string in _STRINGS)
    others = {
        "string": (text, "cast it to a string"),
        "uuid": (text or isinstance(found, pa.UuidType), "give UUIDs, or their text"),
        "date": (pa.types.is_date(found), "cast it to a date"),
        "bool": (pa.types.is_boolean(found), "cast it to a boolean"),
    }
    remedy = "cast it to an integer without passing through floats; in pandas use the dtype Int64"
    fits, remedy = others.get(key.dtype.kind, (integer, remedy))
    if not fits and not pa.types.is_null(found):
        raise RequestError(
            "the join key has another type than in the feature view",
            where=f"spine column {key.name!r}",
            expected=f"{key.dtype}, as in {view.id}",
            got=str(found),
            remedy=remedy,
        )


def key_values(chunk: pa.Table, key: JoinKey) -> pa.Array:
    """A join key's column in exactly the type of the view; null where the view's type cannot hold the value."""
    values: Any = chunk.column(key.name).combine_chunks()
    target = arrow_type(key.dtype)
    if key.dtype.kind == "uuid":
        return _uuid_text(values, key.name)
    try:
        return values.cast(target)
    except pa.ArrowInvalid:
        if key.dtype.kind not in INTEGER_WIDTHS:
            raise
        low, high = integer_bounds(key.dtype.kind)  # some value is out of range, so no row can have it
        wide = values.cast(pa.decimal256(76, 0))
        fits = pc.and_(
            pc.greater_equal(wide, pa.scalar(low, wide.type)),
            pc.less_equal(wide, pa.scalar(high, wide.type)),
        )
        return pc.if_else(fits, values, pa.scalar(None, values.type)).cast(target)


def _uuid_text(values: pa.Array, name: str) -> pa.Array:
    with duckdb.connect() as connection:
        connection.register("spine", pa.table({"key": values}))
        wrong = connection.execute(
            "select key from spine where key is not null and try_cast(key as uuid) is null limit 1"
        ).fetchone()
        if wrong is not None:
            raise RequestError(
                "a join key is not a UUID", where=f"spine column {name!r}", expected="a UUID", got=shown(wrong[0])
            )
        text = connection.sql("select cast(cast(key as uuid) as varchar) from spine").to_arrow_table()
        return text.column(0).combine_chunks()


def time_values(chunk: pa.Table, name: str) -> tuple[Int64s, np.ndarray]:
    """The times in microseconds since 1970 UTC, arbitrary where null, and which of them are null."""
    values: Any = chunk.column(name).combine_chunks()
    try:
        exact: Any = values.cast(pa.timestamp("us", getattr(values.type, "tz", None)))
    except pa.ArrowInvalid:
        raise RequestError(
            "times finer than a microsecond, or beyond its range",
            where=f"spine column {name!r}",
            expected="times of whole microseconds",
            got=str(values.type),
            remedy='round them, e.g. with pandas: .dt.floor("us")',
        ) from None
    return numpy_integers(exact.cast(pa.int64())), numpy_bools(pc.is_null(exact))
