"""What the online store says about itself, and how that is changed: in one transaction each, or not at all.

Transactions are WATCH/MULTI/EXEC: no script needs to be loaded or allowed. They span `features:…` keys of several
names, and rows are written together with a look at their view's fence (`sync.writer`): on Redis Cluster these keys
would need a hash tag and a fence for each slot; nothing else assumes one server.
"""

import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
import redis
from msgspec import UNSET, UnsetType, structs
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..definitions.owner import Owner, check_owner
from ..errors import DamagedValue, OnlineStoreError, OnlineStoreUnavailable, SyncConflict
from ..layout.parts import pii_code
from .address import RedisAddress, parse_redis_url
from .refusals import leads_elsewhere, refusal
from .registry import (
    LastVerified,
    OnlineRegistry,
    decode_online_registry,
    decode_verified,
    encode_online_registry,
    is_epoch,
)

TIMEOUT_SECONDS = 30.0
_PAGE = 500  # keys a command
Result = TypeVar("Result")


class Attempt(msgspec.Struct, frozen=True, order=True):
    """A sync to `table_version` as of `now_us` that may have written rows, whole or in part."""

    table_version: int
    now_us: int


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """The rows whose keys begin with one code: those of `view` at any of `attempts`, of the table `table_id`.

    Recorded before the first of them is written, so that whatever was written can be found again without a scan.
    `parts` has the codes of rows' parts, where those are not the code itself.
    """

    view: str
    table_id: str
    attempts: tuple[Attempt, ...]
    parts: tuple[str, ...] | UnsetType = UNSET


class Fence(msgspec.Struct, frozen=True):
    """The right to write a view's rows: it holds for as long as `features:fence:<view>` has this token."""

    view: str
    token: bytes
    key: bytes


@lru_cache(maxsize=4096)  # each view of a sync looks through those of all
def _decode_generation(value: bytes) -> Generation:
    return msgspec.json.decode(value, type=Generation)


class _Leaving:
    """A connection that its pool closes if what it leads to may no longer be the server to ask."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except redis.RedisError as error:
            if leads_elsewhere(_reply(error)):
                self.mark_for_reconnect()  # type: ignore[attr-defined]
            raise


class _TcpConnection(_Leaving, redis.Connection): ...


class _UnixConnection(_Leaving, redis.UnixDomainSocketConnection): ...


class _TlsConnection(_Leaving, redis.SSLConnection):
    """Trusts whom reads trust: redis-py itself would trust the machine's authorities beside `ssl_ca_certs`."""

    def __init__(self, *, address: RedisAddress, **options: Any) -> None:
        super().__init__(**options)
        self._address = address

    def _wrap_socket_with_ssl(self, link: socket.socket) -> socket.socket:
        return self._address.secured(link)


def _connections(address: RedisAddress, timeout_seconds: float) -> redis.ConnectionPool:
    place: dict[str, Any] = {"connection_class": _TcpConnection, "host": address.host, "port": address.port}
    if address.path is not None:
        place = {"connection_class": _UnixConnection, "path": address.path}
    elif address.tls is not None:
        place |= {"connection_class": _TlsConnection, "address": address}
    return redis.ConnectionPool(
        db=address.db,
        username=address.username,
        password=address.password,
        protocol=2,
        decode_responses=False,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=min(timeout_seconds, 5.0),
        retry=Retry(NoBackoff(), 0),
        client_name="features",
        **place,
    )


