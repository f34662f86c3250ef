"""The point-in-time rule on arrays, against a brute force."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_server.point_in_time import NO_CREATED, NO_ROW, History, rows_at


class Row(NamedTuple):
    group: int
    event: int
    created: int | None


def make_history(rows: list[Row], groups: int, *, has_created: bool = True) -> History:
    """`rows` in the order that History asks for."""
    starts = [sum(row.group < group for row in rows) for group in range(groups + 1)]
    created = [NO_CREATED if row.created is None else row.created for row in rows]
    return History(
        np.array(starts, dtype=np.int64),
        np.array([row.event for row in rows], dtype=np.int64),
        np.array(created, dtype=np.int64) if has_created else None,
    )


def sort_key(row: Row) -> tuple[int, int, bool, int]:
    return row.group, row.event, row.created is not None, row.created or 0


def brute_force(
    rows: list[Row],
    group: int,
    at: int,
    *,
    ttl: int | None = None,
    as_known: bool = False,
    has_created: bool = True,
    after: int = 0,
) -> int:
    best = NO_ROW
    for number, row in enumerate(rows):
        if row.group != group or row.event > at:
            continue
        if ttl is not None and row.event < at - ttl:
            continue
        if as_known and has_created and (row.created is None or row.created > at):
            continue
        if as_known and not has_created and row.event + after > at:
            continue
        if best == NO_ROW or sort_key(row) >= sort_key(rows[best]):
            best = number
    return best


def find(
    history: History,
    wanted: list[tuple[int, int]],
    *,
    ttl: int | None = None,
    as_known: bool = False,
    after: int = 0,
) -> list[int]:
    groups = np.array([group for group, _ in wanted], dtype=np.int64)
    at = np.array([time for _, time in wanted], dtype=np.int64)
    return rows_at(history, groups, at, ttl_us=ttl, as_known=as_known, known_after_us=after).tolist()


ONE_KEY = make_history([Row(0, 10, 11), Row(0, 20, 21), Row(0, 20, 25), Row(0, 30, 31)], 1)


def test_a_row_at_exactly_the_spine_time_counts() -> None:
    assert find(ONE_KEY, [(0, 9), (0, 10), (0, 11)]) == [NO_ROW, 0, 0]


def test_of_rows_with_one_event_time_the_last_created_wins() -> None:
    assert find(ONE_KEY, [(0, 20), (0, 29), (0, 30)]) == [2, 2, 3]


def test_a_row_exactly_as_old_as_the_ttl_counts() -> None:
    assert find(ONE_KEY, [(0, 35), (0, 36)], ttl=5) == [3, NO_ROW]


def test_an_expired_row_does_not_give_way_to_an_older_one() -> None:
    assert find(ONE_KEY, [(0, 29)], ttl=8) == [NO_ROW]


def test_as_known_falls_back_to_what_was_known_then() -> None:
    assert find(ONE_KEY, [(0, 10), (0, 11), (0, 20), (0, 21), (0, 24), (0, 25)], as_known=True) == [-1, 0, 0, 1, 1, 2]


def test_a_null_created_is_the_earliest_and_is_never_known() -> None:
    history = make_history([Row(0, 10, None), Row(0, 10, 5), Row(0, 20, None)], 1)
    assert find(history, [(0, 10), (0, 20)]) == [1, 2]
    assert find(history, [(0, 10), (0, 20)], as_known=True) == [1, 1]


def test_a_view_without_created_timestamps_knows_each_row_at_its_event_time() -> None:
    history = make_history([Row(0, 10, None)], 1, has_created=False)
    assert find(history, [(0, 9), (0, 10)], as_known=True) == [NO_ROW, 0]


def test_a_group_below_zero_finds_nothing() -> None:
    assert find(ONE_KEY, [(-1, 30), (0, 30), (-1, 10)]) == [NO_ROW, 3, NO_ROW]


def test_an_empty_history_and_an_empty_spine_give_nothing() -> None:
    empty = make_history([], 0)
    assert find(empty, [(-1, 5)], ttl=1, as_known=True) == [NO_ROW]
    assert find(ONE_KEY, []) == []


def test_the_ends_of_time_do_not_overflow() -> None:
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    history = make_history([Row(0, low + 1, low + 1), Row(0, high, high)], 1)
    assert find(history, [(0, low + 2), (0, high), (0, high - 1)], ttl=10**15) == [0, 1, NO_ROW]


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(
        st.builds(Row, st.integers(0, 3), st.integers(0, 12), st.one_of(st.none(), st.integers(0, 20))), max_size=40
    ),
    wanted=st.lists(st.tuples(st.integers(-1, 3), st.integers(-2, 22)), max_size=30),
    ttl=st.one_of(st.none(), st.integers(0, 12)),
    as_known=st.booleans(),
    has_created=st.booleans(),
    after=st.integers(0, 8),
)
def test_any_spine_finds_what_a_brute_force_finds(
    rows: list[Row], wanted: list[tuple[int, int]], ttl: int | None, as_known: bool, has_created: bool, after: int
) -> None:
    if not has_created:  # a remaining tie is a data error: the rule does not say which row wins
        rows = [*{(row.group, row.event): row._replace(created=None) for row in rows}.values()]
    else:
        rows = [*dict.fromkeys(rows)]
    rows.sort(key=sort_key)
    history = make_history(rows, 4, has_created=has_created)
    expected = [
        brute_force(rows, group, at, ttl=ttl, as_known=as_known, has_created=has_created, after=after)
        for group, at in wanted
    ]
    assert find(history, wanted, ttl=ttl, as_known=as_known, after=after) == expected


@pytest.mark.parametrize("seed", range(8))
def test_long_histories_that_became_known_late_are_searched_exactly(seed: int) -> None:
    random_ = random.Random(seed)
    rows = sorted(
        {
            Row(group, event, event + random_.choice([0, 5, 4000]) if event > 300 else 5000)
            for group, size in ((0, 900), (1, 3), (2, 300), (3, 1100))
            for event in random_.sample(range(1500), size)
        },
        key=sort_key,
    )
    history = make_history(rows, 4)
    wanted = [(random_.randrange(4), random_.randrange(6000)) for _ in range(300)]
    for ttl in (None, 700):
        expected = [brute_force(rows, group, at, ttl=ttl, as_known=True) for group, at in wanted]
        assert find(history, wanted, ttl=ttl, as_known=True) == expected


def test_a_history_loaded_long_after_its_events_is_searched_without_walking_all_of_it() -> None:
    rows = 1_000_000
    history = History(
        np.array([0, rows], dtype=np.int64),
        np.arange(rows, dtype=np.int64),
        np.where(np.arange(rows) == 7, 7, 2 * rows).astype(np.int64),
    )
    at = np.arange(0, rows, 10, dtype=np.int64)
    found = rows_at(history, np.zeros(len(at), dtype=np.int64), at, as_known=True)
    assert found.tolist() == [NO_ROW] + [7] * (len(at) - 1)
