"""Models with `meta.feature_view` → feature views."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ..dbt.artifacts import Node
from ..definitions.facts import Feature, FeatureView, JoinKey, Owner, fingerprint, parse_duration
from ..dtypes import DType
from ..times import from_us, to_us
from .blocks import AVAILABLE_AFTER, NAME, NAME_IN_WORDS, is_duration, read_block
from .columns import CAST, Columns
from .entities import EntityDraft
from .promises import read_promise
from .reading import parents, walk
from .report import META, Report, duplicates

BLOCK = (*META, "feature_view")
RESERVED = ("_bucket",)  # the offline store's own column


@dataclass
class ViewDraft:
    """A view whose definition may hold problems; services can still be checked against all of its `features`.

    `stream` is the source whose events it is about, if it names one.
    """

    node: Node
    features: tuple[str, ...]
    view: FeatureView
    stream: str | None


def read_views(entities: dict[str, EntityDraft], report: Report) -> dict[str, ViewDraft]:
    """Every feature view by id, those with problems among them."""
    drafts: dict[str, ViewDraft] = {}
    for node in (node for node in report.manifest.models() if "feature_view" in node.meta):
        report.saw_version(node)
        draft = _ViewReader(Columns(node, report), entities).read()
        if (other := drafts.get(draft.view.id)) is not None:
            report.add(
                node, BLOCK, f"feature view {draft.view.id!r} is defined twice",
                expected="each feature view in one package", got=f"also in package {other.node.package_name}",
            )  # fmt: skip
            continue
        drafts[draft.view.id] = draft
    return drafts


class _ViewReader:
    """Reads one view; each method reports what is wrong with one part of it."""

    def __init__(self, columns: Columns, entities: dict[str, EntityDraft]) -> None:
        self.columns, self.entities = columns, entities
        self.node, self.report = columns.node, columns.report

    def read(self) -> ViewDraft:
        node = self.node
        block = read_block(node, "feature_view", self.report)
        version = None if node.version is None else str(node.version)
        self._check_node(version)
        entity_names = self._entity_names(block)
        join_keys = self._join_keys(entity_names)
        event = block.get("event_timestamp", "event_timestamp")
        created = block.get("created_timestamp")
        self._check_timestamp("event_timestamp", event, "event_timestamp" in block)
        if created is not None:
            self._check_timestamp("created_timestamp", created, True)
        used = [name for name, _ in join_keys] + [name for name in (event, created) if name is not None]
        for name in duplicates(used):
            self.report.add(
                node, BLOCK, f"column {name!r} has two parts to play",
                expected="join keys, event_timestamp and created_timestamp to be different columns",
            )  # fmt: skip
        features = self._features(set(used))
        self.columns.report_unlisted()
        view = FeatureView(
            name=node.name,
            version=version,
            latest=version is None or version == str(node.latest_version),
            entities=entity_names,
            join_keys=tuple(JoinKey(name, dtype) for name, dtype in join_keys if dtype is not None),
            event_timestamp=event,
            created_timestamp=created,
            ttl_us=parse_duration(block["ttl"]) if "ttl" in block else None,
            refresh=block.get("refresh"),
            online=block.get("online", True),
            features=features,
            description=node.text,
            owner=read_owner(node, self.report),
            tags=node.tags,
            relation=node.relation_name or "",
            identifier=node.alias or node.name,
            unique_id=node.unique_id,
            path=node.original_file_path,
            deprecation_date=self._deprecation_date(),
            freshness=read_promise(block["freshness"], node, self.report) if "freshness" in block else UNSET,
            known_after_us=self._known_after_us() if created is None and "stream" not in block else UNSET,
            access=node.access if node.access in ("private", "public") else UNSET,
        )
        view = msgspec.structs.replace(view, fingerprint=fingerprint(view))
        names = tuple(name for name in node.columns if name not in used)
        return ViewDraft(node, names, view, block.get("stream"))

    def _known_after_us(self) -> int | UnsetType:
        """The longest `available_after` of the sources under the view."""
        manifest = self.report.manifest
        under = walk(self.node, lambda node: parents(node, manifest))
        said = [node.meta.get(AVAILABLE_AFTER) for node in under if node.resource_type == "source"]
        found = [parse_duration(str(text)) for text in said if is_duration(text)]
        return max(found) if found else UNSET

    def _deprecation_date(self) -> str | UnsetType:
        """dbt's, in UTC; a warning where somebody reads the view."""
        node, manifest = self.node, self.report.manifest
        if node.deprecation_date is None:
            return UNSET
        moment = from_us(to_us(datetime.fromisoformat(node.deprecation_date))).isoformat()
        date = moment.removesuffix("T00:00:00+00:00")
        below = (*manifest.nodes.values(), *manifest.exposures.values())
        readers = [
            each.name for each in below
            if each.resource_type in ("model", "snapshot", "exposure") and node.unique_id in each.depends_on.nodes
        ]  # fmt: skip
        if readers:
            self.report.add(
                node, ("deprecation_date",), f"the feature view is deprecated as of {date}, and still read",
                expected="no readers by then", got=", ".join(sorted(readers)), warning=True,
                remedy="have them read another view or version",
            )  # fmt: skip
        return date

    def _check_node(self, version: str | None) -> None:
        """Name, version, description and materialization: what dbt knows of the model."""
        node, report = self.node, self.report
        if not NAME.fullmatch(node.name):
            report.add(node, (), "a feature view cannot have this name", expected=NAME_IN_WORDS, got=node.name)
        if version is not None and not version.isalnum():
            report.add(
                node, ("versions",), f"a feature view cannot have version {version!r}",
                expected="letters and digits, e.g. 2", got=version,
            )  # fmt: skip
        report.check_description(node, "feature view", "what one row is")
        if node.config.get("materialized") == "ephemeral":
            report.add(
                node, ("config", "materialized"), "an ephemeral model leaves nothing to publish",
                expected="incremental, table or view", got="ephemeral",
            )  # fmt: skip

        database, known = node.config.get("database"), self.report.databases
        if database and known and str(database).lower() not in map(str.lower, known):
            report.add(
                node, ("config", "database"), "a feature view in no DuckDB file of dbt's target is not published",
                expected=f"no `database`, or {' or '.join(known)}", got=str(database),
                remedy="leave it out, and have the view select from a model in that database",
            )  # fmt: skip

    def _entity_names(self, block: dict[str, Any]) -> tuple[str, ...]:
        names = block.get("entities", [])
        for name in duplicates(names):
            self.report.add(self.node, (*BLOCK, "entities"), f"entity {name!r} is named twice", expected="each once")
        for position, name in enumerate(names):
            if name not in self.entities:
                remedy = "declare it in config.meta.entity of a model with one row per key"
                path = (*BLOCK, "entities", position)
                self.report.unknown_name(self.node, path, "entity", name, self.entities, remedy)
        return tuple(dict.fromkeys(names))

    def _join_keys(self, entity_names: tuple[str, ...]) -> list[tuple[str, DType | None]]:
        """The join keys of all entities in the order declared, each listed as a column of the entity's type."""
        keys = []
        for entity in entity_names:
            draft = self.entities.get(entity)
            if draft is None:
                continue
            for name, dtype in draft.join_keys:
                keys.append((name, dtype))
                remedy = f"select {name} in the model and list it under `columns`"
                if not self.columns.expect(name, ("columns",), f"join key of entity {entity!r},", remedy):
                    continue
                own = self.columns.dtype(name)
                if own is not None and dtype is not None and own != dtype:
                    what = f"join key {name!r} has another type than entity {entity!r} has"
                    self.columns.wrong_type(name, what, draft.columns.written(name), CAST)
        return keys

    def _check_timestamp(self, key: str, name: str, written: bool) -> None:
        remedy = None if written else f"list it under `columns`, or name another column in {'.'.join(BLOCK)}.{key}"
        path = (*BLOCK, key) if written else BLOCK
        if not self.columns.expect(name, path, key, remedy):
            return
        dtype = self.columns.dtype(name)
        if dtype is not None and not dtype.is_timestamp:
            self.columns.wrong_type(name, f"{key} {name!r} is not a timestamp", "timestamp or timestamptz")

    def _features(self, used: set[str]) -> tuple[Feature, ...]:
        features = []
        besides = {name: column for name, column in self.node.columns.items() if name not in used}
        for name, column in besides.items():
            path = ("columns", name)
            if not NAME.fullmatch(name) or name in RESERVED:
                self.report.add(self.node, path, "a feature cannot have this name", expected=NAME_IN_WORDS, got=name)
            if not column.description.strip():
                self.report.add(
                    self.node, (*path, "description"), f"feature {name!r} has no description",
                    expected="what it says, over which window, in which unit, and what when there is none",
                )  # fmt: skip
            dtype = self.columns.dtype(name)
            if dtype is not None:
                features.append(
                    Feature(name=name, dtype=dtype, description=column.description.strip(), tags=column.tags)
                )
        if not besides:
            self.report.add(
                self.node, ("columns",), "the feature view has no feature",
                expected="a column besides the join keys and timestamps",
            )  # fmt: skip
        return tuple(features)


def read_owner(node: Node, report: Report) -> Owner | None:
    """The owner of the model's dbt group; a problem when it has no group."""
    name, groups = node.config.get("group"), report.manifest.groups.values()
    named = [group for group in groups if group.name == name]
    group = next((group for group in named if group.package_name == node.package_name), next(iter(named), None))
    if group is None:
        report.add(
            node, ("config", "group"), "the feature view has no owner",
            expected="the name of a dbt group, whose owner answers for the features",
            got=None if name is None else str(name),
            remedy="set config.group to one of " + ", ".join(sorted(g.name for g in groups))
            if groups else "declare a group with an owner under `groups:` in a YAML file",
        )  # fmt: skip
        return None
    return owner_of(group.owner, group=group.name)


def owner_of(owner: dict[str, Any], group: str | None = None) -> Owner | None:
    """dbt's owner as an Owner; dbt itself demands a name or an email address."""
    name, email = owner.get("name"), owner.get("email")
    email = ", ".join(email) if isinstance(email, list) else email
    return Owner(name=str(name or email), email=email, group=group) if name or email else None
