"""One packed row of Python values, as docs/redis_layout.md describes it: what packing is tested by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import accumulate
from typing import Any

from feature_server.dtypes import DType
from feature_server.layout.row import RowDecoder, encode_list
from feature_server.times import EPOCH, length_us


class RowCodec(RowDecoder):
    """Encodes rows too."""

    def encode(self, event_timestamp_us: int, values: Sequence[Any]) -> bytes:
        """The packed row of `values`, one a feature in the view's order, None for null."""
        stored = [
            None if value is None else _stored(dtype, value) for dtype, value in zip(self.dtypes, values, strict=True)
        ]
        wide = {i for i in self.fixed if self.dtypes[i].fixed_width == 16}
        fixed = [(b"" if i in wide else 0) if stored[i] is None else stored[i] for i in self.fixed]
        tails = [stored[i] or b"" for i in self.variable]
        ends = accumulate(map(len, tails))
        return self._head.pack(event_timestamp_us, _bitmap(values), *fixed, *ends) + b"".join(tails)


def _bitmap(values: Sequence[Any]) -> bytes:
    number = sum(1 << i for i, value in enumerate(values) if value is None)
    return number.to_bytes((len(values) + 7) // 8, "little")


def _stored(dtype: DType, value: Any) -> Any:
    scale = dtype.scale or 0
    match dtype.kind:
        case "decimal" if dtype.fixed_width == 8:
            return _unscaled(scale, value)
        case "decimal":
            return _unscaled(scale, value).to_bytes(16, "little", signed=True)
        case "list":
            return encode_list(str(dtype.item), value)
    return _STORED.get(dtype.kind, lambda value: value)(value)


_STORED: dict[str, Callable[[Any], Any]] = {
    "string": str.encode,
    "date": lambda value: (value - date(1970, 1, 1)).days,
    "timestamp": lambda value: length_us(value - datetime(1970, 1, 1)),
    "timestamptz": lambda value: length_us(value - EPOCH),
    "uuid": lambda value: value.bytes,
}


def _unscaled(scale: int, value: Decimal) -> int:
    """The digits of a decimal as an integer; the context's precision (28 digits) never rounds them."""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent < -scale:
        raise ValueError(f"{value} does not fit a scale of {scale}")
    number = int("".join(map(str, digits))) * 10 ** (scale + exponent)
    return -number if sign else number
