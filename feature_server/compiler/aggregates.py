"""One window function → what it aggregates."""

from functools import cache

import msgspec
import sqlglot
from sqlglot import exp

from ..definitions.aggregates import FUNCTIONS, listed
from ..definitions.aggregates import call as sql_call
from .refusals import Refusals


class Call(msgspec.Struct, frozen=True):
    """A window function's aggregate before its arguments have positions: `arguments` and `filter` are SQL."""

    function: str
    arguments: tuple[exp.Expr, ...]
    distinct: bool
    filter: exp.Expr | None
    parameter: float | None


_ALSO: dict[type[exp.Expr], str] = {
    exp.Stddev: "stddev_samp", exp.FirstValue: "first", exp.AnyValue: "first", exp.LastValue: "last",
    exp.Quantile: "quantile_disc",
}  # fmt: skip
_SPECIAL = ("count_star", "count", "count_distinct", "list")  # known by more than their class
SUPPORTED = f"{listed(lifetime=False)}, or (list(…) over …)[-n:]"
_PREVIOUS = "a plain column for the latest event's value, or (list(…) over …)[-n:] for the last n"
_COUNTED = "count(*) over a range of time"
_INSTEAD: dict[type[exp.Expr], str] = {
    exp.Lag: _PREVIOUS, exp.NthValue: _PREVIOUS, exp.ArrayAgg: "(list(…) over …)[-n:], the last n",
    exp.Lead: "nothing that looks ahead: what follows an event belongs into a label",
    exp.RowNumber: _COUNTED, exp.Rank: _COUNTED, exp.DenseRank: _COUNTED, exp.PercentRank: _COUNTED,
    exp.CumeDist: _COUNTED, exp.Ntile: _COUNTED,
    exp.ApproxDistinct: "count(distinct …), which is exact",
    exp.WithinGroup: "quantile_cont(…, level) or quantile_disc(…, level)",
}  # fmt: skip
_OF_DISTINCT = "count(distinct …) of one expression; min and max are the same without DISTINCT"


def other_type(function: str) -> str:
    """What to write for an argument of a type that an aggregate cannot take."""
    return {
        "numeric": "a number: of a time epoch(…), the seconds since 1970; of a condition cast(… as integer)",
        "number": "a list of numbers",
        "condition": f"a condition, as in {function}(… <> 0)",
    }.get(FUNCTIONS[function].takes[0], "another column, or a number or text that stands for it")


@cache
def _by_class() -> dict[type[exp.Expr] | str, str]:
    """The functions by what the parser makes of their calls: a class of its own, or the name alone."""
    parsed = {
        name: sqlglot.parse_one(sql_call(name, ["x", "y"], 0.5), dialect="duckdb")
        for name in FUNCTIONS if name not in _SPECIAL
    }  # fmt: skip
    return {_class(function): name for name, function in parsed.items()} | _ALSO


def _class(function: exp.Expr) -> type[exp.Expr] | str:
    return function.name.lower() if isinstance(function, exp.Anonymous) else type(function)


def read_call(window: exp.Window, refusals: Refusals, last: int | None = None) -> Call | None:
    """The aggregate of a window function; None, with a refusal, when it is not supported.

    `last` says how many of a list are taken from its end.
    """
    function, condition = window.this, None
    if isinstance(function, exp.Filter):
        condition = function.expression.this
        function = function.this
    ignored = isinstance(function, exp.IgnoreNulls)
    if isinstance(function, exp.IgnoreNulls | exp.RespectNulls):
        function = function.this
    argument = _argument(function)
    distinct = isinstance(argument, exp.Distinct)
    arguments = tuple(argument.expressions) if distinct else ()
    if isinstance(function, exp.Count):
        if distinct:
            call = _call("count_distinct", arguments, True, condition) if len(arguments) == 1 else None
        elif isinstance(function.this, exp.Star) or function.this is None:
            call = _call("count_star", (), False, condition)
        else:
            call = _call("count", (function.this,), False, condition)
    elif distinct:
        call = None
    elif (name := _by_class().get(_class(function))) is not None:
        call = _plain(name, function, condition)
    elif isinstance(function, exp.ArrayAgg) and not isinstance(function.this, exp.Order) and last is not None:
        call = _call("list", (function.this,), False, condition, float(last))
    else:
        call = None
    if ignored and call is not None:
        call = _without_nulls(call) if call.function in ("first", "last") else None
    if call is None:
        instead = _OF_DISTINCT if distinct else _INSTEAD.get(type(function), SUPPORTED)
        refusals.add(window, "a window function that cannot be kept in real time", instead)
    return call


def list_of_last(expression: exp.Expr) -> tuple[exp.Window, int] | None:
    """The window function and n of `(list(x) over w)[-n:]`; None for anything else."""
    if not isinstance(expression, exp.Bracket) or len(expression.expressions) != 1:
        return None
    window, part = expression.this.unnest(), expression.expressions[0]
    if not isinstance(window, exp.Window) or not isinstance(part, exp.Slice) or part.expression is not None:
        return None
    start = part.this
    if not isinstance(start, exp.Neg) or not isinstance(start.this, exp.Literal) or not start.this.name.isdigit():
        return None
    return (window, int(start.this.name)) if part.args.get("step") is None and int(start.this.name) > 0 else None


def _call(
    function: str,
    arguments: tuple[exp.Expr, ...],
    distinct: bool,
    condition: exp.Expr | None,
    parameter: float | None = None,
) -> Call:
    return Call(function, arguments, distinct, condition, parameter)


def _plain(name: str, function: exp.Expr, condition: exp.Expr | None) -> Call | None:
    """The call of a function as its row says; None with what that does not know, as the n of min(x, n)."""
    level = None
    if "{parameter}" in FUNCTIONS[name].sql:
        level = function.expression or function.args.get("quantile")
        if not isinstance(level, exp.Literal) or level.is_string:
            return None
    if function.args.get("count"):
        return None
    given = (_argument(function), function.expression)[: len(FUNCTIONS[name].takes)]
    return _call(name, given, False, condition, None if level is None else float(level.name))


def _without_nulls(call: Call) -> Call:
    present = exp.not_(exp.Is(this=call.arguments[0].copy(), expression=exp.null()))
    return msgspec.structs.replace(call, filter=present if call.filter is None else exp.and_(call.filter, present))


def _argument(function: exp.Expr) -> exp.Expr:
    """The first argument; of bool_and and bool_or without the cast to boolean that the parser adds."""
    argument = next(iter(function.expressions), exp.null()) if isinstance(function, exp.Anonymous) else function.this
    if isinstance(function, exp.LogicalAnd | exp.LogicalOr) and isinstance(argument, exp.Cast):
        return argument.this
    return argument
