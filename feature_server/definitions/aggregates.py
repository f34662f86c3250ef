"""What a window function is: its arguments, what a lifetime keeps of it, and what its values are of."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

from ..dtypes import DType
from .facts import FeatureView
from .stream import Aggregate, StreamPlan

# Of a key's events the earliest first; `tie_` is the column that orders those of equal times (`history.events`).
ORDER = "order by event_timestamp, created_timestamp, tie_"
_TAKES: dict[str, Callable[[DType], bool]] = {
    "any": lambda dtype: True,
    "ordered": lambda dtype: dtype.kind != "list",
    "numeric": lambda dtype: dtype.is_number or dtype.kind == "decimal",
    "number": lambda dtype: dtype.is_number,
    "condition": lambda dtype: dtype.kind == "bool",
}


class Function(msgspec.Struct, frozen=True):
    """What a window function is; how it is reckoned over arrays is its kernel in `windows.reduce`.

    `sql` is its call in DuckDB, over the arguments' columns and the aggregate's `parameter`. `takes` says what each
    argument may be, `ordered` where it matters how its values compare. `gives` says what its values are: a count,
    a sum, a value of its first argument, or some number. `states` are what a lifetime keeps of it, its own first;
    without any it cannot be kept. `shown` is its name where the functions are listed. `of_nulls` says that null values
    count too, `chosen` which of two values a state keeps, when it is neither a count nor a sum.
    """

    sql: str
    takes: tuple[str, ...]
    gives: Literal["count", "sum", "argument", "number"]
    states: tuple[str, ...] = ()
    shown: str = ""
    of_nulls: bool = False
    chosen: Literal["", "least", "greatest", "first", "last"] = ""


FUNCTIONS: dict[str, Function] = {
    "count_star": Function("count(*)", (), "count", ("count_star",)),
    "count": Function("count({0})", ("any",), "count", ("count",), "count"),
    "count_distinct": Function("count(distinct {0})", ("ordered",), "count", (), "count(distinct)"),
    "count_if": Function("count_if({0})", ("condition",), "sum", ("count_if",), "count_if"),
    "sum": Function("sum({0})", ("numeric",), "sum", ("sum",), "sum"),
    "product": Function("product({0})", ("numeric",), "number", (), "product"),
    "avg": Function("avg({0})", ("numeric",), "number", ("sum", "count"), "avg"),
    "min": Function("min({0})", ("ordered",), "argument", ("min",), "min", chosen="least"),
    "max": Function("max({0})", ("ordered",), "argument", ("max",), "max", chosen="greatest"),
    "stddev_samp": Function("stddev_samp({0})", ("numeric",), "number", (), "stddev"),
    "stddev_pop": Function("stddev_pop({0})", ("numeric",), "number"),
    "var_samp": Function("var_samp({0})", ("numeric",), "number", (), "var"),
    "var_pop": Function("var_pop({0})", ("numeric",), "number"),
    "first": Function(f"first({{0}} {ORDER})", ("any",), "argument", ("first", "count_star"), "first", True, "first"),
    "last": Function(f"last({{0}} {ORDER})", ("any",), "argument", ("last", "count_star"), "last", True, "last"),
    "arg_min": Function(
        f"arg_min({{0}}, {{1}} {ORDER})", ("any", "ordered"), "argument", ("arg_min",), "arg_min", chosen="least"
    ),
    "arg_max": Function(
        f"arg_max({{0}}, {{1}} {ORDER})", ("any", "ordered"), "argument", ("arg_max",), "arg_max", chosen="greatest"
    ),
    "quantile_cont": Function("quantile_cont({0}, {parameter})", ("numeric",), "number", (), "quantile_cont"),
    "quantile_disc": Function("quantile_disc({0}, {parameter})", ("ordered",), "argument", (), "quantile_disc"),
    "median": Function("median({0})", ("numeric",), "number", (), "median"),
    "bool_and": Function("bool_and({0})", ("condition",), "argument", ("bool_and",), "bool_and", chosen="least"),
    "bool_or": Function("bool_or({0})", ("condition",), "argument", ("bool_or",), "bool_or", chosen="greatest"),
    "list": Function(f"list({{0}} {ORDER})", ("number",), "number", of_nulls=True),
}


def call(function: str, names: Sequence[str], parameter: float | None = None) -> str:
    """A function's call in DuckDB over these columns, the earliest event first where that matters."""
    return FUNCTIONS[function].sql.format(*names, parameter=parameter)


def listed(*, lifetime: bool) -> str:
    """The functions, or those that can be kept over a lifetime, as a person reads them."""
    return ", ".join(one.shown for one in FUNCTIONS.values() if one.shown and (one.states or not lifetime))


def is_ordered(function: str) -> bool:
    """Whether the order of events with equal times may change its value."""
    return ORDER in FUNCTIONS[function].sql


def is_count(of: "Aggregate | Part") -> bool:
    """Whether its values are counts that are never null."""
    return FUNCTIONS[of.function].gives == "count"


def is_of_argument(of: "Aggregate | Part") -> bool:
    """Whether its values are values of its first argument."""
    return FUNCTIONS[of.function].gives == "argument"


class Part(msgspec.Struct, frozen=True):
    """A state that lifetime aggregates are made of: a function over arguments of the plan, those that pass a filter."""

    function: str
    arguments: tuple[int, ...]
    filter: int | None


def parts_of(aggregate: Aggregate) -> tuple[Part, ...]:
    """The states that a lifetime aggregate is made of, its own first: of the first value also whether there is one."""
    return tuple(
        Part(state, aggregate.arguments[: len(FUNCTIONS[state].takes)], aggregate.filter)
        for state in FUNCTIONS[aggregate.function].states
    )


def part_calls(part: Part, names: list[str]) -> list[str]:
    """The SQL of a state: of arg_min and arg_max also that of what the value is chosen by."""
    by = [f"{part.function.removeprefix('arg_')}({names[1]})"] if len(names) > 1 else []
    return [call(part.function, names), *by]


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
    takes = FUNCTIONS[aggregate.function].takes
    return tuple(number for number, kind in zip(aggregate.arguments, takes, strict=True) if kind != "any")


def takes(function: str, place: int, dtype: DType) -> bool:
    """Whether an aggregate can have an argument of this type at this place."""
    return _TAKES[FUNCTIONS[function].takes[place]](dtype)
