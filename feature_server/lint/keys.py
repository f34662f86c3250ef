"""By which columns the rows of a query are told apart, as far as its SQL and the tests of what it reads show it."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import msgspec
from sqlglot import exp

from ..queries.known import known_of, known_of_union
from ..queries.lateral import is_told_outside
from ..queries.parts import (
    conjuncts,
    defined,
    equalities,
    group_of,
    groups_by_several,
    nested_in,
    partition_of,
    read_by,
    sql_of,
    using_of,
)  # fmt: skip
from ..queries.rows import Inputs, Key, Rows, Term, term_of
from ..queries.times import is_time_of, passed
from ..written.described import is_time
from .grains import NONE, Tested, is_one_to_one, of_inputs
from .hindsight import later_of
from .now import chosen_by, is_open

_Column = TypeVar("_Column")
_MOST = 16  # keys that are kept of a relation
_KEEPING = {"TEXT", "VARCHAR", "BIGINT", "INT128", "UUID", "TIMESTAMP", "TIMESTAMPTZ"}  # casts that keep values apart


Known = Callable[[exp.Table], Rows]
Seen = Callable[[exp.Query, Inputs, set[Key]], None]


class Reading:
    """Reads queries: `known` gives the rows of tables that are no CTE, `seen` is told of each SELECT and
    set operation, with what it reads and the keys of its rows before it chooses among them or orders them. `tested` has
    keys of what SELECTs give that no SQL shows (`grains.given_keys`)."""

    def __init__(self, known: Known, seen: Seen = lambda select, inputs, keys: None, tested: Tested = NONE) -> None:
        self._known, self._seen, self._tested = known, seen, tested

    def rows(self, query: exp.Expr | None, above: Mapping[str, Rows]) -> Rows:
        """What is known of a query's rows, given the CTEs `above` it."""
        if query is None:
            return Rows()
        ctes = dict(above)
        clause = query.args.get("with_")
        recursive = clause is not None and clause.args.get("recursive")
        for cte in clause.expressions if clause is not None else ():
            found = Rows() if recursive else self.rows(cte.this, ctes)
            ctes[cte.alias.lower()] = _renamed(found, cte.args.get("alias"))
        if isinstance(query, exp.Select):
            return self._select(query, ctes)
        if isinstance(query, exp.SetOperation):
            return self._set_operation(query, ctes)
        if isinstance(query, exp.Subquery):
            rows = self.rows(query.this, ctes)
            if query.args.get("limit") is not None or query.args.get("offset") is not None:
                self._tell(query, rows)
            return _renamed(rows, query.args.get("alias"))
        if isinstance(query, exp.Values):
            return _renamed(_written(query), query.args.get("alias"))
        return Rows()

    def _set_operation(self, query: exp.SetOperation, ctes: Mapping[str, Rows]) -> Rows:
        left, right = (self.rows(side, ctes) for side in (query.left, query.right))
        keys = left.keys if isinstance(query, exp.Except | exp.Intersect) else frozenset[frozenset[str]]()
        if query.args.get("distinct") and left.columns is not None:
            keys |= {frozenset(left.columns)}
        times, written = left.times | right.times, left.written and right.written
        current, late, by = left.current and right.current, left.late | right.late, left.by or right.by
        after_us, later = max(left.after_us, right.after_us), left.later | right.later
        found = Rows(keys, left.columns, times, current, written, late, after_us, later=later, by=by)
        found = known_of_union(query, left, right, found)
        self._tell(query, found)
        return found

    def _tell(self, query: exp.Query, rows: Rows) -> None:
        """Tell of a query that has no relations of its own."""
        terms = {frozenset(("?", column) for column in key) for key in rows.keys}
        self._seen(query, Inputs({"?": rows}, terms, [], set(), {}), terms)

    def _relation(self, node: exp.Expr, ctes: Mapping[str, Rows]) -> Rows:
        if isinstance(node, exp.Lateral):
            return self.rows(node.this, ctes)
        if not isinstance(node, exp.Table):
            return self.rows(node, ctes)
        if node.args.get("pivots") or not isinstance(node.this, exp.Identifier):
            return _renamed(Rows(written=not node.args.get("pivots")), node.args.get("alias"))
        found = ctes.get(node.name.lower()) if not node.db else None
        return _renamed(self._known(node) if found is None else found, node.args.get("alias"))

    def _select(self, select: exp.Select, ctes: Mapping[str, Rows]) -> Rows:
        inputs = self._inputs(select, ctes)
        nested = [self.rows(each, ctes) for each in nested_in(select)]
        grouped = _grouped(select, inputs)
        tested = self._tested.get(id(select), frozenset())
        if is_one_to_one(select):
            inputs.keys |= {key for one in tested for key in of_inputs(one, select, inputs)}
        keys = inputs.keys if grouped is None else grouped
        self._seen(select, inputs, keys)
        keys = {*keys, *chosen(select, inputs)}
        names = _outputs(select, inputs, keys)
        found = {*tested, *(key for one in keys for key in _projected(one, names, inputs))}
        columns = tuple(names) if "*" not in names else None
        if select.args.get("distinct") and not select.args["distinct"].args.get("on") and columns is not None:
            found.add(frozenset(columns))
        if any(isinstance(each.unalias(), exp.Explode | exp.Unnest) for each in select.expressions):
            found = set()
        limit = select.args.get("limit")
        if isinstance(limit, exp.Limit) and limit.expression.name == "1":
            found.add(frozenset())
        read = list(inputs.relations.values())
        times = passed(select, {name: each.times for name, each in inputs.relations.items()}, is_time_of)
        written = all(each.written for each in read)
        current = not written and (all(each.current or each.written for each in read) or not (times or columns is None))
        current = current and not is_told_outside(select, inputs)
        late = frozenset[str]().union(*(each.late for each in read))
        after_us = max((each.after_us for each in read), default=0)
        rows = Rows(frozenset(_fewest(found)), columns, times, current, written, late, after_us)
        rows = known_of(select, inputs, nested, rows)
        by = chosen_by(select, inputs) if current else None
        later = later_of(select, inputs.relations)
        return msgspec.structs.replace(rows, current=current or is_open(select, inputs), later=later, by=by)

    def _inputs(self, select: exp.Select, ctes: Mapping[str, Rows]) -> Inputs:
        """What a SELECT reads, joined from left to right."""
        named = {each.alias.lower(): each.this for each in select.expressions if isinstance(each, exp.Alias)}
        inputs = Inputs({}, set(), [], set(), named)
        clause = select.args.get("from_")
        if clause is None:
            return msgspec.structs.replace(inputs, keys={frozenset[Term]()})
        for node, join in read_by(select):
            alias, rows = (node.alias_or_name or sql_of(node)).lower(), self._relation(node, ctes)
            right = {frozenset((alias, column) for column in key) for key in rows.keys}
            kind = "" if join is None else str(join.args.get("kind") or "").upper()
            if join is None:
                inputs.relations[alias], inputs.keys = rows, right
            elif kind in ("SEMI", "ANTI"):
                inputs.chosen[alias] = rows
            else:
                _join(inputs, alias, rows, right, join)
        where = select.args.get("where")
        for left, other in equalities(where.this if where is not None else None):
            _equal(inputs, left, other)
        inputs.keys = {key - inputs.fixed for key in inputs.keys}
        return inputs


