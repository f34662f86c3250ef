"""What views are of: models with `meta.entity` → entities, sources' tables and seeds with `meta.event_stream` → event
sources."""

from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from ..dbt.artifacts import Node
from ..definitions.facts import NO_JOIN_KEYS, Entity, JoinKey
from ..definitions.stream import EventSource, SourceColumn
from ..dtypes import DType
from .blocks import NAME, NAME_IN_WORDS, pii_of, read_block
from .columns import Columns
from .report import META, Report, duplicates
from .seeds import typed_seed

SOURCE = (*META, "event_stream")


@dataclass(frozen=True)
class EntityDraft:
    """An entity whose definition may hold problems: a join key whose type is not known has None."""

    name: str
    columns: Columns
    join_keys: tuple[tuple[str, DType | None], ...]

    def entity(self) -> Entity:
        keys = tuple(JoinKey(name, dtype) for name, dtype in self.join_keys if dtype is not None)
        node = self.columns.node
        return Entity(name=self.name, join_keys=keys, description=node.text, path=node.original_file_path)


def read_entities(report: Report) -> dict[str, EntityDraft]:
    """Every entity by name, those with problems among them so that views naming them get no problem of their own."""
    drafts: dict[str, EntityDraft] = {}
    for node in (node for node in report.manifest.models() if "entity" in node.meta):
        draft = _read_entity(node, report)
        if draft is None:
            continue
        if draft.name in drafts:
            other = drafts[draft.name].columns.node
            report.add(
                node, (*META, "entity", "name"), f"entity {draft.name!r} is declared twice",
                expected="each entity in one model", got=f"also in {other.file}, model {other.name}",
            )  # fmt: skip
            continue
        _compare_types(draft, drafts)
        drafts[draft.name] = draft
    return drafts


def _read_entity(node: Node, report: Report) -> EntityDraft | None:
    path = (*META, "entity")
    block = read_block(node, "entity", report)
    report.check_description(node, "entity", "what one row is")
    if "name" in block and not NAME.fullmatch(block["name"]):
        report.add(
            node, (*path, "name"), "an entity cannot have this name",
            expected=NAME_IN_WORDS, got=block["name"],
        )  # fmt: skip
    columns = Columns(node, report)
    names = block.get("join_keys", [])
    for name in duplicates(names):
        report.add(node, (*path, "join_keys"), f"join key {name!r} is named twice", expected="each join key once")
    keys = []
    for position, name in enumerate(dict.fromkeys(names)):
        listed = columns.expect(name, (*path, "join_keys", position), "join key")
        if name in NO_JOIN_KEYS:
            report.add(
                node, (*path, "join_keys", position), f"a join key cannot be named {name!r}",
                expected="another name: clients are given keys by name, beside arguments of that one", got=name,
                remedy="rename the column in the model",
            )  # fmt: skip
        dtype = columns.dtype(name) if listed else None
        if dtype is not None and not dtype.can_be_join_key:
            what = f"join key {name!r} has a type that cannot identify an entity"
            columns.wrong_type(name, what, "an integer, varchar, uuid, date or boolean")
            dtype = None
        keys.append((name, dtype))
    return EntityDraft(block["name"], columns, tuple(keys)) if "name" in block else None


def _compare_types(draft: EntityDraft, others: dict[str, EntityDraft]) -> None:
    """A problem for a join key that another entity has with another type: a request names it once for both."""
    for name, dtype in draft.join_keys:
        for other in others.values():
            theirs = dict(other.join_keys).get(name)
            if dtype is not None and theirs is not None and theirs != dtype:
                what = f"join key {name!r} has another type than in entity {other.name!r}"
                expected = f"{other.columns.written(name)}, as in {other.columns.node.file}"
                draft.columns.wrong_type(name, what, expected)
                return


@dataclass
class SourceDraft:
    """An event source whose definition may hold problems; then `source` is None."""

    node: Node
    source: EventSource | None


def read_sources(report: Report) -> dict[str, SourceDraft]:
    """Every event source by name, `<source>.<table>` or that of a seed, those with problems among them."""
    nodes = sorted(
        (*report.manifest.sources.values(), *report.manifest.nodes.values()), key=lambda node: node.unique_id
    )
    return {node.label: _read_source(node, report) for node in nodes if node.is_events}


def _read_source(node: Node, report: Report) -> SourceDraft:
    block = read_block(node, "event_stream", report)
    pii = {name.lower() for name, column in node.columns.items() if pii_of(column)}
    node = typed_seed(node, report) if node.resource_type == "seed" else node
    columns = Columns(node, report)
    found = [(name, columns.dtype(name)) for name in node.columns]
    types = dict(found)
    if not found and node.resource_type != "seed":
        report.add(
            node, ("columns",), "an event source without columns",
            expected="every column of the source's table with its data_type: live events are checked against them",
        )  # fmt: skip
    roles = {key: block[key] for key in ("event_id", "event_timestamp", "created_timestamp") if key in block}
    fits = [_check_role(key, name, types, columns) for key, name in roles.items()]
    known = tuple(
        SourceColumn(name, dtype, pii=True if name.lower() in pii else UNSET)
        for name, dtype in found
        if dtype is not None
    )
    if not all(fits) or not {"event_id", "event_timestamp"} <= roles.keys() or len(known) < len(found):
        return SourceDraft(node, None)
    relation = node.relation_name or ""
    source = EventSource(
        name=node.label, columns=known, relation=relation, path=node.original_file_path, landing=block.get("landing"),
        **roles,
    )  # fmt: skip
    return SourceDraft(node, source)


def _check_role(key: str, name: str, types: dict[str, DType | None], columns: Columns) -> bool:
    """Whether the column named for event id or a timestamp is there and of a type that can be that."""
    if not types or not columns.expect(name, (*SOURCE, key), key):
        return False
    dtype: Any = types[name]
    if dtype is None:
        return False
    fits = dtype.kind in ("string", "uuid") or "int" in dtype.kind if key == "event_id" else dtype.is_timestamp
    if not fits:
        expected = "an integer, varchar or uuid" if key == "event_id" else "timestamp or timestamptz"
        columns.wrong_type(name, f"{key} {name!r} has a type that it cannot have", expected)
    return bool(fits)
