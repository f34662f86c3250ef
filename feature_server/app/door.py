"""Who asks, by the keys of access, and whether he may.

Keys are read from Redis, and again whenever the epoch of the online registry has moved: it moves with each change of
them, and is fetched with every read, so that a key is revoked with the next request. Before the first sync there is no
epoch, and they are read whenever anybody asks. Keys that were known stay in force where Redis has lost them, also for a
worker that takes another's place.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..access.keys import Key, KeyRing, decode_copy, digest
from ..access.scopes import EXPLAIN, READ, TRAIN, Grant
from ..definitions.facts import FeatureRef, FeatureView
from ..definitions.registry import Registry
from ..errors import AccessDenied, NotSignedIn, OnlineStoreError, OnlineStoreRefused, cut
from ..online.readers import AsyncRedisReader
from ..online.registry import OnlineRegistry
from ..serving.plan import Plan
from ..serving.reader import FeatureReader

if TYPE_CHECKING:
    from ..access.tokens import Token, Tokens

MAX_KNOWN = 10_000  # headers whose keys are remembered
_SHORT = 128  # bytes of a header that is remembered as it is
_SCHEME = "bearer "
_EVER_US = 1 << 63
_REMEDY = "send the header `authorization: Bearer <key>`; who runs the server makes keys with `features keys create`"
log = logging.getLogger("feature_server")


class Entrant(msgspec.Struct, frozen=True):
    """Who asks, before `until_us`, and the keys he has: one, or those of a token's groups.

    `id` stands for the keys, `name` for who has them, `who` names him to people; `told` is the key that is told of him.
    """

    id: str
    name: str
    who: str
    told: Key
    keys: tuple[Key, ...]
    scopes: tuple[str, ...]
    groups: tuple[str, ...]
    until_us: int


class Door:
    """`open_to_all`: until there are keys, all may enter, for only this machine reaches the server.

    `online` gives the online registry as it is now; `keyed` says that there were keys when the server was started: a
    worker that is started anew does not take it for none where Redis has lost them. `tokens` are taken beside keys.
    """

    def __init__(
        self,
        redis: AsyncRedisReader,
        reader: FeatureReader,
        online: Callable[[], Awaitable[OnlineRegistry]],
        *,
        open_to_all: bool,
        keyed: bool = False,
        tokens: "Tokens | None" = None,
    ) -> None:
        self._redis, self._reader, self._online = redis, reader, online
        self._open_to_all, self._keyed, self.tokens = open_to_all and tokens is None, keyed, tokens
        self._ring: KeyRing | None = None  # None: not read yet
        self._left: Path | None = None  # where workers leave the list for one another
        self._epoch: bytes | None = None
        self._absent = True  # Redis had no list of keys, not even an empty one
        self._missed = False  # and some were known: it was said
        self._known: dict[bytes, Entrant] = {}  # by the header that showed their keys

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
        if self.tokens is not None and _place(shown) not in self._known and is_token(text := _text(shown)):
            await self.tokens.check(text)
        try:
            self.entrant(shown)
        except (NotSignedIn, AccessDenied, OnlineStoreRefused):
            await self.look()  # or somebody else has, meanwhile: what it says is no reason not to ask again
            self.entrant(shown)
        return shown

    async def check_read(self, shown: bytes, plan: Plan) -> None:
        """NotSignedIn or AccessDenied where the features of a plan, that of the registry in force, may not be read."""
        loaded = self._reader.loaded
        if loaded is not None and loaded.epoch != self._epoch:
            await self._load()
        entrant = self.entrant(shown)
        if entrant is None or entrant.id in plan.allowed:
            return
        stored = [plan.online.view(ref.view).definition for ref in plan.refs]
        _grant(entrant, plan.online.registry, stored).check_features(READ, plan.refs)
        plan.allowed.add(entrant.id)

    def check_explain(self, shown: bytes, ref: FeatureRef, online: OnlineRegistry) -> frozenset[str] | None:
        """The same where the value of a feature is to be explained; the features of its view of which pii may be seen,
        None for all."""
        if (entrant := self.entrant(shown)) is None:
            return None
        grant = _grant(entrant, online.registry)
        grant.check_features(EXPLAIN, [ref])
        return grant.pii_seen(online.registry.feature_view(ref.view))

    def check_train(self, shown: bytes, refs: Sequence[FeatureRef], registry: Registry) -> Entrant | None:
        """The same where features are to be made into a training set, by the definitions that the offline store is
        filled by; who asks, None where all may enter."""
        if (entrant := self.entrant(shown)) is not None:
            _grant(entrant, registry).check_features(TRAIN, refs)
        return entrant

    async def check_push(self, shown: bytes, source: str) -> None:
        """The same where events of a source are pushed."""
        await self.refresh()
        if (entrant := self.entrant(shown)) is not None:
            _grant(entrant, None).check_push(source)

    def check_metrics(self, shown: bytes) -> None:
        """The same of metrics, which are told without Redis too."""
        if (entrant := self.entrant(shown)) is not None:
            _grant(entrant, None).check_metrics()

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

    def entrant(self, shown: bytes) -> Entrant | None:
        """Who a header shows to be asking; None where all may enter, NotSignedIn or OnlineStoreRefused for no entry,
        AccessDenied for a token that no key is made for."""
        if not self._has_keys:
            self._check_open()
            return None
        place, now_us = _place(shown), time.time_ns() // 1000
        found = self._known.get(place)
        if found is None or found.until_us <= now_us:
            found = self._found_by(shown, now_us)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[place] = found
        return found

    @property
    def _has_keys(self) -> bool:
        return self._ring is not None and bool(self._ring.keys)

    def _found_by(self, shown: bytes, now_us: int) -> Entrant:
        text = _text(shown)
        if (key := self._by_digest.get(digest(text))) is not None:
            if (state := key.state(now_us)) != "valid":
                raise NotSignedIn(f"key {key.id} is {state}", where="the header authorization", remedy=_REMEDY)
            return _entrant([key], key, key.id, f"key {key.id} of {key.owner}")
        token = self.tokens.known(text) if self.tokens is not None else None
        if token is None:
            what = "a key that this server does not know" if shown else "the request shows no key"
            raise NotSignedIn(what, where="the header authorization", remedy=_REMEDY)
        keys = [key for key in self._of_groups if key.oidc_group in token.groups and key.state(now_us) == "valid"]
        if not keys:
            raise AccessDenied(
                "no key is made for the groups of this token", where="the header authorization",
                expected="a group that a key is for", got=cut(", ".join(sorted(token.groups))) or "no group",
                remedy="who runs the server makes one: `features keys create --oidc-group …`",
            )  # fmt: skip
        told = _as_one(token, keys)
        return _entrant(keys, told, told.owner, f"token of {cut(token.subject)}", token.until_us)

    def holder(self, shown: bytes) -> Key | None:
        """The key that a header shows, whether or not it opens anything now, a token's as one; None for none known."""
        if (found := self._known.get(_place(shown))) is not None:
            return found.told
        text = _text(shown)
        if (key := self._by_digest.get(digest(text))) is not None or self.tokens is None:
            return key
        with suppress(NotSignedIn):
            if (token := self.tokens.known(text)) is not None:
                return _as_one(token, [])
        return None

    def lost(self) -> OnlineStoreRefused | None:
        """Why nobody is answered, where that is because the keys are lost."""
        loaded = self._reader.loaded
        keyed = self._keyed or (loaded is not None and loaded.online.keyed)
        if self._has_keys or not self._absent or not keyed:
            return None
        return OnlineStoreRefused(
            "the keys of access are not in Redis, so nobody is answered", where=self._reader.names.keys.decode(),
            remedy="run `features sync` where the keys were made: it brings them back",
        )  # fmt: skip

    def tokens_refused(self) -> list[str]:
        """Why no new token is taken, if none is."""
        failure = None if self.tokens is None else self.tokens.issuer.failure
        return [] if failure is None else [f"the keys of the issuer of tokens cannot be fetched: {failure}"]

    def _check_open(self) -> None:
        """Raises where no key is known because they are lost, or where nobody is let in without one."""
        if (lost := self.lost()) is not None:
            raise lost
        if not self._open_to_all:
            raise NotSignedIn(
                "there is no key of access yet, and this server answers nobody without one",
                where="the header authorization", remedy="make one: `features keys create`",
            )  # fmt: skip

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
        if stored is None and self._has_keys and not self._missed:
            log.warning("the keys of access are not in Redis: those known before stay in force")
        self._absent, self._missed = stored is None, stored is None and self._has_keys
        self._epoch = epoch

    def _take(self, ring: KeyRing) -> None:
        self._ring, self._known = ring, {}
        self._by_digest = {key.sha256: key for key in ring if key.oidc_group is None}
        self._of_groups = [key for key in ring if key.oidc_group is not None]

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


