"""Joins of rows with how things are now, instead of how they were at the rows' times."""

from collections.abc import Iterator

from sqlglot import exp

from ..written.described import is_time
from .queries import conjuncts, equalities, nodes_of, read_by, sql_of, using_of
from .rows import Inputs

_COMPARISONS = (exp.LT, exp.LTE, exp.GT, exp.GTE, exp.EQ, exp.Between)


def joined_as_now(select: exp.Select, inputs: Inputs) -> Iterator[tuple[exp.Expr, str]]:
    """The relations without a time that rows which have one are joined with, and a column of each that is used."""
    if all(rows.current or rows.written for rows in inputs.relations.values()) and not _is_looked_up(select, inputs):
        return
    for node, join in read_by(select):
        alias = (node.alias_or_name or sql_of(node)).lower()
        rows = inputs.relations.get(alias)
        if rows is None or not rows.current or (join is not None and _kind(join) in ("ASOF", "SEMI", "ANTI")):
            continue
        if _told_when(select, alias, inputs):
            continue
        used = next(_values(select, alias, inputs), None)
        if used is not None:
            yield node, used


def _is_looked_up(select: exp.Select, inputs: Inputs) -> bool:
    """Whether it is a query in an expression, with columns of the query that this is in."""
    within = select.parent
    if not isinstance(within, exp.Subquery) or isinstance(
        within.parent, exp.From | exp.Join | exp.In | exp.CTE | exp.Lateral
    ):
        return False
    return any(each.table and each.table.lower() not in inputs.relations for each in select.find_all(exp.Column))


def _kind(join: exp.Join) -> str:
    return str(join.args.get("method") or join.args.get("kind") or "").upper()


def _conditions(select: exp.Select) -> Iterator[exp.Expr]:
    where = select.args.get("where")
    yield from conjuncts(where.this if where is not None else None)
    for _, join in read_by(select):
        yield from conjuncts(join.args.get("on") if join is not None else None)


def _told_when(select: exp.Select, alias: str, inputs: Inputs) -> bool:
    """Whether a condition compares a time of the relation with what is of another."""
    times = inputs.relations[alias].times
    usings = {name for _, join in read_by(select) if join is not None for name in using_of(join)}
    if any(name in times or is_time(name) for name in usings):
        return True
    for condition in _conditions(select):
        for each in condition.find_all(*_COMPARISONS):
            columns = list(each.find_all(exp.Column))
            own = [one for one in columns if place(one, inputs) == alias]
            if len(own) < len(columns) and any(one.name.lower() in times or is_time(one.name) for one in own):
                return True
    return False


def place(column: exp.Column, inputs: Inputs) -> str | None:
    """The relation that a column is of, where that is known."""
    if column.table:
        return column.table.lower()
    if len(inputs.relations) == 1:
        return next(iter(inputs.relations))
    name = column.name.lower()
    having = [alias for alias, rows in inputs.relations.items() if rows.columns is None or name in rows.columns]
    return having[0] if len(having) == 1 else None


def _values(select: exp.Select, alias: str, inputs: Inputs) -> Iterator[str]:
    """The columns of a relation that are used for more than to find its rows."""
    joins = [join for _, join in read_by(select) if join is not None]
    conditions = [condition for join in joins if (condition := join.args.get("on")) is not None]
    found = {name for join in joins for name in using_of(join)}
    where = select.args.get("where")
    for condition in [*conditions, *([where.this] if where is not None else [])]:
        for pair in equalities(condition):
            columns = [each for each in pair if isinstance(each, exp.Column)]
            found |= {each.name.lower() for each in columns if len(columns) == 2 and each.table.lower() == alias}
    inside = {id(node) for condition in conditions for node in condition.walk()}
    for node in nodes_of(select):
        if isinstance(node, exp.Column) and not isinstance(node.this, exp.Star):
            if id(node) not in inside and node.name.lower() not in found and place(node, inputs) == alias:
                yield node.name.lower()
        elif (star := _star(node, alias)) is not None:
            without = {one.name.lower() for one in star.args.get("except_") or ()}
            named = inputs.relations[alias].columns or ("*",)
            yield from (name for name in named if name not in found and name not in without)


def _star(node: exp.Expr, alias: str) -> exp.Star | None:
    """The star by which all columns of a relation are used."""
    if isinstance(node, exp.Star):
        return None if isinstance(node.parent, exp.Count | exp.Column) else node
    is_own = isinstance(node, exp.Column) and node.table.lower() == alias
    return node.this if is_own and isinstance(node.this, exp.Star) else None
