"""The value of a stream view's aggregates at any times: what its SQL gives on an extra row (key, t) that adds nothing.

Events lie sorted by (group, event time, created time, `event_ids`' number of the event id). The bounds of every frame
are found by binary search within the group, then each aggregate reduces its ranges. Of several versions of one event
the latest created counts, if its `counts` is true; of equally late ones the latest in event time, then the last
(`history.events` says the same in SQL, `layout.records` of a key's records). `as_known` at time t counts the latest
that was created by t. Where that differs from the latest of all, only for those times, the events are looked at one by
one.
"""

import functools
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from ..definitions.aggregates import FUNCTIONS, Part
from ..definitions.stream import Aggregate, Frame, StreamPlan
from ..dtypes import DType
from ..point_in_time import last_not_after
from ..times import NEVER
from .reduce import KERNELS, Ranges, Values, expanded, picked, running_totals

NO_EVENT = np.iinfo(np.int64).min
_PACKED_BITS = 62


class Events(msgspec.Struct, kw_only=True):
    """Events of many keys in the order of this module; group g is `starts[g]` up to `starts[g + 1]`.

    `event_id` are integers, equal for the versions of one event; `counts` is false for an event that the model's
    filters leave out. `arguments` are the plan's, in its order; one that nothing asks for may be None. `superseded`
    says when a later version was created, NEVER for the latest one: worked out from `event_id` where it is not given.
    With neither, every event has one version.
    """

    starts: np.ndarray
    event_us: np.ndarray
    created_us: np.ndarray
    event_id: np.ndarray | None = None
    counts: np.ndarray
    arguments: Sequence[Values | None]
    superseded: np.ndarray | None = None

    def argument(self, number: int) -> Values:
        found = self.arguments[number]
        assert found is not None, f"argument {number} is not loaded"
        return found

    def take(self, rows: np.ndarray, starts: np.ndarray) -> "Events":
        return Events(
            starts=starts,
            event_us=self.event_us[rows],
            created_us=self.created_us[rows],
            event_id=None if self.event_id is None else self.event_id[rows],
            counts=self.counts[rows],
            arguments=[None if argument is None else argument.take(rows) for argument in self.arguments],
            superseded=None if self.superseded is None else self.superseded[rows],
        )


def superseded_at(starts: np.ndarray, event_id: np.ndarray, created_us: np.ndarray) -> np.ndarray:
    """When a later version of the same event was created, NEVER for the latest: of events in the order of `Events`."""
    superseded = np.full(len(event_id), NEVER, dtype=np.int64)
    in_order = np.sort(event_id)
    repeated = in_order[1:][in_order[1:] == in_order[:-1]]
    if not len(repeated):
        return superseded
    rows = np.flatnonzero(np.isin(event_id, repeated))
    group = np.searchsorted(starts, rows, side="right")
    order = np.lexsort((rows, created_us[rows], event_id[rows], group))
    rows, group = rows[order], group[order]
    same = (event_id[rows[1:]] == event_id[rows[:-1]]) & (group[1:] == group[:-1])
    superseded[rows[:-1][same]] = created_us[rows[1:][same]]
    return superseded


def in_force(events: Events) -> Events:
    """The events that count as far as is known, each as if it had one version."""
    superseded = superseded_of(events)
    keep = events.counts if superseded is None else (superseded == NEVER) & events.counts
    if np.count_nonzero(keep) < len(keep):
        events = events.take(np.flatnonzero(keep), running_totals(keep)[events.starts])
    return events if superseded is None else msgspec.structs.replace(events, event_id=None, superseded=None)


def in_force_at(events: Events, rows: np.ndarray, at_us: np.ndarray) -> np.ndarray:
    """Whether each row is in force as far as was known at its time, by `superseded`."""
    known = (events.created_us[rows] <= at_us) & events.counts[rows]
    return known if events.superseded is None else known & (events.superseded[rows] > at_us)


def superseded_of(events: Events) -> np.ndarray | None:
    """As `superseded_at`; None where every event has one version."""
    if events.superseded is not None or events.event_id is None:
        return events.superseded
    return superseded_at(events.starts, events.event_id, events.created_us)


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
    events = msgspec.structs.replace(events, superseded=superseded_of(events))
    found = _evaluate(plan, in_force(events), groups, at_us)
    if as_known and len(differing := _as_known_differs(events, groups, at_us)):
        _one_by_one(found, plan, events, groups, at_us, differing)
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
        self.found: dict[int, np.ndarray] = {}
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
        high = self._before(frame.delay_us - 1)
        if frame.preceding_us is None:
            return self.first, high
        return np.minimum(self._before(frame.preceding_us), high), high

    def _before(self, back_us: int) -> np.ndarray:
        """How far each group goes with events from before `back_us` ahead of each time."""
        if back_us not in self.found:
            at = self.at_us - back_us
            if self.packed is None:
                found = last_not_after(self.events.event_us, at - 1, self.first - 1, self.after) + 1
            else:
                wanted = np.maximum(self.groups, 0) * self.span + np.clip(at - (self.oldest - 1), 0, self.span - 1)
                found = np.where(self.known, np.searchsorted(self.packed, wanted), 0)
            self.found[back_us] = found
        return self.found[back_us]


