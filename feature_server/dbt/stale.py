"""Which sources `dbt source freshness` last found too old, by the sources.json that it writes."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from ..definitions.facts import FeatureView
from ..errors import UNREADABLE, FeatureStoreError
from .artifacts import Manifest, read_manifest


class _Checked(msgspec.Struct, frozen=True):
    unique_id: str
    status: str
    max_loaded_at: datetime | None = None


class _Sources(msgspec.Struct, frozen=True):
    results: tuple[_Checked, ...] = ()


def stale_sources(views: Sequence[FeatureView], target_path: Path) -> dict[str, str]:
    """By view id, which source upstream of the view was not within dbt's own `freshness` when dbt last looked.

    Nothing of views whose sources are within it, declare none, or were never looked at.
    """
    path = target_path / "sources.json"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Sources)
    except FileNotFoundError:
        return {}
    except (OSError, *UNREADABLE) as error:
        raise FeatureStoreError(
            "a file of dbt cannot be read", where=str(path), got=str(error), remedy="run `dbt source freshness`"
        ) from None
    stale = {each.unique_id: _said(each) for each in found.results if each.status != "pass"}
    if not stale or not views:
        return {}
    manifest = read_manifest(target_path)
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
