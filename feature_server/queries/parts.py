"""The parts of a query, by sqlglot's tree of it."""

from collections.abc import Iterator

from sqlglot import ErrorLevel, exp


def sql_of(expression: exp.Expr) -> str:
    """An expression as text that is the same wherever it means the same."""
    return expression.sql("duckdb", normalize=True, comments=False, unsupported_level=ErrorLevel.IGNORE).lower()


def read_by(select: exp.Select) -> Iterator[tuple[exp.Expr, exp.Join | None]]:
    """The relations of a SELECT's FROM, each with the join that brings it in."""
    clause = select.args.get("from_")
    if clause is None:
        return
    yield clause.this, None
    for join in [*(clause.this.args.get("joins") or ()), *(select.args.get("joins") or ())]:
        yield join.this, join
        for inner in join.this.args.get("joins") or ():
            yield inner.this, inner


def using_of(join: exp.Join) -> list[str]:
    """The columns that a join has in USING."""
    return [each.name.lower() for each in join.args.get("using") or ()]


def conjuncts(condition: exp.Expr | None) -> Iterator[exp.Expr]:
    """The conditions that AND binds."""
    if condition is None:
        return
    condition = condition.unnest()
    if isinstance(condition, exp.And):
        yield from conjuncts(condition.left)
        yield from conjuncts(condition.right)
    else:
        yield condition


def conditions(select: exp.Select) -> Iterator[exp.Expr]:
    """All that AND binds in a SELECT's WHERE and joins."""
    where = select.args.get("where")
    yield from conjuncts(where.this if where is not None else None)
    for _, join in read_by(select):
        yield from conjuncts(join.args.get("on") if join is not None else None)


def in_order(condition: exp.Expr) -> list[tuple[exp.Expr, exp.Expr]]:
    """What a condition says of an order: pairs, of which the first is not greater than the second."""
    if isinstance(condition, exp.Between):
        return [(condition.args["low"], condition.this), (condition.this, condition.args["high"])]
    if isinstance(condition, exp.LT | exp.LTE):
        return [(condition.left, condition.right)]
    if isinstance(condition, exp.GT | exp.GTE):
        return [(condition.right, condition.left)]
    if isinstance(condition, exp.EQ):
        return [(condition.left, condition.right), (condition.right, condition.left)]
    return []


def equalities(condition: exp.Expr | None) -> Iterator[tuple[exp.Expr, exp.Expr]]:
    for one in conjuncts(condition):
        if isinstance(one, exp.EQ | exp.NullSafeEQ):
            yield one.left.unnest(), one.right.unnest()


def nested_in(select: exp.Select) -> Iterator[exp.Expr]:
    """The queries in a SELECT's expressions, which stand neither in WITH nor in FROM and joins."""
    joins = [join.args.get("on") for _, join in read_by(select) if join is not None]
    parts = [select.args.get(name) for name in ("where", "group", "having", "qualify", "order")]
    for part in [*select.expressions, *joins, *parts]:
        stack = [part] if part is not None else []
        while stack:
            node = stack.pop()
            if isinstance(node, exp.Query):
                yield node
            else:
                stack += list(node.iter_expressions())


def is_aggregate(expression: exp.Expr) -> bool:
    """Whether an aggregate stands in an expression, other than over a window or in a query of its own."""
    stack = [expression]
    while stack:
        node = stack.pop()
        if isinstance(node, exp.AggFunc):
            return True
        if not isinstance(node, exp.Query):
            stack += [
                part for part in node.iter_expressions() if not isinstance(node, exp.Window) or part is not node.this
            ]
    return False


def group_of(select: exp.Select) -> list[exp.Expr] | None:
    """What a SELECT groups by; None where it does not group, or by several sets at once."""
    group = select.args.get("group")
    if group is None:
        return [] if any(is_aggregate(each) for each in select.expressions) or select.args.get("having") else None
    if group.args.get("all"):
        return [each.unalias() for each in select.expressions if not is_aggregate(each)]
    found = list[exp.Expr]()
    for each in group.expressions:
        ordinal = int(each.name) if isinstance(each, exp.Literal) and each.name.isdigit() else 0
        found.append(select.expressions[ordinal - 1].unalias() if 0 < ordinal <= len(select.expressions) else each)
    return found


def groups_by_several(select: exp.Select) -> bool:
    group = select.args.get("group")
    kinds = (exp.Rollup, exp.Cube, exp.GroupingSets)
    return group is not None and (
        any(isinstance(each, kinds) for each in group.expressions)
        or any(group.args.get(name) for name in ("rollup", "cube", "grouping_sets"))
    )


def partition_of(window: exp.Window) -> list[exp.Expr]:
    """What a window's rows are parted by."""
    return list(window.args.get("partition_by") or ())


def defined(window: exp.Window) -> exp.Window:
    """The window itself, or the one of the query that it names."""
    name, query = window.args.get("alias"), window.find_ancestor(exp.Select)
    if name is None or query is None:
        return window
    named = (each for each in query.args.get("windows") or () if each.name.lower() == name.name.lower())
    base, own = next(named, None), [key for key in ("order", "spec") if window.args.get(key) is not None]
    if base is None or not own:
        return base or window
    both = base.copy()  # what the window has beside the one that it begins with
    both.parent = base.parent
    for key in own:
        both.set(key, window.args[key].copy())
    return both


def nodes_of(select: exp.Select) -> Iterator[exp.Expr]:
    """All nodes of a SELECT's own expressions, without the queries in them, in FROM and in WITH."""
    parts = [select.args.get(name) for name in ("where", "group", "having", "qualify", "order", "windows")]
    listed = [each for part in parts if part is not None for each in (part if isinstance(part, list) else [part])]
    joins = [join.args.get("on") for _, join in read_by(select) if join is not None]
    stack = [part for part in reversed([*select.expressions, *joins, *listed]) if part is not None]
    while stack:
        node = stack.pop()
        if not isinstance(node, exp.Query):
            yield node
            stack += reversed(list(node.iter_expressions()))
