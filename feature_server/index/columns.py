"""A view's columns as uncompressed Arrow files, from which rows are taken through memory maps.

A folder `columns-<hash>` holds some columns, a file each, of some of the offline table's Parquet files, row by row and
in order; `contents.json` says which. Parquet files never change, so a new version of the table needs a folder only for
what it added, and a column is written when it is first asked for.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow import arrow_array, arrow_int64, arrow_type, numpy_bools
from ..durable import flush
from ..errors import OfflineStoreError
from ..offline.sql import columns
from ..offline.store import DataFile, OfflineTable
from ..point_in_time import Int64s
from .files import Mapped, move_into_place, touch
from .seal import whole

MAX_FOLDERS = 16  # that one column is read from; beyond, it is written anew in one
_BATCH_ROWS = 1 << 18
_LIST_BATCH_ROWS = 1 << 14
_FILES = 200  # that are written at once: as many as may be open with room to spare
_CONTENTS = "contents.json"


class Contents(msgspec.Struct, frozen=True):
    """What is in a folder: the columns' types by name, file `<n>.arrow` holding the n-th, and the Parquet files with
    their numbers of rows."""

    columns: dict[str, str]
    files: list[tuple[str, int]]


class Folder:
    """One folder; its files, named by the columns' order, are opened for each use."""

    def __init__(self, path: Path, contents: Contents) -> None:
        self.path = path
        self.columns = contents.columns
        offsets = [0, *accumulate(rows for _, rows in contents.files)]
        self.starts = {file: start for (file, _), start in zip(contents.files, offsets, strict=False)}

    def file(self, column: str) -> str:
        return f"{list(self.columns).index(column)}.arrow"

    def files(self, columns: Sequence[str]) -> list[str]:
        """The names of the files that hold those of the columns that the folder has."""
        return [self.file(column) for column in columns if column in self.columns]


class Run(NamedTuple):
    """Consecutive rows of the table that a folder holds one after the other, from its row `start` on."""

    first: int
    rows: int
    folder: Folder
    start: int


