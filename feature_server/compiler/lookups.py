"""Joins with constant rows: VALUES, a seed, or a model of these.

The rows are read when the model is compiled and stand in the plan's SQL, so that live events and history meet the same
ones. A lookup gives at most one row an event: its join columns are unique, which DuckDB is asked.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sqlglot import exp
from sqlglot.optimizer.eliminate_ctes import eliminate_ctes
from sqlglot.optimizer.scope import Scope, build_scope

from ..dtypes import known_sql_type
from ..errors import WarehouseError
from .layers import LOOKUP, MANY_ROWS_INSTEAD, chain, conjuncts, reads_events, see_ctes, sql_text
from .refusals import Refusals

LARGEST = 5_000  # rows; that many take about 5 ms with each batch of live events
_LEFT_JOIN = "left join <lookup> on <column of the event> = <column of the lookup>"
_KINDS = ("", "INNER", "OUTER")


class Session(Protocol):
    """A DuckDB session with an empty relation `events`; called with a query it gives the query's column types."""

    def __call__(self, sql: str, /) -> Mapping[str, str]: ...

    def rows(self, sql: str) -> list[tuple[Any, ...]]: ...


Lookups = Mapping[str, exp.Subquery]


def take_out_lookups(root: Scope, session: Session, refusals: Refusals) -> tuple[Scope, Lookups]:
    """Put a table of the session in place of every constant relation that a SELECT joins to the events.

    Gives the scope anew, and for each such table the query of its rows. An inner join becomes a left one and a filter
    for the match, for what the filters leave out is still a version of its event.
    """
    lookups: dict[str, exp.Subquery] = {}
    for scope in chain(root, refusals):
        for join in scope.expression.args.get("joins") or []:
            place = LOOKUP.format(len(lookups))
            with refusals.gathered():
                lookups[place] = _Join(join, join.this.alias_or_name, place, scope, session, refusals).take_out()
    if not lookups:
        return root, lookups
    again = build_scope(eliminate_ctes(root.expression))  # those of lookups would ask for tables of the session
    assert again is not None
    return again, lookups


def with_rows(query: exp.Expr, lookups: Lookups) -> exp.Expr:
    """The query with the rows themselves in place of the session's tables, in place."""
    for table in list(query.find_all(exp.Table)):
        if table.name in lookups:
            table.replace(exp.alias_(lookups[table.name].copy(), table.alias, table=True))
    return query


