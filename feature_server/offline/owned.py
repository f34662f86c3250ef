"""What is in force in this project's stores, for the target that is meant: another one's are refused by name."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from ..definitions.owner import Owner, check_folder, check_owner, claim_folder
from ..definitions.registry import Registry, read_registry
from ..errors import UNREADABLE, FeatureStoreError
from ..project.process import said
from ..settings import Settings

OFFLINE = "set FEATURES_OFFLINE to another folder"
LANDING = "give each target a folder of its own in the external_location of the source"
_HOME = "give --target that one, or set FEATURES_HOME to another folder"


class Filled(msgspec.Struct, frozen=True, kw_only=True):
    """Who fills the stores of a home, and the earlier names of that one."""

    project: str
    target: str = ""
    adopted: tuple[str, ...] = ()

    @property
    def owner(self) -> Owner:
        return Owner(self.project, self.target)


def filled_by(settings: Settings) -> Filled | None:
    """Who has applied definitions here; None where nobody has. FeatureStoreError where another target is meant."""
    try:
        found = msgspec.json.decode(settings.registry_path.read_bytes(), type=Filled)
    except (OSError, *UNREADABLE):
        return None
    check_meant(settings, found)
    return found


def read_in_force(settings: Settings) -> Registry:
    """The definitions in force, by which the offline store is filled."""
    registry = read_registry(settings.registry_path)
    check_meant(settings, registry)
    check_folder(settings.offline, registry.owner, registry.adopted, OFFLINE)
    return registry


def claim(folder: Path, filled: Filled | Registry, remedy: str) -> None:
    """Before a folder is filled: refuse one that another target fills, and have it refuse others."""
    claim_folder(folder, filled.owner, filled.adopted, remedy)


def check_meant(settings: Settings, found: Filled | Registry) -> None:
    """FeatureStoreError unless what is in force is that of the target that is meant.

    dbt is asked where it has not said so before; whoever only reads features may have none: then it is what is named.
    """
    known = None
    with suppress(FeatureStoreError):
        known = settings.target
    named = said(settings.environ, "TARGET")
    if known is not None or named is not None:
        wanted = Owner(known.project, known.label) if known is not None else Owner(found.project, named or "")
        check_owner(found.owner, wanted, found.adopted, what=str(settings.registry_path), remedy=_HOME)


def of_target(settings: Settings, in_force: Registry | None, wanted: Registry, adopt: Sequence[str]) -> Registry:
    """The `wanted` definitions with the target that they are for, and the earlier names of it, to `adopt` among them.

    FeatureStoreError where what is `in_force` is another one's.
    """
    known = settings.known_target
    target = known.label if known is not None else said(settings.environ, "TARGET") or ""
    adopted = dict.fromkeys([*(in_force.adopted if in_force else ()), *adopt])
    if in_force is not None:
        meant = Owner(wanted.project, target)
        check_owner(in_force.owner, meant, adopted, what=str(settings.registry_path), remedy=_HOME)
        target = target or in_force.target
    return msgspec.structs.replace(wanted, target=target, adopted=tuple(adopted))
