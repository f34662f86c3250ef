"""Views whose tables are brought up to date together: noted while that is going on, so that no half of it is synced."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from ..durable import make_private, write_whole
from ..errors import UNREADABLE, OfflineStoreError

_NAME = ".together-{}.json"


def begin(root: Path, group: Sequence[str]) -> None:
    """Note that the tables of these views are about to change."""
    make_private(root)
    write_whole(_path(root, group), lambda file: file.write(msgspec.json.encode(list(group))))


def end(root: Path, group: Sequence[str]) -> None:
    """All of them have."""
    _path(root, group).unlink(missing_ok=True)


def forget_others(root: Path, groups: Iterable[Sequence[str]]) -> None:
    """Drop what is noted of views that no longer belong together."""
    wanted = {_path(root, group) for group in groups}
    for path in root.glob(_NAME.format("*")):
        if path not in wanted:
            path.unlink(missing_ok=True)


def check_whole(root: Path, view_id: str) -> None:
    """OfflineStoreError while the view's table may be of another run than those of the views that it goes with."""
    for path in root.glob(_NAME.format("*")):
        try:
            group = msgspec.json.decode(path.read_bytes(), type=list[str])
        except FileNotFoundError:
            continue
        except UNREADABLE:
            group = [view_id]
        if view_id in group:
            raise OfflineStoreError(
                "publishing views that belong together is under way, or broke off", where=view_id,
                expected=f"all of one run: {', '.join(group)}", remedy=f"run `features publish {' '.join(group)}`",
            )  # fmt: skip


def _path(root: Path, group: Sequence[str]) -> Path:
    return root / _NAME.format(hashlib.blake2b("\n".join(group).encode(), digest_size=8).hexdigest())