def _written(values: exp.Values) -> Rows:
    """Rows that are written out: a column of whole numbers, or one of texts, that all differ tells them apart."""
    rows = [each.expressions if isinstance(each, exp.Tuple) else [each] for each in values.expressions]
    names = tuple(f"col{place}" for place in range(len(rows[0])))
    columns = [[_bare(each) for each in column] for column in zip(*rows, strict=False)]
    told = (
        frozenset([name])
        for name, column in zip(names, columns, strict=False)
        if None not in column
        and len(set(column)) == len(column)
        and len({each[0] for each in column if each} - {""}) < 2
    )
    return Rows(frozenset(told), names, written=True)


def _bare(value: exp.Expr) -> tuple[str, str] | None:
    """What a whole number, a text or null is, with which of these it is; None for anything else."""
    if isinstance(value, exp.Cast) and value.to.this.name.endswith("INT") and not value.this.is_string:
        value = value.this
    if isinstance(value, exp.Null):
        return "", ""
    if isinstance(value, exp.Literal) and (value.is_string or value.is_int):
        return ("text", value.name) if value.is_string else ("number", str(int(value.name)))
    return None


def _equal(inputs: Inputs, left: exp.Expr, right: exp.Expr) -> None:
    """Take in that two expressions are equal in each row: a column and another, or a column and what is fixed."""
    for one, other in ((left, right), (right, left)):
        if isinstance(one, exp.Column) and not _reads(other, inputs):
            inputs.fixed |= inputs.terms(one, own=False)
    if isinstance(left, exp.Column) and isinstance(right, exp.Column) and left.table and right.table:
        inputs.same.append({(each.table.lower(), each.name.lower()) for each in (left, right)})


