"""Offline → online: the latest row of each key at an instant, only what changed.

After a sync of table version V at time `now`, what is online of a view is the latest row of each key at `now` as V has
it, whatever happened before. The watermark (version and instant) lives in Redis with the rows and moves in one
transaction after they are written. Keys that may differ are those in files added or removed since, and those with rows
whose time came since; each gets its latest row, or is deleted. A sync that was killed left its version and instant
recorded, so the next one looks at what it may have written too.

A change of layout (definition, ttl) or `full` writes every row under a new code, then switches readers to it, then
deletes the old code's rows; so does a sync of a view of which Redis has evicted keys. What a view is filled with is
rows (`sync.rows`) or events (`sync.events`). Neither the table's version nor the instant ever goes back, but by `full`.
A sync during which Redis evicted keys fails: readers stay where they are.
"""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial

import msgspec
from msgspec import UNSET

from ..definitions.bound import with_bound
from ..definitions.facts import FeatureView, holds_pii
from ..definitions.registry import Registry
from ..errors import (
    FeatureStoreError,
    KeysEvicted,
    NotPublished,
    OfflineStoreError,
    OnlineStoreError,
    OnlineStoreUnavailable,
    RequestError,
    SyncConflict,
)
from ..formats import BASED_FORMAT, ONLINE_FORMAT
from ..layout.parts import row_parts
from ..offline.damage import DamagedFile, reading
from ..offline.store import OfflineStore, OfflineTable
from ..offline.together import check_whole
from ..online.memory import Memory, MemoryReader, evicted_during, eviction_refused, note, noted
from ..online.registry import OnlineRegistry, OnlineView, needs_of, with_views
from ..online.store import Attempt, Generation, OnlineStore, check_filled, once_more
from .clean import clean
from .events import EventFilling
from .lock import fenced
from .result import SyncReport, SyncResult
from .rows import KeySet, RowFilling, grace_us, key_set, newest_event
from .session import Progress, Session, SyncOptions, Target

_log = logging.getLogger(__name__)
__all__ = ["SyncOptions", "SyncReport", "SyncResult", "grace_us", "sync"]


