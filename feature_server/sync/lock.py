"""One sync of a view at a time, and none that was overtaken.

A sync holds a lock that expires unless it is renewed, so a killed one blocks nobody for long. The lock says which
process that is (`processes`): for one of this machine and container that has ended, nobody waits. Whoever takes the
lock also sets the view's fence to a token of its own; every write is checked against it inside Redis. A sync that was
paused past its lease and overtaken finds another token there and can never write again.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import msgspec

from ..errors import UNREADABLE, FeatureStoreError, OnlineStoreError, SyncConflict
from ..online.store import Fence, OnlineStore, redis_errors
from ..processes import ProcessId, this_process

LEASE_SECONDS = 15.0
WAIT_SECONDS = 600.0
FENCE_MS = 7 * 86_400_000  # the longest that a sync may take; renewing it would disturb the writes that watch it
_POLL_SECONDS = 0.1
Result = TypeVar("Result")


class Holder(msgspec.Struct, frozen=True):
    """Who holds a view's lock, as the lock itself says; `id` is missing where its system did not tell."""

    token: str
    host: str
    process: int
    since: str
    id: ProcessId | None = None

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


@contextmanager
def fenced(
    store: OnlineStore, view_id: str, *, lease_seconds: float = LEASE_SECONDS, wait_seconds: float = WAIT_SECONDS
) -> Iterator[Fence]:
    """Hold a view's lock while the block runs; SyncConflict when another sync has it for longer than `wait_seconds`."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    holder = Holder(uuid.uuid4().hex, socket.gethostname(), os.getpid(), since, this_process())
    fence = Fence(view_id, holder.token.encode(), store.names.fence(view_id))
    lock = _Lock(store, fence, msgspec.json.encode(holder), int(lease_seconds * 1000))
    deadline = time.monotonic() + wait_seconds
    while (other := lock.take()) is not None:
        if time.monotonic() >= deadline:
            raise SyncConflict(
                f"another sync of {view_id!r} is running",
                where=view_id,
                got=f"{other}; waited {wait_seconds:g} s",
                remedy="wait for it, or end that process: its lock goes with it",
            )
        time.sleep(_POLL_SECONDS)
    done = threading.Event()
    renewer = threading.Thread(target=lock.renew, args=(done,), daemon=True)
    renewer.start()
    try:
        yield fence
    finally:
        done.set()
        renewer.join()
        with suppress(FeatureStoreError):  # the block's own error says that Redis is gone; the lock expires by itself
            lock.if_mine(lambda pipeline, name: pipeline.delete(name, fence.key))


class _Lock(NamedTuple):
    """A view's lock as one sync would hold it: `value` is what Redis then has."""

    store: OnlineStore
    fence: Fence
    value: bytes
    lease_ms: int

    def take(self) -> Holder | None:
        """Set lock and fence, both or neither; the present holder when there is one that may be alive."""

        def take(pipeline: Any, name: bytes, found: bytes | None) -> Holder | None:
            other = None if found is None else _holder(name, found)
            if other is not None and not (other.id and other.id.has_ended):
                return other
            pipeline.multi()
            pipeline.set(name, self.value, px=self.lease_ms)
            pipeline.set(self.fence.key, self.fence.token, px=FENCE_MS)
            return None

        return self._watching(take)

    def renew(self, done: threading.Event) -> None:
        """Keep the lock alive until `done`, also when it expired but nobody else has taken it."""
        while not done.wait(self.lease_ms / 3000):
            with suppress(FeatureStoreError):  # if Redis stays away, the writes fail and say so
                self.if_mine(lambda pipeline, name: pipeline.set(name, self.value, px=self.lease_ms))

    def if_mine(self, change: Callable[[Any, bytes], object]) -> None:
        """Make a change unless somebody else has taken the lock."""

        def work(pipeline: Any, name: bytes, found: bytes | None) -> None:
            mine = found == self.value or (found is None and pipeline.get(self.fence.key) == self.fence.token)
            pipeline.multi()
            if mine:
                change(pipeline, name)

        self._watching(work)

    def _watching(self, work: Callable[[Any, bytes, bytes | None], Result]) -> Result:
        """Run `work` and what it queued as one transaction, again while others change the lock."""
        name = self.store.names.lock(self.fence.view)
        with redis_errors():
            result: Result = self.store.client.transaction(
                lambda pipeline: work(pipeline, name, pipeline.get(name)), name, value_from_callable=True
            )
        return result


def _holder(name: bytes, value: bytes) -> Holder:
    try:
        return msgspec.json.decode(value, type=Holder)
    except UNREADABLE as error:
        raise OnlineStoreError(
            "a lock is none that a sync has set", where=name.decode(), expected="the JSON of its holder",
            got=f"{value[:100]!r}: {error}", remedy="delete that key, once it is clear who wrote it",
        ) from None  # fmt: skip