def is_token(text: bytes) -> bool:
    """Whether it may be a token of an identity provider; no key of ours has a dot."""
    return text.count(b".") == 2


def _place(shown: bytes) -> bytes:
    return shown if len(shown) <= _SHORT else sha256(shown).digest()


def _text(shown: bytes) -> bytes:
    """What a header shows as bearer, nothing for another scheme."""
    is_bearer = shown[: len(_SCHEME)].decode("latin-1").lower() == _SCHEME
    return shown[len(_SCHEME) :].strip() if is_bearer else b""


def _as_one(token: "Token", keys: Sequence[Key]) -> Key:
    """The keys of a token as one, whose owner is its subject."""
    groups = "+".join(dict.fromkeys(key.group for key in keys if key.group))
    return Key(
        id="+".join(key.id for key in keys),
        owner=f"oidc:{token.subject}",
        group=groups or None,
        scopes=(),
        created_us=0,
    )


def _entrant(keys: Sequence[Key], told: Key, name: str, who: str, until_us: int = _EVER_US) -> Entrant:
    """Who has some keys, all of them valid: he may what each gives."""
    return Entrant(
        told.id, name, who, told, tuple(keys),
        tuple(dict.fromkeys(scope for key in keys for scope in key.scopes)),
        tuple(dict.fromkeys(key.group for key in keys if key.group)),
        min([until_us, *(key.expires_us for key in keys if key.expires_us is not None)]),
    )  # fmt: skip


def _grant(entrant: Entrant, registry: Registry | None, stored: Iterable[FeatureView] = ()) -> Grant:
    return Grant(entrant.scopes, entrant.groups, registry, entrant.who, stored)