class ViewSync:
    """One sync of the view `session.fence.view`; use it once."""

    def __init__(self, session: Session) -> None:
        self.session, self.online, self.view_id = session, session.online, session.fence.view
        self.started = time.monotonic()
        found, generations = self.online.registry(), self.online.generations()
        self.found, self.live = found, found.views.get(self.view_id) if found else None
        self.doubtful = found is not None and found.is_doubtful(self.view_id)
        self.left_filling = found is not None and self.view_id in found.filling  # by a sync that was killed
        evicted = session.begun.evicted
        self.fresh = found is None and not generations and evicted is not None and not evicted.keys
        self.generations = {code: of for code, of in generations.items() if of.view == self.view_id}
        if (live := self.live) is None:
            return
        live.check()
        if not live.table_id:  # put online by a push: its keys are those of log and landed files
            self.generations[live.code] = self._generation((), live.definition, live.code, "")
        elif live.code not in self.generations:  # somebody deleted its record
            attempts = (Attempt(live.table_version, live.synced_at_us),)
            self.generations[live.code] = self._generation(attempts, live.definition, live.code, live.table_id)

    def sync(self, clock: Callable[[], int]) -> SyncResult:
        view = self.session.registry.feature_view(self.view_id)
        self.good_us = self.session.options.good_us(view.id)  # before the table is read, which then has that run's rows
        table = self.session.offline.table(view.id)
        if table.view().fingerprint != view.fingerprint:
            raise NotPublished(
                "the definition in force is not the one that was published",
                where=view.id,
                remedy=f"run dbt, then `features publish {view.id}`",
            )
        check_whole(self.session.offline.root, view.id)
        if view.stream is not None and (
            refused := eviction_refused(self.session.begun, [view.id], allowed=self.session.options.allow_eviction)
        ):
            raise refused
        self.sent_before = self.online.sent_bytes
        try:
            return self._sync(view, table, clock)
        except KeysEvicted:
            raise
        except OnlineStoreError:
            with suppress(OnlineStoreUnavailable):
                self._check_evicted(view)  # of the fence, which looks like another sync
            raise

    def _sync(self, view: FeatureView, table: OfflineTable, clock: Callable[[], int]) -> SyncResult:
        attempts = self.generations[self.live.code].attempts if self.live else ()
        now_us = clock()
        if self.live is not None and not self.session.options.full:
            now_us = max([now_us, self.live.synced_at_us, *(attempt.now_us for attempt in attempts)])
        self.target = Target(view, table, now_us, self._format_of_new(view))
        self.filling = (RowFilling if view.stream is None else EventFilling)(self.session, self.target)
        with reading(table):
            try:
                if self.live is not None and (changed := self._changed(attempts)) is not None:
                    return self._write_changes(self.live, attempts, changed)
            except DamagedFile as error:  # what changed since a version with such a file cannot be told
                if error.file in table.files():
                    raise
                _log.warning("every row of %s is written: %s", view.id, error)
            return self._write_all()

    def _format_of_new(self, view: FeatureView) -> int:
        wanted = self.session.options.format
        if self.session.options.full and holds_pii(view) and wanted < ONLINE_FORMAT:
            raise OnlineStoreError(
                f"format {wanted} does not keep features that tell of a person apart", where=view.id,
                expected=f"format {ONLINE_FORMAT}", got=f"format {wanted}",
                remedy="before you go back take the view offline: `online: false` in its meta, `features apply`, "
                "`features sync`",
            )  # fmt: skip
        if self.session.options.full and view.stream is not None and not holds_pii(view):
            return min(wanted, BASED_FORMAT)
        return (self.found or OnlineRegistry(registry=self.session.registry)).format_of_new(view)

    def remove(self) -> SyncResult:
        """Take the view offline, then delete its rows."""
        if self.live is not None or self.left_filling:
            self.online.publish(lambda now: self._changed_to(now, None), fence=self.session.fence)
        deleted, leftover = clean(self.session, self.generations, self.live)
        self.doubtful = False
        return self._result("removed", deleted=deleted, leftover=leftover)

    def _changed_to(self, now: OnlineRegistry | None, entry: OnlineView | None) -> OnlineRegistry:
        """The online registry with another entry of the view, or with none."""
        views = (now.views if now else {}) | {self.view_id: entry}
        kept = {view_id: view for view_id, view in views.items() if view is not None}
        online = self._without_filling(with_views(now, self.session.registry, kept, self.session.begun.evicted))
        if entry is None or (stream := entry.definition.stream) is None or (self.live and entry.code == self.live.code):
            return online
        lost = {source: pushes for source, pushes in online.lost.items() if source != stream.source}
        return msgspec.structs.replace(online, lost=lost)  # it has been filled with all that is left

    def _without_filling(self, now: OnlineRegistry) -> OnlineRegistry:
        """Have pushes go nowhere but where readers look."""
        kept = {view_id: entry for view_id, entry in now.filling.items() if view_id != self.view_id}
        return msgspec.structs.replace(now, filling=kept)

    def _changed(self, attempts: tuple[Attempt, ...]) -> KeySet | None:
        """The keys whose row online may differ from the one it should be; None when all may."""
        live, table, now_us, reader = self.live, self.target.table, self.target.now_us, self.filling.reader
        if live is None or self.session.options.full or not self.filling.same_layout(live) or table.id != live.table_id:
            return None
        newest = max(attempt.table_version for attempt in attempts)
        if table.version < newest:
            raise OfflineStoreError(
                "the offline table is older than what is online",
                where=self.view_id,
                expected=f"version {newest} or later",
                got=f"version {table.version}",
                remedy=f"restore the offline store, or run `features sync --full {self.view_id}` to go back",
            )
        if self.doubtful and (self.target.view.stream is not None or not self.session.begun.evicts):
            return None  # a key that was evicted would be begun anew with what changed alone
        sets: list[KeySet] = []
        for attempt in attempts:
            if (changes := table.changes_since(attempt.table_version)) is None:
                return None
            added, removed = changes
            kept = set(table.files()) - set(added)
            with reading(table, removed):
                sets.append(key_set(reader, [*added, *removed], until_us=now_us))
            sets.append(key_set(reader, kept, after_us=attempt.now_us, until_us=now_us))
            if (grace := grace_us(self.target.view)) is not None and not live.expires:
                sets.append(key_set(reader, kept, after_us=attempt.now_us - grace, until_us=now_us - grace))
        return KeySet([keys.ids for keys in sets if len(keys)], integer=reader.integer)

    def _write_all(self) -> SyncResult:
        view = self.target.view
        code = self.online.new_code(fresh=self.fresh, pii=view.stream is not None and holds_pii(view))
        self.online.record(self.session.fence, code, self._generation_of(code, (self.target.attempt,)))
        written = self.filling.fill(code)
        try:
            self._check_evicted(self.target.view)
        except KeysEvicted:
            with suppress(SyncConflict):
                self._give_up(code)
            raise
        entry = self._publish(code, self.target.format, self.session.evictions)
        _, leftover = clean(self.session, self.generations, self.live)
        return self._result("full", entry, rows=written, leftover=leftover)

    def _give_up(self, code: str) -> None:
        """Take away what a full fill has written, so that it takes no memory from others."""
        nothing = OnlineRegistry(registry=self.session.registry)
        self.online.publish(lambda now: self._without_filling(now or nothing), fence=self.session.fence)
        clean(self.session, {code: self._generation_of(code, (self.target.attempt,))}, self.live)

    def _check_evicted(self, view: FeatureView) -> None:
        """Fail where Redis evicted keys since the sync began, and say so to all."""
        session, after = self.session, self.session.memory.look()
        if not after.evicted_since(session.begun):
            return
        with suppress(OnlineStoreUnavailable):  # full, and nothing is left to evict: the next look does it
            note(self.online, session.memory.look)
        if view.stream is not None or not session.options.allow_eviction:
            raise evicted_during(view, session.begun, after, self.online.sent_bytes - self.sent_before)

    def _write_changes(self, live: OnlineView, attempts: tuple[Attempt, ...], changed: KeySet) -> SyncResult:
        code = live.code
        if self.left_filling:
            nothing = OnlineRegistry(registry=self.session.registry)
            self.online.publish(lambda now: self._without_filling(now or nothing), fence=self.session.fence)
        stale = {other: generation for other, generation in self.generations.items() if other != code}
        _, leftover = clean(self.session, stale, self.live)
        written = deleted = 0
        if len(changed):
            if self.target.attempt not in attempts:
                generation = self._generation_of(code, (*attempts, self.target.attempt))
                self.online.record(self.session.fence, code, generation)
            written, deleted = self.filling.merge(live, changed, attempts)
        self._check_evicted(self.target.view)
        entry = self._publish(code, live.format, live.evictions)
        return self._result("changes", entry, rows=written, deleted=deleted, leftover=leftover)

    def _publish(self, code: str, number: int, evictions: int) -> OnlineView:
        """Move the watermark, and with it readers to `code`; pushes go there alone from then on."""
        view, table, now_us = self.target.view, self.target.table, self.target.now_us
        newest, grace = newest_event(self.filling.reader, table.files(), now_us=now_us), grace_us(view)
        if newest is not None and grace is not None and newest <= now_us - grace:
            newest = None
        entry = OnlineView(
            format=number,
            code=code,
            definition=view,
            table_version=table.version,
            synced_at_us=now_us,
            rows=self.online.row_count(code),
            newest_event_us=newest,
            table_id=table.id,
            expires=self.session.options.expire,
            evictions=evictions,
            good_us=self.good_us,
            needs=needs_of(view),
        )
        generation = code, self._generation_of(code, (self.target.attempt,))
        online = self.online.publish(
            lambda now: self._changed_to(now, entry), fence=self.session.fence, generation=generation
        )
        self.doubtful = online.is_doubtful(self.view_id)
        return entry

    def _generation_of(self, code: str, attempts: tuple[Attempt, ...]) -> Generation:
        return self._generation(attempts, self.target.view, code, self.target.table.id)

    def _generation(self, attempts: tuple[Attempt, ...], view: FeatureView, code: str, table_id: str) -> Generation:
        codes = tuple(of for of, _ in row_parts(view, code))
        parts = UNSET if codes == (code,) else codes
        return Generation(view=self.view_id, table_id=table_id, attempts=attempts, parts=parts)

    def _result(
        self,
        mode: str,
        entry: OnlineView | None = None,
        *,
        rows: int = 0,
        deleted: int = 0,
        leftover: tuple[str, ...],
    ) -> SyncResult:
        return SyncResult(
            view=self.view_id,
            mode=mode,
            rows=rows,
            deleted=deleted,
            online=entry.rows if entry else 0,
            seconds=round(time.monotonic() - self.started, 3),
            newest_event_us=entry.newest_event_us if entry else None,
            table_version=entry.table_version if entry else None,
            leftover=leftover,
            doubtful=self.doubtful,
        )


