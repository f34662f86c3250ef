"""What is known of rows: of a relation's, and of those that a SELECT reads."""

from collections.abc import Iterable

import msgspec
from sqlglot import exp

from .parts import sql_of

Term = tuple[str, str]  # a column: the alias of its relation, or "" for another expression, or "?"; and its name or SQL
Key = frozenset[Term]


class Later(msgspec.Struct, frozen=True):
    """The columns of a relation that say what was known only later: `numbers` by which the last row is the first, and
    those that are of the `whole` of a time, in rows that have when it `starts`."""

    numbers: frozenset[str] = frozenset()
    starts: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()

    def __or__(self, other: "Later") -> "Later":
        return Later(self.numbers | other.numbers, self.starts | other.starts, self.whole | other.whole)


class Rows(msgspec.Struct, frozen=True):
    """What is known of a relation's rows: sets of columns of which no two rows have the same, and the columns' names.

    `times` are the columns that say when; a relation is `current` that says how things are now, without one, or as an
    entity does, and `written` where it stands in the project itself, as a seed does. `late` are the sources under it of
    which it is said when rows were known, `known` the columns with that time, `after_us` how long that takes at most;
    `first` those of `known` that say it by the first row of a group, and `until` the columns, of a query around this
    one, by whose time each row was known. `by` is a column that rows of how things are now were chosen by.
    """

    keys: frozenset[frozenset[str]] = frozenset()
    columns: tuple[str, ...] | None = None
    times: frozenset[str] = frozenset()
    current: bool = False
    written: bool = False
    late: frozenset[str] = frozenset()
    after_us: int = 0
    known: frozenset[str] = frozenset()
    later: Later = Later()
    by: str | None = None
    first: frozenset[str] = frozenset()
    until: frozenset[Term] = frozenset()


class Inputs(msgspec.Struct):
    """What a SELECT reads: relations by alias, and the keys of the rows that its FROM and its joins give."""

    relations: dict[str, Rows]
    keys: set[Key]
    same: list[set[Term]]  # columns that are equal in each row
    fixed: set[Term]  # columns that are the same in all rows
    named: dict[str, exp.Expr]  # the SELECT's own columns
    chosen: dict[str, Rows] = {}  # the relations of semi and anti joins, whose columns are none of its rows'

    def terms(self, expression: exp.Expr, *, own: bool = True) -> set[Term]:
        """The terms that an expression stands for; a name without a relation is of whichever has it."""
        expression = expression.unnest()
        of_parts = isinstance(expression, exp.Tuple | exp.Struct)
        if of_parts or (isinstance(expression, exp.Anonymous) and expression.name == "row"):
            parts = (part.expression if isinstance(part, exp.PropertyEQ) else part for part in expression.expressions)
            return set[Term]().union(*map(self.terms, parts))
        found: set[Term] = {("", sql_of(expression))}
        if isinstance(expression, exp.Column):
            name = expression.name.lower()
            places = [expression.table.lower()] if expression.table else self.relations
            found |= {(place, name) for place in [*places, "?"]}
            if own and not expression.table and name in self.named:
                found |= self.terms(self.named[name], own=False)
        for group in self.same:
            if not found.isdisjoint(group):
                found |= group
        return found

    def tell_apart(self, keys: Iterable[Key], expressions: Iterable[exp.Expr]) -> bool:
        """Whether no two rows have the same values of expressions, by one of the keys."""
        there = self.fixed.union(*(self.terms(each) for each in expressions))
        return any(key <= there for key in keys)


def term_of(expression: exp.Expr, inputs: Inputs) -> Term:
    """One term for an expression, which `Inputs.terms` has for all that mean it."""
    expression = expression.unnest()
    if not isinstance(expression, exp.Column):
        return "", sql_of(expression)
    name = expression.name.lower()
    if not expression.table and name in inputs.named and not isinstance(inputs.named[name].unnest(), exp.Column):
        return "", sql_of(inputs.named[name].unnest())
    if expression.table:
        return expression.table.lower(), name
    return (next(iter(inputs.relations)) if len(inputs.relations) == 1 else "?"), name


def place(column: exp.Column, inputs: Inputs) -> str | None:
    """The relation that a column is of, where that is known."""
    if column.table:
        return column.table.lower()
    if len(inputs.relations) == 1:
        return next(iter(inputs.relations))
    name = column.name.lower()
    having = [alias for alias, rows in inputs.relations.items() if rows.columns is None or name in rows.columns]
    return having[0] if len(having) == 1 else None
