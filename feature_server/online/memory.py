"""What Redis says of its memory: whether it may evict keys, and how many it has evicted.

A key that was evicted looks like one that never was. Of a row that reads NOT_FOUND; of a stream view's events a window
reads too low, as a push begins the key anew. So a Redis that may evict is refused for stream views, and where one did,
the online registry says so (`noted`): until its next full sync a view is doubtful (`OnlineRegistry.is_doubtful`).

Only INFO is asked, for CONFIG is often forbidden. Light on purpose: the feature server asks every second.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from hiredis import ProtocolError, ReplyError, pack_command

from ..definitions.facts import FeatureView
from ..definitions.registry import Registry
from ..errors import EvictingRedis, FeatureStoreError, KeysEvicted, NotSynced, OnlineStoreError, OnlineStoreUnavailable
from ..layout.keys import Names
from .address import Connection, parse_redis_url
from .logs import LogWatch, keep_lost
from .refusals import refusal
from .registry import Evicted, OnlineRegistry, registry_of

if TYPE_CHECKING:
    from .store import OnlineStore

LOOK_SECONDS = 1.0
TIMEOUT_SECONDS = 5.0
_ASK: list[tuple[bytes, ...]] = [(b"INFO", b"server"), (b"INFO", b"stats"), (b"INFO", b"memory")]
_FIELDS = {
    "run_id": re.compile(rb"^run_id:([0-9a-f]{40})\r?$", re.MULTILINE),
    "evicted_keys": re.compile(rb"^evicted_keys:([0-9]{1,19})\r?$", re.MULTILINE),
    "maxmemory_policy": re.compile(rb"^maxmemory_policy:([a-z-]+)\r?$", re.MULTILINE),
    "maxmemory": re.compile(rb"^maxmemory:([0-9]{1,19})\r?$", re.MULTILINE),
    "used_memory": re.compile(rb"^used_memory:([0-9]{1,19})\r?$", re.MULTILINE),
}
log = logging.getLogger("feature_server")


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What one look has told. `unknown` says why it did not tell all; what it did not is None.

    `used` and `limit` are bytes, a `limit` of 0 is none.
    """

    policy: str | None = None
    evicted: Evicted | None = None
    used: int | None = None
    limit: int | None = None
    unknown: str = ""

    @property
    def evicts(self) -> bool:
        """Whether Redis takes keys away once its memory is full; False where it does not say."""
        return self.policy not in (None, "noeviction")

    def evicted_since(self, before: Memory) -> int:
        """How many keys Redis is known to have evicted since an earlier look."""
        if self.evicted is None or before.evicted is None:
            return 0
        return self.evicted.keys - (before.evicted.keys if self.evicted.run_id == before.evicted.run_id else 0)


class MemoryReader(AbstractContextManager["MemoryReader"]):
    """Looks, over a connection of its own: made when first needed, and again after it dropped.

    That Redis does not tell all is reported once.
    """

    def __init__(
        self, url: str, *, timeout: float = TIMEOUT_SECONDS, report: Callable[[str], None] = log.warning
    ) -> None:
        self._address, self._timeout, self._report = parse_redis_url(url), timeout, report
        self.names = self._address.names
        self._reported = ""
        self._open: Connection | None = None

    def look(self) -> Memory:
        """What INFO tells; OnlineStoreError where Redis does not answer."""
        replies = self.ask(_ASK)
        refused = next((str(reply) for reply in replies if isinstance(reply, ReplyError)), None)
        if refused is not None and not refused.startswith(("NOPERM", "ERR unknown command")):
            self.close()
            raise refusal(refused, where=self._address.shown)
        memory = parse_info([reply for reply in replies if isinstance(reply, bytes)], refused or "")
        if memory.unknown and memory.unknown != self._reported:
            self._reported = memory.unknown
            self._report(
                f"whether Redis evicts keys cannot be told ({memory.unknown}): see that its maxmemory-policy is "
                "noeviction, and let its user run INFO"
            )
        return memory

    def ask(self, commands: Sequence[tuple[bytes, ...]]) -> list[Any]:
        """The replies to commands, errors among them."""
        try:
            if self._open is None:
                self._open = Connection(self._address, self._timeout)
            self._open.send(b"".join(map(pack_command, commands)))
            return [self._open.reply() for _ in commands]
        except (OSError, ProtocolError) as error:
            self.close()
            raise self._address.unavailable(error) from None

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def __exit__(self, *_: object) -> None:
        self.close()