class Columns:
    """The columns of one version of a table."""

    def __init__(self, table: OfflineTable, folder: Path) -> None:
        self.table = table
        self.folder = folder
        self._dtypes = {column.name: column.dtype for column in columns(table.view())}
        self._present = self._read_present()

    def missing(self, names: Sequence[str]) -> dict[tuple[DataFile, ...], list[str]]:
        """Parquet files → the columns of `names` that no folder holds for them, damaged folders being put away."""
        self._present = [folder for folder in self._present if whole(folder.path, folder.files(names))]
        found: dict[tuple[DataFile, ...], list[str]] = {}
        for name in names:
            _, absent = self._locate(name)
            if absent:
                found.setdefault(absent, []).append(name)
        return found

    def add(self, connection: duckdb.DuckDBPyConnection, names: Sequence[str], scratch: Path) -> None:
        """Writes the columns that are missing; the whole takes the memory of one batch of rows."""
        connection.execute("set preserve_insertion_order = true")
        parts = (
            (files, absent[n : n + _FILES])
            for files, absent in self.missing(names).items()
            for n in range(0, len(absent), _FILES)
        )
        for files, absent in parts:
            contents = Contents(
                {name: str(self._dtypes[name]) for name in absent}, [(str(file.path), file.rows) for file in files]
            )
            encoded = msgspec.json.encode(contents)
            path = self.folder / f"columns-{hashlib.sha256(encoded).hexdigest()[:24]}"
            self._write(connection, files, absent, scratch / path.name)
            (scratch / path.name / _CONTENTS).write_bytes(encoded)
            flush(scratch / path.name / _CONTENTS)
            move_into_place(scratch / path.name, path)
            self._present.insert(0, Folder(path, contents))

    def take(self, names: Sequence[str], positions: Int64s) -> list[pa.Array]:
        """One array per name: the values at `positions` among the rows of all files, null where negative."""
        order = np.argsort(positions)  # each part of a file is read once
        order = order[np.searchsorted(positions[order], 0) :]
        rows = positions[order]
        return [_scatter(self._gather(name, rows), order, len(positions)) for name in names]

    def touch(self) -> None:
        """Marks the folders of this version as used."""
        for folder in self._present:
            touch(folder.path)

    def _gather(self, name: str, rows: Int64s) -> pa.Array:
        """The column's values at ascending `rows`."""
        dtype = arrow_type(self._dtypes[name])
        runs, _ = self._locate(name)
        parts: list[tuple[int, pa.Array]] = []
        for folder in {run.folder.path: run.folder for run in runs}.values():
            mapped = Mapped(folder.path / folder.file(name))
            values = mapped.arrow().column(0)
            for run in runs:
                if run.folder is folder:
                    low, high = np.searchsorted(rows, [run.first, run.first + run.rows])
                    places = rows[low:high] - (run.first - run.start)
                    for offset, part in _take_ascending(values, places):
                        parts.append((low + offset, part))
                        mapped.release()
        parts.sort(key=lambda part: part[0])
        empty: Any = pa.nulls
        return pa.concat_arrays([empty(0, dtype), *(part for _, part in parts)])

    def _locate(self, name: str) -> tuple[list[Run], tuple[DataFile, ...]]:
        """Where the column's values are, and the Parquet files for which they are nowhere."""
        dtype = str(self._dtypes[name])
        holders = [folder for folder in self._present if folder.columns.get(name) == dtype]
        runs: list[Run] = []
        absent = []
        first = 0
        for file in self.table.files():
            key = str(file.path)
            holder = next((folder for folder in holders if key in folder.starts), None)
            if holder is None:
                absent.append(file)
            elif runs and runs[-1].folder is holder and runs[-1].start + runs[-1].rows == holder.starts[key]:
                runs[-1] = runs[-1]._replace(rows=runs[-1].rows + file.rows)
            else:
                runs.append(Run(first, file.rows, holder, holder.starts[key]))
            first += file.rows
        if len({run.folder.path for run in runs}) + bool(absent) > MAX_FOLDERS:
            return [], self.table.files()
        return runs, tuple(absent)

    def _write(
        self, connection: duckdb.DuckDBPyConnection, files: Sequence[DataFile], names: Sequence[str], path: Path
    ) -> None:
        path.mkdir()
        dtypes = [self._dtypes[name] for name in names]
        schemas = [pa.schema([pa.field(name, arrow_type(dtype))]) for name, dtype in zip(names, dtypes, strict=True)]
        batch_rows = _LIST_BATCH_ROWS if any(dtype.kind == "list" for dtype in dtypes) else _BATCH_ROWS
        rows = 0
        with ExitStack() as stack:
            sinks = [stack.enter_context((path / f"{number}.arrow").open("wb")) for number in range(len(names))]
            writers = [pa.ipc.new_file(sink, schema) for sink, schema in zip(sinks, schemas, strict=True)]
            for batch in connection.sql(self.table.scan_sql(names, files)).to_arrow_reader(batch_rows):
                for writer, schema, values in zip(writers, schemas, batch.columns, strict=True):
                    writer.write_batch(pa.record_batch([values.cast(schema.field(0).type)], schema=schema))
                rows += batch.num_rows
            for writer in writers:
                writer.close()
        for sink in sinks:
            flush(Path(sink.name))
        if rows != (expected := sum(file.rows for file in files)):
            raise OfflineStoreError(
                "the offline table's files do not have the rows that its log says",
                where=f"{self.table.view_id} version {self.table.version}",
                expected=f"{expected} rows",
                got=f"{rows} rows",
                remedy=f"run `features publish --full {self.table.view_id}`",
            )

    def _read_present(self) -> list[Folder]:
        """The folders there are with rows of this version, those with most of them first."""
        found: list[tuple[int, Folder]] = []
        for path in sorted(self.folder.glob("columns-*")):
            if not whole(path, [_CONTENTS]):
                continue
            with suppress(FileNotFoundError):  # another process removes it just now
                folder = Folder(path, msgspec.json.decode((path / _CONTENTS).read_bytes(), type=Contents))
                rows = sum(file.rows for file in self.table.files() if str(file.path) in folder.starts)
                if rows:
                    found.append((rows, folder))
        found.sort(key=lambda pair: -pair[0])
        return [folder for _, folder in found]


def _take_ascending(values: pa.ChunkedArray, places: Int64s) -> Iterator[tuple[int, pa.Array]]:
    """Parts of `values` at ascending `places`, each with the offset in `places` it begins at."""
    starts = np.array([0, *accumulate(len(chunk) for chunk in values.chunks)], dtype=np.int64)
    edges = np.searchsorted(places, starts)
    for number in np.flatnonzero(np.diff(edges)):
        low, high = edges[number], edges[number + 1]
        chunk: Any = values.chunk(int(number))
        yield int(low), chunk.take(arrow_int64(places[low:high] - starts[number]))


def _scatter(values: pa.Array, places: Int64s, size: int) -> pa.Array:
    """An array of `size` with `values` at `places` and null elsewhere."""
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)):
        source = np.zeros(size, dtype=np.int64)
        present = np.zeros(size, dtype=bool)
        source[places], present[places] = np.arange(len(places)), True
        return values.take(arrow_array(pa.int64(), source, present))
    valid = np.zeros(size, dtype=bool)
    valid[places] = True if values.null_count == 0 else numpy_bools(pc.is_valid(values))
    number = f"i{kind.bit_width // 8}"  # NumPy moves a value as an integer of its width
    numbers = np.zeros(size, dtype=number)
    data: Any = values.buffers()[1]
    numbers[places] = np.frombuffer(data, dtype=number)[values.offset :][: len(values)]
    return arrow_array(values.type, numbers, valid)
