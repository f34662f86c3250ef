"""What differs between the registry in force and the one that the project now describes."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from .facts import Entity, Feature, FeatureRef, FeatureService, FeatureView, Owner, format_duration, holds_pii
from .registry import Registry
from .stream import EventSource, SourceColumn

Definition = Entity | EventSource | FeatureView | FeatureService

_FIELDS = {
    "entity": "entities", "event_source": "sources", "feature_view": "feature_views",
    "feature_service": "feature_services",
}  # fmt: skip
_SILENT = (
    "fingerprint", "meaning", "stream", "ttl_us", "features", "name", "version", "identifier", "unique_id",
    "deprecation_date", "freshness", "consistent", "known_after_us", "access",
)  # fmt: skip

_BECOMES = {
    True: "becomes pii: it goes to rows of its own online, and only keys with a scope of pii may read it",
    False: "is pii no more: it goes to the other rows online, and keys need no scope of pii to read it",
}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One definition that `features apply` adds, removes or changes.

    `details` say what changes in it. `new_rows` says that the view's rows online are written anew by the next sync,
    under new keys, because what a stored row means has changed.
    """

    action: Literal["added", "removed", "changed"]
    kind: Literal["entity", "event_source", "feature_view", "feature_service"]
    name: str
    details: tuple[str, ...] = ()
    new_rows: bool = False


def becoming_pii(in_force: Registry | None, wanted: Registry) -> tuple[FeatureRef, ...]:
    """The features that are in force, and are pii in the wanted registry alone."""
    before = {view.id: view for view in in_force.feature_views} if in_force is not None else {}
    return tuple(
        FeatureRef(view.id, name, f"{view.id}:{name}")
        for view in wanted.feature_views
        if (old := before.get(view.id)) is not None
        for name in view.pii_names
        if name in old.feature_names and name not in old.pii_names
    )


def plan(in_force: Registry | None, wanted: Registry) -> tuple[Change, ...]:
    """The changes that lead from the registry in force (None: there is none yet) to the wanted one."""
    before = in_force or Registry(project=wanted.project)
    return tuple(
        change
        for kind, field in _FIELDS.items()
        for change in _changes(kind, getattr(before, field), getattr(wanted, field))
    )


def _changes(kind: Any, *sides: Sequence[Definition]) -> Iterator[Change]:
    before, after = ({item.id if isinstance(item, FeatureView) else item.name: item for item in side} for side in sides)
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        details = tuple(_details(old, new)) if old and new else (_summary(before.get(name) or after[name]),)
        action: Any = "added" if old is None else "removed" if new is None else "changed"
        yield Change(action=action, kind=kind, name=name, details=details, new_rows=_rewrites(old, new))


def _rewrites(old: Definition | None, new: Definition | None) -> bool:
    if not isinstance(new, FeatureView) or not new.online:
        return False
    if not isinstance(old, FeatureView) or old.fingerprint != new.fingerprint or not old.online:
        return True
    if new.stream is not None:
        return holds_pii(old) != holds_pii(new)
    return set(old.pii_names) != set(new.pii_names)


def _summary(item: Definition) -> str:
    if isinstance(item, EventSource):
        return f"columns {', '.join(column.name for column in item.columns)}"
    if isinstance(item, Entity):
        return f"join keys {', '.join(key.name for key in item.join_keys)}"
    of = item.entities if isinstance(item, FeatureView) else dict.fromkeys(ref.view for ref in item.features)
    return f"{len(item.features)} feature{'s' * (len(item.features) != 1)} of {', '.join(of)}"


def _details(old: Definition, new: Definition) -> Iterator[str]:
    for field in old.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if field == "columns":
            yield from _column_details(before, after)
        elif before != after and field not in _SILENT:
            yield _detail(field, before, after)
    if isinstance(old, FeatureView) and isinstance(new, FeatureView):
        if old.ttl_us != new.ttl_us:
            yield _detail("ttl", old.ttl, new.ttl)
        if old.deprecation_date != new.deprecation_date:
            yield _detail("deprecation_date", old.deprecation_date or None, new.deprecation_date or None)
        if old.access != new.access:
            yield _detail("access", old.access or "protected", new.access or "protected")
        if old.freshness != new.freshness:
            yield _detail("freshness", str(old.freshness or "none"), str(new.freshness or "none"))
        if old.known_after_us != new.known_after_us:
            shown = (format_duration(view.known_after_us) if view.known_after_us else None for view in (old, new))
            yield _detail("known after its event time by", *shown)
        if old.meaning != new.meaning:
            yield "what its SQL means" if old.meaning and new.meaning else "its SQL is part of what it means"
        if old.stream != new.stream:
            yield from _stream_details(old, new)
        yield from _feature_details(old.features, new.features)
    elif isinstance(old, FeatureService) and isinstance(new, FeatureService):
        if old.consistent != new.consistent:
            yield _detail("consistent", old.consistent or None, new.consistent or None)
        yield from _list_details([str(ref) for ref in old.features], [str(ref) for ref in new.features])
        moved = {ref.text: ref.view for ref in old.features}
        for ref in new.features:
            if moved.get(ref.text, ref.view) != ref.view:
                yield f"{ref.text} now reads {ref.view}, before {moved[ref.text]}"


def _stream_details(old: FeatureView, new: FeatureView) -> Iterator[str]:
    before, after = old.stream, new.stream
    if before is None or after is None or before.source != after.source:
        yield _detail("stream", before and before.source, after and after.source)
        return
    sql = {output.feature: output.source_sql for output in before.outputs}
    changed = [out.feature for out in after.outputs if sql.get(out.feature, out.source_sql) != out.source_sql]
    yield from (f"SQL of {feature}" for feature in changed)
    if not changed and old.fingerprint != new.fingerprint:
        yield "staging SQL or rows that it looks up"


def _feature_details(old: Sequence[Feature], new: Sequence[Feature]) -> Iterator[str]:
    before = {feature.name: feature for feature in old}
    yield from _list_details([*before], [feature.name for feature in new])
    for feature in new:
        same = before.get(feature.name, feature)
        if same.dtype != feature.dtype:
            yield f"type of {feature.name}: {same.dtype} → {feature.dtype}"
        if bool(same.pii) != bool(feature.pii):
            yield f"{feature.name} {_BECOMES[bool(feature.pii)]}"
        differ = (field for field in ("description", "tags") if getattr(same, field) != getattr(feature, field))
        yield from (f"{field} of {feature.name}" for field in differ)


def _column_details(old: Sequence[SourceColumn], new: Sequence[SourceColumn]) -> Iterator[str]:
    """What differs of a source's columns: their names and types, and which are pii."""
    plain = [[(column.name, column.dtype) for column in side] for side in (old, new)]
    if plain[0] != plain[1]:
        yield _detail("columns", old, new)
    before = {column.name: column for column in old}
    for column in new:
        if bool(before.get(column.name, column).pii) != bool(column.pii):
            yield f"{column.name} {'becomes pii: errors show no value of it' if column.pii else 'is pii no more'}"


def _list_details(old: list[str], new: list[str]) -> Iterator[str]:
    yield from (f"{name} added" for name in new if name not in old)
    yield from (f"{name} removed" for name in old if name not in new)
    if [name for name in old if name in new] != [name for name in new if name in old]:
        yield "features in another order"


def _detail(field: str, before: Any, after: Any) -> str:
    return field if field in ("description", "path") else f"{field}: {_show(before)} → {_show(after)}"


def _show(value: Any) -> str:
    if isinstance(value, Owner):
        return value.name
    if isinstance(value, tuple):
        return ", ".join(getattr(item, "name", str(item)) for item in value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)
