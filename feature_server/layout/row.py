"""One packed row → the values of one (view, entity). `docs/redis_layout.md` describes the bytes.

Pure `struct`, so that the light client needs nothing else; bulk encoding with NumPy lives in `layout.rows`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Sequence
from datetime import date, timedelta
from decimal import Decimal
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ..definitions.facts import Feature
from ..dtypes import DType
from ..errors import DamagedValue
from ..times import EPOCH, EPOCH_DAY, NEVER, from_us

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

STRUCT_FORMATS = {
    "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q",
    "float32": "f", "float64": "d", "bool": "?", "date": "i", "timestamp": "q", "timestamptz": "q", "uuid": "16s",
}  # fmt: skip
UNDECODABLE = (struct.error, ValueError, OverflowError)  # what bytes raise that stand for no value of their type
_PREFIX = "<q"  # what stands before the null bitmap: the event timestamp
_PLAIN_EPOCH = EPOCH.replace(tzinfo=None)


class RowLayout:
    """Where the parts of a packed row of some features lie.

    `fixed` and `variable` are the positions, in the order of features, of those stored in the fixed-width part and of
    those stored behind it. `offsets` says where a feature's value begins, or where the end of its bytes stands; `width`
    is that of the head, which is all but those bytes.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self.names = tuple(feature.name for feature in features)
        self.dtypes = tuple(feature.dtype for feature in features)
        self.fixed = tuple(i for i, dtype in enumerate(self.dtypes) if dtype.fixed_width is not None)
        self.variable = tuple(i for i, dtype in enumerate(self.dtypes) if dtype.fixed_width is None)
        self.bitmap, self.bitmap_width = struct.calcsize(_PREFIX), (len(self.dtypes) + 7) // 8
        self._codes = {i: _struct_format(self.dtypes[i]) for i in self.fixed} | dict.fromkeys(self.variable, "I")
        self.offsets: dict[int, int] = {}
        self.width = self.bitmap + self.bitmap_width
        for i, code in self._codes.items():
            self.offsets[i] = self.width
            self.width += struct.calcsize(f"<{code}")

    def head(self, wanted: Collection[int]) -> struct.Struct:
        """Event timestamp, null bitmap, and of the `wanted` features the values of fixed width and ends of bytes."""
        codes = [code if i in wanted else f"{struct.calcsize(f'<{code}')}x" for i, code in self._codes.items()]
        return struct.Struct(f"{_PREFIX}{self.bitmap_width}s{''.join(codes)}")

    @cached_property
    def head_dtype(self) -> np.dtype[Any]:
        """The head as NumPy has it: `event`, `nulls`, feature 3's value as `v3` or the end of its bytes as `end3`."""
        import numpy as np

        fields: dict[str, tuple[Any, int]] = {
            "event": ("<i8", 0),
            "nulls": ((np.uint8, (self.bitmap_width,)), self.bitmap),
        }
        for i, code in self._codes.items():
            name = f"end{i}" if self.dtypes[i].fixed_width is None else f"v{i}"
            fields[name] = "V16" if code == "16s" else f"<{code}", self.offsets[i]
        formats, offsets = zip(*fields.values(), strict=True)
        return np.dtype({"names": list(fields), "formats": formats, "offsets": offsets, "itemsize": self.width})

    def nulls(self, heads: Array, i: int) -> Array:
        """Whether each row's value of a feature is null."""
        return (heads["nulls"][:, i >> 3] >> (i & 7) & 1).astype(bool)

    def spans(self, heads: Array, i: int) -> tuple[Array, Array]:
        """Where in each row the bytes of a string or list begin and end."""
        place, end = self.variable.index(i), heads[f"end{i}"].astype(int)
        begin = heads[f"end{self.variable[place - 1]}"].astype(int) if place else 0 * end
        return begin + self.width, end + self.width

    def whole(self, heads: Array, lengths: Array) -> Array:
        """Whether each row is as long as it says itself: the ends of its strings and lists rise up to its own."""
        if not self.variable:
            return lengths == self.width
        ends = [heads[f"end{i}"] for i in self.variable]
        fit = ends[-1] == lengths - self.width
        for end, following in pairwise(ends):
            fit &= end <= following
        return fit

    def no_row(self) -> bytes:
        """What stands for a row where there is none: one of nulls that never comes to count."""
        head = struct.pack(_PREFIX, NEVER) + b"\xff" * self.bitmap_width
        return head + bytes(self.width - len(head))


