"""Feature views with `stream`: their compiled SQL, down to the events → StreamPlan, or why that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from ..dbt.artifacts import Manifest, Node
from ..definitions.stream import EventSource
from ..errors import WarehouseError
from .macros import way_to_macro
from .report import Report
from .seeds import load_seed
from .sources import SourceDraft
from .views import BLOCK, ViewDraft, fingerprint

if TYPE_CHECKING:
    from sqlglot import exp

    from ..compiler.layers import Constant
    from ..offline.session import EventTypes

STREAM = (*BLOCK, "stream")


def compile_streams(
    manifest: Manifest, views: dict[str, ViewDraft], sources: dict[str, SourceDraft], report: Report
) -> None:
    """Give each view that names a stream its plan, and each source the relation that the models read for it."""
    streamed = [(draft, draft.stream) for draft in views.values() if draft.stream is not None]
    with ExitStack() as stack:
        sessions: dict[str, EventTypes] = {}  # one a source: to open DuckDB costs as much as to compile a view
        for draft, name in streamed:
            if (source := sources.get(name)) is None:
                _report_unknown(draft.node, name, manifest, sources, report)
            elif source.source is not None:
                if name not in sessions:
                    from ..offline.session import event_types

                    sessions[name] = stack.enter_context(event_types(source.source))
                if not _is_incremental(draft.node, manifest, report):
                    _compile(draft, source, source.source, sessions[name], manifest, report)


def _report_unknown(node: Node, name: str, manifest: Manifest, sources: dict[str, SourceDraft], report: Report) -> None:
    plain = next((source for source in manifest.sources.values() if source.label == name), None)
    remedy = "declare event_stream in config.meta of the source's table"
    if plain is not None:
        report.add(
            node, STREAM, f"source {name!r} is not an event source",
            expected="a source's table with config.meta.event_stream", got=name, remedy=f"{remedy}, in {plain.file}",
        )  # fmt: skip
    else:
        report.unknown_name(node, STREAM, "event source", name, sources, remedy)


def _compile(
    draft: ViewDraft,
    source: SourceDraft,
    events: EventSource,
    session: EventTypes,
    manifest: Manifest,
    report: Report,
) -> None:
    """Give the view its plan, and the source its relation as the models write it, or report why there is no plan."""
    from ..compiler.model import CompiledModel, compile_stream_view
    from ..compiler.refusals import Refused

    node, view = draft.node, draft.view
    sql_file = node.original_file_path
    if not node.compiled_code:
        report.add(
            node, STREAM, "the manifest does not hold the model's compiled SQL",
            remedy="leave --no-parse out, or run `dbt compile --full-refresh` first",
        )  # fmt: skip
        return
    model = CompiledModel(
        sql=node.compiled_code,
        join_keys=view.key_names,
        event_timestamp=view.event_timestamp,
        created_timestamp=view.created_timestamp,
        features=view.feature_names,
        types={feature.name: feature.dtype for feature in view.features},
    )
    try:
        upstream = _Upstream(node, source.node, manifest, lambda seed: load_seed(seed, report.project_dir, session))
        view = msgspec.structs.replace(view, stream=compile_stream_view(model, events, upstream, session))
        draft.view = msgspec.structs.replace(view, fingerprint=fingerprint(view))
        source.source = msgspec.structs.replace(events, relation=upstream.relation or events.relation)
    except Refused as refused:
        for refusal in refused.refusals:
            report.add(
                node, (), f"{refusal.what}: {refusal.expression}",
                remedy=f"write instead: {refusal.instead}", file=sql_file,
            )  # fmt: skip
    except WarehouseError as error:
        report.add(
            node, (), f"{error.what} over the source's columns", file=sql_file, got=error.got,
            expected=f"columns as {source.node.file} lists them: "
            + ", ".join(f"{column.name} {column.dtype}" for column in events.columns),
        )  # fmt: skip


def _is_incremental(node: Node, manifest: Manifest, report: Report) -> bool:
    """Whether the view or a model under it gives other SQL in an incremental run; reported for each that does."""
    found = False
    for model in (node, *_models_under(node, manifest)):
        way = way_to_macro(model, "is_incremental", manifest)
        if way is not None:
            found = True
            through = f" (by {' → '.join(f'{name}()' for name in way)})" if len(way) > 1 else ""
            report.add(
                model, (), f"is_incremental() under a feature view with a stream{through}",
                file=model.original_file_path,
                expected=f"SQL that gives {node.label} the same for all events, whenever it runs",
                remedy="leave is_incremental() out, and materialize the model as a table or view",
            )  # fmt: skip
    return found


def _models_under(node: Node, manifest: Manifest) -> list[Node]:
    """The models that a model reads, itself or through others."""
    found: dict[str, Node] = {}
    waiting = list(node.depends_on.nodes)
    while waiting:
        below = manifest.nodes.get(waiting.pop())
        if below is not None and below.resource_type == "model" and below.unique_id not in found:
            found[below.unique_id] = below
            waiting += below.depends_on.nodes
    return list(found.values())


class _Upstream:
    """What a relation in the compiled SQL stands for: a model's own SQL, a seed's rows, or the view's events.

    A source in files has no relation's name in the SQL but their location; so in a model that reads one source, what is
    nothing else is that source.
    """

    def __init__(self, node: Node, source: Node, manifest: Manifest, seed: Callable[[Node], Constant]) -> None:
        self.source, self.manifest, self.seed = source, manifest, seed
        self.relation: str | None = None
        self._nodes: dict[str, Node] = {}
        waiting, seen = [node], {node.unique_id}
        while waiting:
            reader = waiting.pop()
            self._read(reader)
            below = [found for found in self._parents(reader) if found.unique_id not in seen]
            seen.update(found.unique_id for found in below)
            waiting += below

    def __call__(self, table: exp.Table) -> str | Constant | None:
        from ..compiler.layers import EVENTS
        from ..offline.sql import literal

        text = _text(table)
        node = self._nodes.get(text)
        if node is not None and node.unique_id == self.source.unique_id:
            is_file = table.this.args.get("quoted") and not table.db  # the parser makes an identifier of its string
            self.relation = literal(table.name) if is_file else text
            return EVENTS
        if node is not None and node.resource_type == "seed":
            return self.seed(node)
        return None if node is None or node.resource_type != "model" else node.compiled_code

    def _parents(self, node: Node) -> Iterator[Node]:
        """The models and sources that a model's SQL reads, those of ephemeral models, which stand in it, among them."""
        for unique_id in node.depends_on.nodes:
            parent = self.manifest.nodes.get(unique_id) or self.manifest.sources.get(unique_id)
            if parent is None:
                continue
            if parent.config.get("materialized") == "ephemeral":
                yield from self._parents(parent)
            else:
                yield parent

    def _read(self, reader: Node) -> None:
        """Note what each relation in a model's SQL stands for."""
        import sqlglot
        from sqlglot import exp
        from sqlglot.errors import SqlglotError

        if not reader.compiled_code:
            return
        above = list(self._parents(reader))
        named = [(node, exp.to_table(node.relation_name, dialect="duckdb")) for node in above if node.relation_name]
        parents = {relation.sql(dialect="duckdb"): node for node, relation in named}
        read = [node for node in above if node.resource_type == "source"]
        try:
            query = sqlglot.parse_one(reader.compiled_code, dialect="duckdb")
        except SqlglotError:
            return  # the compiler reports it
        ctes = {cte.alias for cte in query.find_all(exp.CTE)}
        for table in query.find_all(exp.Table):
            text = _text(table)
            if text in parents:
                self._nodes[text] = parents[text]
            elif len(read) == 1 and (table.db or table.name not in ctes):
                self._nodes[text] = read[0]


def _text(table: exp.Table) -> str:
    bare = table.copy()
    bare.set("alias", None)
    return bare.sql(dialect="duckdb")