def parse_info(sections: Iterable[bytes], refused: str = "") -> Memory:
    """What the sections of INFO tell: a field that is not written as Redis writes it is as good as absent."""
    text = b"\n".join(sections)
    found = {name: match[1].decode() for name, field in _FIELDS.items() if (match := field.search(text))}
    numbers = {name: int(found[name]) for name in ("evicted_keys", "maxmemory", "used_memory") if name in found}
    lacking = [name for name in _FIELDS if name not in found]
    known = "run_id" in found and "evicted_keys" in found
    return Memory(
        policy=found.get("maxmemory_policy"),
        evicted=Evicted(run_id=found["run_id"], keys=numbers["evicted_keys"]) if known else None,
        used=numbers.get("used_memory"),
        limit=numbers.get("maxmemory"),
        unknown=refused or (f"INFO lacks {', '.join(lacking)}" if lacking else ""),
    )


def look_at(url: str, report: Callable[[str], None] = log.warning) -> Memory:
    """One look."""
    with MemoryReader(url, report=report) as reader:
        return reader.look()


def evicted_at(url: str) -> Evicted | None:
    """What Redis tells of evictions, asked where something is gone; None where it does not say."""
    try:
        return look_at(url, report=log.debug).evicted
    except OnlineStoreError:
        return None


def stream_views(registry: Registry) -> list[str]:
    return [view.id for view in registry.feature_views if view.online and view.stream is not None]


def eviction_refused(memory: Memory, views: Iterable[str], *, allowed: bool) -> EvictingRedis | None:
    """Why these stream views must not be in this Redis; None where they may, or where it does not say."""
    named = list(views)
    if not named or allowed or not memory.evicts:
        return None
    more = f" and {len(named) - 1} more" if len(named) > 1 else ""
    return EvictingRedis(
        f"this Redis may evict keys, and then windows of stream view {named[0]!r}{more} would read too low",
        where="maxmemory-policy",
        expected="noeviction",
        got=memory.policy,
        remedy="set it: CONFIG SET maxmemory-policy noeviction, and in Redis' configuration; FEATURES_ALLOW_EVICTION=1 "
        "allows what there is: a view is then refused only once keys were evicted",
    )


def check_memory(store: OnlineStore, *, allowed: bool) -> None:
    """Raise the mark where keys were evicted, and EvictingRedis where stream views are in a Redis that may evict."""
    online = store.registry()
    if online is None:
        return
    with MemoryReader(store.url) as reader:
        memory = reader.look()
        if noted(online, memory.evicted) is not online:
            note(store, reader.look, all_doubtful=False)
    if refused := eviction_refused(memory, stream_views(online.registry), allowed=allowed):
        raise refused


def noted(online: OnlineRegistry, seen: Evicted | None) -> OnlineRegistry:
    """The online registry with its mark raised where more keys were evicted than it knows of.

    `seen` is from after the registry was read; fewer keys under the same run are those since the counter was reset.
    """
    known = online.evicted
    before = known.keys if known is not None and seen is not None and known.run_id == seen.run_id else 0
    if seen is None or seen.keys == before:
        return online
    return msgspec.structs.replace(online, evicted=seen, evictions=online.evictions + (seen.keys > 0))


def note(store: OnlineStore, look: Callable[[], Memory], *, all_doubtful: bool = True) -> OnlineRegistry | None:
    """Raise the mark of the online registry where a look gives reason to; it as it is then, None where there is none.

    Who has read one that is gone does not go on by it, nor where Redis is too full to write the mark for a stream view.
    Without `all_doubtful` only where a view is not doubtful already: raising it again says nothing new.
    """

    def change(now: OnlineRegistry | None) -> OnlineRegistry:
        if now is None:
            raise NotSynced("the online store is empty")
        if not all_doubtful and not now.filling and all(map(now.is_doubtful, now.views)):
            return now
        return noted(now, look().evicted)

    try:
        return store.publish(change)
    except NotSynced:
        store.withdraw()
        return None
    except OnlineStoreUnavailable as error:
        if "OOM" in (error.got or ""):  # nothing can be written, but something taken away
            store.withdraw(lambda now: any(not now.is_doubtful(view) for view in stream_views(now.registry)))
        raise


def registry_in_force(store: OnlineStore) -> OnlineRegistry:
    """What is online; KeysEvicted where it may have been evicted, NotSynced where nothing was ever synced."""
    return store.registry() or registry_of(None, None, evicted_at(store.url), store.names)