def _evaluate(plan: StreamPlan, events: Events, groups: np.ndarray, at_us: np.ndarray) -> Evaluated:
    search = _Search(events, groups, at_us)
    used = {aggregate.frame for aggregate in plan.aggregates}
    ranges = {number: search.bounds(frame) for number, frame in enumerate(plan.frames) if number in used}
    dtypes = [argument.dtype for argument in plan.arguments]
    aggregates = [next(ranges_of(a, events, dtypes, *ranges[a.frame])) for a in plan.aggregates]
    low, high = search.bounds(Frame(None))
    latest = np.where(high > low, high - 1, -1)
    times = np.append(events.event_us, NO_EVENT)
    return Evaluated(
        aggregates=aggregates,
        latest_us=times[latest],
        latest=[None if argument is None else picked(argument, latest) for argument in events.arguments],
    )


def ranges_of(
    of: Aggregate | Part, events: Events, dtypes: Sequence[DType], low: np.ndarray, high: np.ndarray
) -> Iterator[Values]:
    """A function's values over ranges of events, then of arg_min and arg_max what they are chosen by.

    `dtypes` are those of the arguments, a decimal's values being unscaled.
    """
    if not of.arguments and of.filter is None:  # count(*): no event needs to be looked at
        yield Values(high - low, np.zeros(len(low), dtype=bool))
        return
    arguments = [events.argument(number) for number in of.arguments]
    kept = [] if FUNCTIONS[of.function].of_nulls else [~argument.null for argument in arguments]
    if of.filter is not None:
        condition = events.argument(of.filter)
        kept.append(condition.values.astype(bool) & ~condition.null)
    valid = functools.reduce(np.logical_and, kept) if kept else np.ones(len(events.event_us), dtype=bool)
    dtype = dtypes[of.arguments[0]] if arguments else None
    parameter = of.parameter if isinstance(of, Aggregate) else None
    found = KERNELS[of.function](Ranges(arguments, (valid, low, high), dtype, parameter))
    if isinstance(found, Values):
        yield found
    else:
        for argument in arguments:
            yield picked(argument, found)


def _as_known_differs(events: Events, groups: np.ndarray, at_us: np.ndarray) -> np.ndarray:
    """The (group, time) pairs at which some event up to that time was not yet known in its latest version.

    That is so when an event's latest version was created later than t, or an earlier version was still in force at t.
    """
    unsettled = events.created_us
    if events.superseded is not None:
        unsettled = np.where(events.superseded == NEVER, unsettled, events.superseded)
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
    found: Evaluated, plan: StreamPlan, events: Events, groups: np.ndarray, at_us: np.ndarray, positions: np.ndarray
) -> None:
    """Reckon some of the (group, time) pairs anew, each over its own copy of the events in force at its time.

    Some pairs at a time, so that their copies do not fill the memory.
    """
    at, group = at_us[positions], groups[positions]
    search = _Search(events, group, at)
    low, high = search.bounds(Frame(None))
    if plan.longest_us is not None and all(frame.preceding_us is not None for frame in plan.frames):
        oldest, _ = search.bounds(Frame(plan.longest_us))
        before = _latest_known_before(events, low, oldest, at)
        low = np.where(before >= 0, np.minimum(before, oldest), oldest)
    for ranges, owner, row in expanded(np.ones(len(events.event_us), bool), low, high):
        here = at[ranges]
        known = in_force_at(events, row, here[owner])
        starts = np.append(0, np.cumsum(np.bincount(owner[known], minlength=len(here))))
        anew = _evaluate(plan, events.take(row[known], starts), np.arange(len(here)), here)
        _replace(found, positions[ranges], anew)


def _latest_known_before(events: Events, low: np.ndarray, before: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The last event in [low, before) in force at each time; -1 where none: plain columns may need one that old."""
    found = np.full(len(low), -1, dtype=np.int64)
    row = before - 1
    pending = np.flatnonzero(row >= low)
    while len(pending):
        here = row[pending]
        good = in_force_at(events, here, at[pending])
        found[pending[good]] = here[good]
        pending = pending[~good]
        row[pending] -= 1
        pending = pending[row[pending] >= low[pending]]
    return found


def _replace(found: Evaluated, positions: np.ndarray, other: Evaluated) -> None:
    for values, new in zip([*found.aggregates, *found.latest], [*other.aggregates, *other.latest], strict=True):
        if values is None or new is None:
            continue
        wide = np.promote_types(values.values.dtype, new.values.dtype)
        values.values = values.values.astype(wide, copy=False)
        values.values[positions] = new.values
        values.null[positions] = new.null
    found.latest_us[positions] = other.latest_us
