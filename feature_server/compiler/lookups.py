"""Joins with constant rows: VALUES, a seed, or a model of these.

The rows are read when the model is compiled and stand in the plan's SQL, so that live events and history meet the same
ones. A lookup gives at most one row an event: its join columns are unique, which DuckDB is asked.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sqlglot import exp
from sqlglot.optimizer.scope import Scope, build_scope

from ..dtypes import DType, UnknownType, parse_sql_type
from ..errors import WarehouseError
from .layers import LOOKUP, MANY_ROWS_INSTEAD, chain, reads_events, sql_text, visible_ctes
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
            found = _take_out(join, place, scope, session, refusals)
            if found is not None:
                lookups[place] = found
    if not lookups:
        return root, lookups
    _drop_unread_ctes(root.expression)
    again = build_scope(root.expression)
    assert again is not None
    return again, lookups


def with_rows(query: exp.Expr, lookups: Lookups) -> exp.Expr:
    """The query with the rows themselves in place of the session's tables, in place."""
    for table in list(query.find_all(exp.Table)):
        if table.name in lookups:
            table.replace(exp.alias_(lookups[table.name].copy(), table.alias, table=True))
    return query


def _take_out(join: exp.Join, place: str, scope: Scope, session: Session, refusals: Refusals) -> exp.Subquery | None:
    """The query of the joined relation's rows, when its table stands in the join; None, with a refusal, if none can."""
    alias = join.this.alias_or_name
    side, kind, method = (str(join.args.get(name) or "").upper() for name in ("side", "kind", "method"))
    source = scope.selected_sources.get(alias, (None, None))[1]
    if isinstance(join.this, exp.Lateral | exp.Unnest):
        refusals.add(join, "several rows of one event", MANY_ROWS_INSTEAD)
        return None
    if source is not None and reads_events(source):
        refusals.add(
            join,
            "a join with other events",
            "aggregate with window functions over the one stream; what another table says is a feature view of its own",
        )
        return None
    if source is None or side not in ("", "LEFT") or kind not in _KINDS or method:
        refusals.add(join, f"{method or kind or side or 'LATERAL'} JOIN with a lookup", _LEFT_JOIN)
        return None
    keys = _keys(join, alias, refusals)
    if keys is None:
        return None
    used = {column.name for column in scope.expression.find_all(exp.Column) if column.table == alias}
    try:
        rows = _hold(join.this, sorted(used), place, session, refusals)
        join.this.replace(exp.alias_(exp.to_table(place), alias, table=True))
        if rows is None or not _matches_once(join, keys, place, scope, session, refusals):
            return None
    except WarehouseError as error:
        refusals.add(join, f"a lookup that DuckDB refuses ({error.got})", "a lookup that gives constant rows")
        return None
    if side == "":
        assert isinstance(scope.expression, exp.Select)
        scope.expression.where(exp.not_(exp.Is(this=keys[0][1].copy(), expression=exp.null())), copy=False)
        join.set("kind", None)
        join.set("side", "LEFT")
    return rows


def _keys(join: exp.Join, alias: str, refusals: Refusals) -> list[tuple[exp.Expr, exp.Expr]] | None:
    """The sides of the equalities in ON: the event's and the lookup's."""
    condition = join.args.get("on")
    conjuncts = [] if condition is None else list(condition.unnest().flatten()) if isinstance(
        condition.unnest(), exp.And
    ) else [condition]  # fmt: skip
    keys = []
    for conjunct in (part.unnest() for part in conjuncts):
        sides = [conjunct.this, conjunct.expression] if isinstance(conjunct, exp.EQ) else []
        tables = [{column.table for column in side.find_all(exp.Column)} for side in sides]
        if sides and tables[1] == {alias} and alias not in tables[0]:
            keys.append((sides[0], sides[1]))
        elif sides and tables[0] == {alias} and alias not in tables[1]:
            keys.append((sides[1], sides[0]))
        else:
            refusals.add(conjunct, "a lookup joined by something other than equality", _LEFT_JOIN)
            return None
    if not keys:
        refusals.add(join, "a lookup joined without ON", _LEFT_JOIN)
        return None
    return keys


