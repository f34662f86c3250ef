"""A packed row gives back the values it was made of."""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_server.definitions.facts import Feature
from feature_server.dtypes import DType
from feature_server.layout.row import RowCodec, event_timestamp_us
from tests.support.values import VALUES


def codec_of(*dtypes: DType) -> RowCodec:
    return RowCodec([Feature(name=f"f{i}", dtype=dtype) for i, dtype in enumerate(dtypes)])


def bits(value: Any) -> Any:
    """A value in a form in which NaN equals itself and zeros differ by their sign."""
    if isinstance(value, list):
        return [bits(item) for item in value]
    return struct.pack("<d", value) if isinstance(value, float) else value


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_decoding_gives_back_what_was_encoded(data: st.DataObject) -> None:
    dtypes = data.draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=20))
    values = [data.draw(st.none() | VALUES[dtype]) for dtype in dtypes]
    event = data.draw(st.integers(-(2**63), 2**63 - 1))
    row = codec_of(*dtypes).encode(event, values)
    assert event_timestamp_us(row) == event
    found_event, found = codec_of(*dtypes).decode(row)
    assert found_event == event
    assert bits(found) == bits(values)


def test_a_row_of_ten_doubles_takes_ninety_bytes() -> None:
    assert len(codec_of(*[DType("float64")] * 10).encode(0, [0.5] * 10)) == 90


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (DType("int8"), 128),
        (DType("uint64"), -1),
        (DType("decimal", precision=9, scale=2), Decimal("0.001")),
        (DType("decimal", precision=9, scale=2), Decimal("NaN")),
    ],
    ids=str,
)
def test_a_value_outside_its_type_is_refused(dtype: DType, value: Any) -> None:
    with pytest.raises((struct.error, ValueError)):
        codec_of(dtype).encode(0, [value])
