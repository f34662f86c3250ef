"""One query out of the model and the staging models under it, and the SELECT in it where the windows stand.

Its filters become a column of its rows, for an event that is filtered out is still a version of itself.
"""

import re
from collections.abc import Callable, Mapping
from itertools import pairwise, takewhile

import msgspec
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, build_scope
from sqlglot.transforms import eliminate_window_clause

from ..definitions.stream import EventSource
from .refusals import WRITTEN, Refusals

EVENTS = "events"
READ = "read"  # of a query in the place of a relation: which one that was, in a node's meta
LOOKUP = "_lookup_{}"  # tables of the session that compiles, in place of constant relations
_CLAUSES = (exp.Join, exp.Where, exp.Group, exp.Having, exp.Qualify, exp.Order, exp.Limit, exp.Offset, exp.Lateral)
_MANY_ROWS = {"unnest", "generate_subscripts", "regexp_split_to_table"}
MANY_ROWS_INSTEAD = "one row an event: what a list function says of it, as len(…) or list_contains(…, …)"
_COUNTS, _KEPT = "_counts", "_kept"
_PLAIN = re.compile(r"[A-Za-z_]\w*")


class Constant(msgspec.Struct, frozen=True):
    """A relation of constant rows that the session which compiles holds as table `name`; `columns` have SQL types."""

    name: str
    columns: Mapping[str, str]


Upstream = Callable[[exp.Table], "str | Constant | None"]


def put_together(sql: str, upstream: Upstream, refusals: Refusals, constants: dict[str, Mapping[str, str]]) -> exp.Expr:
    """The model with each relation it reads replaced by that relation's own SQL, down to the table `events`.

    `upstream` gives the SQL of a relation, EVENTS for the view's event source, a Constant, which is noted in
    `constants`, or None for anything else.
    """
    try:
        query = sqlglot.parse_one(sql, dialect="duckdb")
    except SqlglotError as error:
        refusals.refuse(str(error).splitlines()[0], "SQL that cannot be read", "one SELECT statement")
    for select in query.find_all(exp.Select):
        eliminate_window_clause(select)
    query = query.copy()  # windows that had one name share its parts no longer
    _join_in_select(query)
    _note_as_written(query)
    names = {cte.alias for cte in query.find_all(exp.CTE)}
    for clause in query.find_all(exp.TableSample, exp.Pivot):
        refusals.add(clause, "a sample or a pivot", "all events, each as it is")
    for table in list(query.find_all(exp.Table)):
        if not table.db and table.name in names and isinstance(table.this, exp.Identifier):
            continue
        with refusals.gathered():
            found = upstream(table)
            if found is None:
                refusals.refuse(
                    table,
                    "a relation that is neither the stream's source nor a staging model of it",
                    "read the view's event source, and look up constants in a seed or VALUES; put other data into a "
                    "view of its own",
                )
            if isinstance(found, Constant):
                constants[found.name] = found.columns
                read: exp.Expr = exp.to_table(found.name)
            elif found == EVENTS:
                read = exp.to_table(EVENTS)
            else:
                read = exp.Subquery(this=put_together(found, upstream, refusals, constants))
                read.meta[READ] = relation_text(table)
            alias = table.alias or (table.name if _PLAIN.fullmatch(table.name) else EVENTS)  # a file's cannot qualify
            table.replace(exp.alias_(read, alias, table=True))
    return query


def relation_text(table: exp.Table) -> str:
    """A table as SQL names it, without its alias."""
    bare = table.copy()
    bare.set("alias", None)
    return bare.sql(dialect="duckdb")


def qualified(query: exp.Expr, tables: Mapping[str, Mapping[str, str]], refusals: Refusals) -> Scope:
    """The scope tree of the query with every star expanded and every column qualified."""
    try:
        query = qualify(
            query,
            schema={name: dict(columns) for name, columns in tables.items()},
            dialect="duckdb",
            quote_identifiers=False,
        )
    except SqlglotError as error:
        refusals.refuse(str(error).splitlines()[0], "a column that cannot be resolved", "a column of the source's YAML")
    scope = build_scope(query)
    if scope is None or not isinstance(scope.expression, exp.Select):
        what = "a set operation" if isinstance(query, exp.SetOperation) else "a query that is not a SELECT"
        refusals.refuse(query, what, "one SELECT over the view's event source")
    return scope


