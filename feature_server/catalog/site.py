"""The dbt docs site as one static file, with the catalogue of features as its first page.

The file is made as `dbt docs generate --static` makes it: dbt's page with manifest and catalog written into it. The
page loads nothing else, and dbt's usage tracking is off in it.
"""

import base64
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from ..dbt.build import check_target
from ..definitions.registry import Registry, replaced_registry
from ..durable import make_private, write_whole
from ..errors import UNREADABLE, FeatureStoreError
from ..manifest.load import load_registry
from ..project.process import run_dbt
from ..settings import Settings
from ..templates.render import render
from .lineage import draw, drawn_together, lineage_of
from .status import Status, read_status

_OVERVIEW = "doc.dbt.__overview__"


class DocsSite(msgspec.Struct, frozen=True, kw_only=True):
    """A docs site that was written: where, how many bytes, and what it lists."""

    path: Path
    bytes: int
    feature_views: int
    feature_services: int
    entities: int


def write_docs(settings: Settings, out: Path, *, build: bool = True) -> DocsSite:
    """Write the docs site to `out`, first having dbt write manifest.json and catalog.json anew unless `build` is False.

    Raises DefinitionError when the project's definitions are wrong, FeatureStoreError when dbt fails.
    """
    if build:
        run_dbt(
            settings.project_dir,
            settings.target_path,
            ["docs", "generate", "--quiet"],
            "`dbt docs generate` failed",
            env={"FEATURES_HOME": str(settings.home), "FEATURES_WAREHOUSE": str(settings.warehouse)},
            remedy="build the project first with `dbt build`, and let no other process hold the DuckDB file",
        )
    manifest = _read_json(settings.target_path / "manifest.json")
    catalog = _read_json(settings.target_path / "catalog.json")
    registry = load_registry(settings.project_dir, settings.target_path).with_meanings_of(
        replaced_registry(settings.registry_path)
    )
    check_target(registry.feature_views, settings)
    page = _overview(registry, read_status(settings, registry), manifest)
    of_dbt = Path(str(metadata.distribution("dbt-core").locate_file("dbt/task/docs/index.html"))).read_text("utf-8")
    _mark_pii(manifest, registry)
    html = _inline(of_dbt, _with_overview(manifest, page), catalog)
    make_private(settings.home)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, lambda file: file.write(html))
    return DocsSite(
        path=out,
        bytes=len(html),
        feature_views=len(registry.feature_views),
        feature_services=len(registry.feature_services),
        entities=len(registry.entities),
    )


def _overview(registry: Registry, status: Status, manifest: dict[str, Any]) -> str:
    """The first page's Markdown: own text, then feature views, freshness, services, entities, lineage.

    The own text is that of the project's `{% docs __overview__ %}` block, or nothing.
    """
    own = manifest["docs"].get(f"doc.{manifest['metadata']['project_name']}.__overview__", {})
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
        own_text=str(own.get("block_contents", "")).strip(),
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


def _mark_pii(manifest: dict[str, Any], registry: Registry) -> None:
    """Have the columns of features that are pii by what they are made of say so in their meta, as others do."""
    for view in registry.feature_views:
        columns = manifest["nodes"].get(view.unique_id, {}).get("columns", {})
        for name in set(view.pii_names) & columns.keys():
            columns[name]["meta"] = {**columns[name].get("meta", {}), "pii": True}


def _with_overview(manifest: dict[str, Any], page: str) -> dict[str, Any]:
    """The manifest with `page` as the site's only overview; it names no user and turns tracking off."""
    others = {key: doc for key, doc in manifest["docs"].items() if doc["name"] != "__overview__"}
    block = {
        "name": "__overview__",
        "resource_type": "doc",
        "package_name": "dbt",
        "path": "overview.md",
        "original_file_path": "docs/overview.md",
        "unique_id": _OVERVIEW,
        "block_contents": page,
    }
    about = manifest["metadata"] | {"send_anonymous_usage_stats": False, "user_id": None, "env": {}}
    return manifest | {"docs": others | {_OVERVIEW: block}, "metadata": about}


def _inline(page: str, manifest: dict[str, Any], catalog: dict[str, Any]) -> bytes:
    """dbt's page with both documents in place of their markers; `</` is escaped, lest it end the script."""
    documents = {"MANIFEST": manifest, "CATALOG": catalog}
    texts = {name: msgspec.json.encode(value).decode().replace("</", "<\\/") for name, value in documents.items()}
    found = set(re.findall(r'"(MANIFEST|CATALOG)\.JSON INLINE DATA"', page))
    if found != set(documents):
        raise FeatureStoreError(
            "dbt's docs page has no place for the manifest and the catalog",
            expected="dbt-core 1.11",
            got=f"dbt-core {metadata.version('dbt-core')}",
            remedy="install the versions of requirements.lock",
        )
    return re.sub(r'"(MANIFEST|CATALOG)\.JSON INLINE DATA"', lambda match: texts[match[1]], page).encode()


def _read_json(path: Path) -> dict[str, Any]:
    remedy = "run `features docs` without `--no-build`, or `dbt docs generate`"
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        raise FeatureStoreError("dbt has not written this file", where=str(path), remedy=remedy) from None
    except UNREADABLE as error:
        raise FeatureStoreError("not a file that dbt wrote", where=str(path), got=str(error), remedy=remedy) from None
