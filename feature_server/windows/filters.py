"""A model's filters as a column of its rows, for an event that is filtered out is still a version of itself."""

from __future__ import annotations

import msgspec
from sqlglot import exp
from sqlglot.optimizer.scope import Scope

from ..stream_plan import EventSource
from .layers import only_source, source_column

_COUNTS = "_counts"


class Filters(msgspec.Struct, frozen=True):
    """`counts` is the condition, over what the SELECT with the windows reads, under which an event counts."""

    counts: exp.Expr
    versioned: bool
    known_by_build: bool


def move_filters(scope: Scope, events: EventSource) -> Filters:
    """Take the filters out of `scope` and the SELECTs under it, in place, and give them as one condition.

    A filter below or beside the QUALIFY that keeps the latest version stays where it is: it chooses among versions. The
    QUALIFY itself goes, for readers apply its rule, and so does what only says by when the build knew.
    """
    chain = _chain(scope)
    versioning = next((i for i, layer in enumerate(chain) if layer.expression.args.get("qualify")), None)
    known_by_build = passed_on = False
    counts: exp.Expr = exp.true()
    for place in reversed(range(len(chain))):
        layer, select = chain[place], chain[place].expression
        conditions = _conjuncts(select)
        kept = [condition for condition in conditions if not _is_build_bound(condition, layer, events)]
        known_by_build |= len(kept) < len(conditions)
        select.set("qualify", None)
        select.set("where", None)
        if versioning is not None and place >= versioning:
            if kept:
                select.set("where", exp.Where(this=exp.and_(*kept)))
            continue
        parts: list[exp.Expr] = [exp.func("coalesce", exp.and_(*kept), exp.false())] if kept else []
        if passed_on:
            parts.append(exp.column(_COUNTS, table=only_source(layer)[0]))
        counts = exp.and_(*parts) if parts else exp.true()
        if parts and place > 0:
            select.set("expressions", [*select.expressions, exp.alias_(counts, _COUNTS)])
            passed_on = True
    return Filters(counts, versioning is not None, known_by_build)


def _chain(scope: Scope) -> list[Scope]:
    """The scope and those under it, down to the one that reads the events."""
    chain = [scope]
    while isinstance(below := only_source(chain[-1])[1], Scope):
        chain.append(below)
    return chain


def _conjuncts(select: exp.Expr) -> list[exp.Expr]:
    where = select.args.get("where")
    if where is None:
        return []
    condition = where.this.unnest()
    return [part.copy() for part in condition.flatten()] if isinstance(condition, exp.And) else [condition.copy()]


def _is_build_bound(condition: exp.Expr, layer: Scope, events: EventSource) -> bool:
    """Whether a condition is `<created> <= <constant>`, which says by when the build knew and nothing of the event."""
    condition = condition.unnest()
    if not isinstance(condition, exp.LTE | exp.LT) or events.created_timestamp is None:
        return False
    column = source_column(condition.this, layer)
    return column == events.created_timestamp and condition.expression.find(exp.Column) is None
