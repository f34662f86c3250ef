"""Versions of events, and those in force: one table of cases for each notation of the rule."""

from __future__ import annotations

from typing import NamedTuple


class Version(NamedTuple):
    """A version of an event of a key, with a mark by which it is told; times are microseconds."""

    mark: int
    key: int
    event_id: int
    event_us: int
    created_us: int
    counts: bool = True


class Case(NamedTuple):
    """Versions as they came, and the marks of those in force, as far as was known at `as_known` if that is given."""

    name: str
    versions: tuple[Version, ...]
    in_force: set[int]
    as_known: int | None = None


CORRECTED = (Version(1, 7, 1, 10, 10), Version(2, 7, 1, 10, 50), Version(3, 7, 2, 20, 21))
TAKEN_OUT = (Version(1, 7, 1, 10, 10), Version(2, 7, 1, 10, 50, False), Version(3, 7, 2, 20, 21))
BROUGHT_BACK = (*TAKEN_OUT, Version(4, 7, 1, 10, 90))
CASES = (
    Case("no event", (), set()),
    Case("one version each", (Version(1, 7, 1, 10, 10), Version(2, 7, 2, 10, 10)), {1, 2}),
    Case("one that the filters leave out", (Version(1, 7, 1, 10, 10, False), Version(2, 7, 2, 10, 10)), {2}),
    Case("a correction", CORRECTED, {2, 3}),
    Case("a correction that came first", CORRECTED[::-1], {2, 3}),
    Case("a latest version that is left out takes the event out", TAKEN_OUT, {3}),
    Case("an event that is brought back", BROUGHT_BACK, {3, 4}),
    Case("a correction moves the event", (Version(1, 7, 1, 40, 40), Version(2, 7, 1, 10, 50)), {2}),
    Case("created together: the later event time", (Version(1, 7, 1, 30, 60), Version(2, 7, 1, 20, 60)), {1}),
    Case("created together, the later is left out", (Version(1, 7, 1, 30, 60, False), Version(2, 7, 1, 20, 60)), set()),
    Case("the same id of two keys", (Version(1, 7, 1, 10, 10), Version(2, 8, 1, 10, 50, False)), {1}),
    Case("two keys with corrections", (*CORRECTED, Version(4, 8, 1, 5, 5), Version(5, 8, 1, 9, 6)), {2, 3, 5}),
    Case("before the correction was known", CORRECTED, {1, 3}, as_known=49),
    Case("at the moment the correction is known", CORRECTED, {2, 3}, as_known=50),
    Case("before the other event was known", CORRECTED, {1}, as_known=20),
    Case("before anything was known", CORRECTED, set(), as_known=9),
    Case("before it was taken out", TAKEN_OUT, {1, 3}, as_known=49),
    Case("after it was taken out", BROUGHT_BACK, {3}, as_known=60),
    Case("after it was brought back", BROUGHT_BACK, {3, 4}, as_known=90),
)
