"""The first page of the catalogue, in the Markdown that the dbt docs site shows."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ..definitions.facts import Entity, FeatureService, FeatureView, Owner
from ..definitions.registry import Registry
from .lineage import draw, drawn_together, lineage_of
from .status import Status, ViewStatus

NONE = "–"


def overview(registry: Registry, status: Status, manifest: Mapping[str, Any], own_text: str = "") -> str:
    """The page's Markdown: `own_text`, then feature views, freshness, services, entities, lineage.

    `manifest` is dbt's manifest.json, read as JSON.
    """
    states = {state.view: state for state in status.views}
    features = sum(len(view.features) for view in registry.feature_views)
    sections = [
        own_text.strip() or f"# Features of {_text(registry.project)}",
        f"{_count(len(registry.feature_views), 'feature view')} with {_count(features, 'feature')} of"
        f" {_count(len(registry.entities), 'entity', 'entities')}, each written as a dbt model, built and tested in the"
        f" warehouse, and read by {_count(len(registry.feature_services), 'service')}. The same definition gives"
        f" training sets from the offline store and present values from the online store; freshness is that of"
        f" {_time(status.at)}.",
        "## Feature views\n\n" + _views(registry),
        "## Freshness\n\n" + _freshness(registry.feature_views, states, status),
        "## Services\n\n" + _services(registry),
        "## Entities\n\n" + _entities(registry, manifest),
        "## Lineage\n\n" + _lineage(registry, manifest),
    ]
    return "\n\n".join(sections) + "\n"


def _views(registry: Registry) -> str:
    rows = [
        (
            _view_link(view),
            _joined(view.entities),
            _owner(view.owner),
            (view.owner and view.owner.group) or NONE,
            len(view.features),
            view.refresh or NONE,
            view.ttl or NONE,
            _online(view),
            _joined(_service_link(registry, service) for service in registry.services_using(view.id)),
        )
        for view in registry.feature_views
    ]
    return _table(("Feature view", "Entity", "Owner", "Group", "Features", "Refresh", "ttl", "Online", "Used by"), rows)


def _online(view: FeatureView) -> str:
    if view.online and view.stream is not None:
        return f"live from {_text(view.stream.source)}"
    return "yes" if view.online else "no"


def _freshness(views: Sequence[FeatureView], states: Mapping[str, ViewStatus], status: Status) -> str:
    rows = [
        (
            _view_link(view),
            NONE if state.rows is None else f"{state.rows:,}",
            _time(state.newest_event),
            "never published" if state.published_version is None else f"version {state.published_version}",
            _time(state.published_at),
            _synced(view, state),
            _joined(_text(problem.partition(":")[0]) for problem in state.problems if not problem.startswith("never")),
        )
        for view in views
        for state in [states[view.id]]
    ]
    headings = ("Feature view", "Rows", "Newest event", "Published", "Published at", "Synced at", "Problems")
    note = "" if status.online_store is None else "\n\nThe online store did not answer when this page was written."
    return _table(headings, rows) + note


def _synced(view: FeatureView, state: ViewStatus) -> str:
    if not view.online:
        return "not online"
    return "never synced" if state.synced_at is None else _time(state.synced_at)


def _services(registry: Registry) -> str:
    views = {view.id: view for view in registry.feature_views}
    rows = []
    for service in registry.feature_services:
        used = [views[name] for name in dict.fromkeys(ref.view for ref in service.features)]
        rows.append(
            (
                _service_link(registry, service),
                _owner(service.owner),
                len(service.features),
                _joined(map(_view_link, used)),
                _joined(dict.fromkeys(entity for view in used for entity in view.entities)),
                _text(service.description) or NONE,
            )
        )
    return _table(("Service", "Owner", "Features", "Feature views", "Entities", "What for"), rows)


def _entities(registry: Registry, manifest: Mapping[str, Any]) -> str:
    rows = [
        (
            _entity_link(entity, manifest),
            _joined(f"`{key.name}` {_text(str(key.dtype))}" for key in entity.join_keys),
            _joined(_view_link(view) for view in registry.feature_views if entity.name in view.entities),
            _text(entity.description) or NONE,
        )
        for entity in registry.entities
    ]
    return _table(("Entity", "Join keys", "Feature views", "What it is"), rows)


def _lineage(registry: Registry, manifest: Mapping[str, Any]) -> str:
    lineage = lineage_of(registry, manifest)
    drawn = drawn_together(lineage)
    picture = base64.b64encode(draw(drawn).encode()).decode()
    note = "" if len(drawn.nodes) == len(lineage.nodes) else "Where there are many, one box stands for several.\n\n"
    return (
        f"![Lineage from sources to services](data:image/svg+xml;base64,{picture})\n\n{note}"
        "The graph button at the lower right of every page shows the same for one model, and can be filtered."
    )


def _view_link(view: FeatureView) -> str:
    return f"[{_text(view.id)}](#!/model/{view.unique_id})"


def _service_link(registry: Registry, service: FeatureService) -> str:
    return f"[{_text(service.name)}](#!/exposure/exposure.{registry.project}.{service.name})"


def _entity_link(entity: Entity, manifest: Mapping[str, Any]) -> str:
    for unique_id, node in manifest["nodes"].items():
        meta = node.get("config", {}).get("meta", {}).get("entity")
        if isinstance(meta, dict) and meta.get("name") == entity.name:
            return f"[{_text(entity.name)}](#!/model/{unique_id})"
    return _text(entity.name)


def _owner(owner: Owner | None) -> str:
    if owner is None:
        return NONE
    return _text(owner.name) if owner.email is None else f"[{_text(owner.name)}](mailto:{owner.email})"


def _time(moment: datetime | None) -> str:
    return NONE if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(parts) or NONE


def _text(text: str) -> str:
    """Text on one line, with the characters that Markdown would take for its own written as entities."""
    for character in "&<>|`*_[]":
        text = text.replace(character, f"&#{ord(character)};")
    return " ".join(text.split())


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
