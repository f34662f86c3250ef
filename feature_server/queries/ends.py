"""What conditions say of times before others, and of when rows of a history ceased to be so."""

import re
from collections.abc import Iterator

from sqlglot import exp

from ..written.described import is_time
from .parts import in_order, sql_of
from .times import is_floor

PLAIN = (exp.Paren, exp.Cast, exp.AtTimeZone, exp.Coalesce)  # what leaves a time as it is
_NEVER = re.compile(r"[2-9][2-9]\d\d-|[3-9]\d\d\d-|infinity$", re.I)
_YES = {"1", "y", "yes", "true", "t"}
_SHIFTS = (exp.Add, exp.Sub, exp.DateAdd, exp.DateSub, exp.TimestampAdd, exp.TimestampSub)


def of_days_before(condition: exp.Expr) -> bool:
    """Whether a condition says that the day, or the like, of a time is before that of another: so is the time."""
    if not isinstance(condition, exp.LT | exp.GT):
        return False
    sides = (condition.left.unnest(), condition.right.unnest())
    if not all(is_floor(side) for side in sides):
        return False
    left, right = ((type(side), str(side.args.get("unit") or "").upper()) for side in sides)
    return left == right and not any(side.find(*_SHIFTS) for side in sides)


def ends_history(window: exp.Expr, statement: exp.Expr, given: tuple[str, ...] | None) -> bool:
    """Whether `lead` gives but when a row of a history ceased to be so, for conditions that bound it by what is looked
    up: the next row's begin, which does not come out of the statement, whose columns are `given`.

    That a row began by then is for `lint.ahead` to see.
    """
    named = window.parent
    if not isinstance(window, exp.Window) or not isinstance(window.this, exp.Lead) or not isinstance(named, exp.Alias):
        return False
    order, name = window.args.get("order"), named.alias.lower()
    if order is None or given is None or name in given or not is_time(name):
        return False
    if sql_of(order.expressions[0].this) != sql_of(window.this.this) or order.expressions[0].args.get("desc"):
        return False
    uses = [each for each in statement.find_all(exp.Column) if each.name.lower() == name]
    return bool(uses) and all(map(_is_bound, uses))


def _is_bound(end: exp.Column) -> bool:
    """Whether a time that may be a later one is but compared in a condition: with an earlier one, or this or null."""
    side: exp.Expr = end
    while isinstance(side.parent, PLAIN):
        side = side.parent
    condition: exp.Expr | None = side.parent
    other = condition.parent if isinstance(condition, exp.Is) else None
    compared = (other.left.unnest(), other.right.unnest()) if isinstance(other, exp.Or) else (condition,)
    above = other or condition
    while above is not None and isinstance(above.parent, exp.And | exp.Or | exp.Paren):
        above = above.parent
    if above is None or not isinstance(above.parent, exp.Join | exp.Where):
        return False
    return any(_is_earlier(each, end.name.lower()) for each in compared if each is not None)


def _is_earlier(condition: exp.Expr, end: str) -> bool:
    """Whether a condition says that something is before a time of that name."""
    for low, high in in_order(condition) if not isinstance(condition, exp.EQ) else ():
        names = {each.name.lower() for each in high.find_all(exp.Column)}
        if low.find(exp.Column) is not None and names == {end} and not high.find(*_SHIFTS):
            return True
    return False


def endless(condition: exp.Expr) -> Iterator[exp.Expr]:
    """What a condition says has no end."""
    if isinstance(condition, exp.Is) and isinstance(condition.expression, exp.Null):
        yield from filter(lambda side: isinstance(side, exp.Column), [condition.this.unnest()])
    for low, high in in_order(condition):
        text = next((each.name for each in low.find_all(exp.Literal)), "")
        if low.find(exp.Column) is None and _NEVER.match(text):
            yield high


def is_true(condition: exp.Expr) -> bool:
    """Whether a condition wants what it names to be true."""
    if not isinstance(condition, exp.EQ | exp.Is):
        return True
    said = condition.expression
    return said.name.lower() in _YES if isinstance(said, exp.Literal) else isinstance(said, exp.Boolean) and said.this
