"""Models with `meta.entity` → entities."""

from __future__ import annotations

from dataclasses import dataclass

from ..dbt.artifacts import Catalog, Manifest, Node
from ..definitions.facts import Entity, JoinKey
from ..dtypes import DType
from .blocks import NAME, NAME_IN_WORDS, read_block
from .columns import Columns
from .report import META, Report, duplicates


@dataclass(frozen=True)
class EntityDraft:
    """An entity whose definition may hold problems: a join key whose type is not known has None.

    `types` holds the join keys' types as the YAML or catalog spells them.
    """

    name: str
    node: Node
    join_keys: tuple[tuple[str, DType | None], ...]
    types: dict[str, str | None]

    def entity(self) -> Entity:
        keys = tuple(JoinKey(name, dtype) for name, dtype in self.join_keys if dtype is not None)
        return Entity(
            name=self.name, join_keys=keys, description=(self.node.description or "").strip(),
            path=self.node.original_file_path,
        )  # fmt: skip


def read_entities(manifest: Manifest, catalog: Catalog, report: Report) -> dict[str, EntityDraft]:
    """Every entity by name, those with problems among them so that views naming them get no problem of their own."""
    drafts: dict[str, EntityDraft] = {}
    for node in manifest.models():
        if "entity" not in node.meta:
            continue
        draft = _read_entity(node, catalog, report)
        if draft is None:
            continue
        if (other := drafts.get(draft.name)) is not None:
            report.add(
                node, (*META, "entity", "name"), f"entity {draft.name!r} is declared twice",
                expected="each entity in one model", got=f"also in {other.node.file}, model {other.node.name}",
            )  # fmt: skip
            continue
        _compare_types(draft, drafts, report)
        drafts[draft.name] = draft
    return drafts


def _read_entity(node: Node, catalog: Catalog, report: Report) -> EntityDraft | None:
    path = (*META, "entity")
    block = read_block(node, "entity", report)
    if not (node.description or "").strip():
        report.add(node, ("description",), "the entity has no description", expected="a sentence: what one row is")
    if "name" in block and not NAME.fullmatch(block["name"]):
        report.add(
            node, (*path, "name"), "an entity cannot have this name",
            expected=NAME_IN_WORDS, got=block["name"],
        )  # fmt: skip
    columns = Columns(node, catalog, report)
    names = block.get("join_keys", [])
    for name in duplicates(names):
        report.add(node, (*path, "join_keys"), f"join key {name!r} is named twice", expected="each join key once")
    keys = []
    for position, name in enumerate(dict.fromkeys(names)):
        dtype = None
        if columns.expect(name, (*path, "join_keys", position), "join key"):
            dtype = columns.dtype(name)
        if dtype is not None and not dtype.can_be_join_key:
            report.add(
                node, ("columns", name, "data_type"), f"join key {name!r} has a type that cannot identify an entity",
                expected="an integer, varchar, uuid, date or boolean", got=columns.written(name),
            )  # fmt: skip
            dtype = None
        keys.append((name, dtype))
    types = {name: columns.written(name) for name in names if name in node.columns}
    return EntityDraft(block["name"], node, tuple(keys), types) if "name" in block else None


def _compare_types(draft: EntityDraft, others: dict[str, EntityDraft], report: Report) -> None:
    """A problem for a join key that another entity has with another type: a request names it once for both."""
    for name, dtype in draft.join_keys:
        for other in others.values():
            theirs = dict(other.join_keys).get(name)
            if dtype is not None and theirs is not None and theirs != dtype:
                report.add(
                    draft.node, ("columns", name, "data_type"),
                    f"join key {name!r} has another type than in entity {other.name!r}",
                    expected=f"{other.types[name]}, as in {other.node.file}", got=draft.types[name],
                )  # fmt: skip
                return
