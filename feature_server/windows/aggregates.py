"""One window function → what it aggregates."""

from __future__ import annotations

import msgspec
from sqlglot import exp

from .refusals import Refusals


class Call(msgspec.Struct, frozen=True):
    """A window function's aggregate before its arguments have positions; `arguments` and `filter` are SQL expressions."""

    function: str
    arguments: tuple[exp.Expression, ...]
    distinct: bool
    filter: exp.Expression | None
    parameter: float | None


_ONE_ARGUMENT: dict[type[exp.Expression], str] = {
    exp.Sum: "sum", exp.Avg: "avg", exp.Min: "min", exp.Max: "max",
    exp.Stddev: "stddev_samp", exp.StddevSamp: "stddev_samp", exp.StddevPop: "stddev_pop",
    exp.Variance: "var_samp", exp.VariancePop: "var_pop",
    exp.First: "first", exp.FirstValue: "first", exp.Last: "last", exp.LastValue: "last",
    exp.LogicalAnd: "bool_and", exp.LogicalOr: "bool_or", exp.Median: "median",
}  # fmt: skip
_TWO_ARGUMENTS: dict[type[exp.Expression], str] = {exp.ArgMax: "arg_max", exp.ArgMin: "arg_min"}
_QUANTILES: dict[type[exp.Expression], str] = {
    exp.PercentileCont: "quantile_cont", exp.PercentileDisc: "quantile_disc", exp.Quantile: "quantile_disc",
}  # fmt: skip
SUPPORTED = (
    "count, count(distinct), sum, avg, min, max, stddev, var, first, last, arg_min, arg_max, quantile_cont, "
    "quantile_disc, median, bool_and, bool_or, or list(…)[-n:]"
)


def read_call(window: exp.Window, refusals: Refusals) -> Call | None:
    """The aggregate of a window function; None, with a refusal, when it is not supported."""
    function, condition = window.this, None
    if isinstance(function, exp.Filter):
        condition = function.expression.this
        function = function.this
    if isinstance(function, exp.IgnoreNulls | exp.RespectNulls):
        refusals.add(window, "IGNORE NULLS in a window", "filter (where … is not null)")
        return None
    distinct = isinstance(function.this, exp.Distinct)
    arguments = tuple(function.this.expressions) if distinct else ()
    if isinstance(function, exp.Count):
        if distinct:
            call = _call("count_distinct", arguments, True, condition) if len(arguments) == 1 else None
        elif isinstance(function.this, exp.Star) or function.this is None:
            call = _call("count_star", (), False, condition)
        else:
            call = _call("count", (function.this,), False, condition)
    elif distinct:
        call = None
    elif type(function) in _ONE_ARGUMENT:
        call = _call(_ONE_ARGUMENT[type(function)], (_uncast(function),), False, condition)
    elif type(function) in _TWO_ARGUMENTS and not function.args.get("count"):
        call = _call(_TWO_ARGUMENTS[type(function)], (function.this, function.expression), False, condition)
    elif type(function) in _QUANTILES:
        call = _quantile(function, condition)
    elif isinstance(function, exp.ArrayAgg) and not isinstance(function.this, exp.Order):
        call = _call("list", (function.this,), False, condition)
    else:
        call = None
    if call is None:
        refusals.add(window, "a window function that cannot be kept in real time", SUPPORTED)
    return call


def _call(
    function: str,
    arguments: tuple[exp.Expression, ...],
    distinct: bool,
    condition: exp.Expression | None,
    parameter: float | None = None,
) -> Call:
    return Call(function, arguments, distinct, condition, parameter)


def _quantile(function: exp.Expression, condition: exp.Expression | None) -> Call | None:
    level = function.expression or function.args.get("quantile")
    if not isinstance(level, exp.Literal) or level.is_string:
        return None
    return _call(_QUANTILES[type(function)], (function.this,), False, condition, float(level.name))


def _uncast(function: exp.Expression) -> exp.Expression:
    """The argument of bool_and and bool_or without the cast to boolean that the parser adds."""
    argument = function.this
    if isinstance(function, exp.LogicalAnd | exp.LogicalOr) and isinstance(argument, exp.Cast):
        return argument.this
    return argument
