"""Keys that a model's own tests show: of what its SELECTs give, and of the rows they make it of, one of one."""

import itertools
from collections.abc import Iterable, Iterator, Mapping

from sqlglot import exp

from ..queries.parts import group_of, groups_by_several, read_by, sql_of
from ..queries.rows import Inputs, Key, Term, term_of

Names = frozenset[str]
Tested = Mapping[int, frozenset[Names]]  # by the id of a SELECT, or of a table of which each row is in it
NONE: Tested = {}
_UNLIKE = (  # what is not a function of one row, or not the same of equal ones
    exp.Query, exp.Window, exp.AggFunc, exp.Anonymous, exp.Explode, exp.Unnest, exp.Rand, exp.Uuid,
)  # fmt: skip


def given_keys(query: exp.Expr, keys: Iterable[Names], *, deep: bool = True) -> Tested:
    """The keys of what a query gives, and, where `deep`, of the CTEs, queries and tables of which it has each row."""
    found: dict[int, frozenset[Names]] = {}
    _go(query, frozenset(keys), {} if deep else None, found)
    return found


def _go(
    query: exp.Expr, keys: frozenset[Names], above: Mapping[str, exp.CTE] | None, found: dict[int, frozenset[Names]]
) -> None:
    if not keys:
        return
    if isinstance(query, exp.Table):
        found[id(query)] = keys
        return
    clause, ctes = query.args.get("with_"), dict(above or {})
    if clause is not None:
        if clause.args.get("recursive"):
            return
        ctes |= {cte.alias.lower(): cte for cte in clause.expressions}
    below = None if above is None else ctes
    if isinstance(query, exp.Subquery):
        if not any(query.args.get(part) for part in ("limit", "offset")) and not _names_anew(query):
            _go(query.this, keys, below, found)
        return
    if isinstance(query, exp.Union) and not query.args.get("distinct") and not query.args.get("by_name"):
        if not any(query.args.get(part) for part in ("limit", "offset")):  # each side's rows are all there
            _go(query.left, keys, below, found)
            if [each.lower() for each in query.left.named_selects] == [
                each.lower() for each in query.right.named_selects
            ]:
                _go(query.right, keys, below, found)
        return
    if not isinstance(query, exp.Select):
        return
    found[id(query)] = found.get(id(query), frozenset()) | keys
    is_all = above is not None and is_one_to_one(query) and query.args.get("where") is None
    if is_all and (made := _all_of(query, ctes)) is not None:
        alias, inner, within = made
        mapped = (_below(key, query, alias) for key in keys)
        _go(inner, frozenset(key for key in mapped if key), within, found)


def is_one_to_one(select: exp.Select) -> bool:
    """Whether each row of a SELECT's FROM, joins and WHERE gives one row."""
    parts = ("qualify", "distinct", "limit", "offset", "having", "sample")
    return (
        select.args.get("from_") is not None
        and not any(select.args.get(part) for part in parts)
        and not groups_by_several(select)
        and group_of(select) is None
        and not any(each.find(exp.Explode, exp.Unnest) for each in select.expressions)
    )


def of_inputs(key: Names, select: exp.Select, inputs: Inputs) -> Iterator[Key]:
    """A key of what a SELECT gives by the terms of what it reads: rows alike in these are alike in the key."""
    choices = list[list[frozenset[Term]]]()
    for name in sorted(key):
        given = _expression(select, name)
        if given is None:
            return
        columns = _columns(given)
        whole = [frozenset([term_of(given, inputs)])]
        choices.append(whole + ([frozenset(term_of(each, inputs) for each in columns)] if columns else []))
    for chosen in itertools.islice(itertools.product(*choices), 8):
        yield frozenset[Term]().union(*chosen)


def _expression(select: exp.Select, name: str) -> exp.Expr | None:
    """What a SELECT gives by a name, by a star too; None where that is not known."""
    found, is_alone = list[exp.Expr](), len(list(read_by(select))) == 1
    for each in select.expressions:
        star = each if isinstance(each, exp.Star) else each.this if isinstance(each, exp.Column) else None
        if not isinstance(star, exp.Star):
            found += [each.unalias()] if each.alias_or_name.lower() == name else []
            continue
        table = each.table if isinstance(each, exp.Column) else None
        if table is None and not is_alone:
            return None
        renamed = {one.this.name.lower(): one.alias.lower() for one in star.args.get("rename") or ()}
        replaced = {one.alias.lower(): one.this for one in star.args.get("replace") or ()}
        without = {one.name.lower() for one in star.args.get("except_") or ()}
        origin = next((one for one, new in renamed.items() if new == name), None if name in renamed else name)
        if origin is not None and origin not in without:
            found.append(replaced.get(origin, exp.column(origin, table)))
    return found[0] if len(found) == 1 else None


def _columns(given: exp.Expr) -> list[exp.Column]:
    """The columns that an expression is a function of; none where it is not of them alone."""
    return [] if given.find(*_UNLIKE) is not None else list(given.find_all(exp.Column))


def _all_of(select: exp.Select, ctes: Mapping[str, exp.CTE]) -> tuple[str, exp.Expr, Mapping[str, exp.CTE]] | None:
    """The query of which each row gives a SELECT's rows, one or more, by its alias there; the CTEs that it may read."""
    (first, _), *joins = read_by(select)
    for _, join in joins:
        assert join is not None
        is_left = str(join.args.get("side") or "").upper() == "LEFT"
        if not is_left or join.args.get("method") or join.args.get("kind") in ("SEMI", "ANTI"):
            return None
    if _names_anew(first) or first.args.get("pivots") or first.args.get("sample"):
        return None
    alias = (first.alias_or_name or sql_of(first)).lower()
    if isinstance(first, exp.Subquery):
        return alias, first, ctes
    if isinstance(first, exp.Table) and first.db and isinstance(first.this, exp.Identifier):
        return alias, first, ctes
    cte = ctes.get(first.name.lower()) if isinstance(first, exp.Table) and not first.db else None
    if cte is None or _names_anew(cte):
        return None
    names = list(ctes)
    return alias, cte.this, {name: ctes[name] for name in names[: names.index(first.name.lower())]}


def _names_anew(relation: exp.Expr) -> bool:
    alias = relation.args.get("alias")
    return alias is not None and bool(alias.args.get("columns"))


def _below(key: Names, select: exp.Select, alias: str) -> Names | None:
    """A key by the columns of the relation whose rows a SELECT's are; None where one of it is of something else."""
    found = set[str]()
    is_alone = len(list(read_by(select))) == 1
    for name in key:
        given = _expression(select, name)
        if given is None:
            return None
        columns = [(each.table.lower(), each.name.lower()) for each in _columns(given)]
        if not columns or any(place != alias and not (is_alone and not place) for place, _ in columns):
            return None
        found |= {column for _, column in columns}
    return frozenset(found)
