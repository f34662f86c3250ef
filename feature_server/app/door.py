"""Who asks, by the keys of access, and whether he may.

Keys are read from Redis, and again whenever the epoch of the online registry has moved: it moves with each change of
them, and is fetched with every read, so that a key is revoked with the next request. Before the first sync there is no
epoch, and they are read whenever anybody asks. Keys that were known stay in force where Redis has lost them, also for a
worker that takes another's place.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ..access.keys import Key, KeyRing, decode_copy, digest
from ..access.scopes import EXPLAIN, READ, TRAIN, Grant
from ..definitions.facts import FeatureRef
from ..definitions.registry import Registry
from ..errors import NotSignedIn, OnlineStoreError, OnlineStoreRefused
from ..online.readers import AsyncRedisReader
from ..online.registry import OnlineRegistry
from ..serving.plan import Plan
from ..serving.reader import FeatureReader

MAX_KNOWN = 10_000  # headers whose key is remembered
_SCHEME = "bearer "
_REMEDY = "send the header `authorization: Bearer <key>`; who runs the server makes keys with `features keys create`"
log = logging.getLogger("feature_server")


class Door:
    """`open_to_all`: until there are keys, all may enter, for only this machine reaches the server.

    `online` gives the online registry as it is now; `keyed` says that there were keys when the server was started: a
    worker that is started anew does not take it for none where Redis has lost them.
    """

    def __init__(
        self,
        redis: AsyncRedisReader,
        reader: FeatureReader,
        online: Callable[[], Awaitable[OnlineRegistry]],
        *,
        open_to_all: bool,
        keyed: bool = False,
    ) -> None:
        self._redis, self._reader, self._online = redis, reader, online
        self._open_to_all, self._keyed = open_to_all, keyed
        self._ring: KeyRing | None = None  # None: not read yet
        self._left: Path | None = None  # where workers leave the list for one another
        self._epoch: bytes | None = None
        self._absent = True  # Redis had no list of keys, not even an empty one
        self._missed = False  # and some were known: it was said
        self._by_digest: dict[str, Key] = {}
        self._known: dict[bytes, Key] = {}  # by the header that showed them

    def share(self, folder: Path) -> None:
        """Leave the list in a folder for the worker that takes this one's place, and begin with what is left there."""
        self._left = folder / "keys.json"
        self._keyed |= bool(self._found().keys)

    async def admit(self, shown: bytes, *, without_redis: bool = False) -> bytes:
        """What a request shows, as the header authorization does, to be asked about again; NotSignedIn where that opens
        nothing.

        `without_redis`: all may enter, too, where only this machine reaches the server and no key is known yet because
        Redis does not answer.
        """
        if self._ring is None:
            try:
                await self._load()
            except OnlineStoreError:
                if without_redis and self._open_to_all and not self._keyed:
                    return shown
                raise
        try:
            self._key(shown)
        except (NotSignedIn, OnlineStoreRefused):
            if not await self.look():
                raise
            self._key(shown)
        return shown

    async def check_read(self, shown: bytes, plan: Plan) -> None:
        """NotSignedIn or AccessDenied where the features of a plan, that of the registry in force, may not be read."""
        loaded = self._reader.loaded
        if loaded is not None and loaded.epoch != self._epoch:
            await self._load()
        key = self._key(shown)
        if key is None or key.id in plan.allowed:
            return
        self._grant(key, plan.online.registry).check_features(READ, plan.refs)
        plan.allowed.add(key.id)

    def check_explain(self, shown: bytes, refs: Sequence[FeatureRef], online: OnlineRegistry) -> None:
        """The same where the value of features is to be explained."""
        if (key := self._key(shown)) is not None:
            self._grant(key, online.registry).check_features(EXPLAIN, refs)

    def check_train(
        self, shown: bytes, refs: Sequence[FeatureRef], registry: Registry
    ) -> tuple[Key | None, Grant | None]:
        """The same where features are to be made into a training set, by the definitions that the offline store is
        filled by; the key, and what it gives. None of them where all may enter."""
        if (key := self._key(shown)) is None:
            return None, None
        grant = self._grant(key, registry)
        grant.check_features(TRAIN, refs)
        return key, grant

    async def check_push(self, shown: bytes, source: str) -> None:
        """The same where events of a source are pushed."""
        await self.refresh()
        if (key := self._key(shown)) is not None:
            self._grant(key, None).check_push(source)

    def check_metrics(self, shown: bytes) -> None:
        """The same of metrics, which are told without Redis too."""
        if (key := self._key(shown)) is not None:
            self._grant(key, None).check_metrics()

    async def refresh(self) -> None:
        """Bring registry and keys up to date; those known stay where Redis does not answer."""
        with suppress(OnlineStoreError):
            await self._online()
        await self.look()

    async def look(self) -> bool:
        """Read the keys again if they may have changed, and say so: once a second also where nobody asks."""
        with suppress(OnlineStoreError):
            if self._epoch is None or await self._redis.mget([self._reader.names.epoch]) != [self._epoch]:
                await self._load()
                return True
        return False

    def key_of(self, shown: bytes) -> Key | None:
        """The key that a request shows, None where all may enter; NotSignedIn where it opens nothing."""
        return self._key(shown)

    def _key(self, shown: bytes) -> Key | None:
        """The key that a header shows; None where all may enter, NotSignedIn or OnlineStoreRefused for no entry."""
        if not self._by_digest:
            self._check_open()
            return None
        key = self._known.get(shown)
        if key is None:
            key = self.holder(shown)
            if key is None:
                what = "a key that this server does not know" if shown else "the request shows no key"
                raise NotSignedIn(what, where="the header authorization", remedy=_REMEDY)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[shown] = key
        if (state := key.state(time.time_ns() // 1000)) != "valid":
            raise NotSignedIn(f"key {key.id} is {state}", where="the header authorization", remedy=_REMEDY)
        return key

    def holder(self, shown: bytes) -> Key | None:
        """The key that a header shows, whether or not it opens anything now; None for none that is known."""
        if (key := self._known.get(shown)) is not None:
            return key
        scheme, text = shown[: len(_SCHEME)], shown[len(_SCHEME) :].strip()
        return self._by_digest.get(digest(text)) if scheme.decode("latin-1").lower() == _SCHEME else None

    def lost(self) -> OnlineStoreRefused | None:
        """Why nobody is answered, where that is because the keys are lost."""
        loaded = self._reader.loaded
        keyed = self._keyed or (loaded is not None and loaded.online.keyed)
        if self._by_digest or not self._absent or not keyed:
            return None
        return OnlineStoreRefused(
            "the keys of access are not in Redis, so nobody is answered", where=self._reader.names.keys.decode(),
            remedy="run `features sync` where the keys were made: it brings them back",
        )  # fmt: skip

    def _check_open(self) -> None:
        """Raises where no key is known because they are lost, or where nobody is let in without one."""
        if (lost := self.lost()) is not None:
            raise lost
        if not self._open_to_all:
            raise NotSignedIn(
                "there is no key of access yet, and other machines reach this server", where="the header authorization",
                remedy="make one: `features keys create`",
            )  # fmt: skip

    def _grant(self, key: Key, registry: Registry | None) -> Grant:
        return Grant(key.scopes, key.group, registry, f"key {key.id} of {key.owner}")

    async def _load(self) -> None:
        names = self._reader.names
        epoch, stored = await self._redis.mget([names.epoch, names.keys])
        if stored is not None:
            ring = decode_copy(stored, where=names.keys.decode())
            if ring != self._ring:
                self._take(ring)
                self._leave(stored)
        elif self._ring is None:
            self._take(self._found())
        if stored is None and self._by_digest and not self._missed:
            log.warning("the keys of access are not in Redis: those known before stay in force")
        self._absent, self._missed = stored is None, stored is None and bool(self._by_digest)
        self._epoch = epoch

    def _take(self, ring: KeyRing) -> None:
        self._ring, self._by_digest = ring, {key.sha256: key for key in ring}
        self._known = {}

    def _leave(self, stored: bytes) -> None:
        if self._left is None:
            return
        new = self._left.with_name(f"keys.{os.getpid()}")
        try:
            new.write_bytes(stored)
            new.replace(self._left)
        except OSError as error:
            log.error("the keys of access cannot be left for a worker that takes this one's place: %s", error)

    def _found(self) -> KeyRing:
        if self._left is None or not self._left.exists():
            return KeyRing()
        return decode_copy(self._left.read_bytes(), where=str(self._left))
