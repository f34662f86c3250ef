"""Joins of rows with how things are now, instead of how they were at the rows' times."""

import re
from collections.abc import Iterator

from sqlglot import exp

from ..queries.ends import endless, is_true
from ..queries.lateral import COMPARISONS
from ..queries.parts import conditions, conjuncts, equalities, group_of, nodes_of, read_by, sql_of, using_of
from ..queries.rows import Inputs, Rows, place
from ..queries.times import is_time_of
from ..written.described import is_time

_CURRENT = re.compile(r"^(is_|dbt_is_)?(current|latest)(_(flag|row|record|version))?$", re.I)


def joined_as_now(select: exp.Select, inputs: Inputs) -> Iterator[tuple[exp.Expr, str]]:
    """The relations without a time that rows which have one are joined with, and a column of each that is used."""
    if (whole := _of_all_times(select, inputs)) is not None:
        yield whole, sql_of(select.selects[0].unalias())
        return
    read = list(read_by(select))
    alone = all(rows.current or (rows.written and not rows.times) for rows in inputs.relations.values())
    if (alone or len(read) == 1) and not _is_looked_up(select, inputs):
        return
    for node, join in read:
        alias = (node.alias_or_name or sql_of(node)).lower()
        rows = inputs.relations.get(alias) or inputs.chosen.get(alias)
        if rows is None or (join is not None and _kind(join) == "ASOF") or _told_when(select, alias, rows, inputs):
            continue
        if not rows.current and _open(select, alias, rows, inputs) is None:
            continue
        in_list = select.parent is not None and isinstance(select.parent.parent, exp.In)
        used = chosen_by(select, inputs) if in_list else next(_values(select, alias, rows, inputs), None)
        if used is None and join is not None:
            is_left = str(join.args.get("side") or "").upper() == "LEFT"
            used = rows.by if not is_left or _is_shown(select, alias, inputs) else None
        if used is not None:
            yield node, used


def chosen_by(select: exp.Select, inputs: Inputs) -> str | None:
    """A column by which a SELECT chooses among rows of how things are now, other than by being there at all."""
    having = select.args.get("having")
    if having is not None:
        return sql_of(having.this)
    where = select.args.get("where")
    for condition in conjuncts(where.this if where is not None else None):
        if isinstance(condition, exp.Not) and isinstance(condition.this, exp.Is):
            continue
        columns = list(condition.find_all(exp.Column))
        if any(each.table and each.table.lower() not in inputs.relations for each in columns):
            continue  # by what is of a query around it
        for each in columns:
            rows = inputs.relations.get(place(each, inputs) or "")
            if rows is not None and rows.current:
                return each.name.lower()
    return next((rows.by for rows in inputs.relations.values() if rows.by is not None), None)


def _of_all_times(select: exp.Select, inputs: Inputs) -> exp.Expr | None:
    """A query in an expression that gives something of all rows that there are, whatever their time, or chooses keys by
    that; where it stands."""
    within = select.parent
    if not isinstance(within, exp.Subquery) or all(rows.written for rows in inputs.relations.values()):
        return None
    if isinstance(within.parent, exp.In):
        chooses = select.args.get("having") is not None and within.parent.this.find(exp.Column) is not None
        return None if not chooses or _is_bounded(select, inputs) else within
    if isinstance(within.parent, exp.From | exp.Join | exp.CTE | exp.Lateral | exp.Exists) or len(select.selects) != 1:
        return None
    value = select.selects[0]
    times = frozenset[str]().union(*(rows.times for rows in inputs.relations.values()))
    is_total = group_of(select) == [] and not is_time_of(value, times)
    return within if is_total and not _is_bounded(select, inputs) else None


def _is_bounded(select: exp.Select, inputs: Inputs) -> bool:
    """Whether a condition speaks of a time, or of the row that the query is for."""
    return any(
        is_time(column.name) or (column.table and column.table.lower() not in inputs.relations)
        for condition in conditions(select)
        for column in condition.find_all(exp.Column)
    )


def _is_shown(select: exp.Select, alias: str, inputs: Inputs) -> bool:
    """Whether a column of a relation, be it its key, is in what a SELECT gives."""
    listed = (column for each in select.expressions for column in each.find_all(exp.Column))
    return any(column.table and place(column, inputs) == alias for column in listed)


