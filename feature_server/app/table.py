"""What `serving.rows` and `app.json` do value by value, done for many entities at once with NumPy. Server only.

The fixed part of the rows is looked at as one table; numbers go from it to JSON without a Python object a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from ..dtypes import FLOAT_WIDTHS, INTEGER_WIDTHS
from ..serving.rows import NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE, ViewReader

MIN_ENTITIES = 8  # below, NumPy's overhead is more than it saves
Writer = Callable[[Sequence[Any], Sequence[int] | None], bytes]
Column = tuple[bytes, bytes | None]  # values and statuses as JSON without brackets; None when all are PRESENT
Write = Callable[[npt.NDArray[Any], Sequence[bytes], Sequence[int]], bytes]
_BITS = [[bit for bit in range(8) if flags >> bit & 1] for flags in range(256)]
FEW = 8  # elements that are set faster one by one
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z
_PRESENT = b'"PRESENT",'


class TableReader:
    """Reads and writes the features asked for of one view; `writers` are those of `app.json` for single values."""

    def __init__(self, view: ViewReader, writers: Sequence[Writer]) -> None:
        self._view = view
        stored = view.online.definition.features
        bitmap = (len(stored) + 7) // 8
        offsets, offset = {}, 8 + bitmap
        for feature in stored:
            if feature.dtype.fixed_width is not None:
                offsets[feature.name] = offset
                offset += feature.dtype.fixed_width
        variable = [feature.name for feature in stored if feature.dtype.fixed_width is None]
        ends = {name: offset + 4 * i for i, name in enumerate(variable)}
        self._width = offset + 4 * len(variable)
        self._fixed = not variable
        self._no_row = bytes(8) + b"\xff" * bitmap + bytes(self._width - 8 - bitmap)
        position = {feature.name: i for i, feature in enumerate(stored)}
        fields: dict[str, tuple[Any, int]] = {"event": ("<i8", 0), "nulls": (("u1", bitmap), 8)}
        self._writes: list[Write] = []
        self._floats: list[tuple[int, str]] = []  # position and field of the features that are written together
        for at, (feature, writer) in enumerate(zip(view.features, writers, strict=True)):
            name, kind = feature.name, feature.dtype.kind
            if name in ends:
                fields[f"end {name}"] = ("<u4", ends[name])
                start = None
                if ends[name] > offset:
                    start = f"start {name}"
                    fields[start] = ("<u4", ends[name] - 4)
                self._writes.append(_variable(start, f"end {name}", self._width, writer))
            else:
                field = f"value {name}"
                fields[field] = (_format(kind, feature.dtype.fixed_width or 0), offsets[name])
                self._writes.append(_fixed(field, kind, writer))
                if kind in FLOAT_WIDTHS:
                    self._floats.append((at, field))
        self._bits = np.array([position[feature.name] for feature in view.features])
        self._of_bit = {bit: i for i, bit in enumerate(self._bits.tolist())}
        self._no_nulls: list[list[int]] = [[] for _ in view.features]
        self._row = np.dtype(
            {
                "names": list(fields),
                "formats": [form for form, _ in fields.values()],
                "offsets": [at for _, at in fields.values()],
                "itemsize": self._width,
            }
        )

    def write(self, rows: Sequence[bytes | None], now_us: int) -> tuple[bytes, list[Column]] | None:
        """The event timestamps as a JSON array, and each feature's column; None for rows of another layout."""
        absent: dict[int, str] = {}
        present: Sequence[Any] = rows
        try:
            heads = self._heads(present)
        except TypeError:  # None, which is cheaper to meet than to look for
            absent = {i: NOT_FOUND for i, row in enumerate(rows) if row is None}
            present = [self._no_row if row is None else row for row in rows]
            heads = self._heads(present)
        if len(heads) != len(rows) * self._width:
            return None
        table = np.frombuffer(heads, self._row)
        event_us = self._valid(np.ascontiguousarray(table["event"]), now_us, absent)
        nulls = self._nulls(heads, table["nulls"], absent)
        written = self._write_floats(table, nulls)
        columns, empty = [], 0
        for at, (write, missing) in enumerate(zip(self._writes, nulls, strict=True)):
            values = written.get(at)
            if values is None:
                values = write(table, present, missing)[1:-1]
            columns.append((values, _statuses(len(rows), missing, absent)))
            empty += len(missing)
        self._count(len(rows), empty, absent)
        return orjson.dumps(event_us.view("M8[us]"), option=_OPTIONS), columns

    def _valid(self, event_us: npt.NDArray[np.int64], now_us: int, absent: dict[int, str]) -> npt.NDArray[np.int64]:
        """The event timestamps; rows that do not count at `now_us` are added to `absent`."""
        ttl_us = self._view.ttl_us
        if event_us.max() > now_us or (ttl_us is not None and event_us.min() < now_us - ttl_us):
            expired = event_us < now_us - ttl_us if ttl_us is not None else np.zeros(len(event_us), bool)
            for i in np.flatnonzero(expired | (event_us > now_us)).tolist():
                if i not in absent:
                    absent[i] = OUTSIDE_MAX_AGE if expired[i] else NOT_FOUND
                if absent[i] is NOT_FOUND:
                    event_us[i] = 0
        return event_us

    def _heads(self, rows: Sequence[bytes]) -> bytes:
        return b"".join(rows if self._fixed else [row[: self._width] for row in rows])

    def _nulls(self, heads: bytes, bitmaps: npt.NDArray[np.uint8], absent: dict[int, str]) -> list[list[int]]:
        """For each feature, which entities have no value."""
        rows, width = bitmaps.shape
        planes = [heads[8 + byte :: self._width] for byte in range(width)]
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

    def _count(self, rows: int, empty: int, absent: dict[int, str]) -> None:
        counts, features = self._view.counts, len(self._writes)
        counts.present += rows * features - empty
        if empty:
            expired = sum(1 for status in absent.values() if status is OUTSIDE_MAX_AGE)
            counts.outside_max_age += expired * features
            counts.not_found += (len(absent) - expired) * features
            counts.null_value += empty - len(absent) * features


