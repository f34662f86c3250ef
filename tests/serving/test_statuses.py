"""Which entities have a row that counts now, and why the others have none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_server.serving.statuses import NOT_FOUND, OUTSIDE_MAX_AGE, ValueCounts, absent_at
from feature_server.times import NEVER

NOW, TTL = 1000, 100
TIMES = st.lists(st.integers(800, 1100) | st.just(NEVER), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("event_us", "ttl_us", "status"),
    [
        (NOW, TTL, None),
        (NOW + 1, TTL, NOT_FOUND),
        (NOW - TTL, TTL, None),
        (NOW - TTL - 1, TTL, OUTSIDE_MAX_AGE),
        (-NEVER, None, None),
        (NEVER, None, NOT_FOUND),
        (NEVER, TTL, NOT_FOUND),
    ],
)
def test_a_row_counts_from_its_event_until_its_ttl_both_included(
    event_us: int, ttl_us: int | None, status: str | None
) -> None:
    assert absent_at((event_us,), NOW, ttl_us).get(0) == status
    assert absent_at(np.array([event_us]), NOW, ttl_us).get(0) == status


@given(TIMES, st.none() | st.integers(0, 150))
def test_each_entity_is_told_apart_in_tuples_and_arrays_alike(event_us: list[int], ttl_us: int | None) -> None:
    expected = {}
    for i, at_us in enumerate(event_us):
        if at_us > NOW:
            expected[i] = "NOT_FOUND"
        elif ttl_us is not None and NOW - at_us > ttl_us:
            expected[i] = "OUTSIDE_MAX_AGE"
    assert absent_at(tuple(event_us), NOW, ttl_us) == expected
    assert absent_at(np.array(event_us, dtype=np.int64), NOW, ttl_us) == expected


def test_values_are_counted_by_their_status() -> None:
    counts = ValueCounts()
    counts.add(3, 2, 0, {})
    counts.add(5, 2, 7, {0: NOT_FOUND, 3: OUTSIDE_MAX_AGE, 4: OUTSIDE_MAX_AGE})
    assert counts == ValueCounts(present=9, null_value=1, not_found=2, outside_max_age=4)