def window_scope(root: Scope, events: EventSource, refusals: Refusals) -> Scope:
    """The one SELECT with window functions, or else the first that can see the event id; the others keep no state."""
    layers = chain(root, refusals)
    with_windows = [scope for scope in root.traverse() if windows_of(scope.expression)]
    found = with_windows[0] if with_windows else _sees_event_id(layers, events)
    above, below = list(takewhile(lambda scope: scope is not found, layers)), chain(found, refusals)[1:]
    if len(with_windows) > 1:
        refusals.add(
            with_windows[1].expression, "window functions in more than one SELECT", "all window functions in one SELECT"
        )
    for scope in reversed(below):
        _check_rowwise(scope, refusals, where_allowed=True, events=events)
    _check_rowwise(found, refusals, where_allowed=True)
    for scope in reversed(above):
        _check_rowwise(scope, refusals, where_allowed=False)
    refusals.check()
    if found not in layers:
        instead = "leave the CTE out, or read the events from it"
        refusals.refuse(found.expression, "window functions in a CTE that nothing reads", instead)
    return found


def _sees_event_id(layers: list[Scope], events: EventSource) -> Scope:
    for scope, below in pairwise(layers):
        alias = only_source(scope)[0]
        columns = (exp.column(select.alias_or_name, table=alias) for select in selects(below))
        if any(same_name(source_column(column, scope), events.event_id) for column in columns):
            return scope
    return layers[-1]


class Filters(msgspec.Struct, frozen=True):
    """Conditions over what the SELECT with the windows reads.

    An event for which `counts` is not true is left out; one for which `kept`, if any, is not true is no version at all.
    """

    counts: exp.Expr
    kept: exp.Expr | None
    versioned: bool
    known_by_build: bool


def move_filters(scope: Scope, events: EventSource) -> Filters:
    """Take the filters out of `scope` and the SELECTs under it, in place, so that every event has a row.

    A filter below or beside the QUALIFY that keeps the latest version chooses among versions. The QUALIFY itself goes,
    for readers apply its rule, and so does what only says by when the build knew.
    """
    layers = chain(scope, Refusals())
    versioning = next((i for i, layer in enumerate(layers) if layer.expression.args.get("qualify")), None)
    known_by_build = False
    passed: dict[str, exp.Expr] = {}
    for place in reversed(range(len(layers))):
        layer, select = layers[place], layers[place].expression
        where = select.args.get("where")
        conditions = [part.copy() for part in conjuncts(where and where.this)]
        own = [condition for condition in conditions if not _is_build_bound(condition, layer, events)]
        known_by_build |= len(own) < len(conditions)
        select.set("qualify", None)
        select.set("where", None)
        passed = {name: exp.column(name, table=only_source(layer)[0]) for name in passed}
        if own:
            name = _KEPT if versioning is not None and place >= versioning else _COUNTS
            parts = [exp.func("coalesce", exp.and_(*own), exp.false()), *([passed[name]] if name in passed else [])]
            passed[name] = exp.and_(*parts)
        if place > 0:
            added = [exp.alias_(condition, name) for name, condition in passed.items()]
            select.set("expressions", [*select.expressions, *added])
    counts = exp.and_(*passed.values()) if passed else exp.true()
    return Filters(counts, passed.get(_KEPT), versioning is not None, known_by_build)


def sql_text(query: exp.Expr) -> str:
    """SQL for DuckDB to run: every name quoted, for a column may be called `order`."""
    if any(map(_is_cast_amiss, query.find_all(exp.LogicalAnd, exp.LogicalOr))):
        query = query.transform(lambda node: _as_written(node) if _is_cast_amiss(node) else node)
    return query.sql(dialect="duckdb", identify=True)


def _is_cast_amiss(node: exp.Expr) -> bool:
    """bool_and and bool_or of which sqlglot would write the cast of what is no expression: DISTINCT x, x ORDER BY y."""
    return isinstance(node, exp.LogicalAnd | exp.LogicalOr) and isinstance(node.this, exp.Distinct | exp.Order)


