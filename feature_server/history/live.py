"""How much of an event source waits in Redis, told without reading any event: `/metrics` and `features status` show it.

Light on purpose: the HTTP server imports it. Ages are by Redis' own clock, whatever FEATURES_CLOCK says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ..layout.keys import GROUP

if TYPE_CHECKING:
    from ..online.store import OnlineStore

_PAGE = 1000


class LiveSource(msgspec.Struct, frozen=True, kw_only=True):
    """`pushes` entries of the log have not landed, the first of them `oldest_seconds` old; the last push was at
    `last_push_seconds` since 1970. `unread` events of producers are not taken in, the first of them `unread_seconds`
    old. `dead_letters` events were refused.
    """

    source: str
    pushes: int = 0
    oldest_seconds: float | None = None
    last_push_seconds: float | None = None
    unread: int = 0
    unread_seconds: float | None = None
    dead_letters: int = 0


def read_live(online: OnlineStore, source: str) -> LiveSource:
    """What waits in Redis of one source."""
    from ..online.store import redis_errors

    log, client = online.names.log(source), online.client
    with redis_errors():
        seconds, microseconds = client.time()
        now, pushes, first = seconds + microseconds / 1e6, int(client.xlen(log)), client.xrange(log, count=1)
        last = entry_seconds(client.xinfo_stream(log)["last-generated-id"]) if client.exists(log) else 0.0
        unread, waiting_since = _unread(client, online.names.events(source))
        letters = int(client.xlen(online.names.dead(source)))
    return LiveSource(
        source=source,
        pushes=pushes,
        oldest_seconds=max(0.0, now - entry_seconds(first[0][0])) if first else None,
        last_push_seconds=last or None,
        unread=unread,
        unread_seconds=None if waiting_since is None else max(0.0, now - waiting_since),
        dead_letters=letters,
    )


def entry_seconds(name: bytes) -> float:
    """When an entry of a stream was added, by Redis' clock, in seconds since 1970."""
    return int(name.partition(b"-")[0]) / 1000


def _unread(client: Any, name: bytes) -> tuple[int, float | None]:
    """Entries of the producers' stream that no worker has acknowledged, and when the first was added."""
    if not client.exists(name):
        return 0, None
    group = next((group for group in client.xinfo_groups(name) if group["name"] == GROUP), None)
    if group is None:
        first = client.xrange(name, count=1)
        return int(client.xlen(name)), entry_seconds(first[0][0]) if first else None
    after = b"(" + group["last-delivered-id"]
    first, pending = client.xrange(name, after, count=1), client.xpending(name, GROUP)
    lag = group.get("lag")
    if lag is None:  # so after some deletions, and before Redis 7
        lag = _count(client, name, after)
    since = [entry_seconds(found) for found in (first and first[0][0], pending["min"]) if found]
    return int(lag) + int(pending["pending"]), min(since, default=None)


def _count(client: Any, name: bytes, after: bytes) -> int:
    """Entries of a stream after an id."""
    count = 0
    while entries := client.xrange(name, after, count=_PAGE):
        count, after = count + len(entries), b"(" + entries[-1][0]
    return count
