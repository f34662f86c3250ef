"""One sync of a view at a time, and none that was overtaken.

A sync holds a lock that expires unless it is renewed, so a killed one blocks nobody for long. Whoever takes the lock
also sets the view's fence to a token of its own; every write is checked against it inside Redis. A sync that was paused
past its lease and overtaken finds another token there and can never write again.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import redis

from ..errors import FeatureStoreError, SyncConflict
from ..layout import keys
from ..online.store import Fence, OnlineStore, redis_errors

LEASE_SECONDS = 15.0
WAIT_SECONDS = 600.0
FENCE_MS = 7 * 86_400_000  # the longest that a sync may take; renewing it would disturb the writes that watch it
_POLL_SECONDS = 0.1


class Holder(msgspec.Struct, frozen=True):
    """Who holds a view's lock, as the lock itself says."""

    token: str
    host: str
    process: int
    since: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


@contextmanager
def fenced(
    store: OnlineStore, view_id: str, *, lease_seconds: float = LEASE_SECONDS, wait_seconds: float = WAIT_SECONDS
) -> Iterator[Fence]:
    """Hold a view's lock while the block runs; SyncConflict when another sync has it for longer than `wait_seconds`."""
    name = keys.LOCK + view_id.encode()
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    holder = Holder(token=uuid.uuid4().hex, host=socket.gethostname(), process=os.getpid(), since=since)
    fence = Fence(view_id, holder.token.encode())
    value, lease_ms = msgspec.json.encode(holder), int(lease_seconds * 1000)
    deadline = time.monotonic() + wait_seconds
    while (other := _try_lock(store, name, value, fence, lease_ms)) is not None:
        if time.monotonic() >= deadline:
            raise SyncConflict(
                f"another sync of {view_id!r} is running",
                where=view_id,
                got=f"{other}; waited {wait_seconds:g} s",
                remedy="wait for it, or end that process: its lock goes with it",
            )
        time.sleep(_POLL_SECONDS)
    done = threading.Event()
    renewer = threading.Thread(target=_renew, args=(store, name, value, fence, lease_ms, done), daemon=True)
    renewer.start()
    try:
        yield fence
    finally:
        done.set()
        renewer.join()
        _unlock(store, name, value, fence)


def _try_lock(store: OnlineStore, name: bytes, value: bytes, fence: Fence, lease_ms: int) -> Holder | None:
    """Take the lock and set the fence, both or neither; the present holder when there is one that may be alive."""

    def take(pipeline: Any, found: bytes | None) -> Holder | None:
        other = None if found is None else msgspec.json.decode(found, type=Holder)
        if other is not None and not _is_dead(other):
            return other
        pipeline.multi()
        pipeline.set(name, value, px=lease_ms)
        pipeline.set(fence.key, fence.token, px=FENCE_MS)
        return None

    return _watching(store, name, take)


def _unlock(store: OnlineStore, name: bytes, value: bytes, fence: Fence) -> None:
    def release(pipeline: Any, found: bytes | None) -> None:
        mine = found == value or (found is None and pipeline.get(fence.key) == fence.token)
        pipeline.multi()
        if mine:
            pipeline.delete(name, fence.key)

    try:
        _watching(store, name, release)
    except FeatureStoreError:
        return  # the block's own error says that Redis is gone; the lock expires by itself


def _renew(store: OnlineStore, name: bytes, value: bytes, fence: Fence, lease_ms: int, done: threading.Event) -> None:
    """Keep the lock alive until `done`, also when it expired but nobody else has taken it."""

    def renew(pipeline: Any, found: bytes | None) -> None:
        mine = found == value or (found is None and pipeline.get(fence.key) == fence.token)
        pipeline.multi()
        if mine:
            pipeline.set(name, value, px=lease_ms)

    while not done.wait(lease_ms / 3000):
        try:
            _watching(store, name, renew)
        except FeatureStoreError:
            continue  # if Redis stays away, the writes fail and say so


def _watching(store: OnlineStore, name: bytes, work: Any) -> Any:
    """Run `work(pipeline, value)` and what it queued as one transaction, again while others change the lock."""
    while True:
        with redis_errors(), store.client.pipeline() as pipeline:
            pipeline.watch(name)
            result = work(pipeline, pipeline.get(name))
            try:
                pipeline.execute()
                return result
            except redis.WatchError:
                continue


def _is_dead(holder: Holder) -> bool:
    """True for a process of this machine that no longer exists. A wrong guess costs its sync, never a wrong value."""
    if holder.host != socket.gethostname():
        return False
    try:
        os.kill(holder.process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
