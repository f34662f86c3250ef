"""Who fills a store: one target of one project. Every store remembers it, and refuses others by name.

A registry says it of itself (`Registry.owner`), the online registry with it; a folder of tables or of landed events
holds a file that says it.
"""

from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from ..durable import make_private, write_whole
from ..errors import UNREADABLE, FeatureStoreError
from ..formats import check_format

OWNER_FORMAT = 1
FILE = ".store.json"


class Owner(msgspec.Struct, frozen=True):
    """A dbt project and a target of it; `target` is empty where it was not recorded yet."""

    project: str
    target: str = ""

    def __str__(self) -> str:
        return f"{self.project}.{self.target}" if self.target else self.project

    def is_of(self, other: "Owner") -> bool:
        """Whether nothing that is known of the two differs."""
        return self.project == other.project and ("" in (self.target, other.target) or self.target == other.target)


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    format: int = OWNER_FORMAT
    project: str
    target: str


def check_owner(
    found: Owner | None,
    wanted: Owner,
    adopted: Collection[str],
    *,
    what: str,
    remedy: str,
    kind: Callable[..., FeatureStoreError] = FeatureStoreError,
) -> None:
    """Raises `kind` where `what`, which `found` has filled, is not that of `wanted` nor of an `adopted` name."""
    if found is None or found.is_of(wanted) or str(found) in adopted:
        return
    raise kind(
        f"{what} holds the features of {found}, not of {wanted}",
        expected=f"an empty one, or that of {wanted}", got=str(found),
        remedy=f"{remedy}; if {found} is the same under an earlier name: `features apply --adopt {found}`",
    )  # fmt: skip


def owner_of(folder: Path) -> Owner | None:
    """Who fills a folder; None where nobody has said so yet."""
    path = folder / FILE
    remedy = "delete it if you know that the folder is this project's and this target's"
    try:
        stored = path.read_bytes()
        check_format(
            stored, path.name, OWNER_FORMAT, kind=FeatureStoreError, where=str(path),
            remedy="a newer version of feature-warehouse wrote it: use that one here too",
        )  # fmt: skip
        found = msgspec.json.decode(stored, type=_Stored)
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as error:
        raise FeatureStoreError(
            "what says whose a folder is cannot be read", where=str(path), got=str(error), remedy=remedy
        ) from None
    return Owner(found.project, found.target)


def check_folder(folder: Path, wanted: Owner, adopted: Collection[str], remedy: str) -> None:
    """FeatureStoreError where another one fills the folder."""
    check_owner(owner_of(folder), wanted, adopted, what=str(folder), remedy=remedy)


def claim_folder(folder: Path, wanted: Owner, adopted: Collection[str], remedy: str) -> None:
    """The same, for one who is about to fill it: others are refused from then on."""
    check_folder(folder, wanted, adopted, remedy)
    found = owner_of(folder)
    if found != wanted and (wanted.target or found is None):
        make_private(folder)
        stored = _Stored(project=wanted.project, target=wanted.target)
        write_whole(folder / FILE, lambda file: file.write(msgspec.json.encode(stored)))
