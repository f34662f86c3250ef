"""Which sources `dbt source freshness` last found too old, by the sources.json that it writes."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ..definitions.facts import FeatureView
from ..settings import Settings
from .artifacts import Manifest, read_artifact, read_manifest

REMEDY = "run `dbt source freshness`"


class _Checked(msgspec.Struct, frozen=True):
    unique_id: str
    status: str
    max_loaded_at: datetime | None = None


class _Metadata(msgspec.Struct, frozen=True):
    generated_at: datetime = datetime.min.replace(tzinfo=UTC)


class _Sources(msgspec.Struct, frozen=True):
    results: tuple[_Checked, ...] = ()
    metadata: _Metadata = _Metadata()


def sources_file(settings: Settings) -> Path:
    """Where what dbt finds of the sources of this target is kept: its own file of the name does not say of which."""
    return settings.home / "sources.json"


def stale_sources(views: Sequence[FeatureView], settings: Settings) -> dict[str, str]:
    """By view id, which source upstream of the view was late by dbt's own `freshness`, beyond `warn_after` or
    `error_after`, when dbt last looked.

    Nothing of views whose sources are within it, declare none, or were never looked at. What dbt leaves in its target
    folder is of the project's own target.
    """
    target, places = settings.known_target, [sources_file(settings)]
    if target.is_default if target is not None else settings.asked.named.keys().isdisjoint({"PROFILE", "TARGET"}):
        places.append(settings.target_path / "sources.json")
    looked = [found for place in places if (found := read_artifact(place, _Sources, REMEDY))]
    if not looked:
        return {}
    found = max(looked, key=lambda found: found.metadata.generated_at)
    stale = {each.unique_id: _said(each) for each in found.results if each.status != "pass"}
    if not stale or not views:
        return {}
    manifest = read_manifest(settings.target_path)
    late = {view.id: _first(view.unique_id, manifest, stale) for view in views}
    return {view_id: said for view_id, said in late.items() if said is not None}


def _said(checked: _Checked) -> str:
    name = ".".join(checked.unique_id.split(".")[2:])
    if checked.max_loaded_at is None:
        return f"source {name} could not be looked at ({checked.status})"
    return f"source {name} was last loaded at {checked.max_loaded_at:%Y-%m-%d %H:%M} UTC"


def _first(unique_id: str, manifest: Manifest, stale: Mapping[str, str]) -> str | None:
    waiting, seen = [unique_id], {unique_id}
    for each in waiting:  # the list grows
        if each in stale:
            return stale[each]
        if each in manifest.nodes:
            new = [above for above in manifest.nodes[each].depends_on.nodes if above not in seen]
            waiting += new
            seen.update(new)
    return None
