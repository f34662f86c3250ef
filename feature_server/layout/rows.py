"""Columns of rows → packed rows, many at a time: the bytes that docs/redis_layout.md describes.

A view whose features all have a fixed width is one NumPy structured array; strings and lists are cut from Arrow's own
buffers. Nothing is converted on the way: a value that the row cannot keep, such as an infinite date, is an error that
names it.
"""

import sys
from datetime import date
from itertools import pairwise
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from ..arrow import arrow_type, one_chunk
from ..definitions.facts import FeatureView
from ..dtypes import DType
from ..errors import OnlineStoreError, cut, shown
from ..times import EPOCH_DAY, YEARS_US
from .keys import ESCAPES
from .row import STRUCT_FORMATS, RowLayout, encode_list

Bytes2D: TypeAlias = npt.NDArray[np.uint8]
PackedRows: TypeAlias = "Bytes2D | list[bytes]"  # one row of equal width each, or bytes of any length
pc: Any = compute  # the type stubs know a part of what Arrow's functions and arrays take
Column: TypeAlias = Any  # an Arrow array

MAX_VARIABLE_BYTES = 8 << 20  # of a row, which a server reads and decodes at once
_DAYS = (date.min.toordinal() - EPOCH_DAY, date.max.toordinal() - EPOCH_DAY)
_TIME = DType("timestamptz")
_HEX = np.full(256, 255, dtype=np.uint8)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_HEX[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)
_UUID_DIGITS = [i for i in range(36) if i not in (8, 13, 18, 23)]

if sys.byteorder != "little":
    raise ImportError("packing views Arrow's buffers as little-endian: use a little-endian machine")


