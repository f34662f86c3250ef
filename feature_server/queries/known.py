"""Which columns say when rows were known, where rows of several relations, or several rows of one, are made one.

Of a group the time at which its first row was known is right for what it is grouped by, and for nothing else: what is
then reckoned at that time may hold only rows that were known by then.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec
from sqlglot import exp

from .parts import conditions, group_of, in_order, sql_of
from .rows import Inputs, Rows, Term, place
from .times import is_known, passed

_AS_IT_IS = (exp.Alias, exp.Paren, exp.Cast)


def known_of(select: exp.Select, inputs: Inputs, nested: Sequence[Rows], given: Rows) -> Rows:
    """The rows that a SELECT gives, and which of their columns say when they were known. `nested` are the rows of the
    queries in its expressions."""
    read = inputs.relations
    late = {alias: rows for alias, rows in read.items() if rows.late}
    if not late:
        return given
    after_us = max(rows.after_us for rows in late.values())
    until = {alias: _until(select, alias, inputs) for alias in late}
    others = [rows.until for rows in (*nested, *inputs.chosen.values()) if rows.late]
    known = dict[str, frozenset[str]]()
    for alias, rows in read.items():
        bounds = [*(terms for other, terms in until.items() if other != alias), *others]
        early = {name for name in rows.first if any((alias, name) not in terms for terms in bounds)}
        known[alias] = rows.known - early
    found = _passed(select, inputs, known, after_us)
    plain = {alias: names - read[alias].first for alias, names in known.items()}
    first = found - _passed(select, inputs, plain, after_us)
    if len(late) == 1 and not others:
        first |= _first_of_group(select, _in(known, inputs), after_us)
    everywhere = frozenset.intersection(*until.values(), *others)
    return msgspec.structs.replace(given, known=found | first, first=first, until=everywhere)


def _passed(select: exp.Select, inputs: Inputs, known: Mapping[str, frozenset[str]], after_us: int) -> frozenset[str]:
    """The columns of a SELECT that say when rows were known, by those that do of each relation."""
    says = _in(known, inputs)
    return passed(select, known, lambda each, _: is_known(each, says, after_us))


def _in(known: Mapping[str, frozenset[str]], inputs: Inputs) -> Callable[[exp.Column], bool]:
    """Whether a column is one of some of each relation; one that may be of several, where it is of any."""
    every = frozenset[str]().union(*known.values())
    return lambda column: column.name.lower() in known.get(place(column, inputs) or "", every)


def known_of_union(query: exp.SetOperation, left: Rows, right: Rows, given: Rows) -> Rows:
    """The rows that two make, and which of their columns, by their place, say of the rows of each side when they were
    known; a side of which that is not said needs none."""
    until = left.until & right.until if left.late and right.late else left.until | right.until
    if isinstance(query, exp.Except | exp.Intersect):  # rows of the left, which those of the right choose among
        known = left.known - left.first if right.late else left.known
        return msgspec.structs.replace(given, known=known, first=left.first & known, until=until)
    names = dict(zip(right.columns or (), left.columns or (), strict=False))
    if left.columns is None or right.columns is None or query.args.get("by_name"):
        names = {}
    of_right, first = (
        frozenset(names.get(name, name) for name in each if not names or name in names)
        for each in (right.known, right.first)
    )
    sides = [known for known, rows in ((left.known, left), (of_right, right)) if rows.late]
    known = frozenset.intersection(*sides) if sides else frozenset[str]()
    return msgspec.structs.replace(given, known=known, first=(left.first | first) & known, until=until)


def _until(select: exp.Select, alias: str, inputs: Inputs) -> frozenset[Term]:
    """The columns of other relations by whose time each of a relation's rows was known."""
    rows, found = inputs.relations[alias], set[Term]()
    says = _in({alias: rows.known}, inputs)
    for condition in conditions(select):
        for low, high in in_order(condition):
            column = high
            while isinstance(column, _AS_IT_IS):
                column = column.this
            is_own = all(place(each, inputs) == alias for each in low.find_all(exp.Column))
            if is_own and isinstance(column, exp.Column) and is_known(low, says, rows.after_us):
                found.add((place(column, inputs) or "", column.name.lower()))
    return rows.until | {(other, name) for other, name in found if other != alias}


def _first_of_group(select: exp.Select, says: Callable[[exp.Column], bool], after_us: int) -> frozenset[str]:
    """The columns of a SELECT that say when the first row of each group was known, where it gives nothing else but what
    rows are grouped by."""
    group, found = {sql_of(each) for each in group_of(select) or ()}, set[str]()
    if not group or any(select.args.get(name) is not None for name in ("having", "qualify", "limit", "distinct")):
        return frozenset()
    for each in select.expressions:
        given = each
        while isinstance(given, _AS_IT_IS):
            given = given.this
        if isinstance(given, exp.Min) and is_known(given.this, says, after_us):
            found.add(each.alias_or_name.lower())
        elif each.find(exp.AggFunc, exp.Window, exp.Query) or not {sql_of(each.unalias()), each.alias.lower()} & {
            *group
        }:
            return frozenset()
    return frozenset(found)
