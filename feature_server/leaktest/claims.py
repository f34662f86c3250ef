"""What is compared: models, which rows of theirs claim to be known by an instant, and when rows of sources landed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..dbt.artifacts import read_artifact
from ..errors import FeatureStoreError, SettingsError, UnknownNameError, nearest_name

_EVENT_TIMESTAMP = "event_timestamp"


class Depends(msgspec.Struct, frozen=True):
    nodes: tuple[str, ...] = ()


class Tested(msgspec.Struct, frozen=True):
    name: str = ""
    kwargs: dict[str, Any] = {}


class Node(msgspec.Struct, frozen=True):
    """A model, test or source, as far as it says what its rows are."""

    unique_id: str
    resource_type: str
    name: str
    source_name: str = ""
    language: str = "sql"
    version: str | int | float | None = None
    config: dict[str, Any] = {}
    loaded_at_field: str | None = None
    depends_on: Depends = Depends()
    attached_node: str | None = None
    test_metadata: Tested | None = None

    @property
    def meta(self) -> dict[str, Any]:
        found = self.config.get("meta")
        return found if isinstance(found, dict) else {}

    @property
    def id(self) -> str:
        """As everywhere: the name, `name@v2` of a version, `source.table`."""
        if self.resource_type == "source":
            return f"{self.source_name}.{self.name}"
        return self.name if self.version is None else f"{self.name}@v{self.version}"


class Project(msgspec.Struct, frozen=True):
    nodes: dict[str, Node]
    sources: dict[str, Node] = {}

    def under(self, unique_ids: Sequence[str]) -> list[str]:
        """Everything that dbt builds or reads for these, themselves too."""
        waiting = list(unique_ids)
        for each in waiting:  # the list grows
            node = self.nodes.get(each)
            waiting += [one for one in (node.depends_on.nodes if node else ()) if one not in waiting]
        return waiting


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a model claims to be known at `known_at`; `keys` tell it from others, none where nothing says so.

    `stream` is the source that a stream view's events are of.
    """

    id: str
    unique_id: str
    known_at: str
    keys: tuple[str, ...]
    stream: str | None = None


def read_project(target: Path) -> Project:
    """The project as dbt parsed it."""
    found = read_artifact(target / "manifest.json", Project, "correct the project until `dbt parse` succeeds")
    if found is None:
        raise FeatureStoreError("dbt wrote no manifest", where=str(target), remedy="run `dbt parse`")
    return found


def claims(project: Project, names: Sequence[str], *, known_at: str | None, keys: Sequence[str] = ()) -> list[Claim]:
    """Of the named models, or every view. UnknownNameError, with the nearest name, for one that is not there."""
    models = {uid: node for uid, node in project.nodes.items() if node.resource_type == "model"}
    wanted = [node for node in models.values() if "feature_view" in node.meta]
    if names:
        wanted = [node for name in names for node in _named(name, list(models.values()))]
    if not wanted:
        raise FeatureStoreError(
            "the project has no feature views", expected="models with config.meta.feature_view, or a model named",
            remedy="name a model, and with --known-at the column that says when a row was known",
        )  # fmt: skip
    return sorted((_claim(project, node, known_at, keys) for node in wanted), key=lambda claim: claim.id)


def landings(project: Project, unique_ids: Sequence[str], given: Mapping[str, str]) -> dict[str, str | None]:
    """Of each source among these, what says in SQL when a row landed; None where nothing does.

    `given` are expressions by `source.table` or `source`: these win.
    """
    found: dict[str, str | None] = {}
    for unique_id in sorted(set(unique_ids) & project.sources.keys()):
        node = project.sources[unique_id]
        stream = node.meta.get("event_stream")
        declared = [
            given.get(node.id, given.get(node.source_name)),
            stream.get("created_timestamp") if isinstance(stream, dict) else None,
            node.config.get("loaded_at_field"),
            node.loaded_at_field,
        ]
        found[unique_id] = next((str(each) for each in declared if each), None)
    known = {name for node in project.sources.values() for name in (node.id, node.source_name)}
    if unknown := [name for name in given if name not in known]:
        near = nearest_name(unknown[0], known)
        raise SettingsError(
            "there is no such source", where="--landed", got=unknown[0],
            remedy=f"did you mean {near}?" if near else f"one of {', '.join(sorted(known))}",
        )  # fmt: skip
    return found


def _named(name: str, models: Sequence[Node]) -> Iterator[Node]:
    spelt = {each for node in models for each in (node.id, node.name)}
    if name not in spelt:
        raise UnknownNameError("model", name, sorted(spelt))
    return (node for node in models if name in (node.id, node.name))


def _claim(project: Project, node: Node, known_at: str | None, keys: Sequence[str]) -> Claim:
    view = node.meta.get("feature_view")
    view = view if isinstance(view, dict) else None
    if view is None and known_at is None:
        raise SettingsError(
            "nothing says when a row of this model was known", where=node.id,
            expected="config.meta.feature_view, or --known-at", remedy="add --known-at and the column's name",
        )  # fmt: skip
    event, created = str((view or {}).get("event_timestamp") or _EVENT_TIMESTAMP), (view or {}).get("created_timestamp")
    own = _join_keys(project, view) if view else ()
    if own:
        own = tuple(dict.fromkeys([*own, event, *([str(created)] if created else [])]))
    return Claim(
        id=node.id, unique_id=node.unique_id, known_at=known_at or str(created or event),
        keys=tuple(keys) or own or _tested_keys(project, node),
        stream=str(view["stream"]) if view and view.get("stream") else None,
    )  # fmt: skip


def _join_keys(project: Project, view: Mapping[str, Any]) -> tuple[str, ...]:
    """The join keys of a view's entities; none where an entity is not declared."""
    entities = {}
    for node in project.nodes.values():
        entity = node.meta.get("entity") if node.resource_type == "model" else None
        if isinstance(entity, dict):
            entities[str(entity.get("name"))] = [str(key) for key in entity.get("join_keys") or ()]
    named = [str(name) for name in view.get("entities") or ()]
    if not all(entities.get(name) for name in named):
        return ()
    return tuple(key for name in named for key in entities[name])


def _tested_keys(project: Project, node: Node) -> tuple[str, ...]:
    """What a test says is there once: `unique`, or the shortest list of columns of one such as `grain`."""
    found: list[tuple[str, ...]] = []
    for test in project.nodes.values():
        if test.test_metadata is None or test.attached_node != node.unique_id:
            continue
        given, name = test.test_metadata.kwargs, test.test_metadata.name
        if name == "unique" and isinstance(given.get("column_name"), str):
            found.append((given["column_name"],))
        elif name == "grain" or name.startswith("unique_combination"):
            found += [tuple(map(str, value)) for value in given.values() if isinstance(value, list) and value]
    return min(found, key=len, default=())
