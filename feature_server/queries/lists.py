"""Lists of which the order reaches no value: counted, summed, sorted, searched or taken apart again."""

from collections.abc import Iterator

from sqlglot import exp

from .parts import read_by

WRAPPERS = (exp.Filter, exp.IgnoreNulls, exp.RespectNulls, exp.Paren)
_FREE = (
    exp.ArraySort, exp.Length, exp.ArraySize, exp.ArrayOverlaps, exp.ArrayContainsAll, exp.ArrayMin, exp.ArrayMax,
    exp.In, exp.Any,
)  # fmt: skip
_FREE_NAMES = {  # of aggregates; not first, last, mode and string_agg
    "sum", "fsum", "kahan_sum", "avg", "favg", "mean", "min", "max", "count", "product", "median", "stddev",
    "stddev_pop", "stddev_samp", "var_pop", "var_samp", "variance", "sem", "mad", "kurtosis", "skewness", "entropy",
    "histogram", "approx_count_distinct", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor",
}  # fmt: skip
_OTHERS = {
    "list_sort", "list_reverse_sort", "array_reverse_sort", "list_unique", "array_unique", "list_contains", "list_has",
    "list_has_all", "array_has_all", "list_has_any", "array_has_any", "cardinality",
}  # fmt: skip
_AGGREGATING = {f"{kind}_{verb}" for kind in ("list", "array") for verb in ("aggregate", "aggr")} | {"aggregate"}
_KEPT = (*WRAPPERS, exp.ArrayDistinct, exp.ArrayConcat, exp.Flatten, exp.Cast, exp.Coalesce)  # the same, in some order
_KEPT_NAMES = {"list_intersect", "array_intersect", "list_concat", "list_cat", "array_concat"}
_MAPPED = (exp.Transform, exp.ArrayFilter)


def is_order_free(made: exp.Expr) -> bool:
    """Whether no value depends on the order of a list that an expression makes: of what is done with it where it is
    made, or by the queries that read it of a CTE by its name."""
    if made.find(exp.Limit) is not None:
        return False  # the order says what is in it
    if isinstance(made.parent, exp.Window):
        made = made.parent
    last = _last(made)
    if isinstance(last.parent, exp.Alias) and last.parent.arg_key == "expressions":
        return _read_free(last.parent)
    return _is_free(last)


def _last(made: exp.Expr) -> exp.Expr:
    """The outermost expression that has the same values as a list, in whatever order."""
    while (above := made.parent) is not None and (
        isinstance(above, _KEPT)
        or (isinstance(above, _MAPPED) and made.arg_key == "this" and len(above.expression.expressions) == 1)
        or _named(above) in _KEPT_NAMES
    ):
        made = above
    return made


def _named(node: exp.Expr | None) -> str:
    return node.name.lower() if isinstance(node, exp.Anonymous) else ""


def _is_free(value: exp.Expr) -> bool:
    above, name = value.parent, _named(value.parent)
    if isinstance(above, exp.Explode | exp.Unnest):
        return _is_alone(above)
    if isinstance(above, exp.ArrayContains):
        return value.arg_key == "this"
    if name in _AGGREGATING and isinstance(above, exp.Anonymous):
        by = above.expressions[1] if len(above.expressions) == 2 else None
        return isinstance(by, exp.Literal) and by.name.lower() in _FREE_NAMES
    if isinstance(above, exp.In):
        return value.arg_key == "field"
    return isinstance(above, _FREE) or name in _OTHERS or (name[:5] == "list_" and name[5:] in _FREE_NAMES)


def _is_alone(unnest: exp.Expr) -> bool:
    """Whether elements become rows without a number, and beside no elements of other lists."""
    if unnest.args.get("offset") or len(unnest.expressions) > 1 or unnest.find_ancestor(exp.Query) is None:
        return False
    if isinstance(unnest, exp.Unnest):
        return True
    select = unnest.find_ancestor(exp.Query)
    assert select is not None
    beside = [node for node in select.find_all(exp.Explode) if node is not unnest]
    return not beside and not any(_named(node) == "generate_subscripts" for node in select.find_all(exp.Anonymous))


def _read_free(listed: exp.Alias) -> bool:
    """Whether a column that is a list is one of a CTE or of a query in FROM, and each that reads it by its name does so
    in any order."""
    select = listed.parent
    cte = select.parent if select is not None else None
    if not isinstance(select, exp.Select) or not isinstance(cte, exp.CTE | exp.Subquery):
        return False
    if isinstance(cte, exp.Subquery) and not isinstance(cte.parent, exp.From | exp.Join):
        return False
    alias = cte.args.get("alias")
    if alias is not None and alias.args.get("columns"):
        return False
    inside, name = {id(node) for node in listed.walk()}, listed.alias.lower()
    whole = list(_outside(cte.root(), inside))
    if any(isinstance(node, exp.Select) and _takes_all(node, cte) for node in whole):
        return False
    read = [node for node in whole if isinstance(node, exp.Column) and node.name.lower() == name]
    return all(_is_free(_last(node)) for node in read)


def _outside(root: exp.Expr, inside: set[int]) -> Iterator[exp.Expr]:
    return (node for node in root.walk() if id(node) not in inside)


def _takes_all(select: exp.Select, cte: exp.CTE | exp.Subquery) -> bool:
    """Whether a SELECT takes all columns of a CTE, or of a query in its FROM, by whatever name."""
    is_read = any(
        node is cte
        or (isinstance(cte, exp.CTE) and isinstance(node, exp.Table) and node.name.lower() == cte.alias.lower())
        for node, _ in read_by(select)
    )
    stars = (each.find(exp.Star) for each in select.expressions)
    return is_read and any(star is not None and not isinstance(star.parent, exp.Count) for star in stars)
