"""Keys of access, without what opens anything: a key's text is shown once, and only its SHA-256 is kept.

The text is `fw_<id>_<43 characters>`, the latter 32 random bytes in URL-safe base64. They are random, so a plain hash
is as good as a slow one: there is nothing to guess, and a read should not wait for a password's hash.
"""

import re
import secrets
from collections.abc import Iterator
from hashlib import sha256
from typing import Literal

import msgspec

from ..errors import UNREADABLE, OnlineStoreError, RequestError, UnknownNameError, shown
from ..formats import check_format

KEYS_FORMAT = 1
SECRET_BYTES = 32
TEXT = re.compile(r"fw_[0-9a-f]{8}_[A-Za-z0-9_-]{43}")
State = Literal["valid", "expired", "revoked"]


class Key(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One key: whose it is, which dbt group its owner belongs to, and what it may do (`scopes.parse_scope`).

    Times are microseconds since 1970 UTC; `replaces` is the id of the key that it was rotated from, `max_rows` of a
    training set. One for an `oidc_group` has no text: who shows a token of that group has it.
    """

    id: str
    owner: str
    scopes: tuple[str, ...]
    created_us: int
    sha256: str = ""
    oidc_group: str | None = None
    group: str | None = None
    expires_us: int | None = None
    revoked_us: int | None = None
    replaces: str | None = None
    max_rows: int | None = None

    def state(self, now_us: int) -> State:
        if self.revoked_us is not None:
            return "revoked"
        return "valid" if self.expires_us is None or now_us < self.expires_us else "expired"


class KeyRing(msgspec.Struct, frozen=True, kw_only=True):
    """All keys that were ever made, in that order; those revoked stay, so that their ids tell who had them.

    `ring` is of its own from the first key on, `number` rises with each change: of two lists of one ring the one with
    the higher number counts.
    """

    format: int = KEYS_FORMAT
    ring: str = ""
    number: int = 0
    keys: tuple[Key, ...] = ()

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys)

    def key(self, key_id: str) -> Key:
        """By id; UnknownNameError for none."""
        known = {key.id: key for key in self.keys}
        if key_id not in known:
            raise UnknownNameError("key", key_id, known)
        return known[key_id]

    def added(self, key: Key) -> "KeyRing":
        return msgspec.structs.replace(self, keys=(*self.keys, key))

    def revoked(self, key_id: str, now_us: int) -> "KeyRing":
        """The same where that key opens nothing any more; one revoked before keeps its time."""
        key = self.key(key_id)
        return self if key.revoked_us is not None else self._with(msgspec.structs.replace(key, revoked_us=now_us))

    def rotated(self, key_id: str, new: Key, until_us: int) -> "KeyRing":
        """The same with a key in the place of one that holds no longer than `until_us`; RequestError where another
        is in its place already."""
        old = self.key(key_id)
        if after := [key.id for key in self.keys if key.replaces == key_id]:
            raise RequestError(
                f"key {shown(key_id)} was rotated before", where=key_id, expected="a key that no other replaces",
                got=f"{after[0]} in its place", remedy=f"rotate {after[0]}",
            )  # fmt: skip
        until_us = until_us if old.expires_us is None else min(until_us, old.expires_us)
        return self._with(msgspec.structs.replace(old, expires_us=until_us)).added(new)

    def _with(self, changed: Key) -> "KeyRing":
        keys = tuple(changed if key.id == changed.id else key for key in self.keys)
        return msgspec.structs.replace(self, keys=keys)

    def changed_to(self, other: "KeyRing") -> "KeyRing":
        """Other keys as the next list of this ring."""
        return msgspec.structs.replace(other, ring=self.ring or secrets.token_hex(8), number=self.number + 1)

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)


def create_key(
    *,
    owner: str,
    scopes: tuple[str, ...],
    now_us: int,
    group: str | None = None,
    expires_us: int | None = None,
    replaces: str | None = None,
    max_rows: int | None = None,
) -> tuple[Key, str]:
    """A new key, and its text, which is nowhere else."""
    key_id = secrets.token_hex(4)
    text = f"fw_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    key = Key(
        id=key_id, sha256=digest(text.encode()), owner=owner, group=group, scopes=scopes, created_us=now_us,
        expires_us=expires_us, replaces=replaces, max_rows=max_rows,
    )  # fmt: skip
    return key, text


def for_tokens(key: Key, oidc_group: str) -> Key:
    """A key as tokens of a group have it: an identity provider's group, not dbt's. Its text opens nothing."""
    return msgspec.structs.replace(key, sha256="", oidc_group=oidc_group)


def rotate_key(old: Key, *, now_us: int) -> tuple[Key, str]:
    """A key in the place of another, with its owner, group, scopes, limits and length of life; and its text.

    RequestError where the old one opens nothing any more, or has no text.
    """
    if old.oidc_group is not None:
        raise RequestError(
            f"key {shown(old.id)} has no text to replace", where=old.id,
            got=f"the key of tokens of group {shown(old.oidc_group)}", remedy="revoke it, or let it be",
        )  # fmt: skip
    if (state := old.state(now_us)) != "valid":
        raise RequestError(
            f"key {shown(old.id)} is {state}", where=old.id, expected="a valid key",
            remedy="create another with `features keys create`",
        )  # fmt: skip
    expires_us = None if old.expires_us is None else now_us + old.expires_us - old.created_us
    return create_key(
        owner=old.owner, group=old.group, scopes=old.scopes, now_us=now_us, replaces=old.id, expires_us=expires_us,
        max_rows=old.max_rows,
    )  # fmt: skip


def digest(text: bytes) -> str:
    """What is kept of a key's text."""
    return sha256(text).hexdigest()


def decode_keys(stored: bytes, *, kind: type[Exception], where: str) -> KeyRing:
    """What `KeyRing.to_json` wrote; `kind` where a later version did, msgspec.DecodeError for anything else."""
    check_format(
        stored, "the list of keys", KEYS_FORMAT, kind=kind, where=where,
        remedy="a newer version of feature-warehouse wrote it: use that one here too (docs/upgrade.md)",
    )  # fmt: skip
    return msgspec.json.decode(stored, type=KeyRing)


def decode_copy(stored: bytes, *, where: str) -> KeyRing:
    """The list as Redis has it; OnlineStoreError where it cannot be read."""
    try:
        return decode_keys(stored, kind=OnlineStoreError, where=where)
    except UNREADABLE as error:
        raise OnlineStoreError(
            "the keys of access cannot be read", where=where, got=str(error),
            remedy="run `features sync` where the keys were made",
        ) from None  # fmt: skip