class RowDecoder(RowLayout):
    """Decodes the rows of one feature view."""

    def __init__(self, features: Sequence[Feature]) -> None:
        super().__init__(features)
        self._head = self.head(self.offsets)
        self._from_stored = tuple(from_stored(dtype) for dtype in self.dtypes)

    def decode(self, row: bytes) -> tuple[int, list[Any]]:
        """Event timestamp in microseconds, and the values in the view's order, None for null.

        Raises one of UNDECODABLE for bytes that are no such row.
        """
        event_timestamp_us, bitmap, *stored = self._head.unpack_from(row)
        values, count = dict(zip(self.fixed, stored, strict=False)), len(self.fixed)
        ends = (0, *stored[count:])
        if len(row) != self.width + ends[-1] or any(end > following for end, following in pairwise(ends)):
            raise ValueError(f"{len(row)} bytes, where its ends say {self.width + ends[-1]}")
        spans = pairwise(self.width + end for end in ends)
        values |= {i: row[begin:end] for i, (begin, end) in zip(self.variable, spans, strict=True)}
        for i, convert in enumerate(self._from_stored):
            if bitmap[i >> 3] >> (i & 7) & 1:
                values[i] = None
            elif convert is not None:
                values[i] = convert(values[i])
        return event_timestamp_us, [values[i] for i in range(len(self.dtypes))]


def damaged(view_id: str, what: str, got: str) -> DamagedValue:
    """The error for what Redis holds of a key of a view."""
    return DamagedValue(
        f"{what} of {view_id!r} has another layout than the online registry says", where=view_id, got=got,
        remedy=f"run `features sync {view_id} --full`",
    )  # fmt: skip


def event_timestamp_us(row: bytes) -> int:
    """The event timestamp at the head of a packed row of any view."""
    return int.from_bytes(row[:8], "little", signed=True)


def encode_list(item: str, values: Sequence[Any]) -> bytes:
    """A list of numbers: byte 0 and the items, or, when an item is null, byte 1, count, null bitmap and items."""
    code = STRUCT_FORMATS[item]
    if all(value is not None for value in values):
        return b"\0" + struct.pack(f"<{len(values)}{code}", *values)
    items = struct.pack(f"<{len(values)}{code}", *(0 if value is None else value for value in values))
    return b"\1" + struct.pack("<I", len(values)) + _bitmap(values) + items


def decode_list(item: str, stored: bytes) -> list[Any]:
    """A list of numbers; raises one of UNDECODABLE where the bytes are not those of as many as they say."""
    count, bits, items = list_places(item, stored, 0, len(stored))
    values = struct.unpack_from(f"<{count}{STRUCT_FORMATS[item]}", stored, items)
    if bits is None:
        return list(values)
    return [None if stored[bits + (i >> 3)] >> (i & 7) & 1 else value for i, value in enumerate(values)]


def list_places(item: str, row: bytes, begin: int, end: int) -> tuple[int, int | None, int]:
    """Of a list in a row: how many items it has, and where its null bitmap, if it has one, and its items begin.

    Raises one of UNDECODABLE where the bytes are not those of as many as they say.
    """
    width, kind = struct.calcsize(STRUCT_FORMATS[item]), row[begin : min(begin + 1, end)]
    if kind == b"\0":
        count, bits, items = (end - begin - 1) // width, None, begin + 1
    elif kind == b"\1":
        (count,) = struct.unpack("<I", row[begin + 1 : min(begin + 5, end)])
        bits, items = begin + 5, begin + 5 + (count + 7) // 8
    else:
        raise ValueError("a list that begins with neither 0 nor 1")
    if items + count * width != end:
        raise ValueError(f"a list of {end - begin} bytes, where its items take {items + count * width - begin}")
    return count, bits, items


def _bitmap(values: Sequence[Any]) -> bytes:
    """A bit for each value, 1 where it is null, the lowest first."""
    bits = "".join("01"[value is None] for value in reversed(values))
    return int(bits or "0", 2).to_bytes((len(values) + 7) // 8, "little")


def _struct_format(dtype: DType) -> str:
    """The `struct` code of a fixed-width value."""
    if dtype.kind == "decimal":
        return "q" if dtype.fixed_width == 8 else "16s"
    return STRUCT_FORMATS[dtype.kind]


def from_stored(dtype: DType) -> Callable[[Any], Any] | None:
    """What makes a Python value of what `struct`, or a slice for strings and lists, gives; None if that is one."""
    scale = dtype.scale or 0
    match dtype.kind:
        case "decimal" if dtype.fixed_width == 8:
            return partial(_scaled, scale)
        case "decimal":
            return lambda stored: _scaled(scale, int.from_bytes(stored, "little", signed=True))
        case "list":
            return partial(decode_list, str(dtype.item))
    return _FROM_STORED.get(dtype.kind)


_FROM_STORED: dict[str, Callable[[Any], Any]] = {
    "string": bytes.decode,
    "date": lambda stored: date.fromordinal(stored + EPOCH_DAY),
    "timestamp": lambda stored: _PLAIN_EPOCH + timedelta(microseconds=stored),
    "timestamptz": from_us,
    "uuid": lambda stored: UUID(bytes=stored),
}


def _scaled(scale: int, number: int) -> Decimal:
    digits = tuple(map(int, str(abs(number))))
    return Decimal((1 if number < 0 else 0, digits, -scale))
