"""What the parts of one sync of one view work with: the stores, the fence held, and what was asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..definitions.facts import FeatureView
from ..definitions.registry import Registry
from ..formats import ONLINE_FORMAT
from ..offline.store import OfflineStore, OfflineTable
from ..online.memory import Memory, MemoryReader
from ..online.store import Attempt, Fence, OnlineStore
from .lock import LEASE_SECONDS, WAIT_SECONDS

Progress = Callable[[int, int], None]


class SyncOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`expire`: give keys of views with a ttl an expiry by Redis' own clock; False where this product's clock stands
    still. `sweep`: look through all keys of Redis for rows that can be found in no other way. `project_dir` is where
    relative locations of event sources begin. `allow_eviction`: put views in a Redis that may evict keys, and those
    without `stream` also when it did. `format` is that of what a `full` sync writes. `good_us` tells the instant that
    the last good run of a view spoke of, where it is known."""

    full: bool = False
    format: int = ONLINE_FORMAT
    project_dir: Path = Path()
    expire: bool = True
    sweep: bool = False
    allow_eviction: bool = False
    good_us: Callable[[str], int | None] = lambda view_id: None
    lease_seconds: float = LEASE_SECONDS
    wait_seconds: float = WAIT_SECONDS


@dataclass(frozen=True)
class Session:
    """A sync of the view `fence.view`.

    `begun` is what Redis said of its memory before, `evictions` the online registry's mark then.
    """

    online: OnlineStore
    offline: OfflineStore
    registry: Registry
    fence: Fence
    options: SyncOptions
    progress: Progress
    memory: MemoryReader
    begun: Memory
    evictions: int


@dataclass(frozen=True)
class Target:
    """What is to be online of `view` after the sync: what `table` has of it at `now_us`.

    `format` is that of records which are written under a new code.
    """

    view: FeatureView
    table: OfflineTable
    now_us: int
    format: int

    @property
    def attempt(self) -> Attempt:
        return Attempt(self.table.version, self.now_us)
