"""Reading packed events at one time gives what the general kernel gives for the same events, put in order by hand."""

from __future__ import annotations

import math
from datetime import timedelta
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_server.definitions.facts import Feature, FeatureView, JoinKey
from feature_server.definitions.stream import Aggregate, Argument, Frame, Node, Output, StreamPlan
from feature_server.dtypes import parse_dtype
from feature_server.errors import DamagedValue, OnlineStoreError
from feature_server.layout.decode import EventDecoder
from feature_server.layout.events import record_view
from feature_server.times import EPOCH
from feature_server.windows.now import WindowsNow
from feature_server.windows.reduce import Values
from feature_server.windows.window import NO_EVENT, Evaluated, Events, evaluate
from tests.support.packed import RowCodec

NOW_US = 1_000
FLOAT, INTEGER, FLAG = 0, 1, 2  # the arguments
FRAMES = (Frame(100), Frame(400), Frame(None), Frame(300, 100))
FUNCTIONS = ("sum", "avg", "min", "max", "count", "last", "median", "count_distinct")


def plan() -> StreamPlan:
    """Every function over each frame, of the float and of the integer, with and without a filter."""
    aggregates = [
        Aggregate(name=f"{function}_{argument}_{frame}_{chosen}", function=function, arguments=(argument,), frame=frame,
                  filter=chosen, dtype=parse_dtype("float64"))
        for function in FUNCTIONS for argument in (FLOAT, INTEGER) for frame in range(len(FRAMES))
        for chosen in (None, FLAG)
    ]  # fmt: skip
    aggregates += [
        Aggregate(name=f"n_{frame}", function="count_star", frame=frame, dtype=parse_dtype("int64"))
        for frame in range(len(FRAMES))
    ]
    arguments = (
        Argument(name="a0", dtype=parse_dtype("float64"), sql="x"),
        Argument(name="a1", dtype=parse_dtype("int64"), sql="y"),
        Argument(name="a2", dtype=parse_dtype("bool"), sql="z"),
    )
    return StreamPlan(
        source="s.events", row_sql="", arguments=arguments, frames=FRAMES, aggregates=tuple(aggregates),
        outputs=(Output(feature="latest", node=Node("latest", value=INTEGER), sql="a1", source_sql="y"),),
    )  # fmt: skip


VIEW = FeatureView(
    name="customer__events",
    entities=("customer",),
    join_keys=(JoinKey("customer_id", parse_dtype("int64")),),
    features=(Feature(name="latest", dtype=parse_dtype("int64")),),
    stream=plan(),
)


class Record(msgspec.Struct, frozen=True):
    """An event as it is sent."""

    event_us: int
    created_us: int
    event_id: int
    counts: bool
    arguments: tuple[float | None, int | None, bool | None]


def random_records(random: Random, kind: str) -> list[Record]:
    """The records of one key, as they came: in order and all different when kind is tidy."""
    size = random.choice([0, 1, 2, 5, 30])
    tidy = kind == "tidy"
    records, event_us = [], random.randrange(200, 600)
    for i in range(size):
        event_us = event_us + random.randrange(1, 20) if tidy else random.randrange(400, 1100)
        number = random.choice([1.5, -2.0, 0.0, 7.25]) if tidy else random.choice([1.5, None, math.nan, math.inf])
        records.append(
            Record(
                event_us=event_us,
                created_us=event_us + i,
                event_id=i if kind != "repeated" else random.randrange(size),
                counts=tidy or random.random() < 0.8,
                arguments=(number, random.choice([1, 2, 3] if tidy else [None, 1, 2]), random.choice([True, False])),
            )
        )
    return records


def stored(records: list[Record]) -> bytes:
    """A key's value in Redis."""
    codec = RowCodec(record_view(VIEW).features)
    return b"".join(
        codec.encode(record.event_us, [EPOCH + timedelta(microseconds=record.created_us), record.event_id,
                                       record.counts, *record.arguments])
        for record in records
    )  # fmt: skip


