"""Feature views with `stream`: their plans, or why there is none. A plan is kept while nothing it is of changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from ..dbt.artifacts import Manifest, Node
from ..definitions.facts import fingerprint
from ..definitions.stream import PATTERN, EventSource
from ..kept import Kept
from ..queries.told import Told
from .entities import SourceDraft
from .pii import Pii, mark_arguments
from .planned import NoPlan, Planned
from .reading import relations, walk
from .report import META, Report
from .seeds import seed_rows
from .views import BLOCK, ViewDraft

if TYPE_CHECKING:
    from ..offline.session import EventTypes

STREAM = (*BLOCK, "stream")
LOCATION = (*META, "external_location")
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_STRING = r""""[^"]*"|'[^']*'"""
_BLOCK = re.compile(rf"""\{{[{{%](?:{_STRING}|[^"'])*?[}}%]\}}""", re.DOTALL)
_CALL = re.compile(r"(?:(\w+)\.)?(\w+)\s*\(")


def compile_streams(
    views: dict[str, ViewDraft], sources: dict[str, SourceDraft], pii: Pii, report: Report, kept: Kept
) -> None:
    """Give each view that names a stream its plan, and each source the relation that the models read for it."""
    streamed = [(draft, draft.stream) for draft in views.values() if draft.stream is not None]
    models = {model.unique_id: model for model in report.manifest.models()}
    with ExitStack() as stack:
        sessions: dict[str, EventTypes] = {}  # one a source: to open DuckDB costs as much as to compile a view
        for draft, name in streamed:
            if (source := sources.get(name)) is None:
                _report_unknown(draft.node, name, sources, report)
            elif source.source is not None:
                opened = partial(_opened, sessions, stack, source.source)
                if not _is_incremental(draft.node, models, report):
                    _compile(draft, source, source.source, opened, pii, kept)
                if draft.view.stream is not None and source.source.pattern is None:
                    report.add(
                        source.node, LOCATION, "live events cannot be kept where the dbt source would read them",
                        expected=PATTERN, got=source.source.relation,
                        remedy="have the source read Parquet files of a folder: events that arrive live land there. "
                        "Of a table, give event_stream a `landing`, and read feature_warehouse.with_live(…)",
                    )  # fmt: skip
                elif draft.view.stream is not None:
                    _check_landing(draft.node, source.node, source.source, report)


def _check_landing(node: Node, source: Node, events: EventSource, report: Report) -> None:
    """That a model reads the live events of a table or seed, where these land beside it; and that it is one."""
    reads_them = events.relation.rstrip('"').endswith("__live")
    if (events.landing is not None) == reads_them:
        return
    call = f"feature_warehouse.with_live({source.call})"
    report.add(
        node, STREAM, "the models under the view do not read the events where they land",
        expected=call, got=events.relation,
        remedy=f"write {{{{ {call} }}}} where a model reads the table"
        if events.landing is not None
        else f"give event_stream a `landing` in {source.file}, such as landing/{source.name}/*.parquet",
    )  # fmt: skip


def _report_unknown(node: Node, name: str, sources: dict[str, SourceDraft], report: Report) -> None:
    seeds = (seed for seed in report.manifest.nodes.values() if seed.resource_type == "seed")
    plain = next((one for one in (*report.manifest.sources.values(), *seeds) if one.label == name), None)
    remedy = "declare event_stream in config.meta of the source's table, or of the seed"
    if plain is not None:
        report.add(
            node, STREAM, f"{plain.resource_type} {name!r} is not an event source",
            expected="a source's table or a seed with config.meta.event_stream", got=name, remedy=remedy
            if plain.file.endswith(".csv") else f"{remedy}, in {plain.file}",
        )  # fmt: skip
    else:
        report.unknown_name(node, STREAM, "event source", name, sources, remedy)


def _opened(sessions: dict[str, EventTypes], stack: ExitStack, source: EventSource) -> EventTypes:
    from ..offline.session import event_types  # with DuckDB, which nothing needs where all is kept

    if source.name not in sessions:
        sessions[source.name] = stack.enter_context(event_types(source))
    return sessions[source.name]


def _compile(
    draft: ViewDraft,
    source: SourceDraft,
    events: EventSource,
    opened: Callable[[], EventTypes],
    pii: Pii,
    kept: Kept,
) -> None:
    """Give the view its plan, and the source its relation as the models write it, or report why there is no plan."""
    node, view, report = draft.node, draft.view, pii.report
    if not node.compiled_code:
        report.add(
            node, STREAM, "the manifest does not hold the model's compiled SQL",
            remedy="leave --no-parse out, or run `dbt compile --full-refresh` first",
        )  # fmt: skip
        return

    def make() -> Planned:
        from .plans import compile_plan  # with sqlglot, which nothing needs where all is kept

        return compile_plan(node, view, source.node, events, opened(), report, told)

    told = pii.under(node) if pii.is_said else {}
    _check_pii(node, source.node, told, report)
    under = [_facts(read, report) for read in walk(node, lambda reader: relations(reader, report.manifest))]
    types = {feature.name: str(feature.dtype) for feature in view.features}
    columns = [view.key_names, view.event_timestamp, view.created_timestamp, types]
    try:
        made_from = ["stream", columns, source.node.unique_id, events, under, *([told] if told else [])]
        planned = kept.get(made_from, Planned, make)
    except NoPlan:
        return
    if not planned.plan.versioned:
        _warn_of_repeated(node, events, report)
    view = msgspec.structs.replace(view, stream=mark_arguments(planned.plan, view))
    draft.view = msgspec.structs.replace(view, fingerprint=fingerprint(view))
    source.source = msgspec.structs.replace(events, relation=planned.relation)


def _check_pii(node: Node, source: Node, told: Mapping[str, Told], report: Report) -> None:
    """Problems where pii would stand in what a plan has in the clear: rows that it looks up, and the ids of events."""
    event_id = str(source.meta["event_stream"].get("event_id")).lower()
    if origin := told.get(source.unique_id, Told()).origin(event_id):
        report.add(
            source, ("columns", event_id), f"event_id {event_id!r} is pii", got=f"pii by {origin}",
            expected="an id of no meaning: it stands beside each event, whoever may read it",
            remedy="name another column in event_stream.event_id",
        )  # fmt: skip
    for seed in walk(node, lambda reader: relations(reader, report.manifest)):
        origin = told.get(seed.unique_id, Told()).any if seed.resource_type == "seed" else ""
        if origin and seed.unique_id != source.unique_id:
            report.add(
                node, STREAM, f"the view looks up seed {seed.name}, which has pii", got=f"pii by {origin}",
                expected="no pii in what is looked up: its rows stand in the definitions",
                remedy="put it into the event where that is produced, or into a batch view of its own",
            )  # fmt: skip


def _facts(node: Node, report: Report) -> list[object]:
    """What of a model, seed or source a plan is made from."""
    rows = seed_rows(node, report) if node.resource_type == "seed" else ()
    return [node.unique_id, node.relation_name, node.compiled_code, node.config, node.depends_on.nodes, rows]


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
    for model in walk(node, lambda reader: [models[name] for name in reader.depends_on.nodes if name in models]):
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
