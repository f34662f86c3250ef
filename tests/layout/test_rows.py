"""Rows packed many at a time have the bytes of rows packed one at a time, for every type."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_server.definitions.facts import Feature, FeatureView, JoinKey
from feature_server.dtypes import DType
from feature_server.errors import OnlineStoreError
from feature_server.layout.keys import key_encoder, row_key
from feature_server.layout.rows import RowPacker
from feature_server.offline.commit import arrow_schema
from feature_server.times import to_us
from tests.support.packed import RowCodec
from tests.support.values import TIMES, VALUES


def view_of(*dtypes: DType, keys: tuple[DType, ...] = (DType("int64"),)) -> FeatureView:
    return FeatureView(
        name="view",
        entities=("thing",),
        join_keys=tuple(JoinKey(f"k{i}", dtype) for i, dtype in enumerate(keys)),
        features=tuple(Feature(name=f"f{i}", dtype=dtype) for i, dtype in enumerate(dtypes)),
    )


def stored(dtype: DType, value: Any) -> Any:
    """A value as an offline table keeps it."""
    if value is None:
        return None
    if dtype.kind == "list":
        return [stored(DType(str(dtype.item)), item) for item in value]
    return str(value) if dtype.kind == "uuid" else Decimal(value) if dtype.kind == "uint64" else value


def table_of(view: FeatureView, rows: list[tuple[tuple[Any, ...], datetime, tuple[Any, ...]]]) -> pa.Table:
    schema = arrow_schema(view)
    schema = schema.remove(len(schema) - 1)
    columns = list(zip(*((*keys, event, *values) for keys, event, values in rows), strict=True))
    dtypes = [key.dtype for key in view.join_keys] + [DType("timestamptz")] + [f.dtype for f in view.features]
    arrays = [
        pa.array([stored(dtype, value) for value in (columns[i] if rows else ())], schema.field(i).type)
        for i, dtype in enumerate(dtypes)
    ]
    return pa.table(arrays, schema=schema)


def packed(view: FeatureView, table: pa.Table) -> list[bytes]:
    return [bytes(row) for row in RowPacker(view).pack(table)]


@st.composite
def views_and_rows(draw: st.DrawFn) -> tuple[FeatureView, list[tuple[tuple[int], datetime, tuple[Any, ...]]]]:
    dtypes = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=10))
    row = st.tuples(*(VALUES[dtype] | st.none() for dtype in dtypes))
    count = draw(st.integers(0, 5))
    rows = [((i,), draw(TIMES).replace(tzinfo=UTC), draw(row)) for i in range(count)]
    return view_of(*dtypes), rows


@settings(deadline=None, max_examples=120)
@given(views_and_rows(), st.integers(0, 2))
def test_packing_many_rows_gives_the_bytes_of_packing_each(
    case: tuple[FeatureView, list[tuple[tuple[int], datetime, tuple[Any, ...]]]], skip: int
) -> None:
    view, rows = case
    codec = RowCodec(view.features)
    expected = [codec.encode(to_us(event), values) for _, event, values in rows]
    assert packed(view, table_of(view, rows)) == expected
    assert packed(view, table_of(view, rows).slice(skip)) == expected[skip:]


@pytest.mark.parametrize("dtype", VALUES, ids=str)
def test_each_type_is_packed_like_one_row_with_nulls_between(dtype: DType) -> None:
    @settings(deadline=None, max_examples=15)
    @given(st.lists(VALUES[dtype] | st.none(), min_size=1, max_size=20))
    def check(values: list[Any]) -> None:
        view = view_of(dtype)
        rows = [((i,), datetime(2020, 1, 1, tzinfo=UTC), (value,)) for i, value in enumerate(values)]
        expected = [RowCodec(view.features).encode(to_us(event), row) for _, event, row in rows]
        assert packed(view, table_of(view, rows)) == expected

    check()


KEY_VALUES = {
    dtype: values
    for dtype, values in VALUES.items()
    if dtype.can_be_join_key
} | {DType("string"): st.text(alphabet="ab%|{}25é", max_size=6) | st.just("")}  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_entities_are_named_as_readers_name_them(data: st.DataObject) -> None:
    dtypes = tuple(data.draw(st.lists(st.sampled_from(list(KEY_VALUES)), min_size=1, max_size=3)))
    rows = data.draw(st.lists(st.tuples(*(KEY_VALUES[dtype] for dtype in dtypes)), min_size=1, max_size=6))
    view = view_of(DType("bool"), keys=dtypes)
    table = table_of(view, [(keys, datetime(2020, 1, 1, tzinfo=UTC), (True,)) for keys in rows])
    encoders = [key_encoder(key) for key in view.join_keys]
    expected = [row_key(b"", [str(encode(v)) for encode, v in zip(encoders, keys, strict=True)]) for keys in rows]
    assert [f"{{{text}}}".encode() for text in RowPacker(view).entities(table).to_pylist()] == expected


@pytest.mark.parametrize(
    ("dtype", "value", "shown"),
    [
        (DType("date"), 2**31 - 1, "2147483647"),
        (DType("timestamp"), 2**63 - 1, "9223372036854775807"),
        (DType("timestamptz"), -(2**63) + 1, "-9223372036854775807"),
    ],
    ids=str,
)
def test_an_infinite_date_or_time_is_refused_by_view_feature_and_key(dtype: DType, value: int, shown: str) -> None:
    view = view_of(DType("int64"), dtype)
    good = table_of(view, [((i,), datetime(2020, 1, 1, tzinfo=UTC), (1, None)) for i in (41, 42)])
    raw = pa.array([None, value], pa.int32() if dtype.kind == "date" else pa.int64()).cast(good.schema.field("f1").type)
    with pytest.raises(OnlineStoreError) as caught:
        RowPacker(view).pack(good.set_column(good.schema.get_field_index("f1"), "f1", raw))
    assert caught.value.where == "view:f1 of k0=42"
    assert caught.value.got == shown


@pytest.mark.parametrize(("texts", "fits"), [((8 << 20, 0), True), ((8 << 20, 1), False), ((5 << 20, 4 << 20), False)])
def test_texts_and_lists_take_8_mib_of_a_row(texts: tuple[int, int], fits: bool) -> None:
    """A reader decodes a row at once, while others wait."""
    packer = RowPacker(view_of(DType("string"), DType("string")))
    columns = {"k0": [1, 2], "event_timestamp": [datetime(2026, 1, 1, tzinfo=UTC)] * 2}
    rows = pa.table(columns | {f"f{i}": ["", "x" * size] for i, size in enumerate(texts)})
    if fits:
        assert len(packer.pack(rows)[1]) > 8 << 20
        return
    with pytest.raises(OnlineStoreError) as caught:
        packer.pack(rows)
    assert (caught.value.where, caught.value.expected) == (
        "view:f1 of k0=2", "at most 8,388,608 bytes of strings and lists in a row",
    )  # fmt: skip
    assert len(str(caught.value)) < 1_000


def test_a_value_beyond_its_declared_type_is_refused() -> None:
    view = view_of(DType("uint8"))
    table = table_of(view, [((7,), datetime(2020, 1, 1, tzinfo=UTC), (255,))])
    wrong = table.set_column(2, "f0", pa.array([256], pa.int16()))
    with pytest.raises(OnlineStoreError, match="view:f0: the offline table holds a value that is not of type uint8"):
        RowPacker(view).pack(wrong)


def test_a_row_is_laid_out_as_documented() -> None:
    view = view_of(DType("int16"), DType("string"), DType("float64"), DType("list", item="float32"), DType("uuid"))
    event = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    number = UUID("00112233-4455-6677-8899-aabbccddeeff")
    (row,) = packed(view, table_of(view, [((1,), event, (-2, "é", None, [1.5], number))]))
    assert row == (
        (1_000_000).to_bytes(8, "little")
        + b"\x04"  # feature 2 is null
        + b"\xfe\xff"
        + bytes(8)
        + bytes.fromhex("00112233445566778899aabbccddeeff")
        + (2).to_bytes(4, "little")
        + (7).to_bytes(4, "little")
        + "é".encode()
        + b"\0"
        + struct.pack("<f", 1.5)
    )
