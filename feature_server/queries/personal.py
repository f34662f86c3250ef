"""Which columns of a query hold pii: values of columns that do, or what is made of those, not what is counted of them.

What cannot be told counts as pii.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import msgspec
from sqlglot import exp

from .parts import read_by, sql_of
from .told import EPHEMERAL, THROUGH, Told

RECURSIONS = 20
_DROPPED = (  # what says something of values, and gives none of them
    exp.Predicate, exp.StartsWith, exp.EndsWith, exp.Contains, exp.Count, exp.CountIf, exp.ApproxDistinct, exp.Sum,
    exp.Avg, exp.Stddev, exp.StddevPop, exp.StddevSamp, exp.Variance, exp.VariancePop, exp.Corr, exp.CovarPop,
    exp.CovarSamp, exp.Skewness, exp.Kurtosis, exp.RowNumber, exp.Rank, exp.DenseRank, exp.PercentRank, exp.CumeDist,
    exp.Ntile, exp.RegrCount, exp.RegrSlope, exp.RegrIntercept, exp.RegrR2,
)  # fmt: skip
_DROPPED_BY_NAME = frozenset(("product", "fsum", "sumkahan", "kahan_sum", "favg", "geomean", "geometric_mean"))
_FIRST_ALONE = (exp.Window, exp.Filter, exp.Ordered, exp.Order, exp.ArgMax, exp.ArgMin, exp.Nullif, exp.Limit)


NOTHING = Told(columns=())
Relations = Mapping[str, Told]
NONE: Relations = {}


class Place(msgspec.Struct):
    """Where an expression stands: the CTEs that it sees, the relations of its SELECT and of those around it, and the
    names that its SELECT gives."""

    ctes: Relations
    scopes: tuple[Relations, ...]
    named: dict[str, exp.Expr] = {}


class Tracing:
    """Follows columns through queries.

    `known` says what is known of a table that is no CTE, or of a query that stands for a relation; None of any other.
    """

    def __init__(self, known: Callable[[exp.Expr], Told | None]) -> None:
        self._known = known

    def told(self, query: exp.Expr, ctes: Relations = NONE, scopes: tuple[Relations, ...] = ()) -> Told:
        """What is known of the columns that a query gives."""
        clause = query.args.get("with_")
        for cte in clause.expressions if clause is not None else ():
            recursive = clause is not None and bool(clause.args.get("recursive"))
            ctes = {**ctes, cte.alias.lower(): self._cte(cte, ctes, scopes, recursive=recursive)}
        if isinstance(query, exp.Select):
            return self._select(query, ctes, scopes)
        if isinstance(query, exp.SetOperation):
            return _together(query, self.told(query.left, ctes, scopes), self.told(query.right, ctes, scopes))
        if isinstance(query, exp.Subquery | exp.Table | exp.Values | exp.Paren):
            return self._relation(query, Place(ctes, scopes))
        found = (self._relation(table, Place(ctes, scopes)).any for table in query.find_all(exp.Table))
        return _all_of(next(filter(None, found), ""), "a query that cannot be followed")

    def _cte(self, cte: exp.Expr, ctes: Relations, scopes: tuple[Relations, ...], *, recursive: bool) -> Told:
        name, alias = cte.alias.lower(), cte.args.get("alias")
        if name.startswith(EPHEMERAL) and (known := self._known(exp.to_table(name))) is not None:
            return known
        if not recursive:
            return _renamed(self.told(cte.this, ctes, scopes), alias)
        found = NOTHING
        for _ in range(RECURSIONS):
            before = found
            found = _renamed(self.told(cte.this, {**ctes, name: found}, scopes), alias)
            if found == before:
                return found
        return _all_of(found.any, "a recursive query")

    def _select(self, select: exp.Select, ctes: Relations, scopes: tuple[Relations, ...]) -> Told:
        named = {each.alias.lower(): each.this for each in select.expressions if isinstance(each, exp.Alias)}
        relations: dict[str, Told] = {}
        place, several, using = Place(ctes, (relations, *scopes), named), 0, False
        for node, join in read_by(select):
            told = self._relation(node, place)
            alias = (node.alias_or_name or sql_of(node)).lower()
            relations[alias] = relations[alias].both(told) if alias in relations else told
            several, using = several + 1, using or (join is not None and bool(join.args.get("using")))
        found = Told(columns=())
        for each in select.expressions:
            found = found.both(self._given(each, place))
        if using and any(each.is_star for each in select.expressions):
            found = msgspec.structs.replace(found, columns=None)
        return found.told_apart(several)

    def _given(self, each: exp.Expr, place: Place) -> Told:
        """What is known of the columns that one item of a SELECT gives."""
        chosen = each.this if isinstance(each, exp.Predicate) else each  # `* like …`: columns by their names
        star = chosen.this if isinstance(chosen, exp.Column) else chosen
        if isinstance(star, exp.Star):
            own = chosen.table.lower() if isinstance(chosen, exp.Column) else ""
            if own and own not in place.scopes[0]:  # a struct's fields, or a whole row's
                return self._fields(_before_star(chosen), place, sql_of(each))
            found = self._star(star, [told for name, told in place.scopes[0].items() if not own or name == own], place)
            return found if chosen is each else msgspec.structs.replace(found, columns=None)
        if each.is_star or isinstance(
            each.unalias(), exp.Unnest | exp.Explode
        ):  # columns by the names of a struct's fields
            return self._fields([each], place, sql_of(each))
        origin = self.origin(each, place)
        if each.find(exp.Columns) is not None:
            every = Told(every=f"{origin}{THROUGH}{sql_of(each)}") if origin and "\\" in each.alias else Told()
            for told in place.scopes[0].values() if origin else ():
                every = every.both(msgspec.structs.replace(told, columns=None))
            return every.both(Told({each.alias.lower(): origin} if origin and each.alias else {}))
        names: tuple[str, ...] = ((each.alias_or_name or sql_of(each)).lower(),)
        if isinstance(each, exp.Aliases):
            names = tuple(name.name.lower() for name in each.expressions)
        if origin and not isinstance(each, exp.Alias | exp.Aliases | exp.Column | exp.Dot):
            return Told(every=f"{origin}{THROUGH}a column without a name")
        return Told(dict.fromkeys(names, origin) if origin else {}, columns=names)

    def _fields(self, parts: Sequence[exp.Expr], place: Place, sql: str) -> Told:
        """What is known of the columns that the fields of a struct become, whose names are not known."""
        origin = next(filter(None, (self.origin(part, place) for part in parts)), "")
        return _all_of(origin, sql[:60])

    def _star(self, star: exp.Star, relations: list[Told], place: Place) -> Told:
        without = {each.name.lower() for each in star.args.get("except_") or ()}
        anew = {each.this.name.lower(): each.alias.lower() for each in star.args.get("rename") or ()}
        replaced = {each.alias.lower(): self.origin(each.this, place) for each in star.args.get("replace") or ()}
        found = Told(columns=())
        for told in relations:
            names = {anew.get(name, name): origin for name, origin in told.names.items() if name not in without}
            but = tuple(anew.get(name, name) for name in told.but if name not in without)
            columns = told.columns
            if columns is not None:
                columns = tuple(anew.get(name, name) for name in columns if name not in without)
            found = found.both(Told(names, told.every, but, columns))
        names = {name: origin for name, origin in found.names.items() if name not in replaced}
        names |= {name: origin for name, origin in replaced.items() if origin}
        but = (*found.but, *(name for name, origin in replaced.items() if not origin)) if found.every else ()
        return msgspec.structs.replace(found, names=names, but=but)

    def _relation(self, node: exp.Expr, place: Place) -> Told:
        """What is known of what stands in FROM."""
        pivots = node.args.get("pivots")
        told = self._unpivoted(node, place)
        if pivots:
            told = _all_of(told.any, "a pivot")
        return _renamed(told, node.args.get("alias"))

    def _unpivoted(self, node: exp.Expr, place: Place) -> Told:
        if isinstance(node, exp.Table):
            if isinstance(node.this, exp.Identifier):
                found = place.ctes.get(node.name.lower()) if not node.db else None
                return found or self._known(node) or Told()
            read = (self._known(node) or Told()).any or self.origin(node.this, place)
            return _all_of(read, f"{sql_of(node.this)[:60]}")
        if isinstance(node, exp.Subquery | exp.Paren):
            if (known := self._known(node)) is not None:
                return known
            told = self.told(node.this, place.ctes, place.scopes)
            for inner in node.this.args.get("joins") or () if isinstance(node.this, exp.Table) else ():
                told = msgspec.structs.replace(told.both(self._relation(inner.this, place)), columns=None)
            return told
        if isinstance(node, exp.Lateral) and isinstance(node.this, exp.Subquery):
            return self.told(node.this, place.ctes, place.scopes)
        if isinstance(node, exp.Query) and not isinstance(node, exp.Values):
            return self.told(node, place.ctes, place.scopes)
        return _all_of(self.origin(node, place), f"{sql_of(node)[:60]}")

    def origin(self, node: exp.Expr, place: Place) -> str:
        """Where the pii in an expression's value comes from; empty where there is none."""
        if isinstance(node, exp.Column):
            return _column(node, place) or self._alias(node, place)
        if isinstance(node, exp.Columns | exp.PositionalColumn | exp.Star):
            return _any_of(place.scopes[0])
        if isinstance(node, exp.Query):
            return self.told(node, place.ctes, place.scopes).any
        return next(filter(None, (self.origin(part, place) for part in _giving(node))), "")

    def _alias(self, column: exp.Column, place: Place) -> str:
        """The same of a name that the SELECT itself gives."""
        name = column.name.lower()
        if column.table or name not in place.named:
            return ""
        rest = {other: each for other, each in place.named.items() if other != name}
        return self.origin(place.named[name], Place(place.ctes, place.scopes, rest))


