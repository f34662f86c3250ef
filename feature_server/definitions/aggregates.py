"""What a window function is: its arguments, what a lifetime keeps of it, and what its values are of."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..dtypes import DType
from .facts import FeatureView
from .stream import Aggregate, StreamPlan

_ORDER = "order by event_timestamp, created_timestamp"


OF_ITS_ARGUMENT = {"min", "max", "first", "last", "arg_min", "arg_max", "quantile_disc"}


LIFETIME = {
    "count_star", "count", "sum", "avg", "min", "max", "first", "last", "arg_min", "arg_max", "bool_and", "bool_or",
}  # fmt: skip


LIFETIME_WORDS = "count, sum, avg, min, max, first, last, arg_min, arg_max, bool_and, bool_or"


NUMERIC_ONLY = {
    "sum", "avg", "stddev_samp", "stddev_pop", "var_samp", "var_pop", "median", "quantile_cont",
}  # fmt: skip


def part_calls(part: Part, names: list[str]) -> list[str]:
    if part.function == "count_star":
        return ["count(*)"]
    if part.function in ("first", "last"):
        return [f"{part.function}({names[0]} {_ORDER})"]
    if part.function in ("arg_min", "arg_max"):
        return [
            f"{part.function}({names[0]}, {names[1]} {_ORDER})",
            f"{part.function.removeprefix('arg_')}({names[1]})",
        ]
    return [f"{part.function}({names[0]})"]


class Part(msgspec.Struct, frozen=True):
    """A state that lifetime aggregates are made of: a function over arguments of the plan, those that pass a filter."""

    function: str
    arguments: tuple[int, ...]
    filter: int | None


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


def parts(aggregates: Iterable[Aggregate]) -> tuple[Part, ...]:
    return tuple(dict.fromkeys(part for aggregate in aggregates for part in parts_of(aggregate)))


def is_lifetime(plan: StreamPlan, aggregate: Aggregate) -> bool:
    return plan.frames[aggregate.frame].preceding_us is None


def has_bases(view: FeatureView) -> bool:
    """Whether a view has lifetime windows."""
    return view.stream is not None and bool(plan_parts(view.stream))


def compared_argument(aggregate: Aggregate) -> tuple[int, ...]:
    """The arguments of which it matters how their values compare."""
    if aggregate.function in ("count", "first", "last"):
        return ()
    return aggregate.arguments[1:] if aggregate.function in ("arg_min", "arg_max") else aggregate.arguments


def takes(function: str, place: int, dtype: DType) -> bool:
    """Whether an aggregate can have an argument of this type at this place."""
    if function in ("bool_and", "bool_or"):
        return dtype.kind == "bool"
    if function in NUMERIC_ONLY:
        return dtype.is_number or dtype.kind == "decimal"
    if function == "list":
        return dtype.is_number
    if function in ("first", "last") or (function in ("arg_max", "arg_min") and place == 0):
        return True
    return dtype.kind != "list" or function == "count"
