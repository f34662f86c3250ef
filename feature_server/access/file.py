"""The truth of all keys: a file beside the registry, of its owner alone. Redis has a copy, by which servers go."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ..durable import changing, make_private, write_whole
from ..errors import UNREADABLE, OnlineStoreError, SettingsError
from .keys import KeyRing, decode_keys

COPY = "the keys of access in Redis"


def read_keys(path: Path) -> KeyRing | None:
    """None where no key was ever made; SettingsError for a file that cannot be read."""
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return decode_keys(stored, kind=SettingsError, where=str(path))
    except UNREADABLE as error:
        raise SettingsError(
            "the list of keys cannot be read", where=str(path), got=str(error),
            remedy="restore it from a backup: without it no key could be told from another",
        ) from None  # fmt: skip


def change_keys(path: Path, change: Callable[[KeyRing], KeyRing]) -> KeyRing:
    """All keys after a change; one process at a time, and the file is whole whenever it is read."""
    make_private(path.parent)
    with changing(path):
        ring = change(read_keys(path) or KeyRing())
        write_whole(path, lambda file: file.write(ring.to_json()))
        path.chmod(0o600)
    return ring


class Copied(Protocol):
    """Where the copy is: `online.store.OnlineStore`."""

    def keys(self) -> bytes | None: ...
    def put_keys(self, encoded: bytes, *, keyed: bool) -> bool: ...


def copy_keys(path: Path, online: Copied) -> bool:
    """Make Redis' copy equal to the file, where there is one; whether it was not."""
    if not path.exists():
        return False
    with changing(path):  # else what was revoked meanwhile could come back
        ring = read_keys(path)
        return ring is not None and online.put_keys(ring.to_json(), keyed=bool(ring.keys))


def keys_in_force(path: Path, online: Copied) -> KeyRing:
    """Those of Redis' copy; where it has none, those of the file, which it then has."""
    if (stored := online.keys()) is None:
        copy_keys(path, online)
        return read_keys(path) or KeyRing()
    return decode_keys(stored, kind=OnlineStoreError, where=COPY)
