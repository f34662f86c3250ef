"""dbt's manifest and the registry it makes → what a schedule has to know of both."""

from collections import Counter

from ..dbt.artifacts import Manifest, Node, read_manifest
from ..definitions.facts import FeatureView
from ..definitions.registry import Registry
from ..definitions.schedule import Schedule, ScheduledModel, ScheduledView, write_schedule
from ..settings import Settings

_BUILT = ("model", "seed", "snapshot")


def note_schedule(settings: Settings, registry: Registry) -> None:
    """Write what Airflow's DAGs are made of, for definitions without a mistake and the manifest they were read from.

    FeatureStoreError where what is there is of another project or target.
    """
    schedule = schedule_of(registry, read_manifest(settings.target_path))
    write_schedule(settings.schedule_path, schedule, registry.adopted)


def schedule_of(registry: Registry, manifest: Manifest) -> Schedule:
    """The views of a registry, and what dbt can build by a manifest."""
    built = {name: node for name, node in manifest.nodes.items() if node.resource_type in _BUILT}
    tests: dict[str, list[Node]] = {name: [] for name in built}
    for node in manifest.nodes.values():
        for name in dict.fromkeys(node.depends_on.nodes) if node.resource_type == "test" else ():
            if name in tests:
                tests[name].append(node)
    names = Counter(map(_task, built))
    models = (
        ScheduledModel(
            unique_id=name,
            task=_task(name) if names[_task(name)] == 1 else f"{node.package_name}__{_task(name)}",
            group=node.config.get("group"),
            entity=_entity(node),
            upstream=tuple(upstream for upstream in dict.fromkeys(node.depends_on.nodes) if upstream in built),
            tests=tuple(sorted(test.unique_id for test in tests[name])),
            tags=tuple(sorted({*node.tags, *(tag for test in tests[name] for tag in test.tags)})),
        )
        for name, node in sorted(built.items())
    )
    views = tuple(map(_view, registry.feature_views))
    return Schedule(project=registry.project, target=registry.target, views=views, models=tuple(models))


def _view(view: FeatureView) -> ScheduledView:
    return ScheduledView(
        id=view.id,
        unique_id=view.unique_id,
        refresh=view.refresh,
        entities=view.entities,
        ttl=view.ttl,
        source=None if view.stream is None else view.stream.source,
        promised=bool(view.freshness),
        owner=view.owner,
    )


def _task(unique_id: str) -> str:
    """`account__activity_v1` of `model.till.account__activity.v1`."""
    return "_".join(unique_id.split(".")[2:])


def _entity(node: Node) -> str | None:
    entity = node.meta.get("entity")
    return str(entity["name"]) if isinstance(entity, dict) and "name" in entity else None