def _as_written(node: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this="bool_and" if isinstance(node, exp.LogicalAnd) else "bool_or", expressions=[node.this])


def same_name(one: str | None, other: str | None) -> bool:
    """Whether two names are one column's: DuckDB does not tell upper from lower case."""
    return one is not None and other is not None and one.lower() == other.lower()


def chain(root: Scope, refusals: Refusals) -> list[Scope]:
    """The SELECTs that the events pass through, from the root down to the one that reads the events themselves."""
    found = [root]
    while isinstance(select := found[-1].expression, exp.Select):
        below = only_source(found[-1])[1] if "from_" in select.args else None
        if below is None or not reads_events(below):
            refusals.add(
                select,
                "a SELECT that does not read the stream's events",
                "from the view's event source, or a staging model of it",
            )
        if not isinstance(below, Scope):
            break
        found.append(below)
    refusals.check()
    return found


def only_source(scope: Scope) -> tuple[str, Scope | exp.Table]:
    """Alias and content of the relation that a SELECT reads events from; what it joins are lookups."""
    alias = scope.expression.args["from_"].alias_or_name
    return alias, scope.selected_sources[alias][1]


def reads_events(source: Scope | exp.Table) -> bool:
    """Whether a relation of a query comes from the events."""
    if isinstance(source, exp.Table):
        return source.name == EVENTS
    return any(
        reads_events(below)
        for scope in source.traverse()
        for _, below in scope.selected_sources.values()
        if below is not source
    )


def is_lookup(join: exp.Expr) -> bool:
    """Whether a join is with constant rows, which stand in a table of the session that compiles."""
    return isinstance(join.this, exp.Table) and re.fullmatch(LOOKUP.format(r"\d+"), join.this.name) is not None


def conjuncts(condition: exp.Expr | None) -> list[exp.Expr]:
    """What a condition demands all of; nothing without one."""
    if condition is None:
        return []
    condition = condition.unnest()
    return list(condition.flatten()) if isinstance(condition, exp.And) else [condition]


def see_ctes(query: exp.Expr, node: exp.Expr) -> exp.Expr:
    """Give a query copies of the CTEs that can be read where a node stands, outer ones first, in place."""
    found: list[exp.CTE] = []
    inner: exp.Expr | None = None
    at: exp.Expr | None = node
    while at is not None:
        clause = at.args.get("with_")
        if isinstance(at, exp.With) and inner is not None:
            found = [cte.copy() for cte in at.expressions[: at.expressions.index(inner)]] + found
        elif clause is not None and inner is not clause:
            found = [cte.copy() for cte in clause.expressions] + found
        inner, at = at, at.parent
    if found:
        query.set("with_", exp.With(expressions=found))
    return query


def selects(scope: Scope) -> list[exp.Expr]:
    """The output columns of a scope."""
    return list(scope.expression.selects)  # type: ignore[attr-defined]


def projection(scope: Scope, column: str) -> exp.Expr | None:
    """The expression behind an output column of a scope; None without such a column."""
    found = (select.unalias() for select in selects(scope) if same_name(select.alias_or_name, column))
    return next(found, None)


