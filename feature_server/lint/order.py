"""What depends on the order of rows that nothing puts in one order: chance says what it gives."""

from collections.abc import Iterable, Iterator, Sequence

from sqlglot import exp

from ..queries.lists import WRAPPERS, is_order_free
from ..queries.parts import defined, group_of, nodes_of, partition_of, read_by, sql_of, using_of
from ..queries.rows import Inputs, Key, Term, place, term_of
from .keys import chosen

_BY_PLACE = (exp.RowNumber, exp.Lag, exp.Lead, exp.NthValue, exp.Ntile)  # a row's own place counts
_PICKS = (exp.First, exp.Last, exp.AnyValue, exp.FirstValue, exp.LastValue, exp.ArgMax, exp.ArgMin)
_LISTS = (exp.ArrayAgg, exp.GroupConcat)
_PICKS_BY_NAME = {"arbitrary", "arg_max_null", "arg_min_null", "arg_max_nulls_last", "arg_min_nulls_last"}
_LISTS_BY_NAME = {"json_group_array", "json_group_object"}
Unstable = tuple[exp.Expr, Sequence[exp.Expr]]  # what depends on the order, and by what its rows are told apart


def unstable(query: exp.Query, inputs: Inputs, keys: set[Key]) -> Iterator[Unstable]:
    """What in a query of rows with these keys depends on an order that is not total."""
    yield from _limited(query, inputs, keys)
    yield from _made_a_list(query, inputs, keys)
    if not isinstance(query, exp.Select):
        return
    yield from _nearest(query, inputs)
    distinct = query.args.get("distinct")
    if distinct is not None and (on := distinct.args.get("on")) is not None:
        told = [*(on.expressions if isinstance(on, exp.Tuple) else [on]), *_ordered(query)]
        if not inputs.tell_apart(keys, told):
            yield distinct, told
    group = group_of(query) or []
    for node in nodes_of(query):
        if isinstance(node, exp.Window) and node.arg_key != "windows":
            found = _window(node, inputs, keys)
        elif _is_any(node, _PICKS, _PICKS_BY_NAME) or _is_any(node, _LISTS, _LISTS_BY_NAME):
            found = None if isinstance(_outside(node), exp.Window) else _aggregate(node, group, inputs)
        else:
            continue
        if found is not None:
            yield node, found


def _limited(query: exp.Query, inputs: Inputs, keys: set[Key]) -> Iterator[Unstable]:
    """A limit: which rows are within it."""
    limit = query.args.get("limit") or query.args.get("offset")
    if limit is None or (
        isinstance(limit, exp.Limit) and limit.expression is not None and limit.expression.name == "0"
    ):
        return
    order = _ordered(query)
    if isinstance(query, exp.Select):
        keys = {*keys, *chosen(query, inputs)}
        if query.args.get("distinct") is not None:
            keys.add(frozenset(term_of(each.unalias(), inputs) for each in query.expressions))
    if not inputs.tell_apart(keys, order):
        yield limit, order


def _made_a_list(query: exp.Query, inputs: Inputs, keys: set[Key]) -> Iterator[Unstable]:
    """A query whose rows become a list."""
    made = query.parent
    if not isinstance(made, exp.Array) or is_order_free(made):
        return
    order = _ordered(query)
    if not inputs.tell_apart(keys, order) and not _are_all(query.selects, order, inputs):
        yield made, order


def _are_all(values: Sequence[exp.Expr], order: Sequence[exp.Expr], inputs: Inputs) -> bool:
    """Whether values are all in an order: rows that are alike in it are alike."""
    there = set[Term]().union(*(inputs.terms(each) for each in order))
    return all(not inputs.terms(value.unalias()).isdisjoint(there) for value in values)


def _ordered(query: exp.Query) -> list[exp.Expr]:
    """What a query orders by, places in its list of columns resolved."""
    order, listed = query.args.get("order"), query.selects
    found = list[exp.Expr]()
    for each in order.expressions if order is not None else ():
        by = each.this
        if isinstance(by, exp.Literal) and by.name.isdigit() and 0 < int(by.name) <= len(listed):
            by = listed[int(by.name) - 1].unalias()
        if isinstance(by, exp.Column | exp.Var) and by.name.lower() == "all":
            found += [one.unalias() for one in listed]
        found.append(by)
    return found


