"""Keys of access for tests of servers."""

from __future__ import annotations

import time

from feature_server.access.keys import KeyRing, create_key
from feature_server.online.store import OnlineStore

_now_us = lambda: time.time_ns() // 1000  # noqa: E731


class Keys:
    """Keys of access in Redis, as `features keys` puts them there."""

    def __init__(self, url: str) -> None:
        self.url, self.ring = url, KeyRing()

    def make(self, *scopes: str, group: str | None = None, lasts_us: int | None = None, **limits: int) -> str:
        now_us = _now_us()
        expires_us = None if lasts_us is None else now_us + lasts_us
        key, text = create_key(
            owner="checkout", scopes=scopes, group=group, now_us=now_us, expires_us=expires_us, **limits
        )  # fmt: skip
        self._put(self.ring.added(key))
        return text

    def revoke(self, text: str) -> None:
        self._put(self.ring.revoked(text.split("_")[1], _now_us()))

    def _put(self, ring: KeyRing) -> None:
        self.ring = ring
        with OnlineStore(self.url) as store:
            store.put_keys(ring.to_json(), keyed=True)


def bearing(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}