def evicted_during(view: FeatureView, before: Memory, after: Memory, needed_bytes: int) -> KeysEvicted:
    """The error of a sync of a view during which keys were evicted."""
    sizes = {"maxmemory": after.limit, "in use": after.used, "written by this sync": needed_bytes}
    allowed = "" if view.stream else "; FEATURES_ALLOW_EVICTION=1 takes a view without `stream` as it is then"
    return KeysEvicted(
        f"Redis evicted {after.evicted_since(before):,} keys during the sync, maybe its own: nothing was put online",
        where=view.id,
        expected="room for all keys, beside those of the version before",
        got=", ".join(f"{what} {size / 1e6:,.1f} MB" for what, size in sizes.items() if size is not None),
        remedy=f"raise maxmemory, set maxmemory-policy noeviction, then run `features sync --full {view.id}`{allowed}",
    )


def doubt(online: OnlineRegistry, view_id: str) -> str:
    """What is to be said of a view that is doubtful."""
    stream = online.views[view_id].definition.stream is not None
    known = f"{online.evicted.keys:,} keys, " if online.evicted else "keys, "
    effect = "absent keys are errors" if stream else "absent keys read as NOT_FOUND"
    return (
        f"evicted: Redis has evicted {known}maybe of {view_id}: {effect} until its next full sync; give Redis room, "
        f"set maxmemory-policy noeviction, and run `features sync --full {view_id}`"
    )


def lost_pushes(source: str, pushes: int | None, names: Names) -> str:
    """What is to be said of an event source whose log was lost."""
    count = "how many cannot be told" if pushes is None else f"up to {pushes:,}"
    return (
        f"lost: {names.log(source).decode()} was evicted or deleted with pushes that had not landed, {count}; have "
        "producers send again what is not in the landing folder, then run `features sync --full` for a view of it"
    )


class EvictionWatch(AbstractContextManager["EvictionWatch"]):
    """Looks every second, from a thread of its own, and raises the mark when keys were evicted or a log was lost.

    `report` is given each thing once: keys evicted, logs lost, a policy that evicts, what cannot be known. `looked` is
    given what each look told, `noticed` called when the mark has been raised, both in that thread.
    """

    def __init__(
        self,
        url: str,
        *,
        report: Callable[[str], None] = log.warning,
        looked: Callable[[Memory], None] = lambda memory: None,
        noticed: Callable[[], None] = lambda: None,
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._report, self._looked, self._noticed, self._seconds = report, looked, noticed, seconds
        self._url, self._reader = url, MemoryReader(url, report=report)
        self._logs = LogWatch(self._reader.ask, self._reader.names)
        self._lost, self._before = dict[str, int](), Memory()
        self._evictions = 0  # the mark that was reported
        self._done, self._looking = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="eviction", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        self._thread.join(TIMEOUT_SECONDS)

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        with self._reader:
            while not self._done.wait(self._seconds):
                with suppress(FeatureStoreError):  # reads and pushes tell of a Redis that does not answer
                    self.look()
        if "_store" in self.__dict__:
            self._store.close()

    @cached_property
    def _store(self) -> OnlineStore:
        from .store import OnlineStore  # loaded only where there is something to note

        return OnlineStore(self._url, timeout_seconds=TIMEOUT_SECONDS)

    def look(self) -> None:
        """Look once, one thread at a time."""
        with self._looking:
            self._look()

    def _look(self) -> None:
        memory, before = self._reader.look(), self._before
        if memory.evicts and memory.policy != before.policy:
            self._report(f"Redis' maxmemory-policy is {memory.policy}: once memory is full it evicts keys")
        self._looked(memory)
        if memory.evicted is not None and memory.evicted.keys and memory.evicted != before.evicted:
            online = note(self._store, self._reader.look, all_doubtful=False)
            if online is not None and online.evictions > self._evictions:
                self._evictions = online.evictions
                self._noticed()
                if doubtful := ", ".join(filter(online.is_doubtful, sorted(online.views))):
                    self._report(f"Redis has evicted keys: doubtful until a full sync are {doubtful}")
        self._before = memory
        self._lost |= self._logs.look()
        if self._lost:
            keep_lost(self._store, self._lost)  # fails where the online registry is gone too: then once it is back
            for source, pushes in self._lost.items():
                self._report(lost_pushes(source, pushes, self._reader.names))
            self._lost = {}
