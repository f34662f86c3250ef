"""Lifetime windows: the states in the bases of some keys, merged with their events since.

All events of a base come before those it is merged with, so of first and last, and of equals in arg_min and arg_max,
time decides without being kept.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..definitions.aggregates import FUNCTIONS, Part, is_count, is_of_argument, parts, parts_of
from ..definitions.facts import FeatureView
from ..definitions.stream import Aggregate
from ..dtypes import DType
from ..errors import OnlineStoreError
from ..layout.decode import Array, BaseDecoder, Dictionary, objects
from ..layout.events import plan_of
from ..windows.reduce import Values, mean
from ..windows.window import NO_EVENT, Events, ranges_of

_FEW_GROUPS = 8


class Lifetime:
    """Evaluates some lifetime aggregates of one stream view."""

    def __init__(self, view: FeatureView, aggregates: Sequence[Aggregate]) -> None:
        self._view_id, self._plan, self._aggregates = view.id, plan_of(view), tuple(aggregates)
        self._bases = BaseDecoder(view, parts(aggregates))
        self._dtypes = [argument.dtype for argument in self._plan.arguments]
        self._delays_us = [self._plan.frames[aggregate.frame].delay_us for aggregate in aggregates]

    def evaluate(
        self, events: Events, dictionaries: Sequence[Dictionary], bases: Sequence[bytes | None], now_us: int
    ) -> list[tuple[Values, Dictionary]]:
        """Each aggregate's values for the groups of events in force with these bases, and what they are places in."""
        cuts, states = self._bases.decode(bases)
        if cuts.max(initial=NO_EVENT) > now_us - max(self._delays_us):
            raise self._ahead(int(cuts.max()) + max(self._delays_us), now_us)
        found: list[tuple[Values, Dictionary]] = []
        merged: dict[tuple[Part, int], list[Values]] = {}
        low = _passed(events, cuts)
        until = {us: np.maximum(low, _passed(events, np.full(len(low), now_us - us))) for us in set(self._delays_us)}
        for aggregate, delay_us in zip(self._aggregates, self._delays_us, strict=True):
            since = low, until[delay_us]
            for part in parts_of(aggregate):
                if (part, delay_us) not in merged:
                    live, newer = self._live(part, events, since, dictionaries), None
                    count = Part("count_star", (), part.filter)
                    if FUNCTIONS[part.function].chosen == "first":
                        newer = states[count][0].values == 0
                    elif FUNCTIONS[part.function].chosen == "last":
                        newer = self._live(count, events, since, dictionaries)[0].values > 0
                    merged[part, delay_us] = merge(part, states[part], live, newer)
            of = [merged[part, delay_us][0] for part in parts_of(aggregate)]
            found.append(self._final(aggregate, of))
        return found

    def _live(
        self, part: Part, events: Events, ranges: tuple[Array, Array], dictionaries: Sequence[Dictionary]
    ) -> list[Values]:
        """The state over ranges of events; bytes in place of places in a dictionary."""
        found = list(ranges_of(part, events, self._dtypes, *ranges))
        if is_count(part):
            return found
        return [_spelled(of, dictionaries[number]) for of, number in zip(found, part.arguments, strict=True)]

    def _final(self, aggregate: Aggregate, found: Sequence[Values]) -> tuple[Values, Dictionary]:
        first = found[0]
        if aggregate.function == "avg":
            unit = 10 ** (self._dtypes[aggregate.arguments[0]].scale or 0)
            return Values(mean(first.values, found[1].values, unit), first.null), None
        if is_of_argument(aggregate) and _is_bytes(self._dtypes[aggregate.arguments[0]]):
            return Values(np.arange(len(first.values)), first.null), first.values.tolist()
        return first, None

    def _ahead(self, cut_us: int, now_us: int) -> OnlineStoreError:
        return OnlineStoreError(
            "lifetime windows are kept as of a time after the clock's", where=self._view_id,
            expected=f"a clock at or after {_shown(cut_us)}", got=_shown(now_us),
            remedy=f"set the clock right, or run `features sync {self._view_id} --full` to go back",
        )  # fmt: skip


def merge(part: Part, base: Sequence[Values], live: Sequence[Values], newer: Array | None) -> list[Values]:
    """A state over all events from that of the base and that of the events since; `newer` says where first and last
    are of the events since."""
    one, two = base[0], live[0]
    if is_count(part):
        return [Values(one.values + two.values, one.null)]
    if FUNCTIONS[part.function].gives == "sum":
        return [
            Values(_added(np.where(one.null, 0, one.values), np.where(two.null, 0, two.values)), one.null & two.null)
        ]
    if newer is None:
        new, old = live[-1].values, base[-1].values
        beats = _less(new, old) if FUNCTIONS[part.function].chosen == "least" else _less(old, new)
        newer = ~two.null & (one.null | beats)
    return [
        Values(np.where(newer, b.values, a.values), np.where(newer, b.null, a.null))
        for a, b in zip(base, live, strict=True)
    ]


def _passed(events: Events, times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How far each group goes with events up to its time."""
    first, after = events.starts[:-1], events.starts[1:]
    if len(first) <= _FEW_GROUPS:
        groups = zip(first.tolist(), after.tolist(), times.tolist(), strict=True)
        found = [a + np.searchsorted(events.event_us[a:b], time, side="right") for a, b, time in groups]
        return np.array(found, dtype=np.int64)
    running = np.zeros(len(events.event_us) + 1, dtype=np.int64)
    np.cumsum(events.event_us <= np.repeat(times, after - first), out=running[1:])
    return first + running[after] - running[first]


def _added(one: Array, two: Array) -> Array:
    """Sums, exact where they are integers."""
    if one.dtype.kind == "f" or two.dtype.kind == "f":
        return one + two
    if one.dtype != object and two.dtype != object:
        with np.errstate(over="ignore"):
            total = one + two
        if not ((one ^ total) & (two ^ total) < 0).any():
            return total
    return one.astype(object) + two.astype(object)


def _less(one: Array, two: Array) -> Array:
    """Whether the one comes before the other as SQL orders values: NaN is the greatest float."""
    if one.dtype.kind == "f":
        return ~np.isnan(one) & (np.isnan(two) | (one < two))
    return np.less(one, two).astype(np.bool_)


def _spelled(values: Values, dictionary: Dictionary) -> Values:
    if dictionary is None:
        return values
    texts = [b"" if null else dictionary[i] for i, null in zip(values.values.tolist(), values.null, strict=True)]
    return Values(objects(texts), values.null)


def _is_bytes(dtype: DType) -> bool:
    return dtype.fixed_width is None or dtype.kind == "uuid"


def _shown(us: int) -> str:
    return str(np.datetime64(us, "us")) + "Z"