def _reads(expression: exp.Expr, inputs: Inputs) -> bool:
    """Whether an expression has columns of what the SELECT reads; those of a query around it say whose they are."""
    columns = list(expression.find_all(exp.Column, exp.Query))
    return any(
        not isinstance(each, exp.Column) or not each.table or each.table.lower() in inputs.relations for each in columns
    )


def _join(inputs: Inputs, alias: str, rows: Rows, right: set[Key], join: exp.Join) -> None:
    """Take in a join: with the columns that it equates known, a row of one side has few of the other."""
    side, method = (str(join.args.get(name) or "").upper() for name in ("side", "method"))
    left_terms, right_terms = set[Term](), set[Term]()
    pairs = list(equalities(join.args.get("on")))
    for name in using_of(join):
        right_terms.add((alias, name))
        left_terms |= {(place, name) for place in [*inputs.relations, "?"]}
    for one, other in pairs:
        for mine, theirs in ((one, other), (other, one)):
            if isinstance(mine, exp.Column) and mine.table.lower() == alias and not _of(theirs, alias):
                right_terms.add((alias, mine.name.lower()))
                if isinstance(theirs, exp.Column):
                    left_terms |= inputs.terms(theirs, own=False)
    left = inputs.keys
    inputs.relations[alias] = rows
    if method == "ASOF":
        return
    if method == "POSITIONAL":
        inputs.keys = set()
        return
    found = set[Key]()
    for before, joined in itertools.product(left, right):
        if side == "FULL" and join.args.get("on") is not None:  # else a column is of the one side or of the other
            found.add(before | joined)
        if side in ("", "LEFT"):
            found.add(before | (joined - right_terms))
        if side in ("", "RIGHT"):
            found.add((before - left_terms) | joined)
    inputs.keys = _fewest(found)
    if side == "":
        inputs.same += [{(place, name) for place in [*inputs.relations, "?"]} for name in using_of(join)]
        for one, other in pairs:
            _equal(inputs, one, other)


def _of(expression: exp.Expr, alias: str) -> bool:
    return any(not each.table or each.table.lower() == alias for each in expression.find_all(exp.Column))


def _grouped(select: exp.Select, inputs: Inputs) -> set[Key] | None:
    """The key of the rows that grouping gives; None where a SELECT does not group."""
    if groups_by_several(select):
        return set()
    group = group_of(select)
    return None if group is None else {frozenset(term_of(each, inputs) for each in group)}


def chosen(select: exp.Select, inputs: Inputs) -> Iterator[Key]:
    """Keys that a SELECT itself makes: the first row of each, and numbers of rows."""
    distinct = select.args.get("distinct")
    on = distinct.args.get("on") if distinct is not None else None
    if on is not None:
        yield frozenset(term_of(each, inputs) for each in (on.expressions if isinstance(on, exp.Tuple) else [on]))
    for each in select.expressions:
        window = each.unalias()
        if isinstance(window, exp.Window) and isinstance(window.this, exp.RowNumber):
            window = defined(window)
            parts = (term_of(part, inputs) for part in partition_of(window))
            yield frozenset([*parts, ("", sql_of(each.unalias()))])
    qualify = select.args.get("qualify")
    for one in conjuncts(qualify.this if qualify is not None else None):
        window, number = one.this, one.args.get("expression")
        if isinstance(window, exp.Column) and not window.table:
            window = inputs.named.get(window.name.lower(), window)
        first = "2" if isinstance(one, exp.LT) else "1" if isinstance(one, exp.EQ | exp.LTE) else None
        is_first = isinstance(number, exp.Literal) and number.name == first
        if is_first and isinstance(window, exp.Window) and isinstance(window.this, exp.RowNumber):
            yield frozenset(term_of(part, inputs) for part in partition_of(defined(window)))


