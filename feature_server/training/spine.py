"""The spine of a training set, from wherever it comes. It needs pyarrow alone: who sends one elsewhere has no more."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import RequestError
from ..settings import local_path
from .given import as_table, check_names, is_frame

READ_ROWS = 1 << 18
_SQL = re.compile(r"(?>\s|--[^\n]*\n|/\*.*?\*/)*+((select|with|from)[\s(*'\"]|\()", re.IGNORECASE | re.DOTALL)
STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


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
        if any(is_string(field.type) for is_string in STRINGS):
            column.validate(full=True)
    except pa.ArrowMemoryError:
        raise
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


def open_spine(given: Any, query: Callable[[str], Spine]) -> Spine:
    """A spine from a DataFrame of pandas or polars, a LazyFrame, an Arrow table, a Parquet file's path, a query, or one
    that is open.

    `query` makes one of a query.
    """
    if isinstance(given, Spine):
        return given
    if isinstance(given, str) and _SQL.match(given):
        return query(given)
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
