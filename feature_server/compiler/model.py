"""From the model's SQL to its StreamPlan."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import UNSET
from sqlglot import exp
from sqlglot.optimizer.scope import Scope

from ..definitions.aggregates import FUNCTIONS, listed, takes
from ..definitions.stream import Aggregate, Argument, EventSource, Frame, Output, StreamPlan
from ..dtypes import DType, UnknownType, known_sql_type, parse_sql_type
from .aggregates import list_of_last, other_type, read_call, read_frame
from .expressions import read_node
from .layers import (
    EVENTS,
    Upstream,
    move_filters,
    only_source,
    projection,
    put_together,
    qualified,
    same_name,
    see_ctes,
    selects,
    source_column,
    sql_text,
    window_scope,
    windows_of,
)
from .lookups import Lookups, Session, take_out_lookups, with_rows
from .refusals import Refusals

ROW_COLUMNS = ("event_timestamp", "created_timestamp", "event_id", "counts")
NOT_REPEATABLE = {
    "random", "uuid", "gen_random_uuid", "now", "current_timestamp", "current_date", "current_time", "today",
    "get_current_timestamp", "transaction_timestamp", "nextval", "currval", "current_localtimestamp", "setseed",
}  # fmt: skip
_NOT_REPEATABLE_TYPES = (exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentTime, exp.Rand, exp.Uuid)


class CompiledModel(msgspec.Struct, frozen=True, kw_only=True):
    """What the compiler needs of a view: its SQL, the columns that mean something and, where known, their types."""

    sql: str
    join_keys: tuple[str, ...]
    event_timestamp: str
    created_timestamp: str | None
    features: tuple[str, ...]
    types: Mapping[str, DType] = {}


def compile_stream_view(
    model: CompiledModel,
    source: EventSource,
    upstream: Upstream,
    session: Session,
    pii: Callable[[exp.Expr], Collection[str]] | None = None,
) -> StreamPlan:
    """The plan of a stream view over the events of `source`.

    `upstream` gives the SQL of a relation the model reads (`events` for the source itself), or that its rows are
    constant; `session` is DuckDB with an empty relation `events` and those rows. `pii` gives the columns of a query
    that are, None where nothing is. Raises Refused with everything that
    cannot be kept in real time.
    """
    refusals = Refusals()
    constants: dict[str, Mapping[str, str]] = {}
    query = put_together(model.sql, upstream, refusals, constants)
    refusals.check()
    types = {column.name: sql_type_name(column.dtype) for column in source.columns}
    root = qualified(query, {EVENTS: types, **constants}, refusals)
    _refuse_unrepeatable(root.expression, refusals)
    refusals.check()
    root, lookups = take_out_lookups(root, session, refusals)
    refusals.check()
    scope = window_scope(root, source, refusals)
    compiler = _Compiler(model, source, root, scope, lookups, session, refusals, pii or (lambda query: ()))
    _check_result_types(model, session(sql_text(root.expression)), refusals)
    return compiler.plan()


@dataclass
class _Compiler:
    """The state of one compilation: arguments, frames and aggregates get positions as they are met."""

    model: CompiledModel
    source: EventSource
    root: Scope
    scope: Scope
    lookups: Lookups
    session: Session
    refusals: Refusals
    pii: Callable[[exp.Expr], Collection[str]]
    arguments: dict[str, exp.Expr] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    aggregates: dict[str, tuple[exp.Expr, Aggregate]] = field(default_factory=dict)  # of no type yet

    def plan(self) -> StreamPlan:
        keys = [self._column(name) for name in self.model.join_keys]
        event = self._column(self.model.event_timestamp)
        self._check_windows(keys, event)
        outputs = [(name, self._column(name)) for name in self.model.features]
        for name, expression in outputs:
            self._output(name, expression)
        self.refusals.check()
        # Arguments in the order of their SQL: the same ones always make the same rows, whatever is computed from them.
        self.arguments = dict(sorted(self.arguments.items()))
        self.frames, self.aggregates = [], {}
        trees = [self._output(name, expression) for name, expression in outputs]
        created, event_id = self._created(event), self._passed_on(self.source.event_id)
        self.refusals.check()
        filters = move_filters(self.scope, self.source)
        if filters.kept is not None:  # a row without its key is none, wherever rows are read
            keys = [exp.case().when(filters.kept.copy(), keys[0].copy()), *keys[1:]]
        rows = self._rows([*keys, event, created, event_id, filters.counts])
        pii, row_sql = self.pii(rows), sql_text(rows)
        argument_types = self.session(row_sql)
        aggregate_types = self.session(sql_text(self._select([window for window, _ in self.aggregates.values()], "g")))
        self._check_argument_types(argument_types)
        plan = StreamPlan(
            source=self.source.name,
            row_sql=row_sql,
            event_id=self._dtype(argument_types["event_id"], self.source.event_id),
            versioned=filters.versioned,
            known_by_build=filters.known_by_build,
            arguments=tuple(
                Argument(f"a{i}", self._dtype(argument_types[f"a{i}"], sql), sql, pii=True if f"a{i}" in pii else UNSET)
                for i, sql in enumerate(self.arguments)
            ),
            frames=tuple(self.frames),
            aggregates=tuple(
                msgspec.structs.replace(aggregate, dtype=self._dtype(aggregate_types[aggregate.name], sql))
                for sql, (_, aggregate) in self.aggregates.items()
            ),
            outputs=tuple(trees),
        )
        self.refusals.check()
        return plan

    def _column(self, name: str) -> exp.Expr:
        """An output column of the model in terms of what the SELECT with the windows reads."""
        if (expression := projection(self.root, name)) is None:
            self.refusals.refuse(name, "a column the model does not give", f"add {name} to the model's last SELECT")
        scope = self.root
        while scope is not self.scope:
            _, below = only_source(scope)
            assert isinstance(below, Scope)
            expression = _lowered(expression, below)
            scope = below
        return expression

    def _created(self, event: exp.Expr) -> exp.Expr:
        """When an event was known: as the model says, else as the source does, else at its time."""
        if self.model.created_timestamp is not None:
            return self._column(self.model.created_timestamp)
        return event if self.source.created_timestamp is None else self._passed_on(self.source.created_timestamp)

    def _check_argument_types(self, types: Mapping[str, str]) -> None:
        """Refuse what an aggregate cannot take exactly: the kernel reckons with numbers, decimals and booleans."""
        arguments = list(self.arguments)
        for sql, (_, aggregate) in self.aggregates.items():
            for place, number in enumerate(aggregate.arguments):
                dtype = self._dtype(types[f"a{number}"], arguments[number])
                if not takes(aggregate.function, place, dtype):
                    self.refusals.add(sql, f"{aggregate.function} of a {dtype}", other_type(aggregate.function))
        self.refusals.check()

    def _check_windows(self, keys: Sequence[exp.Expr], event: exp.Expr) -> None:
        """Every window is partitioned by the join keys and ordered by the event timestamp."""
        wanted = {key.sql() for key in keys}
        for window in windows_of(self.scope.expression):
            if {key.sql() for key in window.args.get("partition_by") or []} != wanted:
                names = ", ".join(self.model.join_keys)
                self.refusals.add(window, "a window over other keys than the view's", f"partition by {names}")
            order = window.args.get("order")
            by = order.expressions if order else []
            if len(by) != 1 or by[0].this.sql() != event.sql() or by[0].args.get("desc"):
                self.refusals.add(
                    window, "a window in another order than event time", f"order by {event.sql(dialect='duckdb')}"
                )

    def _output(self, feature: str, expression: exp.Expr) -> Output:
        source_sql = expression.sql(dialect="duckdb")
        tree = self._positions(expression.copy())
        return Output(
            feature=feature,
            node=read_node(tree, self.refusals),
            sql=tree.sql(dialect="duckdb"),
            source_sql=source_sql,
        )

    def _positions(self, expression: exp.Expr) -> exp.Expr:
        """The expression with window functions as columns g<i>, and what has none in it as columns a<i>."""
        if (last := list_of_last(expression)) is not None:
            return self._aggregate(*last)
        if isinstance(expression, exp.Window):
            return self._aggregate(expression)
        if expression.find(exp.Window) is None:
            if expression.find(exp.Column) is None:
                return expression
            return exp.column(f"a{self._argument(expression)}")
        for name, value in list(expression.args.items()):
            if isinstance(value, exp.Expr):
                expression.set(name, self._positions(value))
            elif isinstance(value, list):
                expression.set(name, [self._positions(v) if isinstance(v, exp.Expr) else v for v in value])
        return expression

    def _argument(self, expression: exp.Expr) -> int:
        sql = expression.sql(dialect="duckdb")
        self.arguments.setdefault(sql, expression.copy())
        return list(self.arguments).index(sql)

    def _aggregate(self, window: exp.Window, last: int | None = None) -> exp.Expr:
        """Column g<i> of a window function; with `last`, of a list's last so many."""
        sql = window.sql(dialect="duckdb") + ("" if last is None else f"[-{last}:]")
        if window.find(exp.IgnoreNulls) is not None:  # which is left out of the SQL of first and last
            sql += " ignore nulls"
        if sql not in self.aggregates:
            with self.refusals.gathered():
                self.aggregates[sql] = (window.copy(), self._read_aggregate(window, last))
        return exp.column(self.aggregates[sql][1].name) if sql in self.aggregates else exp.null()

    def _read_aggregate(self, window: exp.Window, last: int | None) -> Aggregate:
        call = read_call(window, self.refusals, last)
        frame = read_frame(window, self.session, self.refusals)
        if frame.preceding_us is None and not FUNCTIONS[call.function].states:
            instead = f"at most 90 days; over a lifetime: {listed(lifetime=True)}"
            self.refusals.add(window, f"{call.function} over a lifetime", instead)
        if frame not in self.frames:
            self.frames.append(frame)
        return Aggregate(
            name=f"g{len(self.aggregates)}",
            function=call.function,
            arguments=tuple(self._argument(argument) for argument in call.arguments),
            distinct=call.function == "count_distinct",
            filter=None if call.filter is None else self._argument(call.filter),
            frame=self.frames.index(frame),
            parameter=call.parameter,
            dtype=DType(""),
        )

    def _passed_on(self, name: str) -> exp.Expr:
        """The column of the windows' SELECT that passes on a column of the source."""
        alias, below = only_source(self.scope)
        if not isinstance(below, Scope):
            return exp.column(name, table=alias)
        for select in selects(below):
            column = exp.column(select.alias_or_name, table=alias)
            if same_name(source_column(column, self.scope), name):
                return column
        what = "a column of the source that does not reach the SELECT with the window functions"
        self.refusals.refuse(name, what, f"pass {name} on in the staging model")

    def _rows(self, columns: Sequence[exp.Expr]) -> exp.Expr:
        """The SELECT of the join keys and ROW_COLUMNS, given as expressions, and of the arguments."""
        for name in self.model.join_keys:
            if name in ROW_COLUMNS or re.fullmatch(r"a\d+", name):
                self.refusals.add(name, "a join key with a name that rows of events use", f"another name for {name}")
        self.refusals.check()
        names = (*self.model.join_keys, *ROW_COLUMNS)
        before = [exp.alias_(column.copy(), name) for name, column in zip(names, columns, strict=True)]
        return self._select(list(self.arguments.values()), "a", before)

    def _select(self, expressions: Sequence[exp.Expr], prefix: str, before: Sequence[exp.Expr] = ()) -> exp.Expr:
        """The windows' SELECT, with the CTEs it can see, giving other columns; at least one."""
        select = self.scope.expression.copy()
        columns = [*before, *(exp.alias_(e.copy(), f"{prefix}{i}") for i, e in enumerate(expressions))]
        select.set("expressions", columns or [exp.alias_(exp.null(), "nothing")])
        return with_rows(see_ctes(select, self.scope.expression), self.lookups)

    def _dtype(self, sql_type: str, expression: str) -> DType:
        try:
            return parse_sql_type("bigint" if sql_type.upper() == "HUGEINT" else sql_type)
        except UnknownType as error:
            self.refusals.add(expression, "a value of a type that cannot be kept", str(error))
            return DType("string")


