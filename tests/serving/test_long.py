"""A long row is written a slice at a time, byte for byte as at once; others have their turns meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_server.app.json import JsonWriter
from feature_server.app.pieces import Result
from feature_server.definitions.facts import Entity
from feature_server.definitions.registry import Registry
from feature_server.errors import DamagedValue
from feature_server.layout.sliced import ITEMS, SLICE
from feature_server.online.registry import OnlineRegistry, OnlineView
from feature_server.protocol import GetOnlineFeatures
from feature_server.serving.counts import Counts
from feature_server.serving.long import long_rows
from feature_server.serving.plan import Plan
from feature_server.serving.reader import OnlineFeatures
from feature_server.times import to_us
from tests.support.online_rows import NOW, view
from tests.support.packed import RowCodec

TEXTS = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from('"\\\n\0\x7fé€\U0001f600'), max_size=40)
FLOATS = st.lists(st.none() | st.floats(), max_size=20) | st.lists(st.floats(), max_size=20)
INTEGERS = st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=20)
BYTES = st.lists(st.integers(-128, 127), max_size=20)
REALS = st.lists(st.none() | st.floats(width=32), max_size=20)
MIXED = view(
    "customer__mixed",
    {"customer_id": "int64"},
    {"name": "string", "n": "int64", "floats": "list<float64>", "city": "string", "integers": "list<int64>",
     "bytes": "list<int8>", "price": "decimal(12,3)", "reals": "list<float32>"},
)  # fmt: skip


CODEC = RowCodec(MIXED.features)
LONG = {"name": SLICE, "city": SLICE, "floats": ITEMS, "integers": ITEMS, "bytes": 8 * ITEMS, "reals": 2 * ITEMS}


def plan() -> Plan:
    registry = Registry(
        project="test",
        entities=(Entity(name=MIXED.entities[0], join_keys=MIXED.join_keys),),
        feature_views=(MIXED,),
        feature_services=(),
    )
    stored = OnlineView(
        code="c1", definition=MIXED, table_version=1, synced_at_us=to_us(NOW), rows=1, newest_event_us=to_us(NOW)
    )
    features = [f"{MIXED.id}:{name}" for name in reversed(MIXED.feature_names)]
    made = Plan()
    online = OnlineRegistry(registry=registry, views={MIXED.id: stored})
    list(made.steps(online, GetOnlineFeatures(features=features, entities={"customer_id": [1]}), Counts()))
    return made


PLAN = plan()


def answer_of(row: bytes) -> OnlineFeatures:
    return OnlineFeatures(PLAN, 1, {"customer_id": [1]}, [[row]], to_us(NOW), {})


def in_slices(row: bytes) -> tuple[bytes, int]:
    """The body, and how many turns others had."""
    writer, results = JsonWriter(PLAN), list[list[Result]]()
    turns = sum(1 for _ in writer.write_part(answer_of(row), results))
    return b"".join(writer.join(results)), turns


@st.composite
def rows(draw: st.DrawFn) -> bytes:
    """A row with some long values: what was drawn, over and over."""
    values: dict[str, Any] = {"n": draw(st.none() | st.integers(-9, 9)), "price": None}
    values |= {"name": draw(st.none() | TEXTS), "city": draw(st.none() | TEXTS), "floats": draw(st.none() | FLOATS)}
    values |= {"integers": draw(INTEGERS), "bytes": draw(BYTES), "reals": draw(REALS)}
    for name in draw(st.sets(st.sampled_from(sorted(LONG)), min_size=1)):
        value = values[name] or ("é" if name in ("name", "city") else [1])
        values[name] = value[: draw(st.integers(0, 3))] + value * (2 * LONG[name] // len(value))
    return CODEC.encode(to_us(NOW), [values[name] for name in MIXED.feature_names])


@given(rows())
@settings(max_examples=150, deadline=None)
def test_what_is_written_in_slices_is_what_is_written_at_once(row: bytes) -> None:
    assert in_slices(row)[0] == JsonWriter(PLAN).write(answer_of(row))


def full(**values: Any) -> bytes:
    return CODEC.encode(to_us(NOW), [values.get(name) for name in MIXED.feature_names])


def test_others_have_their_turns_while_a_long_value_is_written() -> None:
    for row, slices in ((full(name="é" * (10 * SLICE)), 20), (full(floats=[0.5] * (10 * ITEMS)), 10)):
        assert len(long_rows(answer_of(row))) == 1
        assert in_slices(row)[1] > slices


def test_a_row_that_was_cut_or_holds_no_text_is_told_as_damaged() -> None:
    row, text = full(name="x" * (3 * SLICE)), b"x" * (3 * SLICE)
    for damaged in (
        row[:-1],
        row + b"x",
        row.replace(text, text[:-1] + b"\xff"),
        row.replace(text, b"\x80" * len(text)),
    ):
        with pytest.raises(DamagedValue):
            in_slices(damaged)


def test_a_list_that_was_cut_is_told_as_damaged() -> None:
    row = full(reals=[0.5] * (8 * ITEMS))
    start = row.index(b"\0" + b"\0\0\0?")
    for first in (b"\1", b"\2"):
        with pytest.raises(DamagedValue):
            in_slices(row[:start] + first + row[start + 1 :])
