"""A row too long to be taken at once: a short one in its place, and its texts and lists a slice at a time."""

import struct
from collections.abc import Iterator

import numpy as np

from ..dtypes import DType
from .row import RowLayout, list_places

SLICE = 1 << 16  # bytes of a text
ITEMS = 1 << 12  # of a list, a multiple of 8


class SlicedRow:
    """One row of a layout; ValueError where its length is not what it says itself."""

    def __init__(self, layout: RowLayout, row: bytes) -> None:
        self._layout, self._row = layout, row
        if len(row) < layout.width:
            raise ValueError(f"{len(row)} bytes, where the head alone takes {layout.width}")
        self._head = np.frombuffer(row, layout.head_dtype, 1)
        if not layout.whole(self._head, np.array([len(row)])).all():
            raise ValueError(f"{len(row)} bytes, which are not those of its values")

    def short(self) -> bytes:
        """The same row with empty texts and lists."""
        layout, tail = self._layout, b""
        head = bytearray(self._row[: layout.width])
        for i in layout.variable:
            tail += b"\0" if layout.dtypes[i].kind == "list" else b""
            struct.pack_into("<I", head, layout.offsets[i], len(tail))
        return bytes(head) + tail

    def slices(self, i: int) -> Iterator[bytes]:
        """A text or list as stored values, of which the whole consists; ValueError where it is damaged."""
        dtype = self._layout.dtypes[i]
        begin, end = (int(places[0]) for places in self._layout.spans(self._head, i))
        return _of_list(dtype, self._row, begin, end) if dtype.kind == "list" else _of_text(self._row, begin, end)


def _of_text(row: bytes, begin: int, end: int) -> Iterator[bytes]:
    """Cut before a byte that begins a character."""
    while end - begin > SLICE:
        stop = begin + SLICE
        while stop > begin + SLICE - 3 and row[stop] & 0xC0 == 0x80:
            stop -= 1
        yield row[begin:stop]
        begin = stop
    yield row[begin:end]


def _of_list(dtype: DType, row: bytes, begin: int, end: int) -> Iterator[bytes]:
    count, bits, items = list_places(str(dtype.item), row, begin, end)
    width = (end - items) // count if count else 0
    for start in range(0, max(count, 1), ITEMS):
        stop, head = min(start + ITEMS, count), b"\0"
        if bits is not None:
            head = b"\1" + struct.pack("<I", stop - start) + row[bits + start // 8 : bits + (stop + 7) // 8]
        yield head + row[items + start * width : items + stop * width]
