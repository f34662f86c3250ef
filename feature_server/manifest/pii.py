"""Columns that tell of a person: `meta.pii` of models, seeds and sources, and what is made of such columns.

A column of which it cannot be told counts as one. `meta.pii: false` with a `pii_reason` says that a column is none.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ..dbt.artifacts import Node
from ..dbt.compiled import Compiled
from ..definitions.facts import FeatureView
from ..definitions.stream import StreamPlan, needs
from ..kept import Kept
from ..queries.told import EPHEMERAL, THROUGH, Read, Told
from .blocks import PII, PII_REASON, pii_of
from .entities import EntityDraft
from .reading import parents, walk
from .report import META, Report
from .seeds import seed_columns
from .views import ViewDraft

_SAY_SO = "say of the column in its YAML {pii: true}, or {pii: false, pii_reason: why it tells of nobody}"


class Pii:
    """Which columns are pii of what views are and read. `is_said`: somewhere a column is said to be."""

    def __init__(self, report: Report, compiled: Compiled | None, kept: Kept) -> None:
        self.report, self._compiled, self._kept = report, compiled, kept
        manifest = report.manifest
        self._nodes = {**manifest.nodes, **manifest.sources}
        self.said = {name: found for name, node in self._nodes.items() if (found := list(_said(node)))}
        self._told: dict[str, Told] = {}

    @property
    def is_said(self) -> bool:
        return bool(self.said)

    def told(self, node: Node) -> Told:
        """What is known of the columns that a model, seed or source gives."""
        if node.unique_id not in self._told:
            self._told[node.unique_id] = self._overridden(node, self._given(node))
        return self._told[node.unique_id]

    def _overridden(self, node: Node, given: Told) -> Told:
        """The same with what its YAML says of the columns; a problem where that takes pii away without a reason."""
        names, but = dict(given.names), list(given.but)
        for column in node.columns.values():
            name, said = column.name.lower(), pii_of(column)
            origin = given.origin(name)
            if said:
                names[name] = f"{node.label}.{column.name}"
            elif said is False and origin:
                names.pop(name, None)
                but.append(name)
            elif origin and column.meta.get(PII) is False:
                self.report.add(
                    node, ("columns", column.name, *META, PII), f"no reason why column {column.name!r} is not pii",
                    expected=f"{PII_REASON}: why its values tell of nobody", got=f"pii by {origin}",
                    remedy=f"add {PII_REASON}, or take `pii: false` out",
                )  # fmt: skip
        return msgspec.structs.replace(given, names=names, but=tuple(but))

    def _given(self, node: Node) -> Told:
        """What is known of a node's columns by its SQL."""
        if node.resource_type == "seed":
            return Told(columns=_columns_of(node, self.report))
        if node.resource_type not in ("model", "snapshot"):
            return Told()
        read = list(parents(node, self.report.manifest))
        told = {one.unique_id: self.told(one) for one in read}
        reached = next((found.any for found in told.values() if found.any), "")
        if node.language != "sql":
            return Told(every=reached and f"{reached}{THROUGH}the Python model {node.label}")
        texts = self._texts(node)
        if not texts:
            return Told(every=reached and f"{reached}{THROUGH}{node.label}, whose SQL was not compiled")
        named = [Read(_name(one), told[one.unique_id], one.resource_type == "source" or one.is_events) for one in read]
        elsewhere = {
            relation: Told(dict.fromkeys(columns, self._nodes[name].label))
            for name, columns in self.said.items()
            if (relation := self._nodes[name].relation_name)
        }

        def make() -> Told:
            from ..queries.traced import traced  # with sqlglot, which nothing needs where all is kept

            return traced(texts, named, elsewhere, node.label, own)

        own = node.relation_name or ""
        return self._kept.get([PII, texts, named, elsewhere, node.label, own], Told, make)

    def _texts(self, node: Node) -> list[str]:
        """The SQL of a whole build, and that of an incremental run where it is another."""
        if self._compiled is None:
            return [node.compiled_code] if node.compiled_code else []
        full, incremental = (
            texts.get(node.unique_id, "") for texts in (self._compiled.texts.full, self._compiled.texts.incremental)
        )
        return [text for text in dict.fromkeys((full, incremental)) if text]

    def under(self, node: Node) -> dict[str, Told]:
        """What is known of a model and of all that it reads, by unique id; nothing where no column there is pii."""
        manifest = self.report.manifest
        found = list(walk(node, lambda read: parents(read, manifest)))
        if self.said.keys().isdisjoint(one.unique_id for one in found):
            texts = [text.lower() for one in found for text in self._texts(one)]
            names = [self._nodes[name].name.lower() for name in self.said]  # SQL may name one without ref or source
            if not any(name in text for name in names for text in texts):
                return {}
        return {one.unique_id: self.told(one) for one in found}


