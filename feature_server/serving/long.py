"""A row too long to be written at once: a short one in its place, and its texts and lists a slice at a time."""

import struct
from collections.abc import Iterator
from itertools import pairwise

from ..dtypes import DType
from ..layout.row import STRUCT_FORMATS
from .plan import LONG_ROWS
from .reader import OnlineFeatures
from .rows import ViewReader

SLICE = 1 << 16  # bytes of a text
ITEMS = 1 << 12  # of a list, a multiple of 8


class LongRow:
    """One row, whose values are laid out as the online registry says."""

    def __init__(self, view: ViewReader, row: bytes) -> None:
        self._layout, self._row = view.layout, row
        offsets, width = view.layout.offsets, view.layout.width
        ends = [0, *(struct.unpack_from("<I", row, offsets[i])[0] for i in view.layout.variable)]
        if ends != sorted(ends) or len(row) != width + ends[-1]:
            raise ValueError(f"{len(row)} bytes, which are not those of its values")
        spans = pairwise(width + end for end in ends)
        self._spans = dict(zip(view.layout.variable, spans, strict=True))

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
        begin, end = self._spans[i]
        return _of_list(dtype, self._row, begin, end) if dtype.kind == "list" else _of_text(self._row, begin, end)


def long_rows(answer: OnlineFeatures) -> dict[int, LongRow]:
    """The long rows of one entity, by view; none of a damaged one, which is told as such when it is read."""
    found: dict[int, LongRow] = {}
    if answer.count != 1:
        return found
    for number, view in enumerate(answer.plan.views):
        row = answer.rows[number][0]
        if row is not None and len(row) > LONG_ROWS and not view.stream and view.layout.variable:
            try:
                found[number] = LongRow(view, row)
            except (ValueError, struct.error):
                continue
    return found


def shortened(answer: OnlineFeatures, rows: dict[int, LongRow]) -> OnlineFeatures:
    """The same answer with short rows in place of the long ones."""
    short: list[list[bytes | None]] = [
        [rows[number].short()] if number in rows else each for number, each in enumerate(answer.rows)
    ]
    return OnlineFeatures(answer.plan, answer.count, answer.entities, short, answer.now_us)


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
    """As `layout.row.encode_list` writes them."""
    width, kind = struct.calcsize(STRUCT_FORMATS[str(dtype.item)]), row[begin : min(begin + 1, end)]
    if kind == b"\0":
        count, bits, items = (end - begin - 1) // width, begin, begin + 1
    elif kind == b"\1" and end - begin >= 5:
        (count,) = struct.unpack_from("<I", row, begin + 1)
        bits = begin + 5
        items = bits + (count + 7) // 8
    else:
        raise ValueError("a list that begins with neither 0 nor 1")
    if items + count * width != end:
        raise ValueError(f"a list of {end - begin} bytes, where its items take {items + count * width - begin}")
    for start in range(0, max(count, 1), ITEMS):
        stop = min(start + ITEMS, count)
        head = kind
        if kind == b"\1":
            head += struct.pack("<I", stop - start) + row[bits + start // 8 : bits + (stop + 7) // 8]
        yield head + row[items + start * width : items + stop * width]
