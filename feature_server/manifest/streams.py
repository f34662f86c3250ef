"""Feature views with `stream`: their compiled SQL, down to the events → StreamPlan, or why that cannot be.

Seeds that they look up become tables of constant rows, from their CSV files, as dbt-duckdb loads them.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import msgspec
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from ..compiler.layers import EVENTS, Constant
from ..compiler.model import CompiledModel, compile_stream_view
from ..compiler.refusals import Refusals, Refused
from ..dbt.artifacts import Manifest, Node
from ..definitions.facts import fingerprint
from ..definitions.stream import PATTERN, EventSource
from ..errors import WarehouseError
from ..offline.session import EventTypes, event_types
from ..offline.sql import literal, quote
from .entities import SourceDraft
from .report import META, Report
from .seeds import seed_path
from .views import BLOCK, ViewDraft

STREAM = (*BLOCK, "stream")
LOCATION = (*META, "external_location")
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_STRING = r""""[^"]*"|'[^']*'"""
_BLOCK = re.compile(rf"""\{{[{{%](?:{_STRING}|[^"'])*?[}}%]\}}""", re.DOTALL)
_CALL = re.compile(r"(?:(\w+)\.)?(\w+)\s*\(")


def compile_streams(views: dict[str, ViewDraft], sources: dict[str, SourceDraft], report: Report) -> None:
    """Give each view that names a stream its plan, and each source the relation that the models read for it."""
    streamed = [(draft, draft.stream) for draft in views.values() if draft.stream is not None]
    models = {model.unique_id: model for model in report.manifest.models()}
    with ExitStack() as stack:
        sessions: dict[str, EventTypes] = {}  # one a source: to open DuckDB costs as much as to compile a view
        for draft, name in streamed:
            if (source := sources.get(name)) is None:
                _report_unknown(draft.node, name, sources, report)
            elif source.source is not None:
                if name not in sessions:
                    sessions[name] = stack.enter_context(event_types(source.source))
                if not _is_incremental(draft.node, models, report):
                    _compile(draft, source, source.source, sessions[name], report)
                if draft.view.stream is not None and source.source.pattern is None:
                    report.add(
                        source.node, LOCATION, "live events cannot be kept where the dbt source would read them",
                        expected=PATTERN, got=source.source.relation,
                        remedy="have the source read Parquet files of a folder: events that arrive live land there too",
                    )  # fmt: skip


def _report_unknown(node: Node, name: str, sources: dict[str, SourceDraft], report: Report) -> None:
    plain = next((source for source in report.manifest.sources.values() if source.label == name), None)
    remedy = "declare event_stream in config.meta of the source's table"
    if plain is not None:
        report.add(
            node, STREAM, f"source {name!r} is not an event source",
            expected="a source's table with config.meta.event_stream", got=name, remedy=f"{remedy}, in {plain.file}",
        )  # fmt: skip
    else:
        report.unknown_name(node, STREAM, "event source", name, sources, remedy)


def _compile(draft: ViewDraft, source: SourceDraft, events: EventSource, session: EventTypes, report: Report) -> None:
    """Give the view its plan, and the source its relation as the models write it, or report why there is no plan."""
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
        upstream = _Upstream(node, source.node, session, report)
        plan = compile_stream_view(model, events, upstream, session)
        if not plan.versioned:
            _warn_of_repeated(node, events, report)
        view = msgspec.structs.replace(view, stream=plan)
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


def _warn_of_repeated(node: Node, events: EventSource, report: Report) -> None:
    order = events.created_timestamp or events.event_timestamp
    once = f"qualify row_number() over (partition by {events.event_id} order by {order} desc) = 1"
    report.add(
        node, STREAM, "what a producer sends twice has two rows in the model, of which readers count one",
        expected=f"in a staging model: {once}", got=f"every row of {events.name}", warning=True,
    )  # fmt: skip


def _is_incremental(node: Node, models: dict[str, Node], report: Report) -> bool:
    """Whether the view or a model under it gives other SQL in an incremental run; reported for each that does."""
    found = False
    for model in _walk(node, lambda reader: [models[name] for name in reader.depends_on.nodes if name in models]):
        way = _way_to_macro(model, "is_incremental", report.manifest)
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


def _way_to_macro(node: Node, name: str, manifest: Manifest) -> tuple[str, ...] | None:
    """The macros from the one that a model's SQL calls to dbt's own macro `name`; None when there is no such way.

    Hooks are not the model's SQL, though dbt counts their macros among the model's.
    """
    goal = f"macro.dbt.{name}"
    ways: list[tuple[str, ...]] = [(macro,) for macro in _called(node, name, manifest)]
    seen = {way[-1] for way in ways}
    for way in ways:  # the list grows
        if way[-1] == goal:
            return tuple(unique_id.rpartition(".")[2] for unique_id in way)
        macro = manifest.macros.get(way[-1])
        below = [found for found in macro.depends_on.macros if found not in seen] if macro else []
        seen.update(below)
        ways += [(*way, found) for found in below]
    return None


