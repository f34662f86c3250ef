"""The first page of the catalogue, in the Markdown that the dbt docs site shows."""

import base64
from collections.abc import Mapping
from typing import Any

from ..definitions.registry import Registry
from ..templates.render import render
from .lineage import draw, drawn_together, lineage_of
from .status import Status


def overview(registry: Registry, status: Status, manifest: Mapping[str, Any], own_text: str = "") -> str:
    """The page's Markdown: `own_text`, then feature views, freshness, services, entities, lineage.

    `manifest` is dbt's manifest.json, read as JSON.
    """
    views = {view.id: view for view in registry.feature_views}
    models = {
        entity["name"]: unique_id
        for unique_id, node in manifest["nodes"].items()
        if (entity := node.get("config", {}).get("meta", {}).get("entity"))
    }
    lineage = lineage_of(registry, manifest)
    drawn = drawn_together(lineage)
    return render(
        "overview.md",
        registry=registry,
        status=status,
        own_text=own_text.strip(),
        freshness=[(views[state.view], state) for state in status.views],
        services=[
            (service, [views[name] for name in dict.fromkeys(ref.view for ref in service.features)])
            for service in registry.feature_services
        ],
        entities=[
            (entity, models[entity.name], [view for view in views.values() if entity.name in view.entities])
            for entity in registry.entities
        ],
        picture=base64.b64encode(draw(drawn).encode()).decode(),
        grouped=len(drawn.nodes) < len(lineage.nodes),
    )