@dataclass(frozen=True)
class _Join:
    """A join of `scope` with a relation, whose rows become those of the session's table `place`."""

    join: exp.Join
    alias: str
    place: str
    scope: Scope
    session: Session
    refusals: Refusals

    def take_out(self) -> exp.Subquery:
        """The query of the joined relation's rows, when its table stands in the join."""
        join, refuse = self.join, self.refusals.refuse
        side, kind, method = (str(join.args.get(name) or "").upper() for name in ("side", "kind", "method"))
        source = self.scope.selected_sources.get(self.alias, (None, None))[1]
        if isinstance(join.this, exp.Lateral | exp.Unnest):
            refuse(join, "several rows of one event", MANY_ROWS_INSTEAD)
        if source is not None and reads_events(source):
            instead = (
                "aggregate with window functions over the one stream; what another table says is a feature view of its "
                "own"
            )
            refuse(join, "a join with other events", instead)
        if source is None or side not in ("", "LEFT") or kind not in _KINDS or method:
            refuse(join, f"{method or kind or side or 'LATERAL'} JOIN with a lookup", _LEFT_JOIN)
        keys = self._keys()
        try:
            rows = self._hold()
            join.this.replace(exp.alias_(exp.to_table(self.place), self.alias, table=True))
            self._check_matches_once(keys)
        except WarehouseError as error:
            refuse(join, f"a lookup that DuckDB refuses ({error.got})", "a lookup that gives constant rows")
        if side == "":
            assert isinstance(self.scope.expression, exp.Select)
            self.scope.expression.where(exp.not_(exp.Is(this=keys[0][1].copy(), expression=exp.null())), copy=False)
            join.set("kind", None)
            join.set("side", "LEFT")
        return rows

    def _keys(self) -> list[tuple[exp.Expr, exp.Expr]]:
        """The sides of the equalities in ON: the event's and the lookup's."""
        keys = []
        for conjunct in conjuncts(self.join.args.get("on")):
            sides = [conjunct.this, conjunct.expression] if isinstance(conjunct, exp.EQ) else []
            tables = [{column.table for column in side.find_all(exp.Column)} for side in sides]
            of_lookup = [side for side, read in zip(sides, tables, strict=True) if read == {self.alias}]
            of_event = [side for side, read in zip(sides, tables, strict=True) if self.alias not in read]
            if not of_lookup or not of_event:
                self.refusals.refuse(conjunct, "a lookup joined by something other than equality", _LEFT_JOIN)
            keys.append((of_event[0], of_lookup[0]))
        if not keys:
            self.refusals.refuse(self.join, "a lookup joined without ON", _LEFT_JOIN)
        return keys

    def _hold(self) -> exp.Subquery:
        """Make the session's table of the relation's columns that are used, and give the query of its rows."""
        relation, place, refuse = self.join.this, self.place, self.refusals.refuse
        columns = {column.name for column in self.scope.expression.find_all(exp.Column) if column.table == self.alias}
        query = exp.select(*(exp.column(name, quoted=True) for name in sorted(columns))).from_(relation.copy())
        self.session.rows(f"create or replace temp table {place} as {sql_text(see_ctes(query, relation))}")
        ((count,),) = self.session.rows(f"select count(*) from {place}")
        if count > LARGEST:
            refuse(
                relation.alias_or_name,
                f"a lookup of {count:,} rows",
                f"at most {LARGEST:,} rows; put what is looked up into the event where it is produced, or into a "
                "feature view of its own",
            )
        types = self.session(f"select * from {place}")
        for name, sql_type in types.items():
            dtype = known_sql_type(sql_type)
            if dtype is None or dtype.kind == "list":
                refuse(f"{relation.alias_or_name}.{name}", f"a lookup column of type {sql_type.lower()}", "cast it")
        texts = ", ".join(f'cast("{name}" as varchar)' for name in types)
        found = self.session.rows(f"select {texts} from {place} order by all")
        lists = zip(*found, strict=True) if found else ([] for _ in types)
        listed = [
            exp.alias_(_column(list(values), sql_type), name, quoted=True)
            for values, (name, sql_type) in zip(lists, types.items(), strict=True)
        ]
        return exp.Subquery(this=exp.Select(expressions=listed))

    def _check_matches_once(self, keys: list[tuple[exp.Expr, exp.Expr]]) -> None:
        """Refuse a lookup of which two rows can match one event."""
        probe = exp.select(
            *(exp.alias_(side.copy(), f"s{i}") for i, side in enumerate(side for pair in keys for side in pair))
        )
        probe.set("from_", self.scope.expression.args["from_"].copy())
        probe.set("joins", [other.copy() for other in self.scope.expression.args["joins"]])
        types = list(self.session(sql_text(see_ctes(probe, self.join))).values())
        for i, (event, lookup) in enumerate(keys):
            if not _same_values(*types[2 * i : 2 * i + 2]):
                self.refusals.refuse(
                    f"{event.sql(dialect='duckdb')} = {lookup.sql(dialect='duckdb')}",
                    f"a lookup that compares {types[2 * i].lower()} with {types[2 * i + 1].lower()}",
                    f"cast({lookup.sql(dialect='duckdb')} as {types[2 * i].lower()})",
                )
        names = [f"k{i}" for i in range(len(keys))]
        values = ", ".join(f"{sql_text(lookup)} as {name}" for name, (_, lookup) in zip(names, keys, strict=True))
        present = " and ".join(f"{name} is not null" for name in names)
        twice = self.session.rows(
            f"select {', '.join(f'cast({name} as varchar)' for name in names)}, count(*) "
            f"from (select {values} from {self.place} as {sql_text(exp.to_identifier(self.alias))}) where {present} "
            f"group by {', '.join(names)} having count(*) > 1 order by all limit 1"
        )
        for *shown, count in twice:
            sides = (lookup.sql(dialect="duckdb") for _, lookup in keys)
            which = ", ".join(f"{side} = {value!r}" for side, value in zip(sides, shown, strict=True))
            what = f"a lookup with {count} rows for one key ({which})"
            self.refusals.refuse(self.join, what, "one row a key: join on more columns, or correct it")


def _column(texts: list[str | None], sql_type: str) -> exp.Expr:
    """A column of constant rows as a JSON list of texts, which DuckDB reads ten times faster than VALUES."""
    values = exp.Literal.string(json.dumps(texts, ensure_ascii=False, separators=(",", ":")))
    read = exp.Anonymous(this="FROM_JSON", expressions=[values, exp.Literal.string('["VARCHAR"]')])
    column = exp.Anonymous(this="UNNEST", expressions=[read])
    return column if sql_type == "VARCHAR" else exp.cast(column, sql_type, dialect="duckdb")


def _same_values(one: str, other: str) -> bool:
    """Whether values of two types are equal exactly when they look so: nothing is rounded or parsed to compare them."""
    first, second = known_sql_type(one), known_sql_type(other)
    if first is None or second is None or first.kind in ("float32", "float64"):
        return False
    return first == second or all(dtype.is_number and "int" in dtype.kind for dtype in (first, second))
