"""One window function → what it aggregates, over which frame."""

from contextlib import suppress
from functools import cache

import msgspec
import sqlglot
from sqlglot import exp

from ..definitions.aggregates import FUNCTIONS, listed
from ..definitions.aggregates import call as sql_call
from ..definitions.stream import Frame
from ..errors import WarehouseError
from .layers import sql_text
from .lookups import Session
from .refusals import Refusals

LONGEST_US = 90 * 86_400_000_000
_RANGE = "`range between interval 1 hour preceding and current row`"


class Call(msgspec.Struct, frozen=True):
    """A window function's aggregate before its arguments have positions: `arguments` and `filter` are SQL."""

    function: str
    arguments: tuple[exp.Expr, ...]
    filter: exp.Expr | None
    parameter: float | None = None


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
_UNORDERED = "the same without ORDER BY among the arguments: events count in the order of their time"
_OF_DISTINCT = "count(distinct …) of one expression; min and max are the same without DISTINCT"


def _orders(function: exp.Expr) -> bool:
    """Whether ORDER BY stands among the arguments; that of list(…) has an advice of its own."""
    given = function.iter_expressions()
    return not isinstance(function, exp.ArrayAgg | exp.WithinGroup) and any(isinstance(one, exp.Order) for one in given)


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


def read_call(window: exp.Window, refusals: Refusals, last: int | None = None) -> Call:
    """The aggregate of a window function, which is refused when it is not supported.

    `last` says how many of a list are taken from its end.
    """
    function, condition = window.this, None
    if isinstance(function, exp.Filter):
        condition = function.expression.this
        function = function.this
    ignored = isinstance(function, exp.IgnoreNulls)
    if isinstance(function, exp.IgnoreNulls | exp.RespectNulls):
        function = function.this
    if _orders(function):
        refusals.refuse(window, "a window function with an order of its own", _UNORDERED)
    argument, call = _argument(function), None
    distinct = isinstance(argument, exp.Distinct)
    if distinct:
        if isinstance(function, exp.Count) and len(argument.expressions) == 1:
            call = Call("count_distinct", tuple(argument.expressions), condition)
    elif isinstance(function, exp.Count):
        counted = () if isinstance(function.this, exp.Star | None) else (function.this,)
        call = Call("count" if counted else "count_star", counted, condition)
    elif (name := _by_class().get(_class(function))) is not None:
        call = _plain(name, function, condition)
    elif isinstance(function, exp.ArrayAgg) and not isinstance(function.this, exp.Order) and last is not None:
        call = Call("list", (function.this,), condition, float(last))
    if ignored and call is not None and call.function in ("first", "last"):
        present = exp.not_(exp.Is(this=call.arguments[0].copy(), expression=exp.null()))
        call = msgspec.structs.replace(call, filter=present if condition is None else exp.and_(condition, present))
    elif ignored:
        call = None
    if call is None:
        instead = _OF_DISTINCT if distinct else _INSTEAD.get(type(function), SUPPORTED)
        refusals.refuse(window, "a window function that cannot be kept in real time", instead)
    return call


def list_of_last(expression: exp.Expr) -> tuple[exp.Window, int] | None:
    """The window function and n of `(list(x) over w)[-n:]`; None for anything else."""
    match expression:
        case exp.Bracket(expressions=[exp.Slice(this=exp.Neg(this=exp.Literal() as last), expression=None) as part]):
            window = expression.this.unnest()
            if isinstance(window, exp.Window) and part.args.get("step") is None and last.name.isdigit():
                return (window, int(last.name)) if int(last.name) > 0 else None
    return None


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
    return Call(name, given, condition, None if level is None else float(level.name))


def _argument(function: exp.Expr) -> exp.Expr:
    """The first argument; of bool_and and bool_or without the cast to boolean that the parser adds."""
    argument = next(iter(function.expressions), exp.null()) if isinstance(function, exp.Anonymous) else function.this
    if isinstance(function, exp.LogicalAnd | exp.LogicalOr) and isinstance(argument, exp.Cast):
        return argument.this
    return argument


def read_frame(window: exp.Window, session: Session, refusals: Refusals) -> Frame:
    """The frame of a window function over event time, which is refused when it cannot be kept in real time."""
    spec = window.args.get("spec")
    if spec is None:
        refusals.refuse(window, "a window without a frame", f"name the frame, e.g. {_RANGE}")
    if str(spec.args.get("kind")).upper() != "RANGE":
        refusals.refuse(window, "a frame that counts rows", f"a frame of time, e.g. {_RANGE}")
    if spec.args.get("exclude"):
        refusals.refuse(window, "a frame with EXCLUDE", "leave EXCLUDE out")
    start, end = spec.args.get("start"), spec.args.get("end")
    if "FOLLOWING" in (str(spec.args.get(side)).upper() for side in ("start_side", "end_side")):
        refusals.refuse(window, "a frame that looks ahead of the row", f"end at `current row`, e.g. {_RANGE}")
    preceding = None if _is(start, "UNBOUNDED") else _microseconds(start, window, session, refusals)
    delay = 0 if end is None else _microseconds(end, window, session, refusals)
    if preceding is not None and preceding > LONGEST_US:
        longest = "at most 90 days, or `unbounded preceding` for a lifetime"
        refusals.refuse(window, "a frame longer than 90 days", longest)
    if preceding is not None and preceding < delay:
        refusals.refuse(window, "a frame that ends before it starts", f"the longer interval first, e.g. {_RANGE}")
    return Frame(preceding, delay)


def _microseconds(bound: object, window: exp.Window, session: Session, refusals: Refusals) -> int:
    """The length of a constant interval, as DuckDB has it; months, years and what is no interval are refused."""
    if _is(bound, "CURRENT ROW"):
        return 0
    if isinstance(bound, exp.Expr) and bound.find(exp.Column) is None:
        with suppress(WarehouseError):
            ((months, found),) = session.rows(
                "select datepart('year', i) * 12 + datepart('month', i), epoch_us(i) "
                f"from (select cast({sql_text(bound)} as interval) as i)"
            )
            if months == 0 and found > 0:
                return int(found)
    lengths = "an interval of seconds, minutes, hours or days"
    refusals.refuse(window, "a frame bound that is not a fixed length of time", lengths)


def _is(bound: object, word: str) -> bool:
    return (bound if isinstance(bound, str) else getattr(bound, "name", "")).upper() == word
