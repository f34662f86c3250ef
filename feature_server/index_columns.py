"""A view's columns as uncompressed Arrow files, from which rows are taken through memory maps.

A file `columns-<hash>.arrow` holds some columns of some of the offline table's Parquet files, row by row and in order.
Parquet files never change, so a new version of the table needs files only for what it added, and a column only when it
is first asked for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec
import numpy as np
import pyarrow as pa

from .dtypes import DType
from .errors import OfflineStoreError
from .index_order import sync
from .offline import DataFile, OfflineTable
from .offline_types import columns
from .point_in_time import Int64s

_MAX_FILES = 16  # that one column is read from; beyond, it is written anew as one
_BATCH_ROWS = 1 << 18
_LIST_BATCH_ROWS = 1 << 14
_METADATA = b"feature_warehouse"

_ARROW_TYPES: dict[str, pa.DataType] = {
    "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "uint8": pa.uint8(), "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(),
    "float32": pa.float32(), "float64": pa.float64(), "bool": pa.bool_(), "string": pa.string(), "date": pa.date32(),
    "timestamp": pa.timestamp("us"), "timestamptz": pa.timestamp("us", "UTC"), "uuid": pa.string(),
}  # fmt: skip


def arrow_type(dtype: DType) -> pa.DataType:
    """The Arrow type in which a feature's values are given; a UUID as its text."""
    if dtype.kind == "decimal":
        return pa.decimal128(dtype.precision, dtype.scale)
    if dtype.kind == "list":
        return pa.list_(_ARROW_TYPES[str(dtype.item)])
    return _ARROW_TYPES[dtype.kind]


class Contents(msgspec.Struct, frozen=True):
    """What a file says of itself: its columns' types by name, and the Parquet files with their numbers of rows."""

    columns: dict[str, str]
    files: list[tuple[str, int]]


class ColumnFile:
    """One file, not kept open: a map that stays open keeps every page it has touched."""

    def __init__(self, path: Path, contents: Contents) -> None:
        self.path = path
        self.columns = contents.columns
        offsets = [0, *accumulate(rows for _, rows in contents.files)]
        self.starts = {file: start for (file, _), start in zip(contents.files, offsets, strict=False)}
        self.rows = offsets[-1]

    def values(self, name: str) -> pa.ChunkedArray:
        """The column's values, as they are on disk: mapped until the last reference goes."""
        field = list(self.columns).index(name)
        options = pa.ipc.IpcReadOptions(included_fields=[field])
        with pa.memory_map(str(self.path)) as source:
            return pa.ipc.open_file(source, options=options).read_all().column(0)


class Run(NamedTuple):
    """Consecutive rows of the table that a column file holds one after the other."""

    first: int
    rows: int
    file: ColumnFile
    start: int


