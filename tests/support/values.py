"""Values of every feature type, for property tests."""

from __future__ import annotations

import math
import struct
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from feature_server.dtypes import FLOAT_WIDTHS, INTEGER_WIDTHS, DType

QUIET_NAN = struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_BEEF))[0]


TIMES = st.datetimes(min_value=datetime.min, max_value=datetime.max)


def integers(kind: str) -> st.SearchStrategy[int]:
    bits = INTEGER_WIDTHS[kind] * 8
    low, high = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return st.integers(low, high) | st.sampled_from([low, high])


def numbers(kind: str) -> st.SearchStrategy[Any]:
    if kind in INTEGER_WIDTHS:
        return integers(kind)
    special = st.sampled_from([math.inf, -math.inf, -0.0, QUIET_NAN if kind == "float64" else math.nan])
    return st.floats(width=FLOAT_WIDTHS[kind] * 8, allow_nan=False) | special  # type: ignore[arg-type]


def decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    digits = st.integers(-(10**precision) + 1, 10**precision - 1)
    return digits.map(lambda number: Decimal((int(number < 0), tuple(map(int, str(abs(number)))), -scale)))


VALUES: dict[DType, st.SearchStrategy[Any]] = {
    **{DType(kind): numbers(kind) for kind in (*INTEGER_WIDTHS, *FLOAT_WIDTHS)},
    **{
        DType("list", item=kind): st.lists(st.none() | numbers(kind), max_size=9) | st.lists(numbers(kind), max_size=9)
        for kind in (*INTEGER_WIDTHS, *FLOAT_WIDTHS)
    },
    **{
        DType("decimal", precision=p, scale=s): decimals(p, s)
        for p, s in ((1, 0), (9, 2), (18, 18), (19, 0), (38, 10), (38, 38))
    },
    DType("bool"): st.booleans(),
    DType("string"): st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12),
    DType("date"): st.dates() | st.sampled_from([date.min, date.max]),
    DType("timestamp"): TIMES | st.sampled_from([datetime.min, datetime.max]),
    DType("timestamptz"): TIMES.map(lambda moment: moment.replace(tzinfo=UTC)),
    DType("uuid"): st.uuids(),
}
