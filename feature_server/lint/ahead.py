"""Rows that are joined with later ones: nobody knew these at the time that comes out."""

from collections.abc import Iterator

import msgspec
from sqlglot import exp

from ..queries.ends import PLAIN, of_days_before
from ..queries.parts import conditions, equalities, in_order, read_by, sql_of, using_of
from ..queries.rows import Inputs, place
from ..queries.times import is_floor, is_time_of
from ..written.described import is_time
from .now import is_used


class _Moment(msgspec.Struct, frozen=True):
    """A time of a relation, `shift` 1 or -1 where something is added or taken off."""

    alias: str
    shift: int = 0


class _Bound(msgspec.Struct, frozen=True):
    """What a condition says: that the time of one relation is not after that of another, but for `slack`."""

    earlier: str
    later: str
    node: exp.Expr
    slack: bool


def joined_ahead(select: exp.Select, inputs: Inputs) -> Iterator[tuple[exp.Expr, str]]:
    """The conditions by which rows of a relation may be later than those that say when, and of which relation."""
    bounds = [bound for condition in conditions(select) for bound in _bounds(condition, inputs)]
    held = {(bound.earlier, bound.later) for bound in bounds if not bound.slack}
    told = set[str]()
    for bound in bounds:
        for alias, other in ((bound.earlier, bound.later), (bound.later, bound.earlier)):
            if alias in told or alias not in inputs.relations or (alias, other) in held:
                continue
            if _says(select, other, inputs) and not _says(select, alias, inputs) and _matters(select, alias, inputs):
                told.add(alias)
                yield bound.node, alias


def joined_at_any_time(select: exp.Select, inputs: Inputs) -> Iterator[tuple[exp.Expr, str]]:
    """The relations with a time that are joined with rows of another one without a word about theirs."""
    spoken = {
        place(column, inputs)
        for condition in conditions(select)
        for column in condition.find_all(exp.Column)
        if _is_time(column, inputs)
    }
    for node, join in read_by(select):
        alias = (node.alias_or_name or sql_of(node)).lower()
        rows = inputs.relations.get(alias)
        if join is None or rows is None or rows.written or rows.current or not rows.times or alias in spoken:
            continue
        others = [other for other in inputs.relations if other != alias and _says(select, other, inputs)]
        using = any(is_time(name) for name in using_of(join))
        if not others or using or str(join.args.get("method") or ""):
            continue
        if _says(select, alias, inputs) or not is_used(select, alias, inputs) or _is_its_own(join, alias, inputs):
            continue
        yield node, alias


def _is_time(column: exp.Column, inputs: Inputs) -> bool:
    rows = inputs.relations.get(place(column, inputs) or "")
    return is_time(column.name) or (rows is not None and column.name.lower() in rows.times)


def _is_its_own(join: exp.Join, alias: str, inputs: Inputs) -> bool:
    """Whether a join is by what tells another relation's rows apart: what it brings is of that very row."""
    equal = {name: set(using_of(join)) for name in inputs.relations}
    for pair in equalities(join.args.get("on")):
        for side in pair:
            if isinstance(side, exp.Column) and (where := place(side, inputs)) is not None:
                equal[where].add(side.name.lower())
    others = (name for name in inputs.relations if name != alias)
    return any(key <= equal[name] for name in others for key in inputs.relations[name].keys)


def _bounds(condition: exp.Expr, inputs: Inputs) -> Iterator[_Bound]:
    """What a condition says of times of two relations."""
    for low, high in in_order(condition):
        earlier, later = _moment(low, inputs), _moment(high, inputs)
        if earlier is not None and later is not None and earlier.alias != later.alias:
            slack = (earlier.shift < 0 and not of_days_before(condition)) or later.shift > 0
            yield _Bound(earlier.alias, later.alias, condition, slack=slack)


def _moment(side: exp.Expr, inputs: Inputs) -> _Moment | None:
    """Which relation's time stands on a side of a condition; None where it is not one relation's, or not known."""
    if isinstance(side, exp.Column):
        alias = place(side, inputs)
        rows = inputs.relations.get(alias or "")
        times = rows.times if rows is not None else ()
        return _Moment(alias) if alias is not None and (side.name.lower() in times or is_time(side.name)) else None
    if isinstance(side, exp.Add | exp.Sub | exp.DateAdd | exp.DateSub | exp.TimestampAdd | exp.TimestampSub):
        if side.expression.find(exp.Column) is not None:
            return None
        found = _moment(side.this, inputs)
        adds = isinstance(side, exp.Add | exp.DateAdd | exp.TimestampAdd)
        return None if found is None else _Moment(found.alias, 1 if adds else -1)
    if is_floor(side):
        found = next(filter(None, (_moment(each, inputs) for each in side.iter_expressions())), None)
        return None if found is None or found.shift > 0 else _Moment(found.alias, -1)
    return _moment(side.this, inputs) if isinstance(side, PLAIN) else None


def _says(select: exp.Select, alias: str, inputs: Inputs) -> bool:
    """Whether a time of a relation comes out of a query; that of one around it does."""
    rows = inputs.relations.get(alias)
    if rows is None:
        return True
    for each in select.expressions:
        star = each if isinstance(each, exp.Star) else each.this if isinstance(each, exp.Column) else None
        if isinstance(star, exp.Star):
            if not isinstance(each, exp.Column) or each.table.lower() == alias:
                return True
            continue
        columns = (one for one in each.find_all(exp.Column) if place(one, inputs) == alias)
        if is_time_of(each, rows.times) and any(one.name.lower() in rows.times or is_time(one.name) for one in columns):
            return True
    return False


def _matters(select: exp.Select, alias: str, inputs: Inputs) -> bool:
    """Whether a relation's rows change what comes out: in a LEFT JOIN only where a column of it is used."""
    for node, join in read_by(select):
        if (node.alias_or_name or sql_of(node)).lower() == alias and join is not None:
            return str(join.args.get("side") or "").upper() != "LEFT" or is_used(select, alias, inputs)
    return True
