"""Which columns say when something was."""

import math
from collections.abc import Callable, Collection, Mapping

from sqlglot import exp

from ..written.described import is_time, is_type_of_time

_KEPT = (  # what gives a time where it is given one
    exp.Max, exp.Min, exp.First, exp.Last, exp.AnyValue, exp.Greatest, exp.Least, exp.Coalesce, exp.TimestampTrunc,
    exp.DateTrunc, exp.Add, exp.Sub, exp.Paren, exp.Filter, exp.Window, exp.Lag, exp.FirstValue, exp.LastValue,
    exp.AtTimeZone, exp.IgnoreNulls,
)  # fmt: skip
_LATER = (exp.Add, exp.DateAdd, exp.TimestampAdd, exp.TsOrDsAdd)
_EARLIER = (exp.Least, exp.Min, exp.Lag, exp.DateSub, exp.TimestampSub, exp.DatetimeSub)  # than one they are given
_UNITS = {"second": 10**6, "minute": 60 * 10**6, "hour": 3600 * 10**6, "day": 86_400 * 10**6, "week": 604_800 * 10**6}
_LONGEST = {"month": 31 * _UNITS["day"], "quarter": 92 * _UNITS["day"], "year": 366 * _UNITS["day"]}


def passed(
    select: exp.Select,
    given: Mapping[str, frozenset[str]],
    gives: Callable[[exp.Expr, frozenset[str]], bool],
) -> frozenset[str]:
    """The columns of a SELECT that are what some columns of each relation are: by a star, or as `gives` says."""
    found, every = set[str](), frozenset[str]().union(*given.values())
    for each in select.expressions:
        star = each if isinstance(each, exp.Star) else each.this if isinstance(each, exp.Column) else None
        if isinstance(star, exp.Star):
            there = given.get(each.table.lower(), frozenset()) if isinstance(each, exp.Column) else every
            found |= there - {one.name.lower() for one in star.args.get("except_") or ()}
            found |= {one.alias.lower() for one in star.args.get("rename") or () if one.this.name.lower() in there}
            found |= {one.alias.lower() for one in star.args.get("replace") or () if gives(one.this, every)}
        elif gives(each, every):
            found.add(each.alias_or_name.lower())
    return frozenset(found)


def is_known(expression: exp.Expr, says: Callable[[exp.Column], bool], after_us: int) -> bool:
    """Whether an expression says when a row was known: by a column that `says` so, or, where `after_us` is how long
    that takes, at least so long after another time.

    What is earlier than such a column does not, such as the least of several or the day that it is in; what stands for
    one where that is null does not count.
    """
    if isinstance(expression, exp.Column):
        return says(expression)
    if isinstance(expression, _LATER):
        lengths = [_length_us(side) for side in (expression.this, expression.expression)]
        if after_us > 0 and any(length is not None for length in lengths) and _shift_us(expression) >= after_us:
            return True
        if any(length is not None and length < 0 for length in lengths):
            return False
        added = max((length for length in lengths if length is not None), default=math.inf)
        sides = (expression.this.unnest(), expression.expression.unnest())
        floors = (side for side in sides if is_floor(side) and added >= _floor_us(side))
        return any(is_known(side, says, after_us) for side in (*(one.this for one in floors), *_parts(expression)))
    taken = isinstance(expression, exp.Sub) and _length_us(expression.expression) is not None
    if taken or isinstance(expression, _EARLIER) or is_floor(expression):
        return False
    return any(is_known(part, says, after_us) for part in _parts(expression))


def _parts(expression: exp.Expr) -> list[exp.Expr]:
    """What an expression is one of, or is made from: not what it depends on."""
    if isinstance(expression, exp.Window | exp.Filter | exp.Coalesce):
        return [expression.this]
    if isinstance(expression, exp.Case):
        branches = [branch.args["true"] for branch in expression.args["ifs"]]
        return [*branches, *filter(None, [expression.args.get("default")])]
    if isinstance(expression, exp.If):
        return [part for name in ("true", "false") if (part := expression.args.get(name)) is not None]
    return list(expression.iter_expressions())


def _length_us(side: exp.Expr) -> float | None:
    """The length of an interval, below 0 for one back; infinite where it is not written out, None for what is none."""
    if isinstance(side, exp.Interval):
        number, unit = side.this, str(side.args.get("unit") or "")
    elif isinstance(side, exp.Anonymous) and side.name.lower().startswith("to_") and side.expressions:
        number, unit = side.expressions[0], side.name[3:]
    elif isinstance(side, exp.Neg):
        length = _length_us(side.this)
        return None if length is None else -length
    else:
        return math.inf if side.find(exp.Interval) is not None else None
    text, unit_us = number.unnest().name, _UNITS.get(unit.lower().removesuffix("s"))
    if isinstance(number.unnest(), exp.Neg) or text.startswith("-"):
        return -math.inf
    return int(text) * unit_us if text.isdigit() and unit_us is not None else math.inf


def _shift_us(expression: exp.Expr) -> float:
    """How much later than a time that it is made of an expression is at least: below 0 where it may be earlier."""
    if isinstance(expression, (*_LATER, *_EARLIER, exp.Sub)) and expression.args.get("expression") is not None:
        this, other = expression.this, expression.expression
        sign = 1 if isinstance(expression, _LATER) else -1
        if (length := _length_us(other)) is not None:
            return _shift_us(this) + sign * length
        if sign > 0 and (length := _length_us(this)) is not None:
            return _shift_us(other) + length
    if is_floor(expression):
        inner = expression.expression if isinstance(expression, exp.DateBin) else expression.this
        return _shift_us(inner) - _floor_us(expression)
    parts = [_shift_us(part) for part in _parts(expression) if part.find(exp.Column) is not None]
    return (max if isinstance(expression, exp.Greatest) else min)(parts, default=0)


def _floor_us(floor: exp.Expr) -> float:
    """How much earlier than a time the begin of what it is in may be."""
    if isinstance(floor, exp.Cast):
        return _UNITS["day"]
    if isinstance(floor, exp.DateBin):
        length = _length_us(floor.this)
        return math.inf if length is None else length
    unit = floor.args.get("unit")
    return (_UNITS | _LONGEST).get(unit.name.lower() if unit is not None else "", math.inf)


def is_floor(expression: exp.Expr) -> bool:
    """Whether an expression gives the begin of what a time is in: its hour, its day."""
    if isinstance(expression, exp.Cast):
        return expression.to.this == exp.DType.DATE
    return isinstance(expression, exp.TimestampTrunc | exp.DateTrunc | exp.DateBin)


def is_time_of(expression: exp.Expr, times: Collection[str]) -> bool:
    """Whether an expression gives a time, where the columns named are times."""
    if isinstance(expression, exp.Alias):
        return is_time(expression.alias) or is_time_of(expression.this, times)
    if isinstance(expression, exp.Column):
        return expression.name.lower() in times or is_time(expression.name)
    if isinstance(expression, exp.Cast):
        return is_type_of_time(expression.to.this.name)
    if isinstance(expression, _KEPT):
        parts = [expression.this, expression.args.get("expression"), *expression.expressions]
        return any(is_time_of(part, times) for part in parts if isinstance(part, exp.Expr))
    return False
