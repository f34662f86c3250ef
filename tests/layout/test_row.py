"""A packed row gives back the values it was made of."""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_server.definitions.facts import Feature
from feature_server.dtypes import DType
from feature_server.layout.row import event_timestamp_us
from tests.support.packed import RowCodec
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


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=20), st.data())
def test_a_layout_says_where_the_bytes_of_a_row_are(dtypes: list[DType], data: st.DataObject) -> None:
    codec = codec_of(*dtypes)
    values = [data.draw(st.none() | VALUES[dtype]) for dtype in dtypes]
    row = codec.encode(-7, values)
    (head,) = heads = np.frombuffer(row[: codec.width], codec.head_dtype)
    assert head["event"] == -7
    assert [bool(codec.nulls(heads, i)[0]) for i in range(len(dtypes))] == [value is None for value in values]
    reached = codec.width
    for i in codec.variable:
        begin, end = (int(place[0]) for place in codec.spans(heads, i))
        assert begin == reached
        reached = end
    assert reached == len(row)
    chosen = data.draw(st.sets(st.sampled_from(range(len(dtypes)))))
    _, _, *all_stored = codec.head(codec.offsets).unpack_from(row)
    places = [*codec.fixed, *codec.variable]
    _, _, *stored = codec.head(chosen).unpack_from(row)
    expected = [all_stored[places.index(i)] for i in places if i in chosen]
    assert bits(stored) == bits(expected)
    for i in codec.fixed:
        field = codec.head_dtype.fields[f"v{i}"]
        assert head[f"v{i}"].tobytes() == row[field[1] : field[1] + field[0].itemsize]
        assert field[1] == codec.offsets[i]


def test_what_stands_for_no_row_has_the_width_of_a_head_and_no_value() -> None:
    codec = codec_of(DType("int64"), DType("string"), DType("uuid"))
    assert len(codec.no_row()) == codec.width
    assert codec.decode(codec.no_row()) == (2**63 - 1, [None, None, None])
