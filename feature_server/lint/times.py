"""Which columns say when something was."""

import re
from collections.abc import Collection

from sqlglot import exp

_TYPE = re.compile(r"timestamp|date|time", re.I)
_NAME = re.compile(
    r"(^|_)(at|on|ts|time|date|day|hour|week|month|timestamp|datetime|since|from|until|start|end|tick|as_of)$", re.I
)
_KEPT = (  # what gives a time where it is given one
    exp.Max, exp.Min, exp.First, exp.Last, exp.AnyValue, exp.Greatest, exp.Least, exp.Coalesce, exp.TimestampTrunc,
    exp.DateTrunc, exp.Add, exp.Sub, exp.Paren, exp.Filter, exp.Window, exp.Lag, exp.FirstValue, exp.LastValue,
    exp.AtTimeZone, exp.IgnoreNulls,
)  # fmt: skip


def is_time(name: str, data_type: str = "") -> bool:
    """Whether a column says when something was, by its type, or by its name where that is not known."""
    return bool(_TYPE.search(data_type) if data_type else _NAME.search(name))


def is_time_of(expression: exp.Expr, times: Collection[str]) -> bool:
    """Whether an expression gives a time, where the columns named are times."""
    if isinstance(expression, exp.Column):
        return expression.name.lower() in times or is_time(expression.name)
    if isinstance(expression, exp.Cast):
        return bool(_TYPE.search(expression.to.this.name))
    if isinstance(expression, _KEPT):
        parts = [expression.this, expression.args.get("expression"), *expression.expressions]
        return any(is_time_of(part, times) for part in parts if isinstance(part, exp.Expr))
    return False