class OnlineStore(AbstractContextManager["OnlineStore"]):
    """A connection to the online store; `url` is `redis://`, `rediss://` or `unix://`, with user, password and database
    if need be."""

    def __init__(self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self.url, self.sent_bytes = url, 0  # the latter: of what syncs have sent to be written
        self._last_registry: tuple[bytes, OnlineRegistry] | None = None
        address = parse_redis_url(url)
        self.names = address.names
        self.client: Any = redis.Redis.from_pool(_connections(address, timeout_seconds))

    def close(self) -> None:
        self.client.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def registry(self) -> OnlineRegistry | None:
        """What is online; None where nothing was ever synced."""
        with redis_errors(self.names.registry):
            return self._decoded(self.client.get(self.names.registry))

    def _decoded(self, stored: bytes | None) -> OnlineRegistry | None:
        """The online registry as Redis holds it, decoded once: it grows with every view, and each view asks for it."""
        if stored is None:
            return None
        last = self._last_registry
        if last is None or last[0] != stored:
            last = self._last_registry = stored, decode_online_registry(stored, self.names)
        return last[1]

    def values(self, names: Sequence[bytes]) -> Iterator[bytes | None]:
        """What Redis holds under each name, asked for some at a time; DamagedValue for one that holds no string."""
        for start in range(0, len(names), _PAGE):
            some = names[start : start + _PAGE]
            with redis_errors():
                found = self.client.mget(some)
            if None in found:
                absent = [name for name, value in zip(some, found, strict=True) if value is None]
                for name, kind in self.wrong_types(absent).items():
                    raise wrong_type(name, kind)
            yield from found

    def wrong_types(self, names: Sequence[bytes]) -> dict[bytes, str]:
        """Which of these names, of keys that MGET does not find, hold something else than a string, and what."""
        kinds: list[bytes] = []
        for start in range(0, len(names), _PAGE):
            with redis_errors(), self.client.pipeline(transaction=False) as pipeline:
                for name in names[start : start + _PAGE]:
                    pipeline.type(name)
                kinds += pipeline.execute()
        return {
            name: kind.decode() for name, kind in zip(names, kinds, strict=True) if kind not in (b"none", b"string")
        }

    def generations(self) -> dict[str, Generation]:
        """Every code under which there may be rows."""
        with redis_errors():
            stored: dict[bytes, bytes] = self.client.hgetall(self.names.codes)
        return {code.decode(): _decode_generation(value) for code, value in stored.items()}

    def row_count(self, code: str) -> int:
        """Rows written under a code less those deleted; one that expired still counts."""
        with redis_errors():
            return int(self.client.hget(self.names.rows, code) or 0)

    def new_code(self, *, fresh: bool = False, pii: bool = False) -> str:
        """A code that no row key has begun with; `pii`: of events that tell of a person. Where the counter is gone, as
        when it was evicted, the time takes its place, but in a `fresh` Redis that held nothing before."""
        with redis_errors():
            if not fresh:
                self.client.set(self.names.next_code, int(time.time()), nx=True)
            code = self.names.code(int(self.client.incr(self.names.next_code)))
        return pii_code(code) if pii else code

    def record(self, fence: Fence, code: str, generation: Generation) -> None:
        """Say that rows are about to be written under a code."""
        with self._transaction(fence) as transaction:
            transaction.hset(self.names.codes, code, msgspec.json.encode(generation))

    def forget(self, fence: Fence, code: str) -> None:
        """Say that no row is left under a code."""
        with self._transaction(fence) as transaction:
            transaction.hdel(self.names.codes, code)
            transaction.hdel(self.names.rows, code)

    def keep_verified(self, view_id: str, found: LastVerified) -> None:
        """Put what a verify found in the place of the view's last result."""
        with redis_errors():
            self.client.set(self.names.verified(view_id), msgspec.json.encode(found))

    def verified(self, views: Sequence[str]) -> dict[str, LastVerified]:
        """The last result of each of these views that was ever verified."""
        with redis_errors():
            stored = self.client.mget(list(map(self.names.verified, views))) if views else []
        found = zip(views, map(decode_verified, stored), strict=True)
        return {view_id: last for view_id, last in found if last is not None}

    def forget_verified(self, view_id: str) -> None:
        """Drop the result of a view that is gone."""
        with redis_errors():
            self.client.delete(self.names.verified(view_id))

    def publish(
        self,
        change: Callable[[OnlineRegistry | None], OnlineRegistry],
        *,
        fence: Fence | None = None,
        generation: tuple[str, Generation] | None = None,
    ) -> OnlineRegistry:
        """Replace the online registry by what `change` makes of it, and the epoch, together with `generation`'s record.

        `change` runs again when another process was faster. Nothing is written when it changes nothing.
        """
        while True:
            with redis_errors(), self.client.pipeline() as pipeline:
                self._watch(pipeline, fence, self.names.registry, self.names.epoch)
                stored, epoch = pipeline.mget(self.names.registry, self.names.epoch)
                online = change(self._decoded(stored))
                encoded = encode_online_registry(online)
                pipeline.multi()
                if encoded != stored or not is_epoch(epoch):
                    pipeline.set(self.names.registry, encoded)
                    pipeline.set(self.names.epoch, _later(epoch))
                if generation is not None:
                    pipeline.hset(self.names.codes, generation[0], msgspec.json.encode(generation[1]))
                try:
                    pipeline.execute()
                except redis.WatchError:
                    continue
                self._last_registry = encoded, online
                return online

    def keys(self) -> bytes | None:
        """The keys of access as servers know them."""
        with redis_errors(self.names.keys):
            return self.client.get(self.names.keys)

    def put_keys(self, encoded: bytes, *, keyed: bool) -> bool:
        """Have all servers go by these keys of access, from their next request on: the epoch moves with them.

        `keyed` says whether there are any. Whether anything had to be written.
        """
        while True:
            with redis_errors(), self.client.pipeline() as pipeline:
                self._watch(pipeline, None, self.names.registry, self.names.epoch, self.names.keys)
                stored, epoch, before = pipeline.mget(self.names.registry, self.names.epoch, self.names.keys)
                online = self._decoded(stored)
                if before == encoded and (online is None or online.keyed == keyed):
                    return False
                pipeline.multi()
                pipeline.set(self.names.keys, encoded)
                if online is not None:
                    pipeline.set(self.names.registry, encode_online_registry(structs.replace(online, keyed=keyed)))
                    pipeline.set(self.names.epoch, _later(epoch))
                with suppress(redis.WatchError):
                    pipeline.execute()
                    return True

    def withdraw(self, wanted: Callable[[OnlineRegistry], bool] = lambda online: False) -> None:
        """Take the epoch away where the online registry is gone, or is `wanted` so: who knows it would go on by it."""
        with redis_errors(), self.client.pipeline() as pipeline, suppress(redis.WatchError):
            pipeline.watch(self.names.registry, self.names.epoch)
            online = self._decoded(pipeline.get(self.names.registry))
            if online is None or wanted(online):
                pipeline.multi()
                pipeline.delete(self.names.epoch)
                pipeline.execute()

    @contextmanager
    def _transaction(self, fence: Fence) -> Iterator[Any]:
        with redis_errors(), self.client.pipeline() as pipeline:
            self._watch(pipeline, fence)
            pipeline.multi()
            yield pipeline
            try:
                pipeline.execute()
            except redis.WatchError:
                raise overtaken(fence.view) from None

    @staticmethod
    def _watch(pipeline: Any, fence: Fence | None, *names: bytes) -> None:
        pipeline.watch(*names, *([fence.key] if fence else []))
        if fence and pipeline.get(fence.key) != fence.token:
            raise overtaken(fence.view)

    def scan(self, code: str) -> Iterator[list[bytes]]:
        """All row and base keys of a code, found by looking at every key of the server."""
        with redis_errors():
            cursor = None
            while cursor != 0:
                cursor, found = self.client.scan(cursor or 0, match=f"{code}[.{{]*", count=5000)
                yield found


def _later(epoch: bytes | None) -> int:
    """An epoch that no reader has seen."""
    before = int(epoch) if epoch is not None and is_epoch(epoch) else 0
    return max(before + 1, time.time_ns() // 1000)


def check_filled(found: OnlineRegistry | None, wanted: Owner, adopted: Collection[str]) -> None:
    """OnlineStoreError where another project or target fills the online store."""
    check_owner(
        None if found is None else found.registry.owner, wanted, adopted, what="this Redis", kind=OnlineStoreError,
        remedy="add ?namespace=NAME to FEATURES_REDIS_URL, or give another Redis or database number in it",
    )  # fmt: skip


def wrong_type(name: bytes, kind: str) -> DamagedValue:
    return DamagedValue(
        "a key of the feature store holds what another program wrote", where=name.decode(errors="replace"),
        expected="a string, or no such key", got=f"a {kind}",
        remedy="delete it, then `features sync --full` of the view whose keys begin so",
    )  # fmt: skip


def overtaken(view_id: str) -> SyncConflict:
    return SyncConflict(
        f"another sync of {view_id!r} took over from this one, which had paused for longer than its lease",
        where=view_id,
        remedy="nothing is lost: the other one goes on; run `features sync` again if it failed",
    )


@contextmanager
def redis_errors(key: bytes | None = None) -> Iterator[None]:
    """Errors of the Redis library as this product's; `key` is the one that the command is about."""
    try:
        yield
    except redis.WatchError:
        raise
    except redis.RedisError as error:
        reply = _reply(error)
        if error.status_code is None and isinstance(error, redis.ConnectionError | redis.TimeoutError):
            remedy = "start it, or check FEATURES_REDIS_URL"
            silent = OnlineStoreUnavailable("Redis does not answer", got=reply, remedy=remedy)
            silent.elsewhere = not isinstance(error, redis.TimeoutError)
            raise silent from None
        raise refusal(reply, where=None if key is None else key.decode()) from None


def _reply(error: redis.RedisError) -> str:
    """What Redis answered, with its first word, the code; without a command's arguments."""
    text = str(error).rpartition(" of pipeline caused error: ")[2]
    return f"{error.status_code or ''} {text}".strip()


def once_more(work: Callable[[], Result]) -> Result:
    """Do what may be done twice; again at once where the server was demoted, or has closed the connection."""
    try:
        return work()
    except OnlineStoreError as error:
        if not error.elsewhere:
            raise
    return work()