def sync(
    online: OnlineStore,
    offline: OfflineStore,
    registry: Registry,
    *,
    views: Sequence[str] | None = None,
    refresh: str | None = None,
    left_out: Collection[str] = (),
    now_us: Callable[[], int],
    options: SyncOptions = SyncOptions(),  # noqa: B008 - frozen
    progress: Callable[[str], Progress] = lambda view_id: lambda done, total: None,
    report: Callable[[SyncResult], None] = lambda result: None,
) -> SyncReport:
    """Sync views, then publish the definitions.

    By default all views that are online, or those of one cadence, but those `left_out`, and those that no longer are
    online are taken away.
    `now_us` is asked once the lock of a view is held. A view that fails does not keep the others from being synced.
    """
    registry = registry.without_sql()
    found = once_more(online.registry)
    check_filled(found, registry.owner, registry.adopted)
    known = {view.id for view in registry.feature_views if view.online}
    gone = set(found.views if found else ()) | {
        generation.view for generation in once_more(online.generations).values()
    }
    gone -= known
    if views is None:
        of_cadence = (view for view in registry.feature_views if view.online and refresh in (None, view.refresh))
        chosen = [view.id for view in of_cadence if view.id not in left_out]
        chosen += sorted(gone)
    else:
        chosen = with_bound(_named(registry, views, gone), registry)
    results: list[SyncResult] = []
    failures: dict[str, FeatureStoreError] = {}
    lease, wait = options.lease_seconds, options.wait_seconds

    def sync_view(view_id: str, memory: MemoryReader) -> SyncResult:
        with fenced(online, view_id, lease_seconds=lease, wait_seconds=wait) as fence:
            begun = _begin(online, memory)
            run = ViewSync(Session(online, offline, registry, fence, options, progress(view_id), memory, *begun))
            if view_id in known:
                return run.sync(now_us)
            removed = run.remove()
            online.forget_verified(view_id)
            return removed

    with MemoryReader(online.url) as memory:
        for view_id in chosen:
            try:
                results.append(once_more(partial(sync_view, view_id, memory)))
                report(results[-1])
                if results[-1].leftover:
                    failures[view_id] = _leftover(results[-1])
            except FeatureStoreError as error:
                failures[view_id] = error
    now_online = once_more(lambda: online.publish(lambda now: with_views(now, registry, now.views if now else {})))
    return SyncReport(results=tuple(results), failures=failures, notice=now_online.notice)


def _begin(online: OnlineStore, memory: MemoryReader) -> tuple[Memory, int]:
    """What Redis says of its memory, and the online registry's mark, which has risen if that gives reason to."""
    seen, found = memory.look(), online.registry()
    if found is not None and noted(found, seen.evicted) is not found:
        found = note(online, memory.look)
    return seen, found.evictions if found else 0


def _leftover(result: SyncResult) -> OnlineStoreError:
    return OnlineStoreError(
        "rows that nobody reads any more cannot be listed, because the offline table that lists them is gone",
        where=result.view,
        got=f"row keys that begin with {' or '.join(code + '{' for code in result.leftover)}",
        remedy="run `features sync --sweep`, which looks at every key in Redis to find and delete them",
    )


def _named(registry: Registry, views: Sequence[str], gone: set[str]) -> list[str]:
    chosen = []
    for name in views:
        view_id = name if name in gone else registry.feature_view(name).id
        if view_id not in gone and not registry.feature_view(view_id).online:
            raise RequestError(
                f"feature view {view_id!r} is not online",
                where=registry.feature_view(view_id).path or None,
                remedy="set `online: true` in its meta, then run `features apply`",
            )
        if view_id not in chosen:
            chosen.append(view_id)
    return chosen