def in_order(groups: list[list[Record]]) -> Events:
    """The latest version of each event that counts: of equally new ones the latest in event time, then to come."""
    rows: list[Record] = []
    starts = [0]
    for records in groups:
        latest: dict[int, Record] = {}
        for record in records:
            before = latest.get(record.event_id, record)
            if (record.created_us, record.event_us) >= (before.created_us, before.event_us):
                latest[record.event_id] = record
        counted = [record for record in latest.values() if record.counts]
        rows += sorted(counted, key=lambda record: (record.event_us, record.created_us, records.index(record)))
        starts.append(len(rows))
    columns = []
    for number, kind in enumerate((np.float64, np.int64, np.bool_)):
        values = [record.arguments[number] for record in rows]
        columns.append(
            Values(np.array([value or 0 for value in values], dtype=kind), np.array([v is None for v in values], bool))
        )
    return Events(
        starts=np.array(starts),
        event_us=np.array([record.event_us for record in rows], dtype=np.int64),
        created_us=np.array([record.created_us for record in rows], dtype=np.int64),
        counts=np.ones(len(rows), dtype=bool),
        arguments=columns,
    )


def shown(found: Evaluated) -> dict[str, list[Any]]:
    """Values by aggregate, None for null; NaN as a text, so that it equals itself."""
    columns = {aggregate.name: values for aggregate, values in zip(plan().aggregates, found.aggregates, strict=True)}
    latest = found.latest[INTEGER]
    assert latest is not None
    columns["latest"] = latest
    result: dict[str, list[Any]] = {"latest_us": found.latest_us.tolist()}
    for name, values in columns.items():
        plain = [None if null else value for value, null in zip(values.values.tolist(), values.null, strict=True)]
        result[name] = ["NaN" if value != value else value for value in plain]
    return result


@given(st.randoms(use_true_random=False), st.sampled_from(["tidy", "mixed", "repeated"]))
@settings(max_examples=150, deadline=None)
def test_a_read_gives_what_the_general_kernel_gives(random: Random, kind: str) -> None:
    groups = [random_records(random, kind) for _ in range(random.choice([1, 1, 3, 6]))]
    events, *_ = EventDecoder(VIEW).decode([stored(records) or None for records in groups])
    with np.errstate(all="ignore"):
        found = WindowsNow(plan(), [INTEGER]).evaluate(events, NOW_US)
        count = len(groups)
        wanted = evaluate(plan(), in_order(groups), np.arange(count), np.full(count, NOW_US), as_known=False)
    assert shown(found) == shown(wanted)


def test_a_key_without_events_has_no_latest_one() -> None:
    events, *_ = EventDecoder(VIEW).decode([None])
    found = WindowsNow(plan(), [INTEGER]).evaluate(events, NOW_US)
    assert found.latest_us.tolist() == [NO_EVENT]
    assert shown(found)["latest"] == [None]
    assert shown(found)["n_0"] == [0]


@pytest.mark.parametrize("times", [[10, 20, 30], [30, 20, 10], [10, 10, 10]])
def test_the_latest_of_equal_times_is_the_one_created_last(times: list[int]) -> None:
    records = [Record(time, time + i, i, True, (1.0, i, True)) for i, time in enumerate(times)]
    events, *_ = EventDecoder(VIEW).decode([stored(records)])
    found = WindowsNow(plan(), [INTEGER]).evaluate(events, NOW_US)
    assert shown(found)["latest_us"] == [max(times)]
    assert shown(found)["latest"] == [max(range(3), key=lambda i: (times[i], i))]


NAMES = msgspec.structs.replace(
    plan(),
    arguments=(
        Argument(name="a0", dtype=parse_dtype("string"), sql="x"),
        Argument(name="a1", dtype=parse_dtype("int64"), sql="y"),
        Argument(name="a2", dtype=parse_dtype("string"), sql="z"),
    ),
    aggregates=(
        Aggregate(name="least", function="min", arguments=(0,), frame=2, dtype=parse_dtype("string")),
        Aggregate(name="last", function="last", arguments=(2,), frame=2, dtype=parse_dtype("string")),
    ),
    outputs=(),
)
NAMES_VIEW = msgspec.structs.replace(VIEW, stream=NAMES)
Named = tuple[str | None, int, str | None]


