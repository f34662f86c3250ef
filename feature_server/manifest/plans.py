"""A stream view's compiled SQL, down to the events → StreamPlan, or the report of why that cannot be.

Seeds that it looks up become tables of constant rows, from their CSV files, as dbt-duckdb loads them.
"""

from collections.abc import Callable, Collection, Mapping

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from ..compiler.layers import EVENTS, READ, Constant, relation_text
from ..compiler.model import CompiledModel, compile_stream_view
from ..compiler.refusals import Refusals, Refused
from ..dbt.artifacts import Node
from ..definitions.facts import FeatureView
from ..definitions.stream import EventSource
from ..errors import WarehouseError
from ..offline.session import EventTypes
from ..offline.sql import literal, quote
from ..queries.personal import Tracing
from ..queries.told import Told
from .planned import NoPlan, Planned
from .reading import relations, walk
from .report import Report
from .seeds import seed_columns, seed_path, untyped


def compile_plan(
    node: Node,
    view: FeatureView,
    source: Node,
    events: EventSource,
    session: EventTypes,
    report: Report,
    told: Mapping[str, Told],
) -> Planned:
    """The plan of a view over the events of a source; NoPlan once it is reported why there is none.

    `told` says of what the view is and reads, by unique id, which columns are pii.
    """
    sql_file = node.original_file_path
    model = CompiledModel(
        sql=node.compiled_code or "",
        join_keys=view.key_names,
        event_timestamp=view.event_timestamp,
        created_timestamp=view.created_timestamp,
        features=view.feature_names,
        types={feature.name: feature.dtype for feature in view.features},
    )
    try:
        upstream = _Upstream(node, source, session, report)
        plan = compile_stream_view(model, events, upstream, session, upstream.pii(told) if told else None)
        return Planned(plan, upstream.relation or events.relation)
    except Refused as refused:
        for refusal in refused.refusals:
            report.add(
                node, (), f"{refusal.what}: {refusal.expression}",
                remedy=f"write instead: {refusal.instead}", file=sql_file,
            )  # fmt: skip
    except WarehouseError as error:
        report.add(
            node, (), f"{error.what} over the source's columns", file=sql_file, got=error.got,
            expected=f"columns as {source.file} lists them: "
            + ", ".join(f"{column.name} {column.dtype}" for column in events.columns),
        )  # fmt: skip
    raise NoPlan


class _Upstream:
    """What a relation in the compiled SQL stands for: a model's own SQL, a seed's rows, or the view's events.

    A source in files has no relation's name in the SQL but their location; so in a model that reads one source, what is
    nothing else is that source.
    """

    def __init__(self, node: Node, source: Node, session: EventTypes, report: Report) -> None:
        self.source, self.session, self.report = source, session, report
        self.relation: str | None = None
        self._nodes: dict[str, Node] = {}
        for reader in walk(node, lambda reader: relations(reader, report.manifest)):
            self._read(reader)

    def __call__(self, table: exp.Table) -> str | Constant | None:
        text = relation_text(table)
        node = self._nodes.get(text)
        if node is not None and node.unique_id == self.source.unique_id:
            is_file = table.this.args.get("quoted") and not table.db  # the parser makes an identifier of its string
            self.relation = literal(table.name) if is_file else text
            return EVENTS
        if node is not None and node.resource_type == "seed":
            return self._load_seed(node)
        return None if node is None or node.resource_type != "model" else node.compiled_code

    def pii(self, told: Mapping[str, Told]) -> Callable[[exp.Expr], Collection[str]]:
        """Gives the columns of a query over the events that are pii: it stops at what the models' YAML says."""

        def known(node: exp.Expr) -> Told | None:
            if isinstance(node, exp.Table):
                return told.get(self.source.unique_id) if node.name == EVENTS else Told()
            read = self._nodes.get(node.meta.get(READ, ""))
            return None if read is None else told.get(read.unique_id)

        def names(query: exp.Expr) -> Collection[str]:
            found = Tracing(known).told(query)
            return [name for name in query.named_selects if found.origin(name.lower())]  # type: ignore[attr-defined]

        return names

    def _load_seed(self, node: Node) -> Constant:
        """The seed as a table of the session; Refused when its file cannot be loaded or leaves types to be guessed."""
        refuse, session, path = Refusals().refuse, self.session, seed_path(node, self.report)
        delimiter = str(node.config.get("delimiter") or ",")
        try:
            names = seed_columns(node, self.report)
        except (OSError, UnicodeDecodeError) as error:
            refuse(str(path), f"a seed that cannot be read ({error})", "a CSV file in UTF-8 with a header")
        types = node.config.get("column_types") or {}
        if (wrong := untyped(names, node)) is not None:
            refuse(f"{node.name}.{wrong[0]}", "a column of a seed whose type dbt would guess", wrong[1])
        name, texts = f"_seed_{node.name}", (literal(str(path)), literal(delimiter))
        listed = ", ".join(f"{quote(column)} {types[column]}" for column in names)
        try:
            session.rows(f"create or replace temp table {quote(name)} ({listed})")
            session.rows(f"copy {quote(name)} from {texts[0]} (format csv, header true, delimiter {texts[1]})")
            return Constant(name, session(f"select * from {quote(name)}"))
        except WarehouseError as error:
            remedy = f"rows that fit the seed's column_types, in {node.original_file_path}"
            refuse(node.name, f"a seed that DuckDB cannot load ({error.got})", remedy)

    def _read(self, reader: Node) -> None:
        """Note what each relation in a model's SQL stands for."""
        if not reader.compiled_code:
            return
        above = list(relations(reader, self.report.manifest))
        named = [(node, exp.to_table(node.relation_name, dialect="duckdb")) for node in above if node.relation_name]
        parents = {relation.sql(dialect="duckdb"): node for node, relation in named}
        read = [node for node in above if node.resource_type == "source" or node.unique_id == self.source.unique_id]
        try:
            query = sqlglot.parse_one(reader.compiled_code, dialect="duckdb")
        except SqlglotError:
            return  # the compiler reports it
        ctes = {cte.alias for cte in query.find_all(exp.CTE)}
        for table in query.find_all(exp.Table):
            text = relation_text(table)
            if text in parents:
                self._nodes[text] = parents[text]
            elif len(read) == 1 and (table.db or table.name not in ctes):
                self._nodes[text] = read[0]
