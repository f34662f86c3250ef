"""A local index of one version of a view's offline table, for finding rows by key and time without decoding Parquet.

It is built once a version, on first use, and then read through memory maps: the rows' order by (join keys, event,
created) in `index.order`, the features' values in `index.columns`. It is a cache: safe to delete, built anew when
absent or damaged (`index.seal`).
"""

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow import arrow_int64, numpy_bools, numpy_integers
from ..dtypes import INTEGER_WIDTHS
from ..errors import OfflineStoreError, SettingsError
from ..offline.damage import check_present, reading
from ..offline.session import connect
from ..offline.sql import literal
from ..offline.store import OfflineTable
from ..point_in_time import NO_ROW, Int64s, rows_at
from .columns import Columns
from .files import move_into_place, scratch_in, touch
from .order import Order, build_order
from .seal import put_away, whole

KEEP_VERSIONS = 3
_FORMAT = b"2"  # of the files; another format is another folder
_ABANDONED_SECONDS = 24 * 3600
_SPAN = 1 << 21  # rows of the history that are searched before their memory is given back
_AMOUNT = re.compile(r"\d+(\.\d+)?\s*[KMGT]i?B", re.IGNORECASE)

_log = logging.getLogger(__name__)
Notice: TypeAlias = Callable[[str], None]


class Index:
    """The index of one table version; open it with `open_index`, and use it while that version's files exist.

    `history` has the rows' groups and times, sorted.
    """

    def __init__(self, columns: Columns, order_path: Path) -> None:
        self.view, self.version = columns.table.view(), columns.table.version
        self.order_name = order_path.name.removeprefix("order-")
        self._order, self._columns = Order.open(order_path, self.view), columns
        self.history = self._order.history
        self.rows = len(self.history.event_us)

    def in_order(self, names: Sequence[str]) -> list[pa.Array]:
        """The values of the columns `names` of all rows, in the order of `history`."""
        return self._columns.take(names, self._order.positions)

    def find(
        self,
        keys: Sequence[pa.Array],
        at_us: Int64s,
        *,
        ttl_us: int | None = None,
        as_known: bool = False,
        known_after_us: int = 0,
    ) -> Int64s:
        """By the point-in-time rule, the row of each key at its time: n positions for `take`, negative where none.

        `keys` holds one array per join key, in the view's order and of its types; a null in any of them finds nothing.
        """
        groups = self.groups(keys)
        order = np.argsort(groups)
        order = order[np.searchsorted(groups[order], 0) :]
        first = self.history.starts[groups[order]]
        edges = np.searchsorted(first, np.arange(0, self.rows + _SPAN, _SPAN))
        positions = np.full(len(groups), NO_ROW, dtype=np.int64)
        for low, high in pairwise(edges.tolist()):
            part = order[low:high]
            if len(part):
                rows = rows_at(
                    self.history, groups[part], at_us[part],
                    ttl_us=ttl_us, as_known=as_known, known_after_us=known_after_us,
                )  # fmt: skip
                part, rows = part[rows >= 0], rows[rows >= 0]
                positions[part] = self._order.positions[rows]
                self._order.release()
        return positions

    def take(self, names: Sequence[str], positions: Int64s) -> list[pa.Array]:
        """The values of the columns `names` at positions that `find` gave; null where negative."""
        return self._columns.take(names, positions)

    def groups(self, keys: Sequence[pa.Array]) -> Int64s:
        """The group of each key, -1 for keys that the history does not have."""
        known = self._order.keys
        if known.num_rows == 0:
            return np.full(len(keys[0]), -1, dtype=np.int64)
        if len(keys) == 1 and self.view.join_keys[0].dtype.kind in INTEGER_WIDTHS:
            return _search(known.column(0), keys[0])
        return _join(known, keys)


def _search(known: pa.ChunkedArray, key: Any) -> Int64s:
    """Groups of one integer key: `known` is sorted."""
    values = np.concatenate([numpy_integers(chunk) for chunk in known.chunks])
    wanted = numpy_integers(key)
    order = np.argsort(wanted)  # a search for sorted values touches each part of `known` once
    groups = np.empty(len(wanted), dtype=np.int64)
    groups[order] = np.searchsorted(values, wanted[order])
    absent = values[np.minimum(groups, len(values) - 1)] != wanted
    groups[absent] = -1
    if key.null_count:
        groups[numpy_bools(pc.is_null(key))] = -1
    return groups