def named(rows: list[Named], *, counts: bool = True) -> bytes:
    """A key's value: records of strings, each behind its length."""
    codec = RowCodec(record_view(NAMES_VIEW).features)
    records = [
        codec.encode(time, [EPOCH + timedelta(microseconds=time), time, counts, *row])
        for time, row in enumerate(rows, start=100)
    ]
    return b"".join(len(record).to_bytes(4, "little") + record for record in records)


ROWS = st.tuples(st.none() | st.text(max_size=9), st.integers(-5, 5), st.none() | st.text(max_size=300))


@given(st.lists(st.lists(ROWS, max_size=6), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_strings_are_read_as_they_were_written(groups: list[list[Named]]) -> None:
    events, dictionaries, *_ = EventDecoder(NAMES_VIEW).decode([named(rows) or None for rows in groups])
    assert np.diff(events.starts).tolist() == [len(rows) for rows in groups]
    columns = []
    for number, (values, dictionary) in enumerate(zip(events.arguments, dictionaries, strict=True)):
        assert values is not None
        numbers = values.values.tolist()
        if dictionary is not None:
            numbers = [dictionary[i].decode() for i in numbers]
            assert number == 2 or list(dictionary) == sorted(dictionary)
        columns.append([None if null else value for value, null in zip(numbers, values.null, strict=True)])
    assert list(zip(*columns, strict=True)) == [row for rows in groups for row in rows]


@pytest.mark.parametrize("length", range(200, 250))
def test_a_long_record_is_read_whatever_its_length(length: int) -> None:
    events, dictionaries, *_ = EventDecoder(NAMES_VIEW).decode([named([("", 1, "\0" * length)])])
    assert events.starts.tolist() == [0, 1]
    assert list(dictionaries[2] or ()) == [b"\0" * length]


@pytest.mark.parametrize("cut", [1, 3, 4, 10, 40])
def test_records_that_are_cut_off_are_an_error(cut: int) -> None:
    whole = named([("a", 1, "b"), ("c", 2, "d" * 280)])
    for stored in ([whole[:-cut]], [whole, whole[:cut]], [whole[:-cut], whole]):
        with pytest.raises(OnlineStoreError, match="another layout"):
            EventDecoder(NAMES_VIEW).decode(stored)


@pytest.mark.parametrize("view", [VIEW, NAMES_VIEW], ids=["fixed width", "strings"])
def test_a_key_without_any_bytes_is_an_error(view: FeatureView) -> None:
    for stored, place in (([b""], 0), ([None, b""], 1)):
        with pytest.raises(DamagedValue, match="got: no bytes") as raised:
            EventDecoder(view).decode(stored)
        assert raised.value.place == place
    assert EventDecoder(view).decode([None]).starts.tolist() == [0, 0]


def test_trimming_leaves_the_latest_event_where_none_counts() -> None:
    rows: list[Named] = [("a", 1, None), ("", 3, "e")]
    kept = EventDecoder(NAMES_VIEW).trimmed(named(rows, counts=False), before_us=103)
    assert len(kept) == len(named(rows[1:]))
    assert named(rows, counts=False).endswith(kept)


def test_trimming_keeps_whole_records() -> None:
    rows: list[Named] = [("a", 1, None), (None, 2, "d" * 280), ("", 3, "e")]
    assert EventDecoder(NAMES_VIEW).trimmed(named(rows), before_us=101) == named(rows)
    kept = EventDecoder(NAMES_VIEW).trimmed(named(rows), before_us=103)
    assert named(rows).endswith(kept)
    assert len(kept) == len(named([("", 3, "e")]))
