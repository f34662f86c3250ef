"""The value of a stream view's aggregates at any times: what its SQL gives on an extra row (key, t) that adds nothing.

Events lie sorted by (group, event time, created time). The bounds of every frame are found by binary search within the
group, then each aggregate reduces its ranges. Of several versions of one event the latest counts; `as_known` at time t
counts the latest that was created by t. Where that differs from the latest of all, only for those times, the events
are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from ..definitions.stream import Aggregate, Frame, StreamPlan
from ..dtypes import DType
from ..times import NEVER
from . import reduce
from .reduce import Values
from .versions import Events, in_force, in_force_at, superseded_of

NO_EVENT = np.iinfo(np.int64).min
_PACKED_BITS = 62


class Evaluated(msgspec.Struct, kw_only=True):
    """For n keys and times: each aggregate's values, and the latest event's time and arguments.

    `latest_us` is NO_EVENT, and the arguments are null, where there is no event; one that is not loaded is None.
    """

    aggregates: list[Values]
    latest_us: np.ndarray
    latest: list[Values | None]


def evaluate(plan: StreamPlan, events: Events, groups: np.ndarray, at_us: np.ndarray, *, as_known: bool) -> Evaluated:
    """The plan's aggregates and latest values for n (group, time) pairs; a negative group is a key without events."""
    order = np.lexsort((at_us, groups))
    restore = np.empty_like(order)
    restore[order] = np.arange(len(order))
    groups, at_us = groups[order], at_us[order]
    superseded = superseded_of(events)
    found = _evaluate(plan, in_force(msgspec.structs.replace(events, superseded=superseded)), groups, at_us)
    if as_known:
        if superseded is None:
            superseded = np.full(len(events.event_us), NEVER, dtype=np.int64)
        differing = _as_known_differs(events, superseded, groups, at_us)
        if len(differing):
            found = _replace(found, differing, _one_by_one(plan, events, superseded, groups, at_us, differing))
    return Evaluated(
        aggregates=[values.take(restore) for values in found.aggregates],
        latest_us=found.latest_us[restore],
        latest=[None if values is None else values.take(restore) for values in found.latest],
    )