def _giving(node: exp.Expr) -> Iterator[exp.Expr]:
    """The parts of an expression that its value is made of: neither conditions nor what rows are ordered by."""
    if isinstance(node, _DROPPED) or (isinstance(node, exp.Anonymous) and node.name.lower() in _DROPPED_BY_NAME):
        return
    if isinstance(node, exp.Case | exp.If):
        branches = [branch.args["true"] for branch in node.args.get("ifs") or ()]
        yield from filter(None, [*branches, *(node.args.get(name) for name in ("true", "false", "default"))])
    elif isinstance(node, exp.WithinGroup):  # which is where quantiles and mode have their values
        yield node.this
        for ordered in node.expression.expressions:
            yield ordered.this
    elif isinstance(node, _FIRST_ALONE):
        yield from filter(None, [node.this] if isinstance(node.this, exp.Expr) else node.expressions)
    else:
        yield from node.iter_expressions()


def _column(column: exp.Column, place: Place) -> str:
    """Where a column's pii comes from: by the relation that it names, else by any that may have it."""
    name, table = column.name.lower(), column.table.lower()
    for relations in place.scopes:
        if not table and (there := [told for told in relations.values() if name in (told.columns or ())]):
            others = (told.names.get(name, "") for told in relations.values())  # where names are not all known
            return next(filter(None, [*(told.origin(name) for told in there), *others]), "")
        parts = [part.name.lower() for part in column.parts]  # one of them may be a struct, the next its field
        qualified = next((at for at, part in enumerate(parts[:-1]) if part in relations), None)
        if qualified is not None:
            return relations[parts[qualified]].origin(parts[qualified + 1])
        found = [told.origin(each) for told in relations.values() for each in parts if told.may_have(each)]
        found += [relations[each].any for each in parts if each in relations]  # a whole row
        if any(found):
            return next(filter(None, found))
    return ""