def _lowered(expression: exp.Expr, below: Scope) -> exp.Expr:
    """An expression over the output of a scope in terms of what that scope itself reads."""

    def lower(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Column):
            return node
        found = projection(below, node.name)
        assert found is not None
        found = found.copy()
        return exp.paren(found) if isinstance(found, exp.Binary | exp.Unary | exp.Case) else found

    return expression.copy().transform(lower)


def _check_result_types(model: CompiledModel, found: Mapping[str, str], refusals: Refusals) -> None:
    """A feature has the type its YAML says: nothing is cast in silence."""
    found = {name.lower(): text for name, text in found.items()}
    for name in model.features:
        wanted, text = model.types.get(name), found.get(name.lower(), "")
        given = known_sql_type(text)
        if name.lower() in found and (given is None or (wanted is not None and given != wanted)):
            instead = f"cast(… as {'bigint' if wanted is None else sql_type_name(wanted)}) as {name}"
            if given is None and text.endswith("[]"):
                instead = "a list of numbers; for the latest value alone a plain column, or last(…) over …"
            elif given is None and text != "HUGEINT":
                instead = "a number, text, boolean, date or timestamp"
            refusals.add(name, f"a feature of type {text.lower()}", instead)


def unrepeatable(node: exp.Expr) -> str | None:
    """The name of a function that gives another value at each call, else None."""
    if isinstance(node, _NOT_REPEATABLE_TYPES):
        return node.key
    name = node.name.lower() if isinstance(node, exp.Anonymous) else ""
    return name if name in NOT_REPEATABLE else None


def _refuse_unrepeatable(query: exp.Expr, refusals: Refusals) -> None:
    for node in query.walk():
        if unrepeatable(node) is not None:
            refusals.add(node, "a function that gives another value at each call", "a column of the event")


def sql_type_name(dtype: DType) -> str:
    """How SQL writes a type of the list."""
    names = {"int8": "tinyint", "int16": "smallint", "int32": "integer", "int64": "bigint", "uint8": "utinyint",
             "uint16": "usmallint", "uint32": "uinteger", "uint64": "ubigint", "float32": "float", "float64": "double",
             "bool": "boolean", "string": "varchar"}  # fmt: skip
    return f"{names[str(dtype.item)]}[]" if dtype.kind == "list" else names.get(dtype.kind, str(dtype))