def _nearest(select: exp.Select, inputs: Inputs) -> Iterator[Unstable]:
    """ASOF joins to rows of which several may be the nearest."""
    for node, join in read_by(select):
        if join is None or str(join.args.get("method") or "").upper() != "ASOF":
            continue
        alias = (node.alias_or_name or sql_of(node)).lower()
        on = join.args.get("on")
        columns = [] if on is None else [each for each in on.find_all(exp.Column) if each.table.lower() == alias]
        names = {*using_of(join), *(each.name.lower() for each in columns)}
        if not any(key <= names for key in inputs.relations[alias].keys):
            yield join, [exp.column(name) for name in sorted(names)]


def _window(window: exp.Window, inputs: Inputs, keys: set[Key]) -> Sequence[exp.Expr] | None:
    """By what a window function tells its rows apart, where that is not enough."""
    function, over = _inside(window), defined(window)
    parts, frame = partition_of(over), over.args.get("spec")
    order = over.args.get("order")
    told = [*parts, *(each.this for each in (order.expressions if order is not None else ())), *_inner_order(function)]
    in_rows = frame is not None and str(frame.args.get("kind")).upper() == "ROWS" and not _is_whole(frame)
    is_list = _is_any(function, _LISTS, _LISTS_BY_NAME)
    picks = _is_any(function, _PICKS, _PICKS_BY_NAME) or (is_list and not is_order_free(function))
    if isinstance(function, exp.Ntile) or not (in_rows or picks or isinstance(function, _BY_PLACE)):
        return None
    if inputs.tell_apart(keys, told):
        return None
    by_place = isinstance(function, _BY_PLACE)
    value = _value(function) if picks or by_place else None
    alike = parts if in_rows or by_place else [*told, *_compared(function)]
    return None if value is not None and _follows(value, alike, inputs) else told


def _is_whole(frame: exp.Expr) -> bool:
    return all(str(frame.args.get(side)).upper() == "UNBOUNDED" for side in ("start", "end"))


def _aggregate(node: exp.Expr, group: Sequence[exp.Expr], inputs: Inputs) -> Sequence[exp.Expr] | None:
    """By what an aggregate tells its rows apart, where that is not enough."""
    is_list = _is_any(node, _LISTS, _LISTS_BY_NAME)
    if is_list and is_order_free(node):
        return None
    order = _inner_order(node) or _compared(node)
    told = [*group, *order]
    if inputs.tell_apart(inputs.keys, told):
        return None
    value = _value(node)
    if value is not None and _follows(value, told if order or not is_list else group, inputs):
        return None
    return told


def _follows(value: exp.Expr, of: Iterable[exp.Expr], inputs: Inputs) -> bool:
    """Whether a value is the same wherever other expressions are: each of its columns is one of them, or of a relation
    of which they name the row."""
    of = list(of)
    if not inputs.terms(value).isdisjoint(set().union(*(inputs.terms(each) for each in of))):
        return True
    there = inputs.fixed.union(*(inputs.terms(each) for each in of))
    rows = {
        alias
        for alias, relation in inputs.relations.items()
        if any({(alias, column) for column in key} <= there for key in relation.keys)
    }
    return all(
        not inputs.terms(column).isdisjoint(there) or place(column, inputs) in rows
        for column in value.find_all(exp.Column)
    )


def _value(function: exp.Expr) -> exp.Expr | None:
    """What a function gives, of one row."""
    found = function.expressions[0] if isinstance(function, exp.Anonymous) else function.this
    while isinstance(found, exp.Order | exp.Limit | exp.HavingMax | exp.Distinct):
        found = found.expressions[0] if isinstance(found, exp.Distinct) else found.this
    return found if isinstance(found, exp.Expr) else None


def _compared(function: exp.Expr) -> list[exp.Expr]:
    """What arg_max and its like compare."""
    if isinstance(function, exp.ArgMax | exp.ArgMin):
        return [function.expression] if isinstance(function.expression, exp.Expr) else []
    return list(function.expressions[1:2]) if _is_any(function, (), _PICKS_BY_NAME) else []


def _inner_order(function: exp.Expr) -> list[exp.Expr]:
    """What a function's own ORDER BY has."""
    found = function.expressions[-1] if isinstance(function, exp.Anonymous) and function.expressions else function.this
    while isinstance(found, exp.Limit):
        found = found.this
    return [each.this for each in found.expressions] if isinstance(found, exp.Order) else []


def _inside(window: exp.Window) -> exp.Expr:
    found = window.this
    while isinstance(found, WRAPPERS):
        found = found.this
    return found


def _outside(node: exp.Expr) -> exp.Expr | None:
    found = node.parent
    while isinstance(found, WRAPPERS):
        found = found.parent
    return found


def _is_any(node: exp.Expr, kinds: tuple[type[exp.Expr], ...], names: set[str]) -> bool:
    return isinstance(node, kinds) or (isinstance(node, exp.Anonymous) and node.name.lower() in names)