def _fixed(field: str, kind: str, writer: Writer) -> Write:
    """What writes a column of fixed width, given the table, the rows and which entities have no value."""

    def numbers(table: npt.NDArray[Any], rows: Sequence[bytes], nulls: Sequence[int]) -> bytes:
        if nulls:
            return writer(table[field].tolist(), _flags(len(rows), nulls))
        return orjson.dumps(np.ascontiguousarray(table[field]), option=_OPTIONS)

    def others(table: npt.NDArray[Any], rows: Sequence[bytes], nulls: Sequence[int]) -> bytes:
        return writer(table[field].tolist(), _flags(len(rows), nulls))

    return numbers if kind in INTEGER_WIDTHS or kind == "bool" else others


def _variable(start: str | None, end: str, base: int, writer: Writer) -> Write:
    """What writes a column of strings or lists, whose bytes reach from `start` to `end`, counted from `base`."""

    def write(table: npt.NDArray[Any], rows: Sequence[bytes], nulls: Sequence[int]) -> bytes:
        ends = (table[end] + base).tolist()
        if start is None:
            stored = [row[base:stop] for row, stop in zip(rows, ends, strict=True)]
        else:
            starts = (table[start] + base).tolist()
            stored = [row[begin:stop] for row, begin, stop in zip(rows, starts, ends, strict=True)]
        return writer(stored, _flags(len(rows), nulls))

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
        parts += (_PRESENT * (i - at), b'"%b",' % absent.get(i, NULL_VALUE).encode())
        at = i + 1
    return b"".join([*parts, _PRESENT * (count - at)])[:-1]


def _format(kind: str, width: int) -> str:
    if kind == "bool":
        return "?"
    if width == 16:
        return "V16"
    return f"<{kind[0] if kind in INTEGER_WIDTHS or kind in FLOAT_WIDTHS else 'i'}{width}"
