"""One sync of one view, by the holder of its fence.

After a sync of table version V at time `now`, what is online of a view is the latest row of each key at `now` as V has
it, whatever happened before. The watermark (version and instant) lives in Redis with the rows and moves in one
transaction after they are written. Keys that may differ are those in files added or removed since, and those with rows
whose time came since; each gets its latest row, or is deleted. A sync that was killed left its version and instant
recorded, so the next one looks at what it may have written too.

A change of layout (definition, ttl) or `full` writes every row under a new code, then switches readers to it, then
deletes the old code's rows. Neither the table's version nor the instant ever goes back, but by `full`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from ..definitions.facts import FeatureView
from ..definitions.registry import Registry
from ..errors import OfflineStoreError
from ..offline.store import OfflineStore, OfflineTable
from ..online.registry import OnlineRegistry, OnlineView, with_views
from ..online.store import Attempt, Fence, Generation, OnlineStore
from .commands import delete_commands, delete_key_commands, write_commands
from .latest import Ids, KeyReader, KeySet, key_set, latest_rows, newest_event
from .lock import LEASE_SECONDS, WAIT_SECONDS
from .writer import FencedWriter

MAX_GRACE_US = 3_600_000_000
_PACK_ROWS = 40_000
_FOREVER = np.iinfo(np.int64).max


class SyncResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one sync did to one view: `rows` written, keys `deleted`, `online` rows there are now.

    `mode` is `full` (every row was written), `changes`, or `removed` (the view is no longer online). `leftover` names
    codes whose rows could not be listed because their offline table is gone; `features sync --sweep` deletes them.
    """

    view: str
    mode: str
    rows: int
    deleted: int
    online: int
    seconds: float
    newest_event_us: int | None = None
    table_version: int | None = None
    leftover: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"rows={self.rows} deleted={self.deleted} seconds={self.seconds:.1f}"]
        if self.newest_event_us is not None:
            parts.append(f"newest={datetime.fromtimestamp(self.newest_event_us // 1_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}")
        if self.table_version is not None:
            parts.append(f"version={self.table_version}")
        verb = "removed" if self.mode == "removed" else "synced"
        return f"{verb} {self.view} {' '.join(parts)}"


class SyncOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`expire`: give keys of views with a ttl an expiry by Redis' own clock; False where this product's clock stands
    still. `sweep`: look through all keys of Redis for rows that can be found in no other way. `project_dir` is where
    relative locations of event sources begin."""

    full: bool = False
    project_dir: Path = Path()
    expire: bool = True
    sweep: bool = False
    lease_seconds: float = LEASE_SECONDS
    wait_seconds: float = WAIT_SECONDS


Progress = Callable[[int, int], None]


def grace_us(view: FeatureView) -> int | None:
    """How long after its event timestamp a row stays in Redis: its ttl, and the ttl or an hour more, whichever is less.

    The extra time lets a reader say OUTSIDE_MAX_AGE, and clocks differ.
    """
    return None if view.ttl_us is None else view.ttl_us + min(view.ttl_us, MAX_GRACE_US)


class ViewSync:
    """Holds what a sync of the view `fence.view` works with; use it once."""

    def __init__(
        self,
        online: OnlineStore,
        offline: OfflineStore,
        registry: Registry,
        fence: Fence,
        options: SyncOptions,
        progress: Progress,
    ) -> None:
        self.online, self.offline, self.registry = online, offline, registry
        self.fence, self.options, self.progress = fence, options, progress
        self.view_id = fence.view
        self.started = time.monotonic()
        found = online.registry()
        self.live = found.views.get(self.view_id) if found else None
        self.generations = {
            code: generation for code, generation in online.generations().items() if generation.view == self.view_id
        }
        if (live := self.live) is not None and live.code not in self.generations:  # somebody deleted its record
            attempts = (Attempt(live.table_version, live.synced_at_us),)
            self.generations[live.code] = Generation(view=self.view_id, table_id=live.table_id, attempts=attempts)

    def sync(self, clock: Callable[[], int]) -> SyncResult:
        view = self.registry.feature_view(self.view_id)
        table = self.offline.table(view.id)
        if table.view().fingerprint != view.fingerprint:
            raise OfflineStoreError(
                "the definition in force is not the one that was published",
                where=view.id,
                remedy=f"run dbt, then `features publish {view.id}`",
            )
        self.view, self.table, self.reader = view, table, KeyReader(view)
        self.files = table.files()
        attempts = self.generations[self.live.code].attempts if self.live else ()
        self.now_us = clock()
        if not self.options.full:
            self.now_us = max([self.now_us, *(attempt.now_us for attempt in attempts)])
        changed = self._changed(attempts)
        if self.live is None or changed is None:
            return self._write_all()
        return self._write_changes(self.live, attempts, changed)

    def remove(self) -> SyncResult:
        """Take the view offline, then delete its rows."""
        if self.live is not None:
            self.online.publish(self._without_view, fence=self.fence)
        deleted, leftover = self._clean(self.generations)
        return SyncResult(
            view=self.view_id,
            mode="removed",
            rows=0,
            deleted=deleted,
            online=0,
            seconds=self._seconds(),
            leftover=leftover,
        )

    def _without_view(self, now: OnlineRegistry | None) -> OnlineRegistry:
        views = {view_id: view for view_id, view in (now.views if now else {}).items() if view_id != self.view_id}
        return with_views(now, self.registry, views)

    def _changed(self, attempts: tuple[Attempt, ...]) -> KeySet | None:
        """The keys whose row online may differ from the one it should be; None when all may."""
        live = self.live
        if live is None or self.options.full or not self._same_layout(live):
            return None
        if _table_id(self.table) != live.table_id:
            return None
        newest = max(attempt.table_version for attempt in attempts)
        if self.table.version < newest:
            raise OfflineStoreError(
                "the offline table is older than what is online",
                where=self.view_id,
                expected=f"version {newest} or later",
                got=f"version {self.table.version}",
                remedy=f"restore the offline store, or run `features sync --full {self.view_id}` to go back",
            )
        sets: list[KeySet] = []
        for attempt in attempts:
            changes = self.table.changes_since(attempt.table_version)
            if changes is None:
                return None
            added, removed = changes
            kept = set(self.files) - set(added)
            sets.append(key_set(self.reader, [*added, *removed], until_us=self.now_us))
            sets.append(key_set(self.reader, kept, after_us=attempt.now_us, until_us=self.now_us))
            if (grace := grace_us(self.view)) is not None and not live.expires:
                past, horizon = attempt.now_us - grace, self.now_us - grace
                sets.append(key_set(self.reader, kept, after_us=past, until_us=horizon))
        return KeySet([keys.ids for keys in sets if len(keys)], integer=self.reader.integer)

    def _same_layout(self, live: OnlineView) -> bool:
        def layout(view: FeatureView) -> tuple[Any, ...]:
            features = tuple((feature.name, feature.dtype) for feature in view.features)
            return view.fingerprint, view.join_keys, view.event_timestamp, view.created_timestamp, features, view.ttl_us

        return layout(live.definition) == layout(self.view) and (
            self.view.ttl_us is None or live.expires == self.options.expire
        )

    def _write_all(self) -> SyncResult:
        code = self.online.new_code()
        generation = self._generation((Attempt(self.table.version, self.now_us),))
        self.online.record(self.fence, code, generation)
        with FencedWriter(self.online, self.fence, code) as writer:
            for ids, rows in latest_rows(self.reader, self.files, now_us=self.now_us, progress=self.progress):
                self._write(writer, code, ids, rows, count_existing=False)
        self._publish(code)
        _, leftover = self._clean(self.generations)
        return self._result("full", writer.written, 0, leftover)

    def _write_changes(self, live: OnlineView, attempts: tuple[Attempt, ...], changed: KeySet) -> SyncResult:
        code = live.code
        stale = {other: generation for other, generation in self.generations.items() if other != code}
        _, leftover = self._clean(stale)
        written = deleted = 0
        if len(changed):
            attempt = Attempt(self.table.version, self.now_us)
            if attempt not in attempts:
                self.online.record(self.fence, code, self._generation((*attempts, attempt)))
            with FencedWriter(self.online, self.fence, code) as writer:
                for ids, rows in latest_rows(
                    self.reader, self.files, now_us=self.now_us, wanted=changed, progress=self.progress
                ):
                    self._write(writer, code, ids, rows, count_existing=True)
                for transaction in delete_commands(code, changed.entities, count_existing=True):
                    writer.put(transaction)
            written, deleted = writer.written, writer.deleted
        self._publish(code)
        return self._result("changes", written, deleted, leftover)

    def _write(self, writer: FencedWriter, code: str, ids: Ids, rows: pa.Table, *, count_existing: bool) -> None:
        """Write rows that have not expired, and delete those that have."""
        grace = grace_us(self.view)
        for start in range(0, rows.num_rows, _PACK_ROWS):
            part = rows.slice(start, _PACK_ROWS)
            entities = self.reader.packer.entities(part)
            expire_ms = None
            if grace is not None:
                events = self.reader.packer.event_times(part)
                alive = events > self.now_us - grace
                if not alive.all():
                    if count_existing:
                        for transaction in delete_commands(
                            code, entities.filter(pa.array(~alive)), count_existing=True
                        ):
                            writer.put(transaction)
                    part, entities, events = (
                        part.filter(pa.array(alive)),
                        entities.filter(pa.array(alive)),
                        events[alive],
                    )
                if self.options.expire:
                    expire_ms = -(-(events + grace) // 1000)
            if part.num_rows:
                packed = self.reader.packer.pack(part)
                for transaction in write_commands(
                    code, entities, packed, expire_ms=expire_ms, count_existing=count_existing
                ):
                    writer.put(transaction)

    def _publish(self, code: str) -> None:
        """Move the watermark, and with it readers to `code`."""
        newest, grace = newest_event(self.reader, self.files, now_us=self.now_us), grace_us(self.view)
        if newest is not None and grace is not None and newest <= self.now_us - grace:
            newest = None
        entry = OnlineView(
            code=code,
            definition=self.view,
            table_version=self.table.version,
            synced_at_us=self.now_us,
            rows=self.online.row_count(code),
            newest_event_us=newest,
            table_id=_table_id(self.table),
            expires=self.options.expire,
        )

        def change(now: OnlineRegistry | None) -> OnlineRegistry:
            return with_views(now, self.registry, {**(now.views if now else {}), self.view_id: entry})

        generation = self._generation((Attempt(self.table.version, self.now_us),))
        self.online.publish(change, fence=self.fence, generation=(code, generation))
        self.entry = entry

    def _generation(self, attempts: tuple[Attempt, ...]) -> Generation:
        return Generation(view=self.view_id, table_id=_table_id(self.table), attempts=attempts)

    def _clean(self, generations: dict[str, Generation]) -> tuple[int, tuple[str, ...]]:
        """Delete the rows of codes that no reader uses: how many there were, and codes whose rows cannot be listed."""
        deleted, leftover = 0, []
        for code, generation in generations.items():
            with FencedWriter(self.online, self.fence, code) as writer:
                if self.options.sweep:
                    for names in self.online.scan(code):
                        for transaction in delete_key_commands(names, count_existing=False):
                            writer.put(transaction)
                elif not self._delete_listed(writer, code, generation):
                    leftover.append(code)
                    continue
            self.online.forget(self.fence, code)
            deleted += writer.deleted
        return deleted, tuple(leftover)

    def _delete_listed(self, writer: FencedWriter, code: str, generation: Generation) -> bool:
        """Delete every key that the offline table's versions in question hold; False when they cannot be read."""
        try:
            latest = self.offline.table(self.view_id)
            tables = [latest.at(attempt.table_version) for attempt in generation.attempts]
        except OfflineStoreError:
            return False
        if any(_table_id(table) != generation.table_id for table in tables):
            return False
        for table in {table.version: table for table in tables}.values():
            reader = KeyReader(table.view())
            for file in table.files():
                for rows in reader.rows(file, (), until_us=_FOREVER):
                    for transaction in delete_commands(code, reader.packer.entities(rows), count_existing=False):
                        writer.put(transaction)
        return True

    def _result(self, mode: str, written: int, deleted: int, leftover: tuple[str, ...]) -> SyncResult:
        return SyncResult(
            view=self.view_id,
            mode=mode,
            rows=written,
            deleted=deleted,
            online=self.entry.rows,
            seconds=self._seconds(),
            newest_event_us=self.entry.newest_event_us,
            table_version=self.entry.table_version,
            leftover=leftover,
        )

    def _seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)


def _table_id(table: OfflineTable) -> str:
    return str(table.delta.metadata().id)