class RowPacker:
    """Packs rows of one feature view, given as Arrow tables with its columns as an offline table has them."""

    def __init__(self, view: FeatureView) -> None:
        self.view = view
        self._layout = RowLayout(view.features)

    def event_times(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """The event timestamps in microseconds since 1970 UTC."""
        name = self.view.event_timestamp
        column = self._known(rows, name, _TIME, "an event timestamp")
        return self._within(rows, name, column, _buffer(column, np.dtype("<i8")), YEARS_US)

    def entities(self, rows: pa.Table) -> Column:
        """What each row's key has between its braces: the join key values as `layout.keys.row_key` joins them."""
        texts = [self._key_text(rows, key.name, key.dtype) for key in self.view.join_keys]
        if len(texts) == 1:
            return texts[0]
        return pc.binary_join_element_wise(*texts, pa.scalar("|", pa.large_string()))

    def pack(self, rows: pa.Table) -> PackedRows:
        """The packed rows, in order."""
        layout, count = self._layout, rows.num_rows
        columns = [self._column(rows, feature.name, feature.dtype) for feature in self.view.features]
        heads = np.zeros(count, dtype=layout.head_dtype)
        heads["event"] = self.event_times(rows)
        nulls = [column.null_count > 0 for column in columns]
        if any(nulls):
            bits = np.zeros((count, len(columns)), dtype=np.uint8)
            for i in np.flatnonzero(nulls).tolist():
                bits[:, i] = _nulls(columns[i])
            heads["nulls"] = np.packbits(bits, axis=1, bitorder="little")
        for i in layout.fixed:
            heads[f"v{i}"] = self._fixed(rows, i, columns[i])
        if not layout.variable:
            return heads.view(np.uint8).reshape(count, layout.width)
        tails, lengths = [], np.zeros(count, dtype=np.int64)
        for i in layout.variable:
            dtype = layout.dtypes[i]
            tail = text_bytes(columns[i]) if dtype.kind == "string" else _lists(columns[i], dtype)
            for null in np.flatnonzero(_nulls(columns[i])) if nulls[i] else ():
                tail[null] = b""
            lengths += np.fromiter(map(len, tail), dtype=np.int64, count=count)
            if count and int(lengths.max()) > MAX_VARIABLE_BYTES:
                row = int(lengths.argmax())
                expected = f"at most {MAX_VARIABLE_BYTES:,} bytes of strings and lists in a row"
                raise self._cannot_keep(rows, layout.names[i], row, expected)
            heads[f"end{i}"] = lengths
            tails.append(tail)
        stored, width = heads.tobytes(), layout.width
        starts = range(0, count * width, width)
        return list(map(b"".join, zip([stored[at : at + width] for at in starts], *tails, strict=True)))

    def _column(self, rows: pa.Table, name: str, dtype: DType) -> Column:
        """The column in the Arrow type its bytes are cut from, cast without loss."""
        column = one_chunk(rows[name])
        target = _arrow_type(dtype, column.type)
        if column.type == target:
            return column
        try:
            return column.cast(target, safe=True)
        except pa.ArrowInvalid as error:
            raise OnlineStoreError(
                f"the offline table holds a value that is not of type {dtype}",
                where=f"{self.view.id}:{name}",
                got=str(error),
                remedy=f"correct the model, then `features publish {self.view.id}`",
            ) from None

    def _known(self, rows: pa.Table, name: str, dtype: DType, what: str) -> Column:
        """A column that has no null."""
        column = self._column(rows, name, dtype)
        if column.null_count:
            raise self._cannot_keep(rows, name, int(np.flatnonzero(_nulls(column))[0]), what)
        return column

    def _fixed(self, rows: pa.Table, i: int, column: Column) -> npt.NDArray[Any]:
        """Stored values of a fixed-width feature; zeros where it is null."""
        name, dtype = self._layout.names[i], self._layout.dtypes[i]
        values: npt.NDArray[Any]
        if dtype.kind == "bool":
            values = _buffer(column.cast(pa.uint8()), np.dtype(np.uint8))
        elif dtype.kind == "uuid":
            values = self._uuids(rows, name, column)
        elif dtype.kind == "decimal":
            values = _buffer(column, np.dtype("V16"))
            if dtype.fixed_width == 8:
                values = values.view("<i8").reshape(len(column), 2)[:, 0]
        elif dtype.is_timestamp:
            values = self._within(rows, name, column, _buffer(column, np.dtype("<i8")), YEARS_US)
        elif dtype.kind == "date":
            values = self._within(rows, name, column, _buffer(column, np.dtype("<i4")), _DAYS)
        else:
            values = _buffer(column, np.dtype("<" + STRUCT_FORMATS[dtype.kind]))
        if column.null_count:
            values = values.copy()
            values[_nulls(column)] = np.zeros(1, dtype=values.dtype)[0]
        return values

    def _uuids(self, rows: pa.Table, name: str, column: Column) -> npt.NDArray[Any]:
        """UUIDs, kept offline as text, as 16 bytes each."""
        if pa.types.is_fixed_size_binary(column.type):
            return _buffer(column, np.dtype("V16"))
        if column.null_count:
            column = column.fill_null(str(UUID(int=0)))
        offsets, data = text_buffers(column)
        if len(column) and bool((np.diff(offsets) == 36).all()):
            digits = _HEX[data[offsets[0] : offsets[-1]].reshape(-1, 36)[:, _UUID_DIGITS]]
            if digits.max() < 16:
                return np.ascontiguousarray(digits[:, 0::2] << 4 | digits[:, 1::2]).view("V16")[:, 0]
        values = []
        for row, text in enumerate(column.to_pylist()):
            try:
                values.append(UUID(text).bytes)
            except ValueError:
                raise self._cannot_keep(rows, name, row, "a UUID") from None
        return np.frombuffer(b"".join(values), dtype="V16")

    def _key_text(self, rows: pa.Table, name: str, dtype: DType) -> Column:
        column = self._known(rows, name, dtype, "a join key")
        if dtype.kind == "date":
            self._within(rows, name, column, _buffer(column, np.dtype("<i4")), _DAYS)
        if dtype.kind == "uuid":
            return pa.array(
                [str(UUID(bytes=bytes(value))) for value in self._uuids(rows, name, column)], pa.large_string()
            )
        if dtype.kind != "string":
            return column.cast(pa.large_string())
        for character, escaped in ESCAPES.items():
            if pc.any(pc.match_substring(column, character)).as_py():
                column = pc.replace_substring(column, character, escaped)
        empty = pc.equal(column, "")
        return pc.if_else(empty, "%", column) if pc.any(empty).as_py() else column

    def _within(
        self, rows: pa.Table, name: str, column: Column, values: npt.NDArray[Any], limits: tuple[int, int]
    ) -> npt.NDArray[Any]:
        """The values, all of which a Python date or datetime can hold, or an error."""
        if len(values) and (int(values.min()) < limits[0] or int(values.max()) > limits[1]):
            outside = np.flatnonzero(((values < limits[0]) | (values > limits[1])) & ~_nulls(column))
            if len(outside):
                raise self._cannot_keep(rows, name, int(outside[0]), "a finite date or time of the years 1 to 9999")
        return values

    def _cannot_keep(self, rows: pa.Table, name: str, row: int, expected: str) -> OnlineStoreError:
        keys = {key: _shown(rows[key][row]) for key in self.view.key_names}
        return OnlineStoreError(
            "a value that the online store cannot keep",
            where=f"{self.view.id}:{name} of " + ", ".join(f"{key}={value}" for key, value in keys.items()),
            expected=expected,
            got=_shown(rows[name][row]),
            remedy=f"correct the model, then `features publish {self.view.id}` and `features sync {self.view.id}`",
        )


def _arrow_type(dtype: DType, given: pa.DataType) -> pa.DataType:
    if dtype.is_timestamp:
        return pa.timestamp("us", given.tz if pa.types.is_timestamp(given) else None)
    if dtype.kind == "list":
        return pa.large_list(arrow_type(DType(str(dtype.item))))
    if dtype.kind == "uuid" and pa.types.is_fixed_size_binary(given):
        return given
    return pa.large_string() if dtype.kind in ("string", "uuid") else arrow_type(dtype)


def _nulls(column: Column) -> npt.NDArray[np.bool_]:
    if column.null_count == 0:
        return np.zeros(len(column), dtype=np.bool_)
    return column.is_null().to_numpy(zero_copy_only=False)


def _buffer(column: Column, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The values as Arrow keeps them, one per row; undefined where null."""
    buffer: Any = column.buffers()[1]
    if buffer is None:
        return np.zeros(len(column), dtype=dtype)
    return np.frombuffer(buffer, dtype=dtype, count=column.offset + len(column))[column.offset :]


def text_buffers(column: Column) -> tuple[npt.NDArray[np.int64], Bytes2D]:
    """Offsets (one more than rows) and bytes of a large string column."""
    buffers: Any = column.buffers()
    _, offsets, data = buffers
    starts = np.frombuffer(offsets, dtype=np.int64, count=column.offset + len(column) + 1)[column.offset :]
    return starts, np.frombuffer(data if data is not None else b"", dtype=np.uint8)


def text_bytes(column: Column) -> list[bytes]:
    """The UTF-8 bytes of each string; a null has none."""
    offsets, data = text_buffers(column)
    ends = offsets.tolist()
    start = ends[0]
    stored = data[start : ends[-1]].tobytes()
    return [stored[a - start : b - start] for a, b in pairwise(ends)]


def _lists(column: Column, dtype: DType) -> list[bytes]:
    if len(column) == 0:
        return []
    items, item = column.flatten(), str(dtype.item)
    if items.null_count:
        return [b"" if value is None else encode_list(item, value) for value in column.to_pylist()]
    stored = _buffer(items, np.dtype("<" + STRUCT_FORMATS[item])).tobytes()
    width = np.dtype(STRUCT_FORMATS[item]).itemsize
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy() * width
    ends = np.cumsum(lengths).tolist()
    return [b"\0" + stored[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def _shown(value: pa.Scalar) -> str:
    try:
        return cut(value.as_py()) if pa.types.is_string(value.type) else shown(value.as_py())
    except (OverflowError, ValueError):  # a date or time outside Python's years
        return str(value.value) if hasattr(value, "value") else str(value)