def _join(known: pa.Table, keys: Sequence[pa.Array]) -> Int64s:
    """Groups of keys of any number and type, by DuckDB's hash join."""
    names = [f"k{i}" for i in range(len(keys))]
    groups = np.full(len(keys[0]), -1, dtype=np.int64)
    wanted = pa.table([*keys, arrow_int64(np.arange(len(groups)))], names=[*names, "n"])
    known = pa.table([*known.columns, arrow_int64(np.arange(known.num_rows))], names=[*names, "g"])
    with duckdb.connect() as connection:
        connection.register("wanted", wanted)
        connection.register("known", known)
        found = connection.execute(f"select n, g from wanted join known using ({', '.join(names)})").fetchnumpy()
    groups[np.asarray(found["n"])] = np.asarray(found["g"])
    return groups


def open_index(
    table: OfflineTable,
    names: Sequence[str],
    root: Path,
    *,
    memory_limit: str | None = None,
    notice: Notice = lambda text: None,
) -> Index:
    """The index of a table version with the columns `names`, built under `root` as far as it is not there yet.

    Building stays within `memory_limit` (such as `1GB`; None: DuckDB's default) by spilling to `root`. Several
    processes may do this at once; the files of a finished part appear by renaming.
    """
    folder = root / table.view_id
    if os.path.lexists(folder) and not folder.is_dir():
        put_away(folder)
    order_path = folder / f"order-{_content_hash(table)}"
    columns = Columns(table, folder)
    missing = columns.missing(names)
    if missing or not whole(order_path):
        notice(f"indexing {table.view_id} version {table.version}")
        _build(columns, order_path, names, memory_limit)
    touch(order_path)
    columns.touch()
    return Index(columns, order_path)


def _build(columns: Columns, order_path: Path, names: Sequence[str], memory_limit: str | None) -> None:
    table, folder = columns.table, columns.folder
    try:
        with scratch_in(folder) as scratch, connect(scratch / "spill") as connection, reading(table):
            check_present(table)
            _limit_memory(connection, memory_limit)
            if not order_path.exists():
                build_order(connection, table, scratch / order_path.name)
                move_into_place(scratch / order_path.name, order_path)
            columns.add(connection, names, scratch)
            columns.touch()
    except duckdb.OutOfMemoryException as error:
        raise SettingsError(
            "the memory limit is too small to build the index",
            where=table.view_id,
            got=f"memory_limit={memory_limit}: {str(error).splitlines()[0]}",
            remedy="give a larger memory limit",
        ) from None
    except (duckdb.IOException, OSError) as error:
        raise OfflineStoreError(
            "a file of the offline table cannot be read, or the index cannot be written",
            where=f"{table.view_id} version {table.version}",
            got=str(error).splitlines()[0],
            remedy=f"see that the disk has room; `features publish {table.view_id}` writes a new version",
        ) from None
    _remove_old(folder, keep=order_path)


def discard(root: Path, view_id: str, reason: object) -> None:
    """Put away all of a view's index, which is built anew when it is next opened."""
    _log.warning("the index of %s is built anew, for it cannot be read: %s", view_id, reason)
    for path in (root / view_id).glob("[!.]*"):
        put_away(path)


def _limit_memory(connection: duckdb.DuckDBPyConnection, memory_limit: str | None) -> None:
    if memory_limit is None:
        return
    if not _AMOUNT.fullmatch(memory_limit):
        raise SettingsError(
            "not an amount of memory",
            where="memory_limit",
            expected="a number and a unit, such as 500MB or 2GB",
            got=repr(memory_limit),
        )
    connection.execute(f"set memory_limit = {literal(memory_limit)}")


def _content_hash(table: OfflineTable) -> str:
    """The same for versions of the same rows, join keys and times, so that they share an order."""
    view = table.view()
    digest = hashlib.sha256(_FORMAT)
    for part in (
        *(f"{key.name} {key.dtype}" for key in view.join_keys),
        view.event_timestamp,
        view.created_timestamp or "",
        *(str(file.path) for file in table.files()),
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:24]


def _remove_old(folder: Path, *, keep: Path) -> None:
    """Removes the orders least recently used, what they alone used, and what a killed build left behind."""
    others = sorted((path for path in folder.glob("order-*") if path != keep), key=_last_use, reverse=True)
    kept, removed = others[: KEEP_VERSIONS - 1], others[KEEP_VERSIONS - 1 :]
    unused = [path for path in folder.glob("columns-*") if removed and _last_use(path) < _last_use(kept[-1]) - 1]
    abandoned = [path for path in folder.glob(".building-*") if _last_use(path) < time.time() - _ABANDONED_SECONDS]
    events = [path.with_name(path.name.replace("order-", "events-")) for path in removed]
    for path in (*removed, *events, *unused, *abandoned):
        shutil.rmtree(path, ignore_errors=True)


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
