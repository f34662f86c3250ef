"""`windows.window.evaluate` for all keys at one time: what an online read does, with as few passes as it needs.

Counts, and sums, extremes and means of floats that are never null, are one reduction each; all else is left to
`windows.window`, which gives the same.
"""

from collections.abc import Collection
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..definitions.stream import Frame, StreamPlan
from .reduce import Values, over_ranges, running_totals
from .window import NO_EVENT, Evaluated, Events, evaluate, in_force, ranges_of

Integers: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]
_SIMPLE = {"sum": np.add, "avg": np.add, "min": np.minimum, "max": np.maximum}


class WindowsNow:
    """Evaluates a plan's aggregates, and of the latest event's arguments those given."""

    def __init__(self, plan: StreamPlan, latest: Collection[int]) -> None:
        self._plan, self._latest = plan, tuple(latest)
        self._dtypes = [argument.dtype for argument in plan.arguments]
        self._frames = {aggregate.frame: plan.frames[aggregate.frame] for aggregate in plan.aggregates}
        self._aggregates = [(a, a.frame, "" if a.filter is not None else a.function) for a in plan.aggregates]

    def evaluate(self, events: Events, now_us: int) -> Evaluated:
        """The values of each group at `now_us`, with all that is known."""
        events = in_force(events)
        if not len(events.event_us):
            groups = len(events.starts) - 1
            return evaluate(self._plan, events, np.arange(groups), np.full(groups, now_us), as_known=False)
        groups_now = _Groups(events, now_us)
        frames = {number: _Framed(groups_now, frame) for number, frame in self._frames.items()}
        aggregates = []
        for aggregate, number, function in self._aggregates:
            framed, found = frames[number], None
            if function == "count_star":
                found = Values(framed.size, groups_now.none)
            elif function in _SIMPLE:
                found = framed.of_floats(function, aggregate.arguments[0])
            if found is None:
                found = next(ranges_of(aggregate, events, self._dtypes, framed.low, framed.high))
            aggregates.append(found)
        latest_us, latest = groups_now.latest(self._latest)
        return Evaluated(aggregates=aggregates, latest_us=latest_us, latest=latest)


class _Groups:
    """Events in force at one time; `first` and `after` are the bounds of each group, `none` is False for each.

    `full` says that no group is empty.
    """

    def __init__(self, events: Events, now_us: int) -> None:
        self.events, self.now_us = events, now_us
        self.first, self.after = events.starts[:-1], events.starts[1:]
        self.size = self.after - self.first
        self.none = np.zeros(len(self.size), dtype=np.bool_)
        self.full = np.count_nonzero(self.size) == len(self.size)
        self._oldest, self._newest = int(events.event_us.min()), int(events.event_us.max())
        self._never_null: dict[int, bool] = {}
        self._passed: dict[int, Integers] = {}

    def before(self, time_us: int) -> Integers:
        """How far each group goes with events before a time."""
        if self._newest < time_us:
            return self.after
        if self._oldest >= time_us:
            return self.first
        found = self._passed.get(time_us)
        if found is None:
            event_us = self.events.event_us
            if len(self.size) == 1:
                found = np.searchsorted(event_us, [time_us])
            else:
                running = running_totals(event_us < time_us)
                found = self.first + running[self.after] - running[self.first]
            self._passed[time_us] = found
        return found

    def is_float(self, argument: int) -> bool:
        """Whether an argument's values are 64-bit floats and never null."""
        found = self._never_null.get(argument)
        if found is None:
            values = self.events.argument(argument)
            found = values.values.dtype == np.float64 and not np.count_nonzero(values.null)
            self._never_null[argument] = found
        return found

    def latest(self, arguments: Collection[int]) -> tuple[Integers, list[Values | None]]:
        """The latest event's time, and its values of the arguments given."""
        high, event_us = self.before(self.now_us + 1), self.events.event_us
        if self.full and high is self.after:
            row, none = high - 1, self.none
            latest_us = event_us[row]
        else:
            none = high == self.first
            row = np.where(none, 0, high - 1)
            latest_us = np.where(none, NO_EVENT, event_us[row])
        found: list[Values | None] = [None] * len(self.events.arguments)
        for number in arguments:
            values = self.events.argument(number)
            found[number] = Values(values.values[row], values.null[row] | none)
        return latest_us, found


class _Framed:
    """The events of each group that a frame holds: `size` of them, from `low` up to `high`."""

    def __init__(self, groups: _Groups, frame: Frame) -> None:
        self._groups, self._sums = groups, dict[int, Floats | None]()
        self.high = groups.before(groups.now_us - frame.delay_us + 1)
        self.low = groups.first
        if frame.preceding_us is not None:
            self.low = groups.before(groups.now_us - frame.preceding_us)
        if frame.delay_us and self.low is not groups.first:
            self.low = np.minimum(self.low, self.high)
        whole = self.low is groups.first and self.high is groups.after
        self.size = groups.size if whole else self.high - self.low
        self._whole = whole and groups.full
        self._some = self._whole or np.count_nonzero(self.size) == len(self.size)
        self._empty = groups.none if self._some else self.size == 0

    def of_floats(self, function: str, argument: int) -> Values | None:
        """sum, avg, min or max; None where an argument may be null or is no float, or some value is NaN."""
        if not self._groups.is_float(argument):
            return None
        if function in ("min", "max"):
            found = self._reduced(_SIMPLE[function], argument)
        else:
            if argument not in self._sums:
                self._sums[argument] = self._reduced(np.add, argument)
            found = self._sums[argument]
        if found is None:
            return None
        if function == "avg":
            found = found / (self.size if self._some else np.maximum(self.size, 1))
        return Values(found, self._empty)

    def _reduced(self, ufunc: np.ufunc, argument: int) -> Floats | None:
        """`ufunc` over each range, 0 for an empty one; None where there is a NaN, the greatest float in SQL."""
        values = self._groups.events.argument(argument).values
        found: Floats
        if self._whole:
            found = ufunc.reduceat(values, self.low)
        else:
            found = over_ranges(ufunc, values, self.low, self.high, 0.0)
        squares = found.dot(found)  # NaN if there is one among them, and else not
        return found if squares == squares else None
