"""The file of keys, and its copy: what was revoked does not come back."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from feature_server.access import file
from feature_server.access.file import change_keys, copy_keys, keys_in_force
from feature_server.access.keys import KeyRing, create_key


class SlowCopy:
    """A Redis in which a list stands only some time after it was sent."""

    def __init__(self, meanwhile: threading.Thread) -> None:
        self.stored: list[bytes] = []
        self._meanwhile = meanwhile

    def keys(self) -> bytes | None:
        return self.stored[-1] if self.stored else None

    def put_keys(self, encoded: bytes, *, keyed: bool) -> bool:
        if not self.stored:
            self._meanwhile.start()
            self._meanwhile.join(0.5)
        self.stored.append(encoded)
        return True


def test_no_older_list_is_copied_after_a_newer_one(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, _ = create_key(owner="me", scopes=("admin",), now_us=1)
    change_keys(path, lambda ring: ring.added(key))

    def revoke() -> None:
        change_keys(path, lambda ring: ring.revoked(key.id, 2))
        copy_keys(path, online)

    thread = threading.Thread(target=revoke)
    online = SlowCopy(thread)
    assert copy_keys(path, online)
    thread.join(30)
    assert [b"revoked_us" in stored for stored in online.stored] == [False, True]


def test_where_no_key_was_made_nothing_is_copied(tmp_path: Path) -> None:
    online = SlowCopy(threading.Thread())
    assert not copy_keys(tmp_path / "keys.json", online)
    assert online.stored == []
    assert list(tmp_path.iterdir()) == []
    assert KeyRing().keys == ()


def test_a_home_that_can_only_be_read_tells_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, online = tmp_path / "keys.json", SlowCopy(threading.Thread())
    key, _ = create_key(owner="me", scopes=("admin",), now_us=1)
    change_keys(path, lambda ring: ring.added(key))

    def refuse(number: int) -> NoReturn:
        raise OSError(number, "refused", str(path))

    monkeypatch.setattr(file, "changing", lambda path: refuse(errno.EROFS))
    assert keys_in_force(path, online).keys == (key,)
    assert online.stored == []  # a list that another changes meanwhile could be put back
    monkeypatch.setattr(file, "changing", lambda path: refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="refused"):
        keys_in_force(path, online)