def mark_views(views: dict[str, ViewDraft], entities: dict[str, EntityDraft], pii: Pii) -> None:
    """Say of each view's features which are pii; problems where its keys are, warnings where that cannot be told."""
    for draft in views.values():
        view, node = draft.view, draft.node
        told = pii.under(node).get(node.unique_id, Told())
        _check_keys(draft, told, entities, pii.report)
        if not told.any:
            continue
        features = tuple(
            msgspec.structs.replace(feature, pii=True) if told.origin(feature.name.lower()) else feature
            for feature in view.features
        )
        draft.view = msgspec.structs.replace(view, features=features)
        unsure = [name for name in draft.view.pii_names if not told.is_sure(name.lower())]
        if unsure:
            pii.report.add(
                node, ("columns", unsure[0]), f"what cannot be told to be no pii counts as pii: {', '.join(unsure)}",
                expected="columns that can be followed to their sources", remedy=_SAY_SO, warning=True,
                got=f"pii by {told.origin(unsure[0].lower())}",
            )  # fmt: skip


def _check_keys(draft: ViewDraft, told: Told, entities: dict[str, EntityDraft], report: Report) -> None:
    view, node = draft.view, draft.node
    said = {
        name.lower(): (pii_of(column), f"{entity}.{name}")
        for entity in view.entities
        if (found := entities.get(entity)) is not None
        for name, column in found.columns.node.columns.items()
    }
    for name in view.key_names:
        of_entity, label = said.get(name.lower(), (None, ""))
        origin = label if of_entity else told.origin(name.lower()) if of_entity is None else ""
        if origin:
            report.add(
                node, ("columns", name), f"join key {name!r} is pii, and keys stand in the clear in Redis and in logs",
                expected="an entity that is known by a number or a name of no meaning", got=f"pii by {origin}",
                warning=THROUGH in origin,
                remedy=f"make a surrogate key the entity's; or say of the column {{pii: false, {PII_REASON}: …}}, "
                "in the YAML of the entity or of the view",
            )  # fmt: skip
    for name in (view.event_timestamp, view.created_timestamp or ""):
        origin = told.origin(name.lower())
        if origin and told.is_sure(name.lower()):
            report.add(
                node, ("columns", name), f"{name!r} says when a row counts, and is pii", got=f"pii by {origin}",
                expected="a time that tells of nobody: it stands beside each row, whoever may read it",
                remedy=f"say of the column {{pii: false, {PII_REASON}: …}}, or take another",
            )  # fmt: skip


def mark_arguments(plan: StreamPlan, view: FeatureView) -> StreamPlan:
    """The plan where of each pii feature some argument is: those that it needs, where its SQL does not say which."""
    marked = {number for number, argument in enumerate(plan.arguments) if argument.pii}
    for name in view.pii_names:
        needed = set(needs(plan, [name]).arguments)
        if not needed & marked:
            marked |= needed
    arguments = (
        msgspec.structs.replace(argument, pii=True) if number in marked else argument
        for number, argument in enumerate(plan.arguments)
    )
    return msgspec.structs.replace(plan, arguments=tuple(arguments))


def _said(node: Node) -> Iterator[str]:
    """The columns that are said to be pii, in lower case."""
    return (column.name.lower() for column in node.columns.values() if pii_of(column))


def _name(node: Node) -> str:
    """How SQL names a model, seed or source."""
    return node.relation_name or f"{EPHEMERAL}{node.alias or node.name}"


def _columns_of(node: Node, report: Report) -> tuple[str, ...] | None:
    try:
        return tuple(name.lower() for name in seed_columns(node, report)) or None
    except (OSError, UnicodeDecodeError):
        return None
