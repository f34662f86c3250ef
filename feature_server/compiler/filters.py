"""A model's filters as a column of its rows, for an event that is filtered out is still a version of itself."""

import msgspec
from sqlglot import exp
from sqlglot.optimizer.scope import Scope

from ..definitions.stream import EventSource
from .layers import chain, conjuncts, only_source, same_name, source_column
from .refusals import Refusals

_COUNTS, _KEPT = "_counts", "_kept"


class Filters(msgspec.Struct, frozen=True):
    """Conditions over what the SELECT with the windows reads.

    An event for which `counts` is not true is left out; one for which `kept`, if any, is not true is no version at all.
    """

    counts: exp.Expr
    kept: exp.Expr | None
    versioned: bool
    known_by_build: bool


def move_filters(scope: Scope, events: EventSource) -> Filters:
    """Take the filters out of `scope` and the SELECTs under it, in place, so that every event has a row.

    A filter below or beside the QUALIFY that keeps the latest version chooses among versions. The QUALIFY itself goes,
    for readers apply its rule, and so does what only says by when the build knew.
    """
    layers = chain(scope, Refusals())
    versioning = next((i for i, layer in enumerate(layers) if layer.expression.args.get("qualify")), None)
    known_by_build = False
    passed: dict[str, exp.Expr] = {}
    for place in reversed(range(len(layers))):
        layer, select = layers[place], layers[place].expression
        where = select.args.get("where")
        conditions = [part.copy() for part in conjuncts(where and where.this)]
        own = [condition for condition in conditions if not _is_build_bound(condition, layer, events)]
        known_by_build |= len(own) < len(conditions)
        select.set("qualify", None)
        select.set("where", None)
        passed = {name: exp.column(name, table=only_source(layer)[0]) for name in passed}
        if own:
            name = _KEPT if versioning is not None and place >= versioning else _COUNTS
            parts = [exp.func("coalesce", exp.and_(*own), exp.false()), *([passed[name]] if name in passed else [])]
            passed[name] = exp.and_(*parts)
        if place > 0:
            added = [exp.alias_(condition, name) for name, condition in passed.items()]
            select.set("expressions", [*select.expressions, *added])
    counts = exp.and_(*passed.values()) if passed else exp.true()
    return Filters(counts, passed.get(_KEPT), versioning is not None, known_by_build)


def _is_build_bound(condition: exp.Expr, layer: Scope, events: EventSource) -> bool:
    """Whether a condition is `<created> <= <constant>`, which says by when the build knew and nothing of the event."""
    condition = condition.unnest()
    if not isinstance(condition, exp.LTE | exp.LT) or events.created_timestamp is None:
        return False
    column = source_column(condition.this, layer)
    return same_name(column, events.created_timestamp) and condition.expression.find(exp.Column) is None
