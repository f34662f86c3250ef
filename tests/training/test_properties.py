"""Any training set against a brute force of a dozen lines."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.published import Project, make_view

T0 = datetime(2024, 3, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOUR_US = 3_600_000_000


class Event(NamedTuple):
    key: int
    other: str
    hour: int
    created: int | None


KEYS = [0, 2**53, 2**53 + 1]
OTHERS = ["a", "b"]
EVENTS = st.lists(
    st.builds(Event, st.sampled_from(KEYS), st.sampled_from(OTHERS), st.integers(0, 9),
              st.one_of(st.none(), st.integers(0, 12))),
    max_size=25,
)  # fmt: skip
SPINE = st.lists(
    st.tuples(st.sampled_from([*KEYS, 5, None]), st.sampled_from([*OTHERS, "c", None]), st.integers(-1, 14)),
    max_size=25,
)


def brute_force(
    events: list[Event], key: int | None, other: str | None, at: int, ttl: int | None, as_known: bool
) -> int | None:
    """The number of the event that counts; `other` None where the view has one join key."""
    counting = [
        (event.hour, event.created is not None, event.created or 0, number)
        for number, event in enumerate(events)
        if event.key == key
        and event.other == other
        and event.hour <= at
        and (ttl is None or event.hour >= at - ttl)
        and (not as_known or (event.created is not None and event.created <= at))
    ]
    return max(counting)[-1] if counting else None


@settings(max_examples=12, deadline=None)
@given(one=EVENTS, two=EVENTS, spine=SPINE, ttl=st.one_of(st.none(), st.integers(1, 9)), as_known=st.booleans(),
       zone=st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York"]))  # fmt: skip
def test_any_training_set_is_what_a_brute_force_gives(
    one: list[Event],
    two: list[Event],
    spine: list[tuple[int | None, str | None, int]],
    ttl: int | None,
    as_known: bool,
    zone: str,
) -> None:
    single = [*{event[0:1] + event[2:]: event._replace(other="") for event in one}.values()]
    double = [*dict.fromkeys(two)]
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "project")
        ttl_us = None if ttl is None else ttl * HOUR_US
        views = [
            make_view("one", {"key": "bigint"}, {"number_one": "bigint"}, created=True, ttl_us=ttl_us),
            make_view("two", {"key": "bigint", "other": "varchar"}, {"number_two": "bigint"}, created=True),
        ]
        for view, events in zip(views, (single, double), strict=True):
            rows = [
                (event.key, *([event.other] if view.name == "two" else []), T0 + event.hour * HOUR,
                 None if event.created is None else T0 + event.created * HOUR, number)
                for number, event in enumerate(events)
            ]  # fmt: skip
            project.publish(view, rows)
        table = pa.table(
            {
                "key": pa.array([row[0] for row in spine], pa.int64()),
                "other": pa.array([row[1] for row in spine], pa.string()),
                "event_timestamp": pa.array([T0 + row[2] * HOUR for row in spine], pa.timestamp("us", zone)),
            }
        )
        names = ["two:number_two", "one:number_one"]
        result = project.store.get_historical_features(table, names, as_known=as_known).to_arrow()
        found = list(zip(result["number_two"].to_pylist(), result["number_one"].to_pylist(), strict=True))
    assert found == [
        (brute_force(double, key, other, at, None, as_known), brute_force(single, key, "", at, ttl, as_known))
        for key, other, at in spine
    ]
