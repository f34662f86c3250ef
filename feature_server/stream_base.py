"""What a stream view's lifetime windows keep in Redis of events long past: a key's base record.

A base has a cut-off, an event time, and the state of each lifetime aggregate over the key's events up to it. It is a
packed row of the pseudo view that `base_view` gives, its event timestamp the cut-off. The events after the cut-off have
records; readers merge the two (`stream_lifetime`).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .definitions import Feature, FeatureView
from .dtypes import FLOAT_WIDTHS, DType
from .stream_plan import Aggregate, StreamPlan

LATENESS_US = 7 * 86_400_000_000  # how much later than its window a pushed event may come and be counted at once


class Part(msgspec.Struct, frozen=True):
    """A state that lifetime aggregates are made of: a function over arguments of the plan, those that pass a filter."""

    function: str
    arguments: tuple[int, ...]
    filter: int | None


def is_lifetime(plan: StreamPlan, aggregate: Aggregate) -> bool:
    return plan.frames[aggregate.frame].preceding_us is None


def parts_of(aggregate: Aggregate) -> tuple[Part, ...]:
    """The states that a lifetime aggregate is made of, its own first: of the first value also whether there is one."""

    def part(function: str, arguments: tuple[int, ...]) -> Part:
        return Part(function, arguments, aggregate.filter)

    if aggregate.function == "avg":
        return part("sum", aggregate.arguments), part("count", aggregate.arguments)
    own = part(aggregate.function, aggregate.arguments)
    return (own, part("count_star", ())) if aggregate.function in ("first", "last") else (own,)


def plan_parts(plan: StreamPlan) -> tuple[Part, ...]:
    """The states of all lifetime aggregates of a plan, each once."""
    return parts([aggregate for aggregate in plan.aggregates if is_lifetime(plan, aggregate)])


def has_bases(view: FeatureView) -> bool:
    """Whether a view has lifetime windows."""
    return view.stream is not None and bool(plan_parts(view.stream))


def parts(aggregates: Iterable[Aggregate]) -> tuple[Part, ...]:
    return tuple(dict.fromkeys(part for aggregate in aggregates for part in parts_of(aggregate)))


def part_features(plan: StreamPlan) -> tuple[tuple[Part, tuple[Feature, ...]], ...]:
    """The features of a base that hold each state: one; of arg_min and arg_max the value and what it is chosen by."""
    found = []
    for n, part in enumerate(plan_parts(plan)):
        dtypes = [plan.arguments[i].dtype for i in part.arguments]
        if part.function in ("count_star", "count"):
            dtypes = [DType("int64")]
        elif part.function == "sum":
            dtypes = [_sum_type(dtypes[0])]
        names = [f"p{n}", f"p{n}_by"]
        found.append((part, tuple(Feature(name=name, dtype=of) for name, of in zip(names, dtypes, strict=False))))
    return tuple(found)


def base_view(view: FeatureView) -> FeatureView:
    """The pseudo view whose packed rows are the bases of a stream view with lifetime windows."""
    assert view.stream is not None
    features = tuple(feature for _, found in part_features(view.stream) for feature in found)
    return msgspec.structs.replace(
        view, event_timestamp="cut_", created_timestamp=None, features=features, stream=None, ttl_us=None
    )


def bounded_us(view: FeatureView) -> int:
    """How long after its time an event matters to a read but for lifetime windows, unless it is the latest."""
    plan = view.stream
    assert plan is not None
    return max(plan.longest_us or 0, view.ttl_us or 0, *(frame.delay_us for frame in plan.frames))


def cut_off_us(view: FeatureView, now_us: int) -> int:
    """The cut-off of bases that are written now."""
    return now_us - bounded_us(view) - LATENESS_US


def _sum_type(dtype: DType) -> DType:
    return DType("float64") if dtype.kind in FLOAT_WIDTHS else DType("decimal", precision=38, scale=dtype.scale or 0)
