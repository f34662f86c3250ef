"""Columns that say what was known only later: places counted from the last row on, sums of a time that has begun."""

from collections.abc import Collection, Mapping

import msgspec
from sqlglot import exp

from ..queries.parts import equalities, group_of, is_aggregate
from ..queries.rows import Later, Rows
from ..queries.times import is_floor, is_time_of, passed
from .rules import is_numbered_backwards

_KEPT = (exp.Alias, exp.Paren, exp.Cast, exp.AtTimeZone)


def later_of(select: exp.Select, relations: Mapping[str, Rows]) -> Later:
    """Which columns of a SELECT are so."""
    numbers, starts, whole = (
        {alias: getattr(rows.later, name) for alias, rows in relations.items()} for name in Later.__struct_fields__
    )
    same = _same(select)
    numbers = {alias: names - same for alias, names in numbers.items()}
    found = Later(
        numbers=passed(select, numbers, _is_numbered) - same,
        starts=passed(select, starts, lambda each, names: _is_kept(each, names) or _is_start(each)),
        whole=passed(select, whole, _has_any),
    )
    if group_of(select) is None or not any(is_aggregate(each) for each in select.expressions):
        return found
    sums = {each.alias_or_name.lower() for each in select.expressions if is_aggregate(each)}
    return msgspec.structs.replace(found, whole=found.whole | (sums if found.starts else frozenset()))


def found_late(query: exp.Expr, rows: Rows, event_timestamp: str) -> list[tuple[exp.Expr, str]]:
    """What a view, by its query, gives of such columns; each with what there is to say."""
    found = [(_giving(query, name), f", of which the last is 1: {name}") for name in sorted(rows.later.numbers)]
    if event_timestamp in rows.later.starts and rows.later.whole:
        name = min(rows.later.whole)
        found.append((_giving(query, event_timestamp), f", when the time that {name} is of has only begun"))
    return found


def _giving(query: exp.Expr, name: str) -> exp.Expr:
    """The expression of a query that gives a column; its star, or the query, where none is named so."""
    select = query.find(exp.Select) if not isinstance(query, exp.Query) else query
    while isinstance(select, exp.SetOperation | exp.Subquery):
        select = select.this
    listed = select.expressions if isinstance(select, exp.Select) else []
    named = (each for each in listed if each.alias_or_name.lower() == name)
    return next(named, next((each for each in listed if each.is_star), query))


def _same(select: exp.Select) -> frozenset[str]:
    """The columns that a condition has equal to something written out."""
    found = set[str]()
    for clause in ("where", "qualify"):
        part = select.args.get(clause)
        for pair in equalities(part.this if part is not None else None):
            columns = [each for each in pair if isinstance(each, exp.Column)]
            if len(columns) == 1 and any(isinstance(each, exp.Literal) for each in pair):
                found.add(columns[0].name.lower())
    return frozenset(found)


def _own(expression: exp.Expr) -> list[exp.Expr]:
    """The nodes of an expression without those of queries in it."""
    return list(expression.walk(prune=lambda node: isinstance(node, exp.Query)))


def _is_numbered(expression: exp.Expr, numbers: Collection[str]) -> bool:
    return any(
        is_numbered_backwards(node) or (isinstance(node, exp.Column) and node.name.lower() in numbers)
        for node in _own(expression)
    )


def _has_any(expression: exp.Expr, names: Collection[str]) -> bool:
    """Whether such a column is in an expression, but not as that of a row before."""
    nodes = expression.walk(prune=lambda node: isinstance(node, exp.Query | exp.Lag))
    return any(isinstance(node, exp.Column) and node.name.lower() in names for node in nodes)


def _is_kept(expression: exp.Expr, names: Collection[str]) -> bool:
    found = expression
    while isinstance(found, _KEPT):
        found = found.this
    return isinstance(found, exp.Column) and found.name.lower() in names


def _is_start(expression: exp.Expr) -> bool:
    """Whether an expression gives when an hour, a day or the like began, of a time in it."""
    found = expression
    while isinstance(found, _KEPT) and not is_floor(found):
        found = found.this
    return is_floor(found) and any(is_time_of(each, ()) for each in found.find_all(exp.Column))
