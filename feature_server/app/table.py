"""What `serving.rows` and `app.json` do value by value, done for many entities at once with NumPy. Server only.

The fixed part of the rows is looked at as one table; numbers go from it to JSON without a Python object a value.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from ..dtypes import FLOAT_WIDTHS, INTEGER_WIDTHS
from ..layout.row import RowLayout
from ..serving.rows import ViewReader
from ..serving.statuses import NOT_FOUND, NULL_VALUE, absent_at

MIN_ENTITIES = 8  # below, NumPy's overhead is more than it saves
Writer = Callable[[Sequence[Any], Sequence[int] | None], bytes]
Column = tuple[bytes, bytes | None]  # values and statuses as JSON without brackets; None when all are PRESENT
Write = Callable[[npt.NDArray[Any], Sequence[bytes], Sequence[int]], bytes]
_BITS = [[bit for bit in range(8) if flags >> bit & 1] for flags in range(256)]
FEW = 8  # elements that are set faster one by one
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z
PRESENT = b'"PRESENT",'


class TableReader:
    """Reads and writes the features asked for of one view; `writers` are those of `app.json` for single values."""

    def __init__(self, view: ViewReader, writers: Sequence[Writer]) -> None:
        self._view, self._layout = view, view.layout
        self._writes: list[Write] = []
        self._floats: list[tuple[int, str]] = []  # position and field of the features that are written together
        for at, (i, writer) in enumerate(zip(view.wanted, writers, strict=True)):
            kind = self._layout.dtypes[i].kind
            self._writes.append(
                _variable(self._layout, i, writer) if i in self._layout.variable else _fixed(f"v{i}", kind, writer)
            )
            if kind in FLOAT_WIDTHS:
                self._floats.append((at, f"v{i}"))
        self._bits = np.array(view.wanted)
        self._of_bit = {bit: at for at, bit in enumerate(view.wanted)}
        self._no_nulls: list[list[int]] = [[] for _ in view.wanted]

    def write(self, rows: Sequence[bytes | None], now_us: int) -> tuple[bytes, list[Column]] | None:
        """The event timestamps as a JSON array, and each feature's column; None for rows of another layout."""
        present: Sequence[Any] = rows
        try:
            heads = self._heads(present)
        except TypeError:  # None, which is cheaper to meet than to look for
            present = [self._view.no_row if row is None else row for row in rows]
            heads = self._heads(present)
        if len(heads) != len(rows) * self._layout.width:
            return None
        table = np.frombuffer(heads, self._layout.head_dtype)
        event_us = np.ascontiguousarray(table["event"])
        absent = absent_at(event_us, now_us, self._view.ttl_us)
        for i, status in absent.items():
            if status is NOT_FOUND:
                event_us[i] = 0
        nulls = self._nulls(heads, table["nulls"], absent)
        written = self._write_floats(table, nulls)
        columns, empty = [], 0
        for at, (write, missing) in enumerate(zip(self._writes, nulls, strict=True)):
            values = written.get(at)
            if values is None:
                values = write(table, present, missing)[1:-1]
            columns.append((values, _statuses(len(rows), missing, absent)))
            empty += len(missing)
        self._view.counts.add(len(rows), len(nulls), empty, absent)
        return orjson.dumps(event_us.view("M8[us]"), option=_OPTIONS), columns

    def _heads(self, rows: Sequence[bytes]) -> bytes:
        return b"".join([row[: self._layout.width] for row in rows] if self._layout.variable else rows)

    def _nulls(self, heads: bytes, bitmaps: npt.NDArray[np.uint8], absent: dict[int, str]) -> list[list[int]]:
        """For each feature, which entities have no value."""
        rows, width = bitmaps.shape
        planes = [heads[at :: self._layout.width] for at in range(self._layout.bitmap, self._layout.bitmap + width)]
        marked = rows * width - sum(plane.count(0) for plane in planes)
        if marked == 0 and not absent:
            return self._no_nulls
        if marked > rows or absent:
            bits = np.unpackbits(bitmaps, axis=1, bitorder="little")
            if absent:
                bits[list(absent)] = 1
            features, entities = bits.T[self._bits].nonzero()
            bounds = features.searchsorted(np.arange(len(self._bits) + 1)).tolist()
            positions = entities.tolist()
            return [positions[start:stop] for start, stop in pairwise(bounds)]
        found: list[list[int]] = [[] for _ in self._no_nulls]
        for byte, plane in enumerate(planes):
            for entity, flags in enumerate(plane):
                if flags:
                    for bit in _BITS[flags]:
                        if (feature := self._of_bit.get(8 * byte + bit)) is not None:
                            found[feature].append(entity)
        return found

    def _write_floats(self, table: npt.NDArray[Any], nulls: Sequence[Sequence[int]]) -> dict[int, bytes]:
        """The columns of floats by position; none when one of them holds NaN or an infinity."""
        if not self._floats:
            return {}
        numbers = np.empty((len(self._floats), len(table)))
        for i, (_, field) in enumerate(self._floats):
            numbers[i] = table[field]
        if not np.isfinite(numbers).all():
            return {}
        for i, (at, _) in enumerate(self._floats):
            if len(nulls[at]) > FEW:
                numbers[i, nulls[at]] = np.nan  # which orjson writes as null
            else:
                for entity in nulls[at]:
                    numbers[i, entity] = np.nan
        return {
            at: orjson.dumps(column, option=_OPTIONS)[1:-1]
            for (at, _), column in zip(self._floats, numbers, strict=True)
        }


def _fixed(field: str, kind: str, writer: Writer) -> Write:
    """What writes a column of fixed width, given the table, the rows and which entities have no value."""
    as_it_is = kind in INTEGER_WIDTHS or kind == "bool"

    def write(table: npt.NDArray[Any], rows: Sequence[bytes], nulls: Sequence[int]) -> bytes:
        if as_it_is and not nulls:
            return orjson.dumps(np.ascontiguousarray(table[field]), option=_OPTIONS)
        return writer(table[field].tolist(), _flags(len(rows), nulls))

    return write


def _variable(layout: RowLayout, i: int, writer: Writer) -> Write:
    """What writes a column of strings or lists."""

    def write(table: npt.NDArray[Any], rows: Sequence[bytes], nulls: Sequence[int]) -> bytes:
        spans = zip(rows, *(places.tolist() for places in layout.spans(table, i)), strict=True)
        return writer([row[begin:end] for row, begin, end in spans], _flags(len(rows), nulls))

    return write


def _flags(count: int, nulls: Sequence[int]) -> list[int] | None:
    if not nulls:
        return None
    flags = [0] * count
    for i in nulls:
        flags[i] = 1
    return flags


def _statuses(count: int, nulls: Sequence[int], absent: dict[int, str]) -> bytes | None:
    if not nulls:
        return None
    parts: list[bytes] = []
    at = 0
    for i in nulls:
        parts += (PRESENT * (i - at), b'"%b",' % absent.get(i, NULL_VALUE).encode())
        at = i + 1
    return b"".join([*parts, PRESENT * (count - at)])[:-1]