def is_open(select: exp.Select, inputs: Inputs) -> bool:
    """Whether a SELECT takes of a history what is so until now: rows whose end is not known."""
    histories = [alias for alias, rows in inputs.relations.items() if not rows.written]
    return len(histories) == 1 and _open(select, histories[0], inputs.relations[histories[0]], inputs) is not None


def _open(select: exp.Select, alias: str, rows: Rows, inputs: Inputs) -> str | None:
    """The time of a relation that is to be null, or in a time that is never reached; or what says that a row is so
    now."""
    for condition in conditions(select):
        for side in endless(condition):
            column = side.find(exp.Column)
            if column is not None and place(column, inputs) == alias and _is_its_time(column, rows):
                return column.name.lower()
        flag = condition.this if isinstance(condition, exp.EQ | exp.Is) else condition
        flag = flag.unnest()
        is_flag = _CURRENT.search(flag.name) is not None and is_true(condition)
        if isinstance(flag, exp.Column) and is_flag and place(flag, inputs) == alias:
            return flag.name.lower()
    return None


def _is_its_time(column: exp.Column, rows: Rows) -> bool:
    return column.name.lower() in rows.times or is_time(column.name)


def _is_looked_up(select: exp.Select, inputs: Inputs) -> bool:
    """Whether it is a query in an expression, with columns of the query that this is in."""
    within = select.parent
    if isinstance(within, exp.Subquery) and isinstance(within.parent, exp.In):
        return within.parent.this.find(exp.Column) is not None
    if (not isinstance(within, exp.Exists) and not isinstance(within, exp.Subquery)) or isinstance(
        within.parent, exp.From | exp.Join | exp.In | exp.CTE | exp.Lateral
    ):
        return False
    return any(each.table and each.table.lower() not in inputs.relations for each in select.find_all(exp.Column))


def _kind(join: exp.Join) -> str:
    return str(join.args.get("method") or join.args.get("kind") or "").upper()


def _told_when(select: exp.Select, alias: str, rows: Rows, inputs: Inputs) -> bool:
    """Whether a condition compares a time of the relation with what is of another."""
    usings = {name for _, join in read_by(select) if join is not None for name in using_of(join)}
    if any(name in rows.times or is_time(name) for name in usings):
        return True
    for condition in conditions(select):
        for each in condition.find_all(*COMPARISONS):
            columns = list(each.find_all(exp.Column))
            own = [one for one in columns if place(one, inputs) == alias]
            if len(own) < len(columns) and any(_is_its_time(one, rows) for one in own):
                return True
    return False


def is_used(select: exp.Select, alias: str, inputs: Inputs) -> bool:
    """Whether a column of a relation is used for more than to find its rows."""
    return next(_values(select, alias, inputs.relations[alias], inputs), None) is not None


def _values(select: exp.Select, alias: str, rows: Rows, inputs: Inputs) -> Iterator[str]:
    """The columns of a relation that are used for more than to find its rows."""
    found = {name for _, join in read_by(select) if join is not None for name in using_of(join)}
    for condition in conditions(select):
        for pair in equalities(condition):
            columns = [list(each.find_all(exp.Column)) for each in pair]
            own = [each.name.lower() for side in columns for each in side if place(each, inputs) == alias]
            found |= set(own if all(columns) else ())
    inside = {id(node) for condition in _left_joined(select, alias) for node in condition.walk()}
    for node in nodes_of(select):
        if isinstance(node, exp.Column) and not isinstance(node.this, exp.Star):
            if id(node) not in inside and node.name.lower() not in found and place(node, inputs) == alias:
                yield node.name.lower()
        elif (star := _star(node, alias)) is not None:
            without = {one.name.lower() for one in star.args.get("except_") or ()}
            named = rows.columns or ("*",)
            yield from (name for name in named if name not in found and name not in without)


def _left_joined(select: exp.Select, alias: str) -> Iterator[exp.Expr]:
    """The condition of the LEFT JOIN that brings a relation in: it takes no row away."""
    for node, join in read_by(select):
        if join is None or str(join.args.get("side") or "").upper() != "LEFT":
            continue
        if (node.alias_or_name or sql_of(node)).lower() == alias and (on := join.args.get("on")):
            yield on


def _star(node: exp.Expr, alias: str) -> exp.Star | None:
    """The star by which all columns of a relation are used."""
    if isinstance(node, exp.Star):
        return None if isinstance(node.parent, exp.Count | exp.Column) else node
    is_own = isinstance(node, exp.Column) and node.table.lower() == alias
    return node.this if is_own and isinstance(node.this, exp.Star) else None
