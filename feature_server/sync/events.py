"""Offline → online for stream views: every key's events that reads may need, merged with what is pushed live.

A view that is not online, or whose records are laid out anew, is filled under a new code. From before the first record
is written, pushes go to that code too (`OnlineRegistry.filling`); what was pushed earlier is in the source's log or in
landed files, and is read with the offline table. Readers switch to the code when it is complete.

Later syncs look at the keys with rows that were added to the offline table or removed from it. A record that is missing
online is appended, which no push can undo and which is harmless where a push is appending it too, for readers count an
event once. Records that the table no longer has, or has otherwise, are replaced key by key, in a transaction that fails
when a push comes between. Keys that live pushes alone made are found in log and landed files when a code is deleted.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from ..definitions.aggregates import has_bases
from ..definitions.facts import FeatureView, event_view
from ..definitions.stream import EventSource
from ..errors import OnlineStoreError
from ..history.events import History, open_history
from ..history.log import landing_folder
from ..layout.events import GRACE_US, bounded_us, plan_of, retention_us, same_records
from ..layout.records import EventPacker, KeyEvents, Records, key_events
from ..online.registry import OnlineRegistry, OnlineView, with_views
from ..online.store import Attempt, OnlineStore, overtaken, redis_errors
from .bases import BaseSync, by_entity, values_of
from .commands import append_commands
from .latest import KeyReader, KeySet
from .rows import RowFilling
from .session import Session, Target
from .writer import FencedWriter

_KEYS_MERGED = 20_000


class EventFilling:
    """Fills a view with events."""

    def __init__(self, session: Session, target: Target) -> None:
        self.session, self.target, self.view = session, target, target.view
        self.reader = KeyReader(event_view(self.view))
        retention = retention_us(self.view)
        # How long after its newest event a key is kept, as long as ingest keeps it; None for ever.
        self._keep_us = None if retention is None or not session.options.expire else retention + 2 * GRACE_US
        self.appended = self.removed = 0

    def same_layout(self, live: OnlineView) -> bool:
        """Whether what is online can be brought up to date key by key."""
        if live.definition.stream is None:
            return RowFilling(self.session, self.target).same_layout(live)
        lasting = bounded_us(self.view) <= bounded_us(live.definition)
        lasting &= retention_us(live.definition) is None or retention_us(self.view) is not None
        return same_records(live.definition, self.view) and lasting and live.expires == self.session.options.expire

    def fill(self, code: str) -> int:
        """Have pushes go to a new code too, and write all events there: how many."""
        session, now_us = self.session, self.target.now_us
        entry = OnlineView(
            code=code, definition=self.view, table_version=self.target.table.version, synced_at_us=now_us, rows=0,
            table_id="", expires=session.options.expire,
        )  # fmt: skip
        session.online.publish(lambda now: self._with_filling(now, entry), fence=session.fence)
        packer, done = EventPacker(self.view), 0
        live = live_events(session, self.view)
        with self._history(live) as history, FencedWriter(session.online, session.fence, code) as writer:
            bases = self._bases(code)
            wanted = bases.fill(history, writer) if bases else history.wanted(now_us=now_us, grace_us=GRACE_US)
            for rows in history.tables(wanted):
                writer.put(append_commands(code, key_events(packer, rows), self._keep_us))
                done += rows.num_rows
                session.progress(done, 0)
        return writer.written

    def merge(self, code: str, changed: KeySet, attempts: tuple[Attempt, ...]) -> tuple[int, int]:
        """Bring the keys that changed since `attempts` up to date: records appended, and records taken out."""
        session, table, bases = self.session, self.target.table, self._bases(code)
        versions = sorted({attempt.table_version for attempt in attempts})
        with self._history(None) as history, FencedWriter(session.online, session.fence, code) as writer:
            count = history.find_changes(table, [table.at(version) for version in versions])
            for start in range(0, count, _KEYS_MERGED):
                history.choose_changed(start, _KEYS_MERGED)
                if bases is not None:
                    bases.merge(history)
                else:
                    writer.put(append_commands(code, self._missing(history, code), self._keep_us))
                session.progress(min(start + _KEYS_MERGED, count), count)
        done = bases or self
        return done.appended, done.removed

    def _missing(self, history: History, code: str) -> Iterator[KeyEvents]:
        """The events to append of the keys in relation `changed`; those with records to take out are written anew."""
        packer, records = EventPacker(self.view), Records(self.view)
        wanted_sql = history.wanted(now_us=self.target.now_us, grace_us=GRACE_US, changed=True)
        wanted, gone = by_entity(history, packer, wanted_sql), by_entity(history, packer, history.gone())
        names = {entity: b"%b{%b}" % (code.encode(), entity) for entity in sorted({*wanted, *gone})}
        stored = values_of(self.session.online, list(names.values()))
        for (entity, name), value in zip(names.items(), stored, strict=True):
            new, old = wanted.get(entity), gone.get(entity)
            merged = records.merge(value, new, old)
            if merged.removed:
                self.removed += self._replace(name, records, new, old)
            elif new is not None and merged.added:
                yield msgspec.structs.replace(new, records=merged.missing, count=merged.added)
            self.appended += merged.added

    def _replace(self, name: bytes, records: Records, new: KeyEvents | None, old: KeyEvents | None) -> int:
        """Write a key's events anew, whatever is pushed meanwhile; how many records were taken out."""
        fence = self.session.fence

        def replace(pipeline: Any) -> int:
            token, value = pipeline.get(fence.key), pipeline.get(name)
            if token != fence.token:
                raise overtaken(self.view.id)
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
            return merged.removed

        with redis_errors():
            return int(self.session.online.client.transaction(replace, name, fence.key, value_from_callable=True))

    def _bases(self, code: str) -> BaseSync | None:
        """What writes the bases of the view; None where it has no lifetime windows."""
        if not has_bases(self.view):
            return None
        return BaseSync(self.view, self.session.online, self.session.fence, code, self.target.now_us)

    def _with_filling(self, now: OnlineRegistry | None, entry: OnlineView) -> OnlineRegistry:
        online = with_views(now, self.session.registry, now.views if now else {})
        return msgspec.structs.replace(online, filling={**online.filling, self.view.id: entry})

    def _history(self, live: "LiveEvents | None") -> AbstractContextManager[History]:
        return open_history(self.view, self.target.table, spill=spill(self.session), live=live)


LiveEvents: TypeAlias = tuple[OnlineStore, EventSource, Path]


def spill(session: Session) -> Path:
    return session.offline.root / ".spill"


def live_events(session: Session, view: FeatureView) -> LiveEvents:
    """Where a stream view's live events are, as `history.events.open_history` takes it."""
    online = session.online.registry()
    for registry in (session.registry, *([online.registry] if online else [])):
        for source in registry.sources:
            if source.name == plan_of(view).source:
                return session.online, source, landing_folder(source, session.options.project_dir)
    raise OnlineStoreError(
        "the registry lacks the view's event source", where=view.path or view.id, expected=plan_of(view).source,
        remedy="run `features apply`",
    )  # fmt: skip