def _before_star(column: exp.Expr) -> list[exp.Expr]:
    """What the names before `.*` may mean: a column, or one of a relation."""
    names = [part.name for part in column.parts[:-1]]  # type: ignore[attr-defined]
    alone: list[exp.Expr] = [exp.column(name) for name in names]
    return alone + [exp.column(two, table=one) for one, two in pairwise(names)]


def _any_of(relations: Relations) -> str:
    return next(filter(None, (told.any for told in relations.values())), "")


def _all_of(origin: str, by: str) -> Told:
    """What a relation holds of which no column can be told from another."""
    return Told(every=f"{origin}{THROUGH}{by}") if origin else Told()


def _together(query: exp.SetOperation, left: Told, right: Told) -> Told:
    """What is known of the columns of a set operation, which are named as those of its left side."""
    if isinstance(query, exp.Except):
        return left
    if query.args.get("by_name"):
        return msgspec.structs.replace(left.both(right), columns=None)
    if not (left.any or right.any):
        return left
    if left.columns is not None and right.columns is not None and len(left.columns) == len(right.columns):
        origins = {
            one: left.origin(one) or right.origin(other)
            for one, other in zip(left.columns, right.columns, strict=True)
        }  # fmt: skip
        return Told({name: origin for name, origin in origins.items() if origin}, columns=left.columns)
    alike = (left.columns is None) == (right.columns is None)  # `*` and a list of columns may be in another order
    if alike and left.names.keys() == right.names.keys() and not (left.every or right.every):
        return msgspec.structs.replace(left, columns=left.columns or right.columns)
    return _all_of(left.any or right.any, "a union of columns that are not named")


def _renamed(told: Told, alias: exp.Expr | None) -> Told:
    """The same where an alias names the columns anew."""
    given = tuple(each.name.lower() for each in (alias.args.get("columns") or () if alias is not None else ()))
    if not given:
        return told
    if told.columns is None or len(told.columns) < len(given):
        every = told.every or (told.any and f"{told.any}{THROUGH}columns that are named anew")
        return Told(every=every, columns=None if told.columns is None else given)
    names = dict(zip(told.columns, (*given, *told.columns[len(given) :]), strict=True))
    origins = {names[name]: told.origin(name) for name in told.columns}
    return Told({name: origin for name, origin in origins.items() if origin}, columns=tuple(names.values()))
