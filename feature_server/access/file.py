"""The truth of all keys: a file beside the registry, of its owner alone. Redis has a copy, by which servers go."""

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ..durable import changing, make_private, write_whole
from ..errors import UNREADABLE, OnlineStoreError, SettingsError
from .keys import KeyRing, decode_copy, decode_keys

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
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
        ring = read_keys(path) or KeyRing()
        return _write(path, ring.changed_to(change(ring)))


def _write(path: Path, ring: KeyRing) -> KeyRing:
    write_whole(path, lambda file: file.write(ring.to_json()))
    path.chmod(0o600)
    return ring


class Copied(Protocol):
    """Where the copy is: `online.store.OnlineStore`."""

    def keys(self) -> bytes | None: ...
    def put_keys(self, encoded: bytes, *, keyed: bool) -> bool: ...


def copy_keys(path: Path, online: Copied) -> bool:
    """Make Redis' copy equal to the file; whether it was not.

    The file is made equal to a later list of its ring, and where there is none: the project has another home.

    OnlineStoreError where the copy is of another ring: two homes have each made a first key.
    """
    if online.keys() is None and not path.exists():
        return False
    make_private(path.parent)
    with changing(path):  # else what was revoked meanwhile could come back
        ring, copy = read_keys(path), _copy_of(online, may_be_damaged=path.exists())
        if ring is None or (copy is not None and copy.ring == ring.ring and copy.number > ring.number):
            if copy is not None:
                _write(path, copy)
            return False
        if copy is not None and copy.keys and copy.ring != ring.ring:
            raise OnlineStoreError(
                "the keys of access in Redis are those of another home", where=str(path), expected="keys of one home",
                got="a first key made in each",
                remedy="take this file away, and make its keys again: they are then added to the others",
            )  # fmt: skip
        return online.put_keys(ring.to_json(), keyed=bool(ring.keys))


def _copy_of(online: Copied, *, may_be_damaged: bool) -> KeyRing | None:
    if (stored := online.keys()) is None:
        return None
    if not may_be_damaged:
        return decode_copy(stored, where=COPY)
    with suppress(*UNREADABLE):
        return decode_keys(stored, kind=OnlineStoreError, where=COPY)
    return None


def keys_in_force(path: Path, online: Copied) -> KeyRing:
    """Those of Redis' copy; where it has none, those of the file, which it then has.

    Unless the home can only be read: a list that another changes meanwhile could be put back, as nothing is locked.
    """
    if online.keys() is None:
        try:
            copy_keys(path, online)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
        return read_keys(path) or KeyRing()
    return _copy_of(online, may_be_damaged=False) or KeyRing()
