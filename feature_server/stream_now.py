"""`stream_window.evaluate` for all keys at one time: what an online read does, with as few passes as it needs.

Where every record is in force and has a value, counts, sums, extremes and means of floats are one reduction each; all
else is left to `stream_window`, which gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .dtypes import DType
from .stream_plan import Aggregate, Frame, StreamPlan
from .stream_reduce import Values
from .stream_window import NEVER, NO_EVENT, Evaluated, Events, aggregate_ranges, evaluate

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_SIMPLE = {"sum": np.add, "avg": np.add, "min": np.minimum, "max": np.maximum}


def evaluate_now(plan: StreamPlan, events: Events, now_us: int) -> Evaluated:
    """The plan's aggregates and latest values of each group at `now_us`, with all that is known."""
    groups = len(events.starts) - 1
    if not len(events.event_us) or not _all_in_force(events):
        return evaluate(plan, events, np.arange(groups), np.full(groups, now_us), as_known=False)
    ranges = _Ranges(events, now_us)
    dtypes = [argument.dtype for argument in plan.arguments]
    frames = [ranges.of(frame) for frame in plan.frames]
    reduced: dict[tuple[int, int, np.ufunc], Floats] = {}
    aggregates = [_aggregate(a, events, dtypes, *frames[a.frame], reduced) for a in plan.aggregates]
    first, high = ranges.of(Frame(None))
    some = high > first
    row = np.where(some, high - 1, 0)
    latest: list[Values | None] = []
    for argument in events.arguments:
        latest.append(None if argument is None else Values(argument.values[row], argument.null[row] | ~some))
    return Evaluated(aggregates=aggregates, latest_us=np.where(some, events.event_us[row], NO_EVENT), latest=latest)


def _all_in_force(events: Events) -> bool:
    return events.superseded is not None and bool((events.superseded == NEVER).all() and events.counts.all())


class _Ranges:
    """The events of each group that frames hold at one time."""

    def __init__(self, events: Events, now_us: int) -> None:
        self._starts, self._event_us, self._now_us = events.starts, events.event_us, now_us
        self._oldest, self._newest = int(events.event_us.min()), int(events.event_us.max())
        self._found: dict[tuple[int, bool], Integers] = {}

    def of(self, frame: Frame) -> tuple[Integers, Integers]:
        high = self._end(frame.delay_us, True)
        if frame.preceding_us is None:
            return self._starts[:-1], high
        return np.minimum(self._end(frame.preceding_us, False), high), high

    def _end(self, before_us: int, inclusive: bool) -> Integers:
        """How far each group goes with events before a time, or at it when inclusive."""
        found = self._found.get((before_us, inclusive))
        if found is None:
            found = self._found[before_us, inclusive] = self._passed(self._now_us - before_us + inclusive)
        return found

    def _passed(self, before_us: int) -> Integers:
        if self._newest < before_us:
            return self._starts[1:]
        if self._oldest >= before_us:
            return self._starts[:-1]
        running = np.zeros(len(self._event_us) + 1, dtype=np.int64)
        np.cumsum(self._event_us < before_us, out=running[1:])
        return self._starts[:-1] + running[self._starts[1:]] - running[self._starts[:-1]]


def _aggregate(
    aggregate: Aggregate,
    events: Events,
    dtypes: Sequence[DType],
    low: Integers,
    high: Integers,
    reduced: dict[tuple[int, int, np.ufunc], Floats],
) -> Values:
    if aggregate.filter is None:
        if aggregate.function == "count_star":
            return Values(high - low, np.zeros(len(low), dtype=np.bool_))
        ufunc = _SIMPLE.get(aggregate.function)
        if ufunc is not None:
            number = aggregate.arguments[0]
            values = events.argument(number)
            if values.values.dtype == np.float64 and not values.null.any():
                found = reduced.get((number, aggregate.frame, ufunc))
                if found is None:
                    found = _reduced(ufunc, values.values, low, high)
                    reduced[number, aggregate.frame, ufunc] = found
                if not np.isnan(found).any():  # NaN is the greatest float in SQL
                    size = high - low
                    empty = size == 0
                    return Values(found / np.maximum(size, 1) if aggregate.function == "avg" else found, empty)
    return aggregate_ranges(aggregate, events, dtypes, low, high)


def _reduced(
    ufunc: np.ufunc, values: npt.NDArray[np.float64], low: Integers, high: Integers
) -> npt.NDArray[np.float64]:
    """`ufunc` over each range, 0 for an empty one."""
    bounds = np.empty(2 * len(low), dtype=np.int64)
    bounds[0::2], bounds[1::2] = low, high
    found: Floats = ufunc.reduceat(np.append(values, 0.0), bounds)[0::2]
    if (low == high).any():
        found = np.where(low == high, 0.0, found)
    return found
