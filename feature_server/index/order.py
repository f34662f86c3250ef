"""The order of a view's rows by (join keys, event, created timestamp, place), as arrays in files of raw int64.

    keys.arrow    one row per group, the rows of one key: the join keys, in ascending order
    starts        groups + 1: where each group starts
    event_us      the event time of each row, in microseconds since 1970 UTC
    created_us    the created time, NO_CREATED where null; absent for a view without
    positions     the row's place among all rows of the table's files, which `index.columns` takes

Rows with a null join key or event timestamp can never be found and are left out.
"""

from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import IO, NamedTuple, Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..definitions.facts import FeatureView
from ..durable import flush
from ..offline.sql import INSTANT, Column, literal, quote, restore
from ..offline.store import FILE_SHIFT, PLACE, OfflineTable
from ..point_in_time import NO_CREATED, History, Int64s
from .files import Mapped

_BATCH_ROWS = 1 << 18


class Order(NamedTuple):
    """The opened files."""

    keys: pa.Table
    history: History
    positions: Int64s
    maps: tuple[Mapped, ...]

    @classmethod
    def open(cls, path: Path, view: FeatureView) -> Self:
        names = ["starts", "event_us", "positions"] + (["created_us"] if view.created_timestamp is not None else [])
        maps = {name: Mapped(path / name) for name in names}
        arrays = {name: mapped.int64s for name, mapped in maps.items()}
        history = History(arrays["starts"], arrays["event_us"], arrays.get("created_us"))
        return cls(Mapped(path / "keys.arrow").arrow(), history, arrays["positions"], tuple(maps.values()))

    def release(self) -> None:
        """Gives back the memory of what was touched."""
        for mapped in self.maps:
            mapped.release()


def build_order(connection: duckdb.DuckDBPyConnection, table: OfflineTable, path: Path) -> None:
    """Sorts the table's rows with DuckDB, which spills beyond its memory limit, and writes the files to `path`."""
    view = table.view()
    path.mkdir()
    offsets = np.array([0, *accumulate(file.rows for file in table.files())], dtype=np.int64)
    names = ["event_us"] + (["created_us"] if view.created_timestamp is not None else [])
    batches = _sorted_batches(connection, table)
    schema = pa.schema([field.with_name(name) for field, name in zip(batches.schema, view.key_names, strict=False)])
    with ExitStack() as stack:
        files = {
            name: stack.enter_context((path / name).open("wb"))
            for name in (*names, "positions", "starts", "keys.arrow")
        }
        keys = stack.enter_context(pa.ipc.new_file(files["keys.arrow"], schema))
        rows = 0
        last: list[pa.Scalar] = []
        for batch in filter(len, batches):
            columns = batch.columns[: len(view.join_keys)]
            new_group = _starts_group(columns, last)
            keys.write_batch(pa.record_batch([column.filter(pa.array(new_group)) for column in columns], schema=schema))
            _write(files["starts"], np.flatnonzero(new_group) + rows)
            for name, times in zip(names, batch.columns[len(columns) :], strict=False):
                _write(files[name], times.to_numpy())
            place = batch.columns[-1].to_numpy()
            _write(files["positions"], offsets[place >> FILE_SHIFT] + (place & ((1 << FILE_SHIFT) - 1)))
            rows += batch.num_rows
            last = [column[-1] for column in columns]
        _write(files["starts"], np.array([rows]))
    for name in files:
        flush(path / name)


def _sorted_batches(connection: duckdb.DuckDBPyConnection, table: OfflineTable) -> pa.RecordBatchReader:
    """Batches of every row's join keys, event_us, created_us (for a view that has one) and place, sorted."""
    view = table.view()
    parts = [restore(Column(key.name, key.dtype)) for key in view.join_keys]
    parts.append(f"epoch_us({restore(Column(view.event_timestamp, INSTANT))})")
    if view.created_timestamp is not None:
        parts.append(f"coalesce(epoch_us({restore(Column(view.created_timestamp, INSTANT))}), {NO_CREATED})")
    if table.files():
        paths = ", ".join(literal(str(file.path)) for file in table.files())
        source = f"read_parquet([{paths}], hive_partitioning = false, file_row_number = true)"
        parts.append(PLACE)
    else:
        source = f"({table.scan_sql()})"
        parts.append("0::bigint")
    select = ", ".join(f"{part} as c{number}" for number, part in enumerate(parts))
    present = " and ".join(f"{quote(name)} is not null" for name in (*view.key_names, view.event_timestamp))
    order = ", ".join(str(number + 1) for number in range(len(parts)))
    connection.execute("set preserve_insertion_order = false")
    return connection.sql(f"select {select} from {source} where {present} order by {order}").to_arrow_reader(
        _BATCH_ROWS
    )


def _starts_group(columns: list[pa.Array], last: list[pa.Scalar]) -> np.ndarray:
    """Whether each row's keys differ from those of the row before; `last` holds the keys before the first row."""
    changed = np.zeros(len(columns[0]), dtype=bool)
    changed[0] = not last or any(column[0] != key for column, key in zip(columns, last, strict=True))
    for column in columns:
        changed[1:] |= pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    return changed


def _write(file: IO[bytes], values: np.ndarray) -> None:
    file.write(np.ascontiguousarray(values, dtype=np.int64).data)