def _check_rowwise(scope: Scope, refusals: Refusals, *, where_allowed: bool, events: EventSource | None = None) -> None:
    select = scope.expression
    if not isinstance(select, exp.Select):
        refusals.add(select, "a set operation", "one SELECT over the view's event source")
        return
    advice = "compute row by row in staging, and aggregate only with window functions in the model"
    for join in select.args.get("joins") or []:
        if not where_allowed and is_lookup(join):
            refusals.add(join, "a join above the window functions", "join the lookup in staging")
        elif not is_lookup(join):
            refusals.add(join, "a join", advice)
    for argument, what in (
        ("group", "GROUP BY"),
        ("having", "HAVING"),
        ("distinct", "SELECT DISTINCT"),
        ("limit", "LIMIT"),
        ("offset", "OFFSET"),
        ("laterals", "LATERAL"),
        ("order", "ORDER BY"),
    ):
        clause = select.args.get(argument)
        if clause:
            refusals.add(clause[0] if isinstance(clause, list) else clause, what, advice)
    if not where_allowed and select.args.get("where"):
        refusals.add(select.args["where"], "a filter above the window functions", "filter below them, or use FILTER")
    for subquery in scope.subquery_scopes[:1]:
        if reads_events(subquery):
            refusals.add(subquery.expression, "a subquery over other events", advice)
        else:
            instead = "in staging, left join its rows, and filter on a column of theirs that is not null"
            refusals.add(subquery.expression, "a subquery over constant rows", instead)
    for node in select.find_all(exp.Explode, exp.Unnest, exp.Anonymous):
        if node.find_ancestor(exp.Select) is select and (
            not isinstance(node, exp.Anonymous) or node.name.lower() in _MANY_ROWS
        ):
            refusals.add(node, "several rows of one event", MANY_ROWS_INSTEAD)
    qualify_clause = select.args.get("qualify")
    if qualify_clause and (events is None or not _keeps_latest_version(qualify_clause, scope, events)):
        columns = (events.event_id, events.created_timestamp) if events else (None, None)
        event_id, created = (column and sqlglot.to_identifier(column).sql(dialect="duckdb") for column in columns)
        refusals.add(
            qualify_clause,
            "QUALIFY other than keeping the latest version of each event",
            f"in staging: qualify row_number() over (partition by {event_id or 'the event id'} "
            f"order by {created or '<created>'} desc) = 1",
        )
    for node in select.find_all(exp.AggFunc):
        if node.find_ancestor(exp.Select) is select and not node.find_ancestor(exp.Window):
            refusals.add(node, "an aggregate that is not a window function", advice)


def _keeps_latest_version(clause: exp.Expr, scope: Scope, events: EventSource) -> bool:
    """Whether QUALIFY is `row_number() over (partition by <event id> order by <created> desc) = 1`."""
    match clause.this:
        case exp.EQ(this=exp.Window(this=exp.RowNumber()) as window, expression=exp.Literal(this="1", is_string=False)):
            keys, order = window.args.get("partition_by") or [], window.args.get("order")
            created = events.created_timestamp
            return (
                len(keys) == 1
                and same_name(source_column(keys[0], scope), events.event_id)
                and order is not None
                and all(ordered.args.get("desc") for ordered in order.expressions)
                and (created is None or same_name(source_column(order.expressions[0].this, scope), created))
            )
    return False


def source_column(expression: exp.Expr | None, scope: Scope) -> str | None:
    """The column of `events` that an expression over `scope`'s source passes on as it is; None if it does not."""
    column = None if expression is None else expression.unnest()
    alias, source = only_source(scope)
    if not isinstance(column, exp.Column) or column.table != alias:
        return None
    return source_column(projection(source, column.name), source) if isinstance(source, Scope) else column.name


def _is_build_bound(condition: exp.Expr, layer: Scope, events: EventSource) -> bool:
    """Whether a condition is `<created> <= <constant>`, which says by when the build knew and nothing of the event."""
    condition = condition.unnest()
    if not isinstance(condition, exp.LTE | exp.LT) or events.created_timestamp is None:
        return False
    column = source_column(condition.this, layer)
    return same_name(column, events.created_timestamp) and condition.expression.find(exp.Column) is None


def windows_of(select: exp.Expr) -> list[exp.Window]:
    """Window functions of this SELECT itself, those of its QUALIFY left out."""
    return [
        window
        for window in select.find_all(exp.Window)
        if window.find_ancestor(exp.Select) is select and not window.find_ancestor(exp.Qualify)
    ]


def _note_as_written(query: exp.Expr) -> None:
    """Keep the text of what may be refused, for columns will get the names of their tables."""
    for node in query.find_all(exp.Func, exp.Condition, exp.Query, *_CLAUSES):
        node.meta[WRITTEN] = node.sql(dialect="duckdb", normalize_functions=False)


def _join_in_select(query: exp.Expr) -> None:
    """Put the joins of `from a join b select …` where those of `select … from a join b` stand."""
    for select in query.find_all(exp.Select):
        clause = select.args.get("from_")
        if clause is not None and isinstance(clause.this, exp.Table) and clause.this.args.get("joins"):
            select.set("joins", [*clause.this.args["joins"], *(select.args.get("joins") or [])])
            clause.this.set("joins", None)
