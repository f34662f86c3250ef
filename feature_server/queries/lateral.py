"""Queries that look at the row beside them: `lateral`."""

from sqlglot import exp

from ..written.described import is_time
from .parts import conjuncts, read_by
from .rows import Inputs

COMPARISONS = (exp.LT, exp.LTE, exp.GT, exp.GTE, exp.EQ, exp.Between)


def is_told_outside(select: exp.Select, inputs: Inputs) -> bool:
    """Whether a condition compares a time of what a SELECT reads with what is of the query around it: its rows are then
    not how things are now."""
    where = select.args.get("where")
    conditions = [*conjuncts(where.this if where is not None else None)]
    for _, join in read_by(select):
        conditions += conjuncts(join.args.get("on") if join is not None else None)
    times = frozenset[str]().union(*(rows.times for rows in inputs.relations.values()))
    for condition in conditions:
        for each in condition.find_all(*COMPARISONS):
            columns = list(each.find_all(exp.Column))
            outer = [one for one in columns if _is_outer(one, inputs)]
            if outer and any(one not in outer and (one.name.lower() in times or is_time(one.name)) for one in columns):
                return True
    return False


def _is_outer(column: exp.Column, inputs: Inputs) -> bool:
    """Whether a column is of no relation that is read."""
    if column.table:
        return column.table.lower() not in inputs.relations
    return all(
        rows.columns is not None and column.name.lower() not in rows.columns for rows in inputs.relations.values()
    )