def _hold(
    relation: exp.Expr, columns: Sequence[str], place: str, session: Session, refusals: Refusals
) -> exp.Subquery | None:
    """Make the session's table of a relation's columns, and give the query of its rows."""
    query = exp.select(*(exp.column(name, quoted=True) for name in columns)).from_(relation.copy())
    if ctes := visible_ctes(relation):
        query.set("with_", exp.With(expressions=ctes))
    session.rows(f"create or replace temp table {place} as {sql_text(query)}")
    ((count,),) = session.rows(f"select count(*) from {place}")
    if count > LARGEST:
        refusals.add(
            relation.alias_or_name,
            f"a lookup of {count:,} rows",
            f"at most {LARGEST:,} rows; put what is looked up into the event where it is produced, or into a feature "
            "view of its own",
        )
        return None
    types = session(f"select * from {place}")
    for name, sql_type in types.items():
        if not _can_be_looked_up(sql_type):
            refusals.add(f"{relation.alias_or_name}.{name}", f"a lookup column of type {sql_type.lower()}", "cast it")
            return None
    texts = ", ".join(f'cast("{name}" as varchar)' for name in types)
    found = session.rows(f"select {texts} from {place} order by all")
    lists = zip(*found, strict=True) if found else ([] for _ in types)
    return exp.Subquery(
        this=exp.Select(
            expressions=[
                exp.alias_(_column(list(values), sql_type), name, quoted=True)
                for values, (name, sql_type) in zip(lists, types.items(), strict=True)
            ]
        )
    )


def _column(texts: list[str | None], sql_type: str) -> exp.Expr:
    """A column of constant rows as a JSON list of texts, which DuckDB reads ten times faster than VALUES."""
    values = exp.Literal.string(json.dumps(texts, ensure_ascii=False, separators=(",", ":")))
    read = exp.Anonymous(this="FROM_JSON", expressions=[values, exp.Literal.string('["VARCHAR"]')])
    column = exp.Anonymous(this="UNNEST", expressions=[read])
    return column if sql_type == "VARCHAR" else exp.cast(column, sql_type, dialect="duckdb")


def _matches_once(
    join: exp.Join,
    keys: Sequence[tuple[exp.Expr, exp.Expr]],
    place: str,
    scope: Scope,
    session: Session,
    refusals: Refusals,
) -> bool:
    """Whether no two rows of the lookup can match one event."""
    sides = [side for pair in keys for side in pair]
    probe = exp.select(*(exp.alias_(side.copy(), f"s{i}") for i, side in enumerate(sides)))
    probe.set("from_", scope.expression.args["from_"].copy())
    probe.set("joins", [other.copy() for other in scope.expression.args["joins"]])
    if ctes := visible_ctes(join):
        probe.set("with_", exp.With(expressions=ctes))
    types = list(session(sql_text(probe)).values())
    for i, (event, lookup) in enumerate(keys):
        if not _same_values(*types[2 * i : 2 * i + 2]):
            refusals.add(
                f"{event.sql(dialect='duckdb')} = {lookup.sql(dialect='duckdb')}",
                f"a lookup that compares {types[2 * i].lower()} with {types[2 * i + 1].lower()}",
                f"cast({lookup.sql(dialect='duckdb')} as {types[2 * i].lower()})",
            )
            return False
    names = [f"k{i}" for i in range(len(keys))]
    values = ", ".join(f"{sql_text(lookup)} as k{i}" for i, (_, lookup) in enumerate(keys))
    present = " and ".join(f"{name} is not null" for name in names)
    twice = session.rows(
        f"select {', '.join(f'cast({name} as varchar)' for name in names)}, count(*) "
        f"from (select {values} from {place} as {sql_text(exp.to_identifier(join.this.alias))}) where {present} "
        f"group by {', '.join(names)} having count(*) > 1 order by all limit 1"
    )
    if twice:
        *shown, count = twice[0]
        which = ", ".join(
            f"{lookup.sql(dialect='duckdb')} = {value!r}" for (_, lookup), value in zip(keys, shown, strict=True)
        )
        refusals.add(
            join,
            f"a lookup with {count} rows for one key ({which})",
            "one row a key: join on more columns, or correct it",
        )
    return not twice


def _same_values(one: str, other: str) -> bool:
    """Whether values of two types are equal exactly when they look so: nothing is rounded or parsed to compare them."""
    first, second = _dtype(one), _dtype(other)
    if first is None or second is None or first.kind in ("float32", "float64"):
        return False
    return first == second or all(dtype.is_number and "int" in dtype.kind for dtype in (first, second))


def _can_be_looked_up(sql_type: str) -> bool:
    dtype = _dtype(sql_type)
    return dtype is not None and dtype.kind != "list"


def _dtype(sql_type: str) -> DType | None:
    try:
        return parse_sql_type(sql_type)
    except UnknownType:
        return None


def _drop_unread_ctes(query: exp.Expr) -> None:
    """Remove the CTEs that nothing reads any more: those of lookups would ask for tables of the session."""
    dropped = True
    while dropped:
        dropped = False
        read = {table.name for table in query.find_all(exp.Table) if not table.db}
        for cte in list(query.find_all(exp.CTE)):
            if cte.alias not in read:
                clause = cte.parent
                assert isinstance(clause, exp.With)
                assert clause.parent is not None
                clause.set("expressions", [other for other in clause.expressions if other is not cte])
                if not clause.expressions:
                    clause.parent.set("with_", None)
                dropped = True
