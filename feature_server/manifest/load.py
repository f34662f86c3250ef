"""dbt's manifest → the project's Registry, or every mistake in its definitions at once.

dbt itself is run at most as a process (`dbt.parse`), never imported: what it wrote is read as JSON.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from ..dbt.artifacts import Catalog, Manifest, read_catalog
from ..dbt.compiled import Compiled, Parsed, read_parsed
from ..definitions.registry import Registry
from ..errors import DefinitionError, Problem
from ..kept import Kept
from ..project.package import check_package
from .blocks import report_stray_keys
from .entities import read_entities, read_sources
from .identity import identify, read_variables
from .pii import Pii, mark_views
from .report import Report
from .services import read_services
from .views import read_views


def load_registry(
    project_dir: Path,
    target_path: Path,
    warn: Callable[[Problem], None] = lambda problem: None,
    parsed: Parsed | None = None,
    attached: Iterable[str] | None = None,
    kept: Kept | None = None,
) -> Registry:
    """The registry that `target_path`/manifest.json describes; catalog.json beside it gives types the YAML leaves out.

    Raises DefinitionError holding every problem found, FeatureStoreError when there is no manifest to read.
    `project_dir` is where the YAML files are looked up for line numbers. `warn` is told what may surprise. Of what is
    `parsed` now it holds the models that its views are built from, still without their meanings (`meaning.settled`).
    `attached` names the databases beside dbt's own that views may be in, None where that is not known. `kept` has what
    was compiled before.
    """
    compiled = None if parsed is None else parsed.compiled
    manifest = (parsed or read_parsed(project_dir, target_path)).whole
    report = Report(project_dir, manifest, read_catalog(target_path), attached)
    report_stray_keys(report)
    entities = read_entities(report)
    sources = read_sources(report)
    views = read_views(entities, report)
    models = () if compiled is None else identify([draft.node for draft in views.values()], compiled, report)
    if compiled is not None and compiled.texts.queries and (problems := report.problems()):
        raise DefinitionError(problems)  # without the SQL that was not compiled, there would be others
    kept = kept or Kept()
    pii = Pii(report, compiled, kept)
    if pii.is_said:
        mark_views(views, entities, pii)
    if any(draft.stream is not None for draft in views.values()):
        from .streams import compile_streams

        compile_streams(views, sources, pii, report, kept)
    services = read_services(views, report)
    package = check_package(project_dir)
    if problems := report.problems() + ([] if package is None else [package]):
        raise DefinitionError(problems)
    for warning in report.warnings():
        warn(warning)
    return Registry(
        project=report.manifest.metadata.project_name,
        entities=tuple(draft.entity() for _, draft in sorted(entities.items())),
        sources=tuple(draft.source for _, draft in sorted(sources.items()) if draft.source is not None),
        feature_views=tuple(draft.view for _, draft in sorted(views.items())),
        feature_services=services,
        models=models,
        variables={} if compiled is None else read_variables(project_dir),
    )


def over_sql(in_force: Registry, project_dir: Path, manifest: Manifest, compiled: Compiled) -> Registry:
    """The definitions in force over the models as the project has them now, whatever it says of them besides.

    Still without their meanings (`meaning.settled`); without the views that have no model any more.
    """
    views = [view for view in in_force.feature_views if view.unique_id in manifest.nodes]
    nodes = [manifest.nodes[view.unique_id] for view in views]
    models = identify(nodes, compiled, Report(project_dir, manifest, Catalog()))
    return msgspec.structs.replace(in_force, feature_views=tuple(views), models=models)