def _called(node: Node, name: str, manifest: Manifest) -> Iterator[str]:
    """The macros that the model's Jinja may call; a name may be that of macros in several packages."""
    named: dict[str, list[str]] = {name: [f"macro.dbt.{name}"]}
    for unique_id in manifest.macros:
        named.setdefault(unique_id.rpartition(".")[2], []).append(unique_id)
    for block in _BLOCK.findall(_COMMENT.sub("", node.raw_code)):
        for package, called in _CALL.findall(re.sub(_STRING, "", block)):
            for unique_id in named.get(called, []):
                if not package or unique_id == f"macro.{package}.{called}":
                    yield unique_id


def _walk(node: Node, below: Callable[[Node], Iterable[Node]]) -> Iterator[Node]:
    """A node and all that it reads, itself or through others, each once."""
    waiting, seen = [node], {node.unique_id}
    while waiting:
        yield (reader := waiting.pop())
        found = [read for read in below(reader) if read.unique_id not in seen]
        seen.update(read.unique_id for read in found)
        waiting += found


class _Upstream:
    """What a relation in the compiled SQL stands for: a model's own SQL, a seed's rows, or the view's events.

    A source in files has no relation's name in the SQL but their location; so in a model that reads one source, what is
    nothing else is that source.
    """

    def __init__(self, node: Node, source: Node, session: EventTypes, report: Report) -> None:
        self.source, self.session, self.report = source, session, report
        self.relation: str | None = None
        self._nodes: dict[str, Node] = {}
        for reader in _walk(node, self._parents):
            self._read(reader)

    def __call__(self, table: exp.Table) -> str | Constant | None:
        text = _text(table)
        node = self._nodes.get(text)
        if node is not None and node.unique_id == self.source.unique_id:
            is_file = table.this.args.get("quoted") and not table.db  # the parser makes an identifier of its string
            self.relation = literal(table.name) if is_file else text
            return EVENTS
        if node is not None and node.resource_type == "seed":
            return self._load_seed(node)
        return None if node is None or node.resource_type != "model" else node.compiled_code

    def _load_seed(self, node: Node) -> Constant:
        """The seed as a table of the session; Refused when its file cannot be loaded or leaves types to be guessed."""
        refuse, session, path = Refusals().refuse, self.session, seed_path(node, self.report)
        delimiter = str(node.config.get("delimiter") or ",")
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                names = [name.strip() for name in next(csv.reader(file, delimiter=delimiter), [])]
        except (OSError, UnicodeDecodeError) as error:
            refuse(str(path), f"a seed that cannot be read ({error})", "a CSV file in UTF-8 with a header")
        types = node.config.get("column_types") or {}
        if missing := [name for name in names if name not in types]:
            wanted = ", ".join(f"{name}: {types.get(name, 'varchar')}" for name in names)
            instead = f"config: {{column_types: {{{wanted}}}}} for seed {node.name}, with the types that fit"
            refuse(f"{node.name}.{missing[0]}", "a column of a seed whose type dbt would guess", instead)
        name, texts = f"_seed_{node.name}", (literal(str(path)), literal(delimiter))
        listed = ", ".join(f"{quote(column)} {types[column]}" for column in names)
        try:
            session.rows(f"create or replace temp table {quote(name)} ({listed})")
            session.rows(f"copy {quote(name)} from {texts[0]} (format csv, header true, delimiter {texts[1]})")
            return Constant(name, session(f"select * from {quote(name)}"))
        except WarehouseError as error:
            remedy = f"rows that fit the seed's column_types, in {node.original_file_path}"
            refuse(node.name, f"a seed that DuckDB cannot load ({error.got})", remedy)

    def _parents(self, node: Node) -> Iterator[Node]:
        """The models and sources that a model's SQL reads, those of ephemeral models, which stand in it, among them."""
        manifest = self.report.manifest
        for unique_id in node.depends_on.nodes:
            if (parent := manifest.nodes.get(unique_id) or manifest.sources.get(unique_id)) is None:
                continue
            if parent.config.get("materialized") == "ephemeral":
                yield from self._parents(parent)
            else:
                yield parent

    def _read(self, reader: Node) -> None:
        """Note what each relation in a model's SQL stands for."""
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
