"""Offline → online for stream views: every key's events that reads may need, merged with what is pushed live.

A view that is not online, or whose records are laid out anew, is filled under a new code. From before the first record
is written, pushes go to that code too (`OnlineRegistry.filling`); what was pushed earlier is in the source's log or in
landed files, and is read with the offline table. Readers switch to the code when it is complete.

Later syncs look at the keys with rows that were added to the offline table or removed from it. A record that is missing
online is appended, which no push can undo and which is harmless where a push is appending it too, for readers count an
event once. Records that the table no longer has, or has otherwise, are replaced key by key, in a transaction that fails
when a push comes between. Keys that live pushes alone made are found in log and landed files when a code is deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import redis

from ..definitions.aggregates import has_bases
from ..definitions.facts import FeatureView, event_view
from ..definitions.stream import EventSource
from ..errors import OfflineStoreError, OnlineStoreError
from ..history.events import History, open_history
from ..history.log import landing_folder
from ..layout import keys
from ..layout.events import GRACE_US, bounded_us, plan_of, retention_us, same_records
from ..layout.pack import EventPacker
from ..layout.records import KeyEvents, Records, key_events
from ..online.registry import OnlineRegistry, OnlineView, with_views
from ..online.store import Attempt, Generation, overtaken, redis_errors
from .bases import BaseSync
from .commands import append_commands, delete_commands
from .latest import KeyReader, KeySet
from .view import SyncResult, ViewSync
from .writer import FencedWriter

_KEYS_MERGED = 20_000
_KEYS_READ = 500


class EventSync(ViewSync):
    """One sync of one view: of a stream view as above, of another as `ViewSync` does."""

    def _changed(self, attempts: tuple[Attempt, ...]) -> KeySet | None:
        self.reader = KeyReader(event_view(self.view))
        if self.view.stream is not None and self.live is not None and not self.live.table_id:
            return None  # put online by a push: never filled
        return super()._changed(attempts)

    def _same_layout(self, live: OnlineView) -> bool:
        if self.view.stream is None or live.definition.stream is None:
            return super()._same_layout(live)
        lasting = bounded_us(self.view) <= bounded_us(live.definition)
        lasting &= retention_us(live.definition) is None or retention_us(self.view) is not None
        return same_records(live.definition, self.view) and lasting and live.expires == self.options.expire

    def remove(self) -> SyncResult:
        self._stop_filling()
        self._add_unrecorded()
        return super().remove()

    def _write_all(self) -> SyncResult:
        self._add_unrecorded()
        if self.view.stream is None:
            return super()._write_all()
        code = self.online.new_code()
        self.online.record(self.fence, code, self._generation((Attempt(self.table.version, self.now_us),)))
        entry = OnlineView(
            code=code, definition=self.view, table_version=self.table.version, synced_at_us=self.now_us, rows=0,
            table_id="", expires=self.options.expire,
        )  # fmt: skip
        self.online.publish(lambda now: self._with_filling(now, entry), fence=self.fence)
        packer, done = EventPacker(self.view), 0
        with self._history(live=True) as history, FencedWriter(self.online, self.fence, code) as writer:
            bases = self._bases(code)
            wanted = bases.fill(history, writer) if bases else history.wanted(now_us=self.now_us, grace_us=GRACE_US)
            for rows in history.tables(wanted):
                for transaction in append_commands(code, key_events(packer, rows), self._keep_us):
                    writer.put(transaction)
                done += rows.num_rows
                self.progress(done, 0)
        self._publish(code)
        self._stop_filling()
        _, leftover = self._clean(self.generations)
        return self._result("full", writer.written, 0, leftover)

    def _write_changes(self, live: OnlineView, attempts: tuple[Attempt, ...], changed: KeySet) -> SyncResult:
        if self.view.stream is None:
            return super()._write_changes(live, attempts, changed)
        self._stop_filling()
        _, leftover = self._clean({code: of for code, of in self.generations.items() if code != live.code})
        appended = replaced = 0
        if len(changed):
            attempt = Attempt(self.table.version, self.now_us)
            if attempt not in attempts:
                self.online.record(self.fence, live.code, self._generation((*attempts, attempt)))
            with self._history(live=False) as history:
                appended, replaced = self._merge(history, live.code, attempts)
        self._publish(live.code)
        return self._result("changes", appended, replaced, leftover)

    def _merge(self, history: History, code: str, attempts: tuple[Attempt, ...]) -> tuple[int, int]:
        """Bring the keys that changed up to date: how many records were appended, and how many taken out."""
        versions = sorted({attempt.table_version for attempt in attempts})
        count = history.find_changes(self.table, [self.table.at(version) for version in versions])
        if (bases := self._bases(code)) is not None:
            for start in range(0, count, _KEYS_MERGED):
                history.choose_changed(start, _KEYS_MERGED)
                bases.merge(history)
                self.progress(min(start + _KEYS_MERGED, count), count)
            return bases.appended, bases.removed
        packer, records = EventPacker(self.view), Records(self.view)
        appended = removed = 0
        with FencedWriter(self.online, self.fence, code) as writer:
            for start in range(0, count, _KEYS_MERGED):
                history.choose_changed(start, _KEYS_MERGED)
                wanted, gone = dict[bytes, KeyEvents](), dict[bytes, KeyEvents]()
                for found, sql in (
                    (wanted, history.wanted(now_us=self.now_us, grace_us=GRACE_US, changed=True)),
                    (gone, history.gone()),
                ):
                    for rows in history.tables(sql):
                        for events in key_events(packer, rows):
                            found[events.entity] = events.after(found.get(events.entity))
                entities = sorted({*wanted, *gone})
                for first in range(0, len(entities), _KEYS_READ):
                    missing = []
                    chosen = entities[first : first + _KEYS_READ]
                    names = [b"%b{%b}" % (code.encode(), entity) for entity in chosen]
                    with redis_errors():
                        stored = self.online.client.mget(names)
                    for entity, name, value in zip(chosen, names, stored, strict=True):
                        new, old = wanted.get(entity), gone.get(entity)
                        merged = records.merge(value, new, old)
                        if merged.removed:
                            removed += self._replace(name, records, new, old)
                            appended += merged.added
                        elif new is not None and merged.added:
                            missing.append(msgspec.structs.replace(new, records=merged.missing, count=merged.added))
                            appended += merged.added
                    for transaction in append_commands(code, missing, self._keep_us):
                        writer.put(transaction)
                self.progress(min(start + _KEYS_MERGED, count), count)
        return appended, removed

    def _replace(self, name: bytes, records: Records, new: KeyEvents | None, old: KeyEvents | None) -> int:
        """Write a key's events anew, whatever is pushed meanwhile; how many records were taken out."""
        while True:
            with redis_errors(), self.online.client.pipeline() as pipeline:
                pipeline.watch(name, self.fence.key)
                token, value = pipeline.get(self.fence.key), pipeline.get(name)
                if token != self.fence.token:
                    raise overtaken(self.view_id)
                merged = records.merge(value, new, old)
                pipeline.multi()
                if merged.value:
                    pipeline.set(name, merged.value, keepttl=True)
                    if new is not None and self._keep_us is not None:
                        moment = -(-(new.newest_us + self._keep_us) // 1000)
                        pipeline.pexpireat(name, moment, nx=True)
                        pipeline.pexpireat(name, moment, gt=True)
                else:
                    pipeline.delete(name)
                try:
                    pipeline.execute()
                    return merged.removed
                except redis.WatchError:
                    continue

    def _bases(self, code: str) -> BaseSync | None:
        """What writes the bases of the view; None where it has no lifetime windows."""
        return BaseSync(self.view, self.online, self.fence, code, self.now_us) if has_bases(self.view) else None

    @property
    def _keep_us(self) -> int | None:
        """How long after its newest event a key is kept, as long as ingest keeps it; None for ever."""
        retention = retention_us(self.view)
        return None if retention is None or not self.options.expire else retention + 2 * GRACE_US

    def _with_filling(self, now: OnlineRegistry | None, entry: OnlineView) -> OnlineRegistry:
        online = with_views(now, self.registry, now.views if now else {})
        return msgspec.structs.replace(online, filling={**online.filling, self.view_id: entry})

    def _stop_filling(self) -> None:
        """Have pushes go nowhere but where readers look."""

        def change(now: OnlineRegistry | None) -> OnlineRegistry:
            online = now or OnlineRegistry(registry=self.registry)
            kept = {view_id: entry for view_id, entry in online.filling.items() if view_id != self.view_id}
            return msgspec.structs.replace(online, filling=kept)

        found = self.online.registry()
        if found is not None and self.view_id in found.filling:
            self.online.publish(change, fence=self.fence)

    def _add_unrecorded(self) -> None:
        """A code that a push put online has no record of its own: its keys are those of log and landed files."""
        if self.live is not None and (self.live.code not in self.generations or not self.live.table_id):
            self.generations[self.live.code] = Generation(view=self.view_id, table_id="", attempts=())

    @contextmanager
    def _history(self, *, live: bool) -> Iterator[History]:
        found = (self.online, *self._source(self.view)) if live else None
        with open_history(self.view, self.table, spill=self.offline.root / ".spill", live=found) as history:
            yield history

    def _source(self, view: FeatureView) -> tuple[EventSource, Path]:
        registries = [self.registry, *([found.registry] if (found := self.online.registry()) else [])]
        for registry in registries:
            for source in registry.sources:
                if source.name == plan_of(view).source:
                    return source, landing_folder(source, self.options.project_dir)
        raise OnlineStoreError(
            "the registry lacks the view's event source", where=view.path or view.id, expected=plan_of(view).source,
            remedy="run `features apply`",
        )  # fmt: skip

    def _delete_listed(self, writer: FencedWriter, code: str, generation: Generation) -> bool:
        views = self._stream_definitions(generation)
        codes = [code, code + keys.BASE.decode()] if views else [code]
        for of in codes if generation.attempts else []:
            if not super()._delete_listed(writer, of, generation):
                return False
        for view in views:
            with open_history(
                view, None, spill=self.offline.root / ".spill", live=(self.online, *self._source(view))
            ) as history:
                reader = KeyReader(event_view(view))
                for rows in history.tables(history.live_keys()):
                    for of in codes:
                        for transaction in delete_commands(of, reader.packer.entities(rows), count_existing=False):
                            writer.put(transaction)
        return True

    def _stream_definitions(self, generation: Generation) -> list[FeatureView]:
        """The stream views, if any, that the keys of a generation may be of: one for each way to make a key."""
        found: list[FeatureView] = [self.live.definition] if self.live is not None else []
        try:
            table = self.offline.table(self.view_id)
            found += [table.at(attempt.table_version).definition() for attempt in generation.attempts]
        except OfflineStoreError:
            pass
        found += [view for view in self.registry.feature_views if view.id == self.view_id]
        return list({plan.row_sql: view for view in found if (plan := view.stream) is not None}.values())
