"""Views whose tables are brought up to date together: noted while that is going on, so that no half of it is read."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from ..durable import make_private, write_whole
from ..errors import UNREADABLE, OfflineStoreError
from .store import OfflineStore, OfflineTable

_NAME = ".together-{}.json"
Versions = dict[str, int | None]  # by view id; None of one that has no table yet


def begin(store: OfflineStore, group: Sequence[str]) -> None:
    """Note that the tables of these views are about to change, and the versions that were of one run before."""
    path = _path(store.root, group)
    if path.exists() and _read(path):
        return  # the versions before the one that broke off
    versions: Versions = {view: store.table(view).version if store.exists(view) else None for view in group}
    parts = {part: noted for part in _paths(store.root) if (noted := _read(part)) and noted.keys() <= versions.keys()}
    for noted in parts.values():  # of a part of the group, before it grew, which broke off
        versions |= noted
    make_private(store.root)
    write_whole(path, lambda file: file.write(msgspec.json.encode(versions)))
    for part in parts:
        part.unlink(missing_ok=True)


def end(root: Path, group: Sequence[str]) -> None:
    """All of them have."""
    _path(root, group).unlink(missing_ok=True)


def forget_others(root: Path, groups: Iterable[Sequence[str]]) -> None:
    """Drop what is noted of views that no longer belong together, with others or without."""
    wanted = {_path(root, group): {*group} for group in groups}
    for path in _paths(root):
        noted = _read(path)
        if path not in wanted and not (noted and any(noted.keys() <= group for group in wanted.values())):
            path.unlink(missing_ok=True)


def check_whole(root: Path, view_id: str) -> None:
    """OfflineStoreError while the view's table may be of another run than those of the views that it goes with."""
    for group in _noted(root):
        if view_id in group or not group:
            raise _under_way(view_id, group or [view_id])


def read_together(
    store: OfflineStore, views: Iterable[str], groups: Iterable[Collection[str]]
) -> dict[str, OfflineTable]:
    """The tables of views at their latest versions; of `groups`, views that belong together, at those of one run.

    While publishing such a group is under way, or broke off, these are the versions before it.
    """
    found = {view: store.table(view) for view in views}
    bound = {view for group in groups for view in group if view in found}
    noted, moved = list[Versions](), bool(bound)
    while moved:  # what is noted between two looks at the same versions is so of these
        noted = list(_noted(store.root))
        again = {view: store.table(view) for view in bound}
        moved = any(again[view].version != found[view].version for view in bound)
        found |= again
    for group, view in ((group, view) for group in noted for view in bound if view in group or not group):
        if (version := group.get(view)) is None:
            raise _under_way(view, group or [view])
        found[view] = found[view].at(version)
    return found


def _noted(root: Path) -> Iterator[Versions]:
    """What is noted of each group that is being published; nothing is in it where it cannot be read."""
    for path in _paths(root):
        if (versions := _read(path)) is not None:
            yield versions


def _paths(root: Path) -> list[Path]:
    return sorted(root.glob(_NAME.format("*")))


def _read(path: Path) -> Versions | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Versions)
    except FileNotFoundError:
        return None
    except UNREADABLE:
        return {}


def _under_way(view_id: str, group: Collection[str]) -> OfflineStoreError:
    return OfflineStoreError(
        "publishing views that belong together is under way, or broke off", where=view_id,
        expected=f"all of one run: {', '.join(group)}", remedy=f"run `features publish {' '.join(group)}`",
    )  # fmt: skip


def _path(root: Path, group: Sequence[str]) -> Path:
    return root / _NAME.format(hashlib.blake2b("\n".join(group).encode(), digest_size=8).hexdigest())