class ColumnFiles:
    """The column files of one version of a table."""

    def __init__(self, table: OfflineTable, folder: Path) -> None:
        self.table = table
        self.folder = folder
        self._dtypes = {column.name: column.dtype for column in columns(table.view())}
        self._present = list(self._read_present())

    def missing(self, names: Sequence[str]) -> dict[tuple[DataFile, ...], list[str]]:
        """Parquet files → the columns of `names` that no column file holds for them."""
        found: dict[tuple[DataFile, ...], list[str]] = {}
        for name in names:
            _, absent = self._locate(name)
            if absent:
                found.setdefault(absent, []).append(name)
        return found

    def add(self, connection: duckdb.DuckDBPyConnection, names: Sequence[str], scratch: Path) -> None:
        """Writes the columns that are missing; the whole takes the memory of one batch of rows."""
        connection.execute("set preserve_insertion_order = true")
        for files, absent in self.missing(names).items():
            contents = Contents(
                {name: str(self._dtypes[name]) for name in absent}, [(str(file.path), file.rows) for file in files]
            )
            encoded = msgspec.json.encode(contents)
            path = self.folder / f"columns-{hashlib.sha256(encoded).hexdigest()[:24]}.arrow"
            self._write(connection, files, absent, scratch / path.name, encoded)
            os.replace(scratch / path.name, path)
            self._present.insert(0, ColumnFile(path, contents))

    def take(self, names: Sequence[str], positions: Int64s) -> list[pa.Array]:
        """One array per name: the values at `positions` among the rows of all files, null where negative."""
        order = np.argsort(positions)
        order = order[np.searchsorted(positions[order], 0) :]
        rows = positions[order]
        place = np.zeros(len(positions), dtype=np.int64)
        place[order] = np.arange(len(order))
        places: Any = pa.array(place, mask=positions < 0)
        return [self._gather(name, rows).take(places) for name in names]

    def touch(self) -> None:
        """Marks the files of this version as used."""
        paths = {str(file.path) for file in self.table.files()}
        for present in self._present:
            if not paths.isdisjoint(present.starts):
                os.utime(present.path)

    def _gather(self, name: str, rows: Int64s) -> pa.Array:
        """The column's values at ascending `rows`."""
        dtype = arrow_type(self._dtypes[name])
        runs, _ = self._locate(name)
        parts: list[tuple[int, pa.Array]] = []
        for file in {run.file.path: run.file for run in runs}.values():
            values = file.values(name)
            for run in runs:
                if run.file is file:
                    low, high = np.searchsorted(rows, [run.first, run.first + run.rows])
                    places = rows[low:high] - (run.first - run.start)
                    parts += [(low + offset, part) for offset, part in _take_ascending(values, places)]
        parts.sort(key=lambda part: part[0])
        return pa.concat_arrays([pa.array([], type=dtype), *(part for _, part in parts)])

    def _locate(self, name: str) -> tuple[list[Run], tuple[DataFile, ...]]:
        """Where the column's values are, and the Parquet files for which they are nowhere."""
        dtype = str(self._dtypes[name])
        holders = [present for present in self._present if present.columns.get(name) == dtype]
        runs: list[Run] = []
        absent = []
        first = 0
        for file in self.table.files():
            key = str(file.path)
            holder = next((present for present in holders if key in present.starts), None)
            if holder is None:
                absent.append(file)
            elif runs and runs[-1].file is holder and runs[-1].start + runs[-1].rows == holder.starts[key]:
                runs[-1] = runs[-1]._replace(rows=runs[-1].rows + file.rows)
            else:
                runs.append(Run(first, file.rows, holder, holder.starts[key]))
            first += file.rows
        if len({run.file.path for run in runs}) > _MAX_FILES:
            return [], self.table.files()
        return runs, tuple(absent)

    def _write(
        self,
        connection: duckdb.DuckDBPyConnection,
        files: Sequence[DataFile],
        names: Sequence[str],
        path: Path,
        contents: bytes,
    ) -> None:
        dtypes = [self._dtypes[name] for name in names]
        fields = [pa.field(name, arrow_type(dtype)) for name, dtype in zip(names, dtypes, strict=True)]
        schema = pa.schema(fields, metadata={_METADATA: contents})
        batch_rows = _LIST_BATCH_ROWS if any(dtype.kind == "list" for dtype in dtypes) else _BATCH_ROWS
        reader = connection.sql(self.table.scan_sql(names, files)).to_arrow_reader(batch_rows)
        rows = 0
        with pa.ipc.new_file(str(path), schema) as writer:
            for batch in reader:
                cast = [column.cast(field.type) for column, field in zip(batch.columns, fields, strict=True)]
                writer.write_batch(pa.record_batch(cast, schema=schema))
                rows += batch.num_rows
        if rows != (expected := sum(file.rows for file in files)):
            raise OfflineStoreError(
                "the offline table's files do not have the rows that its log says",
                where=f"{self.table.view_id} version {self.table.version}",
                expected=f"{expected} rows",
                got=f"{rows} rows",
                remedy=f"remove {self.table.path} and run `features publish {self.table.view_id}`",
            )
        sync(path)

    def _read_present(self) -> Iterator[ColumnFile]:
        """The column files there are, newest first."""
        found: list[tuple[float, Path, bytes]] = []
        for path in self.folder.glob("columns-*.arrow"):
            try:
                with pa.memory_map(str(path)) as source:
                    metadata = pa.ipc.open_file(source).schema.metadata
                    found.append((path.stat().st_mtime, path, metadata[_METADATA]))
            except FileNotFoundError:  # another process removed it just now
                continue
        for _, path, contents in sorted(found, reverse=True):
            yield ColumnFile(path, msgspec.json.decode(contents, type=Contents))


def _take_ascending(values: pa.ChunkedArray, places: Int64s) -> Iterator[tuple[int, pa.Array]]:
    """Parts of `values` at ascending `places`, each with the offset in `places` it begins at."""
    starts = np.array([0, *accumulate(len(chunk) for chunk in values.chunks)], dtype=np.int64)
    edges = np.searchsorted(places, starts)
    for number in np.flatnonzero(np.diff(edges)):
        low, high = edges[number], edges[number + 1]
        chunk: Any = values.chunk(int(number))
        yield int(low), chunk.take(pa.array(places[low:high] - starts[number]))