def _outputs(select: exp.Select, inputs: Inputs, keys: set[Key]) -> dict[str, set[Term]]:
    """The columns that a SELECT gives, each with the terms that it is; "*" where some are not known."""
    found = dict[str, set[Term]]()
    for each in select.expressions:
        star = each if isinstance(each, exp.Star) else each.this if isinstance(each, exp.Column) else None
        if isinstance(star, exp.Star):
            places = [each.table.lower()] if isinstance(each, exp.Column) else list(inputs.relations)
            _star(found, star, places, inputs, keys)
        elif isinstance(each, exp.Columns):
            found["*"] = set()
        else:
            found[each.alias_or_name.lower() or sql_of(each)] = _kept(each.unalias(), inputs)
    return found


def _star(found: dict[str, set[Term]], star: exp.Star, places: list[str], inputs: Inputs, keys: set[Key]) -> None:
    renamed = {each.this.name.lower(): each.alias.lower() for each in star.args.get("rename") or ()}
    without = {each.name.lower() for each in star.args.get("except_") or ()}
    replaced = {each.alias.lower(): each.this for each in star.args.get("replace") or ()}
    for place in places:
        rows = inputs.relations.get(place, Rows())
        keyed = [name for where, name in sorted(set[Term]().union(*keys)) if where in (place, "?")]
        if rows.columns is None:
            found["*"] = set()
        for name in rows.columns or keyed:
            if name in without or name in found:
                continue
            terms = _kept(replaced[name], inputs) if name in replaced else {(place, name), ("?", name)}
            found[renamed.get(name, name)] = terms


def _kept(expression: exp.Expr, inputs: Inputs) -> set[Term]:
    """The terms whose values an output column keeps apart."""
    found = expression.unnest()
    terms = inputs.terms(found, own=False)
    while isinstance(found, exp.Cast) and found.to.this.name in _KEEPING:
        found = found.this.unnest()
        terms |= inputs.terms(found, own=False)
    return terms


def _projected(key: Key, names: Mapping[str, set[Term]], inputs: Inputs) -> Iterator[frozenset[str]]:
    """A key by the names of output columns; none where one of its columns is not given."""
    columns = [[name for name, terms in names.items() if term in terms] for term in sorted(key - inputs.fixed)]
    for chosen in itertools.islice(itertools.product(*columns), _MOST):
        yield frozenset(chosen)


def _fewest(keys: set[frozenset[_Column]]) -> set[frozenset[_Column]]:
    """Keys without those that hold another: a few, the shortest."""
    found = list[frozenset[_Column]]()
    for key in sorted(keys, key=lambda each: (len(each), sorted(map(str, each)))):
        if not any(known <= key for known in found):
            found.append(key)
    return set(found[:_MOST])


def _renamed(rows: Rows, alias: exp.Expr | None) -> Rows:
    """Rows whose columns an alias names anew."""
    given = [each.name.lower() for each in (alias.args.get("columns") or () if alias is not None else ())]
    if not given:
        return rows
    if rows.columns is None:
        times = frozenset(filter(is_time, given))
        return Rows(
            columns=tuple(given), times=times, written=rows.written, late=rows.late, after_us=rows.after_us, known=times
        )
    names = dict(zip(rows.columns, [*given, *rows.columns[len(given) :]], strict=False))
    keys = (frozenset(names.get(column, column) for column in key) for key in rows.keys)
    times, known, first = (
        frozenset(names.get(column, column) for column in each) for each in (rows.times, rows.known, rows.first)
    )
    columns = tuple(names.values())
    return msgspec.structs.replace(rows, keys=frozenset(keys), columns=columns, times=times, known=known, first=first)
