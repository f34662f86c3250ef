"""From the model's SQL to its StreamPlan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from sqlglot import exp
from sqlglot.optimizer.scope import Scope

from ..dtypes import DType, UnknownType, parse_sql_type
from ..stream_plan import Aggregate, Argument, EventSource, Frame, Output, StreamPlan
from .aggregates import read_call
from .expressions import read_node
from .frames import read_frame
from .layers import only_source, projection, put_together, qualified, source_column, window_scope
from .refusals import Refusals

NOT_REPEATABLE = {
    "random", "uuid", "gen_random_uuid", "now", "current_timestamp", "current_date", "current_time", "today",
    "get_current_timestamp", "transaction_timestamp", "nextval", "currval", "current_localtimestamp", "setseed",
}  # fmt: skip
_NOT_REPEATABLE_TYPES = (exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentTime, exp.Rand, exp.Uuid)


class CompiledModel(msgspec.Struct, frozen=True, kw_only=True):
    """What the compiler needs of a view: its SQL and the columns that mean something."""

    sql: str
    join_keys: tuple[str, ...]
    event_timestamp: str
    created_timestamp: str | None
    features: tuple[str, ...]


Describe = Callable[[str], Mapping[str, str]]


def compile_stream_view(
    model: CompiledModel, source: EventSource, upstream: Callable[[exp.Table], str | None], describe: Describe
) -> StreamPlan:
    """The plan of a stream view over the events of `source`.

    `upstream` gives the SQL of a relation the model reads (`events` for the source itself); `describe` the column types
    of a query over an empty relation `events`, from DuckDB itself. Raises Refused with everything that cannot be kept in
    real time.
    """
    refusals = Refusals()
    query = put_together(model.sql, upstream, refusals)
    refusals.check()
    types = {column.name: _sql_name(column.dtype) for column in source.columns}
    root = qualified(query, types, refusals)
    _refuse_unrepeatable(root.expression, refusals)
    scope = window_scope(root, source.event_id, refusals)
    refusals.check()
    return _Compiler(model, source, root, scope, describe, refusals).plan()


class _Compiler:
    """The state of one compilation: arguments, frames and aggregates get positions as they are met."""

    def __init__(
        self,
        model: CompiledModel,
        source: EventSource,
        root: Scope,
        scope: Scope,
        describe: Describe,
        refusals: Refusals,
    ) -> None:
        self.model, self.source, self.root, self.scope = model, source, root, scope
        self.describe, self.refusals = describe, refusals
        self.arguments: dict[str, exp.Expression] = {}
        self.frames: list[Frame] = []
        self.aggregates: dict[str, tuple[str, dict[str, object]]] = {}
        self.aggregate_sql: list[exp.Expression] = []

    def plan(self) -> StreamPlan:
        keys = [self._column(name) for name in self.model.join_keys]
        event = self._column(self.model.event_timestamp)
        created = self._column(self.model.created_timestamp) if self.model.created_timestamp else None
        self._check_windows(keys, event)
        outputs = [(name, self._column(name)) for name in self.model.features]
        trees = [self._output(name, expression) for name, expression in outputs]
        event_id = self._event_id()
        self.refusals.check()
        row_sql = self._row_sql(keys, event, created, event_id)
        argument_types = self.describe(row_sql)
        aggregate_types = self.describe(self._select(self.aggregate_sql, "g"))
        return StreamPlan(
            source=self.source.name,
            row_sql=row_sql,
            arguments=tuple(
                Argument(f"a{i}", self._dtype(argument_types[f"a{i}"], sql), sql)
                for i, sql in enumerate(self.arguments)
            ),
            frames=tuple(self.frames),
            aggregates=tuple(
                Aggregate(name=name, dtype=self._dtype(aggregate_types[name], sql), **parts)  # type: ignore[arg-type]
                for sql, (name, parts) in self.aggregates.items()
            ),
            outputs=self._checked(trees),
        )

    def _checked(self, outputs: Sequence[Output]) -> tuple[Output, ...]:
        self.refusals.check()
        return tuple(outputs)

    def _column(self, name: str) -> exp.Expression:
        """An output column of the model in terms of what the SELECT with the windows reads."""
        try:
            found = projection(self.root, name)
        except KeyError:
            self.refusals.add(name, "a column the model does not give", f"add {name} to the model's last SELECT")
            self.refusals.check()
            raise
        return self._expand_to_scope(found)

    def _expand_to_scope(self, expression: exp.Expression) -> exp.Expression:
        scope = self.root
        while scope is not self.scope:
            _, source = only_source(scope)
            assert isinstance(source, Scope)

            def lower(node: exp.Expression, source: Scope = source) -> exp.Expression:
                if not isinstance(node, exp.Column):
                    return node
                found = projection(source, node.name).copy()
                return exp.paren(found) if isinstance(found, exp.Binary | exp.Unary | exp.Case) else found

            expression = expression.copy().transform(lower)
            scope = source
        return expression

    def _check_windows(self, keys: Sequence[exp.Expression], event: exp.Expression) -> None:
        """Every window is partitioned by the join keys and ordered by the event timestamp."""
        wanted = {key.sql() for key in keys}
        for window in self.scope.expression.find_all(exp.Window):
            if window.find_ancestor(exp.Select) is not self.scope.expression or window.find_ancestor(exp.Qualify):
                continue
            if {key.sql() for key in window.args.get("partition_by") or []} != wanted:
                names = ", ".join(self.model.join_keys)
                self.refusals.add(window, "a window over other keys than the view's", f"partition by {names}")
            order = window.args.get("order")
            by = order.expressions if order else []
            if len(by) != 1 or by[0].this.sql() != event.sql() or by[0].args.get("desc"):
                self.refusals.add(
                    window, "a window in another order than event time", f"order by {event.sql(dialect='duckdb')}"
                )

    def _output(self, feature: str, expression: exp.Expression) -> Output:
        source_sql = expression.sql(dialect="duckdb")
        tree = self._positions(expression.copy())
        return Output(
            feature=feature,
            node=read_node(tree, self.refusals),
            sql=tree.sql(dialect="duckdb"),
            source_sql=source_sql,
        )

    def _positions(self, expression: exp.Expression) -> exp.Expression:
        """The expression with window functions as columns g<i>, and what has none in it as columns a<i>."""
        if isinstance(expression, exp.Window):
            return self._aggregate(expression)
        if expression.find(exp.Window) is None:
            if expression.find(exp.Column) is None:
                return expression
            return exp.column(f"a{self._argument(expression)}")
        for name, value in list(expression.args.items()):
            if isinstance(value, exp.Expression):
                expression.set(name, self._positions(value))
            elif isinstance(value, list):
                expression.set(name, [self._positions(v) if isinstance(v, exp.Expression) else v for v in value])
        return expression

    def _argument(self, expression: exp.Expression) -> int:
        sql = expression.sql(dialect="duckdb")
        self.arguments.setdefault(sql, expression.copy())
        return list(self.arguments).index(sql)

    def _aggregate(self, window: exp.Window) -> exp.Expression:
        sql = window.sql(dialect="duckdb")
        if sql not in self.aggregates:
            frame, call = read_frame(window, self.refusals), read_call(window, self.refusals)
            if frame is None or call is None:
                return exp.null()
            if frame not in self.frames:
                self.frames.append(frame)
            name = f"g{len(self.aggregates)}"
            parts: dict[str, object] = {
                "function": call.function,
                "arguments": tuple(self._argument(argument) for argument in call.arguments),
                "distinct": call.distinct,
                "filter": None if call.filter is None else self._argument(call.filter),
                "frame": self.frames.index(frame),
                "parameter": call.parameter,
            }
            self.aggregates[sql] = (name, parts)
            self.aggregate_sql.append(window.copy())
        return exp.column(self.aggregates[sql][0])

    def _event_id(self) -> exp.Expression:
        """The column of the windows' SELECT that passes on the source's event id."""
        alias, source = only_source(self.scope)
        if isinstance(source, Scope):
            for select in source.expression.selects:
                column = exp.column(select.alias_or_name, table=alias)
                if source_column(column, self.scope) == self.source.event_id:
                    return column
        else:
            return exp.column(self.source.event_id, table=alias)
        self.refusals.add(
            self.source.event_id,
            "the event id does not reach the SELECT with the window functions",
            f"pass {self.source.event_id} on in the staging model",
        )
        self.refusals.check()
        raise AssertionError

    def _row_sql(
        self,
        keys: Sequence[exp.Expression],
        event: exp.Expression,
        created: exp.Expression | None,
        event_id: exp.Expression,
    ) -> str:
        columns = [
            *(exp.alias_(key.copy(), name) for key, name in zip(keys, self.model.join_keys, strict=True)),
            exp.alias_(event.copy(), "event_timestamp"),
            exp.alias_((event if created is None else created).copy(), "created_timestamp"),
            exp.alias_(event_id.copy(), "event_id"),
        ]
        return self._select(list(self.arguments.values()), "a", before=columns)

    def _select(self, expressions: Sequence[exp.Expression], prefix: str, before: Sequence[exp.Expression] = ()) -> str:
        """The windows' SELECT, with the CTEs it can see, giving other columns; at least one."""
        select = self.scope.expression.copy()
        columns = [*before, *(exp.alias_(e.copy(), f"{prefix}{i}") for i, e in enumerate(expressions))]
        select.set("expressions", columns or [exp.alias_(exp.null(), "nothing")])
        inner = select.args.get("with_") or select.args.get("with")
        outer: list[exp.Expression] = []
        node = self.scope.expression
        while (parent := node.parent) is not None:
            if isinstance(parent, exp.With):
                outer = [cte.copy() for cte in parent.expressions[: parent.expressions.index(node)]] + outer
            node = parent
        ctes = outer + [cte.copy() for cte in (inner.expressions if inner else [])]
        if ctes:
            select.set("with_", exp.With(expressions=ctes))
        return select.sql(dialect="duckdb")

    def _dtype(self, sql_type: str, expression: str) -> DType:
        try:
            return parse_sql_type("bigint" if sql_type.upper() == "HUGEINT" else sql_type)
        except UnknownType as error:
            self.refusals.add(expression, "a value of a type that cannot be kept", str(error))
            return DType("string")


def _refuse_unrepeatable(query: exp.Expression, refusals: Refusals) -> None:
    for node in query.walk():
        name = node.name.lower() if isinstance(node, exp.Anonymous) else ""
        if isinstance(node, _NOT_REPEATABLE_TYPES) or name in NOT_REPEATABLE:
            refusals.add(node, "a function that gives another value at each call", "a column of the event")


def _sql_name(dtype: DType) -> str:
    """A type that sqlglot knows; it is used to resolve columns only, never to infer types."""
    return {"int64": "bigint", "float64": "double", "string": "varchar", "bool": "boolean"}.get(dtype.kind, "varchar")