class _Search:
    """The bounds of several frames at the same times, each of their ends looked for once.

    Where group and time fit into one integer, the events and the sorted times are searched as such, in one pass.
    """

    def __init__(self, events: Events, groups: np.ndarray, at_us: np.ndarray) -> None:
        self.events, self.groups, self.at_us = events, groups, at_us
        self.known = groups >= 0
        self.first = np.where(self.known, events.starts[np.maximum(groups, 0)], 0)
        self.after = np.where(self.known, events.starts[np.maximum(groups, 0) + 1], 0)
        self.found: dict[tuple[int, bool], np.ndarray] = {}
        self.oldest = self.span = 0
        self.packed: np.ndarray | None = None
        if len(events.event_us) and len(groups) * 8 > len(events.starts):
            self.oldest = int(events.event_us.min())
            self.span = int(events.event_us.max()) - self.oldest + 3
            if self.span * len(events.starts) < 1 << _PACKED_BITS:
                counts = np.diff(events.starts)
                base = np.arange(len(counts), dtype=np.int64) * self.span - (self.oldest - 1)
                self.packed = np.repeat(base, counts)
                self.packed += events.event_us

    def bounds(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """The range [low, high) of each group's events within the frame at each time."""
        high = self._end(frame.delay_us, inclusive=True)
        if frame.preceding_us is None:
            return self.first, high
        return np.minimum(self._end(frame.preceding_us, inclusive=False), high), high

    def _end(self, before_us: int, *, inclusive: bool) -> np.ndarray:
        if (before_us, inclusive) not in self.found:
            self.found[before_us, inclusive] = self._search(self.at_us - before_us, inclusive)
        return self.found[before_us, inclusive]

    def _search(self, at: np.ndarray, inclusive: bool) -> np.ndarray:
        if self.packed is None:
            return _search(self.events.event_us, at, self.first, self.after, inclusive=inclusive)
        offset = np.clip(at - (self.oldest - 1), 0, self.span - 1)
        wanted = np.maximum(self.groups, 0) * self.span + offset
        return np.where(self.known, np.searchsorted(self.packed, wanted, "right" if inclusive else "left"), 0)


def _evaluate(plan: StreamPlan, events: Events, groups: np.ndarray, at_us: np.ndarray) -> Evaluated:
    search = _Search(events, groups, at_us)
    used = {aggregate.frame for aggregate in plan.aggregates}
    ranges = {number: search.bounds(frame) for number, frame in enumerate(plan.frames) if number in used}
    dtypes = [argument.dtype for argument in plan.arguments]
    aggregates = [aggregate_ranges(a, events, dtypes, *ranges[a.frame]) for a in plan.aggregates]
    low, high = search.bounds(Frame(None))
    latest = np.where(high > low, high - 1, -1)
    times = np.append(events.event_us, NO_EVENT)
    return Evaluated(
        aggregates=aggregates,
        latest_us=times[latest],
        latest=[None if argument is None else picked(argument, latest) for argument in events.arguments],
    )


def aggregate_ranges(
    aggregate: Aggregate, events: Events, dtypes: Sequence[DType], low: np.ndarray, high: np.ndarray
) -> Values:
    """One aggregate over ranges of events; `dtypes` are those of the arguments, a decimal's values being unscaled."""
    if aggregate.function == "count_star" and aggregate.filter is None:
        return _never_null(high - low)
    valid = np.ones(len(events.event_us), dtype=bool)
    if aggregate.filter is not None:
        condition = events.argument(aggregate.filter)
        valid = condition.values.astype(bool) & ~condition.null
    if aggregate.function == "count_star":
        return _never_null(reduce.count(valid, low, high))
    values = events.argument(aggregate.arguments[0])
    if aggregate.function in ("first", "last"):
        pick = reduce.first if aggregate.function == "first" else reduce.last
        return picked(values, pick(valid, low, high))
    if aggregate.function in ("arg_max", "arg_min"):
        by = events.argument(aggregate.arguments[1])
        valid &= ~by.null & ~values.null
        largest = aggregate.function == "arg_max"
        return picked(values, reduce.arg_extreme(ranks(by.values), valid, low, high, largest=largest))
    if aggregate.function == "list":
        return _lists(values, valid, low, high, aggregate.parameter)
    valid &= ~values.null
    return _numeric(aggregate, dtypes[aggregate.arguments[0]], values.values, valid, low, high)


def _numeric(
    aggregate: Aggregate, dtype: DType, values: np.ndarray, valid: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Values:
    function = aggregate.function
    unit = 10 ** (dtype.scale or 0)
    size = reduce.count(valid, low, high)
    if function == "count":
        return _never_null(size)
    if function == "count_distinct":
        return _never_null(reduce.distinct(ranks(values), valid, low, high))
    empty = size == 0
    if function == "sum":
        return Values(reduce.total(values, valid, low, high), empty)
    if function == "avg":
        total = reduce.total(values, valid, low, high)
        if values.dtype.kind == "f":
            return Values(total / np.maximum(size, 1), empty)
        mean = total.astype(np.longdouble) / (np.maximum(size, 1) * unit)  # as DuckDB divides the exact sum
        return Values(mean.astype(np.float64), empty)
    if function in ("min", "max", "bool_and", "bool_or"):
        ufunc = np.minimum if function in ("min", "bool_and") else np.maximum
        found = reduce.extreme(ufunc, values, valid, low, high)
        return Values(found.astype(bool) if values.dtype.kind == "b" else found, empty)
    if function in ("stddev_samp", "stddev_pop", "var_samp", "var_pop"):
        squares, size = reduce.variance(values / unit if unit > 1 else values, valid, low, high)
        spare = 1 if function.endswith("samp") else 0
        found = squares / np.maximum(size - spare, 1)
        return Values(np.sqrt(found) if function.startswith("stddev") else found, size <= spare)
    level = 0.5 if function == "median" else float(aggregate.parameter or 0)
    continuous = function != "quantile_disc"
    lower, upper, weight = reduce.quantile_positions(values, valid, low, high, level, continuous=continuous)
    at, to = picked(Values(values, ~valid), lower), picked(Values(values, ~valid), upper)
    if not continuous:
        return at
    at_values, to_values = np.where(at.null, 0, at.values), np.where(to.null, 0, to.values)
    if dtype.kind == "decimal":
        found = reduce.between_decimals(at_values, to_values, weight, int(dtype.precision or 38))
    else:
        found = reduce.between(at_values, to_values, weight)
    return Values(np.where(lower == upper, at_values, found), at.null)


def _lists(values: Values, valid: np.ndarray, low: np.ndarray, high: np.ndarray, last: float | None) -> Values:
    lists = np.empty(len(low), dtype=object)
    for i, (start, stop) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        rows = np.flatnonzero(valid[start:stop]) + start
        rows = rows if last is None else rows[-int(last) :]
        lists[i] = [None if values.null[row] else values.values[row].item() for row in rows]
    return Values(lists, np.array([not found for found in lists], dtype=bool))


def _as_known_differs(events: Events, superseded: np.ndarray, groups: np.ndarray, at_us: np.ndarray) -> np.ndarray:
    """The (group, time) pairs at which some event up to that time was not yet known in its latest version.

    That is so when an event's latest version was created later than t, or an earlier version was still in force at t.
    """
    unsettled = np.where(superseded == NEVER, events.created_us, superseded)
    order = np.repeat(np.arange(len(events.starts) - 1), np.diff(events.starts))
    running = _running_maximum(unsettled, order)
    low, high = _Search(events, groups, at_us).bounds(Frame(None))
    some = np.flatnonzero(high > low)
    return some[running[high[some] - 1] > at_us[some]]


def _running_maximum(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The maximum so far within each group."""
    if not len(values):
        return values
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.int64)
    highest = np.maximum.accumulate(ranks + group.astype(np.int64) * len(values)) - group.astype(np.int64) * len(values)
    return np.sort(values)[highest]


def _one_by_one(
    plan: StreamPlan,
    events: Events,
    superseded: np.ndarray,
    groups: np.ndarray,
    at_us: np.ndarray,
    positions: np.ndarray,
) -> Evaluated:
    """The plan at some (group, time) pairs, each over its own copy of the events in force at its time.

    Some pairs at a time, so that their copies do not fill the memory.
    """
    at, group = at_us[positions], groups[positions]
    search = _Search(events, group, at)
    low, high = search.bounds(Frame(None))
    if plan.longest_us is not None and all(frame.preceding_us is not None for frame in plan.frames):
        oldest, _ = search.bounds(Frame(plan.longest_us))
        before = _latest_known_before(events, superseded, low, oldest, at)
        low = np.where(before >= 0, np.minimum(before, oldest), oldest)
    parts = []
    for ranges, owner, row in reduce.expanded(np.ones(len(events.event_us), bool), low, high):
        here = at[ranges]
        known = in_force_at(events, superseded, row, here[owner])
        starts = np.append(0, np.cumsum(np.bincount(owner[known], minlength=len(here))))
        parts.append(_evaluate(plan, events.take(row[known], starts), np.arange(len(here)), here))
    return _joined(parts)


def _joined(parts: Sequence[Evaluated]) -> Evaluated:
    return Evaluated(
        aggregates=[reduce.joined(column) for column in zip(*(part.aggregates for part in parts), strict=True)],
        latest_us=np.concatenate([part.latest_us for part in parts]),
        latest=[
            None if column[0] is None else reduce.joined(column)
            for column in zip(*(part.latest for part in parts), strict=True)
        ],
    )


def _latest_known_before(
    events: Events, superseded: np.ndarray, low: np.ndarray, before: np.ndarray, at: np.ndarray
) -> np.ndarray:
    """The last event in [low, before) in force at each time; -1 where none: plain columns may need one that old."""
    found = np.full(len(low), -1, dtype=np.int64)
    row = before - 1
    pending = np.flatnonzero(row >= low)
    while len(pending):
        here = row[pending]
        good = in_force_at(events, superseded, here, at[pending])
        found[pending[good]] = here[good]
        pending = pending[~good]
        row[pending] -= 1
        pending = pending[row[pending] >= low[pending]]
    return found


def _replace(found: Evaluated, positions: np.ndarray, other: Evaluated) -> Evaluated:
    for values, new in zip([*found.aggregates, *found.latest], [*other.aggregates, *other.latest], strict=True):
        if values is None or new is None:
            continue
        values.values = values.values.astype(np.promote_types(values.values.dtype, new.values.dtype))
        values.values[positions] = new.values
        values.null[positions] = new.null
    found.latest_us[positions] = other.latest_us
    return found


def _search(
    event_us: np.ndarray, at: np.ndarray, first: np.ndarray, after: np.ndarray, *, inclusive: bool
) -> np.ndarray:
    """How far each range [first, after) goes with events before `at` (or at it, when inclusive)."""
    low, high = first.copy(), after.copy()
    while len(open_ := np.flatnonzero(low < high)):
        middle = (low[open_] + high[open_]) >> 1
        event = event_us[middle]
        passed = event <= at[open_] if inclusive else event < at[open_]
        low[open_[passed]] = middle[passed] + 1
        high[open_[~passed]] = middle[~passed]
    return low


def picked(values: Values, rows: np.ndarray) -> Values:
    """The values at rows; null where negative."""
    if not len(values):
        return Values(np.zeros(len(rows), dtype=values.values.dtype), np.ones(len(rows), dtype=bool))
    taken = values.take(np.maximum(rows, 0))
    return Values(taken.values, taken.null | (rows < 0))


def ranks(values: np.ndarray) -> np.ndarray:
    """Integers from 0 that order and tell apart values as SQL does."""
    return np.unique(values, return_inverse=True)[1]


def _never_null(values: np.ndarray) -> Values:
    return Values(values, np.zeros(len(values), dtype=bool))
