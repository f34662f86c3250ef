"""Offline → online for stream views: every key's events that reads may need, merged with what is pushed live.

A view that is not online, or whose records are laid out anew, is filled under a new code. From before the first record
is written, pushes go to that code too (`OnlineRegistry.filling`); what was pushed earlier is in the source's log or in
landed files, and is read with the offline table. Readers switch to the code when it is complete.

Later syncs look at the keys with rows that were added to the offline table or removed from it. A record that is missing
online is appended, which no push can undo and which is harmless where a push is appending it too, for readers count an
event once. Records that the table no longer has, or has otherwise, are replaced key by key, in a transaction that fails
when a push comes between. Keys that live pushes alone made are found in log and landed files when a code is deleted.

Of lifetime windows each key's events up to a cut-off become its base, those after it stay records. A base holds events
of the offline table alone. What was pushed and is not in the table yet holds its key's cut-off back, unless it came
later than the cut-off already there: such an event is left out until the table has it. A key's base and its records
change in one transaction, that fails when a push comes between.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import redis

from ..definitions.aggregates import has_bases
from ..definitions.facts import FeatureView, event_view
from ..definitions.stream import EventSource
from ..errors import DamagedValue, OnlineStoreError
from ..history.bases import added_before, bases, hold_back, records_since
from ..history.events import History, open_history
from ..history.log import landing_folder
from ..layout import keys
from ..layout.decode import BaseDecoder
from ..layout.events import GRACE_US, HAS_BASE, base_view, bounded_us, cut_off_us, plan_of, retention_us, same_records
from ..layout.portions import portions
from ..layout.records import EventPacker, Facts, KeyEvents, Records, in_force, key_events
from ..layout.row import event_timestamp_us
from ..layout.rows import RowPacker, text_bytes
from ..offline.store import OfflineTable
from ..online.registry import OnlineRegistry, OnlineView, needs_of, with_views
from ..online.store import Attempt, OnlineStore, overtaken, redis_errors
from .rows import KeyReader, KeySet, RowFilling
from .session import Session, Target
from .writer import FencedWriter, append_commands, write_commands

_KEYS_MERGED = 20_000
_KEYS_TOGETHER = 100
_BYTES_TOGETHER = 1 << 20
_NEVER_CUT = -62_135_596_800_000_000  # the year 1: no event is older


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
            format=self.target.format, code=code, definition=self.view, table_version=self.target.table.version,
            synced_at_us=now_us, rows=0, table_id="", expires=session.options.expire, evictions=session.evictions,
            needs=needs_of(self.view),
        )  # fmt: skip
        session.online.publish(lambda now: self._with_filling(now, entry), fence=session.fence)
        packer, done = EventPacker(self.view), 0
        events = open_events(session, self.view, self.target.table, live=True)
        with events as history, FencedWriter(session.online, session.fence, code) as writer:
            if has_bases(self.view):
                wanted = BaseSync(session, self.target, code, self.target.format).fill(history, writer)
            else:
                wanted = history.wanted(now_us=now_us, grace_us=GRACE_US)
            for rows in history.tables(wanted):
                writer.put(append_commands(code, key_events(packer, rows), self._keep_us))
                done += rows.num_rows
                session.progress(done, 0)
        return writer.written

    def merge(self, live: OnlineView, changed: KeySet, attempts: tuple[Attempt, ...]) -> tuple[int, int]:
        """Bring the keys that changed since `attempts` up to date: records appended, and records taken out."""
        session, table, code = self.session, self.target.table, live.code
        lifetime = BaseSync(session, self.target, code, live.format) if has_bases(self.view) else None
        versions = sorted({attempt.table_version for attempt in attempts})
        events = open_events(session, self.view, table, live=False)
        with events as history, FencedWriter(session.online, session.fence, code) as writer:
            count = history.find_changes(table, [table.at(version) for version in versions])
            for start in range(0, count, _KEYS_MERGED):
                history.choose_changed(start, _KEYS_MERGED)
                if lifetime is not None:
                    lifetime.merge(history)
                else:
                    writer.put(append_commands(code, self._missing(history, code), self._keep_us))
                session.progress(min(start + _KEYS_MERGED, count), count)
        done = lifetime or self
        return done.appended, done.removed

    def _missing(self, history: History, code: str) -> Iterator[KeyEvents]:
        """The events to append of the keys in relation `changed`; those with records to take out are written anew."""
        packer, records = EventPacker(self.view), Records(self.view)
        wanted_sql = history.wanted(now_us=self.target.now_us, grace_us=GRACE_US, changed=True)
        wanted, gone = by_entity(history, packer, wanted_sql), by_entity(history, packer, history.gone())
        names = {entity: b"%b{%b}" % (code.encode(), entity) for entity in sorted({*wanted, *gone})}
        stored = self.session.online.values(list(names.values()))
        for (entity, name), value in zip(names.items(), stored, strict=True):
            new, old = wanted.get(entity), gone.get(entity)
            with of_key(name):
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

    def _with_filling(self, now: OnlineRegistry | None, entry: OnlineView) -> OnlineRegistry:
        session = self.session
        online = with_views(now, session.registry, now.views if now else {}, session.begun.evicted)
        return msgspec.structs.replace(online, filling={**online.filling, self.view.id: entry})


def open_events(
    session: Session, view: FeatureView, table: OfflineTable | None, *, live: bool
) -> AbstractContextManager[History]:
    """The events of a stream view, with those that are live if they count."""
    found = _live_events(session, view) if live else None
    return open_history(view, table, spill=session.offline.root / ".spill", live=found)


def _live_events(session: Session, view: FeatureView) -> tuple[OnlineStore, EventSource, Path]:
    online = session.online.registry()
    for registry in (session.registry, *([online.registry] if online else [])):
        for source in registry.sources:
            if source.name == plan_of(view).source:
                return session.online, source, landing_folder(source, session.options.project_dir)
    raise OnlineStoreError(
        "the registry lacks the view's event source", where=view.path or view.id, expected=plan_of(view).source,
        remedy="run `features apply`",
    )  # fmt: skip


class _Key(msgspec.Struct, kw_only=True):
    """A key with changes: its row in `changed`, its events of the table, its cut-off so far and the one to come.

    `size` is about how many bytes of records it has, `unlanded` the events with a version that the table lacks.
    """

    row: int
    name: bytes
    base_name: bytes
    wanted: KeyEvents | None = None
    gone: KeyEvents | None = None
    old_base: bytes | None = None
    old_us: int = _NEVER_CUT
    cut_us: int = _NEVER_CUT
    size: int = 0
    unlanded: set[int] = msgspec.field(default_factory=set)
    base: bytes | None = None


class BaseSync:
    """Writes the bases of one stream view under one code, whose records say from format 2 on that there is one."""

    def __init__(self, session: Session, target: Target, code: str, number: int) -> None:
        self._flag = HAS_BASE if number > 1 else 0
        view, self._online, self._fence, self._code = target.view, session.online, session.fence, code.encode()
        self._cut_us, self._decoder = cut_off_us(view, target.now_us), BaseDecoder(view, ())
        self._records, self._packer, self._bases = Records(view), EventPacker(view), RowPacker(base_view(view))
        self.appended = self.removed = 0

    def fill(self, history: History, writer: FencedWriter) -> str:
        """Write the bases of all keys, which no reader sees yet; a SELECT of the events to write records of."""
        hold_back(history, self._cut_us)
        for rows in history.tables(bases(history, self._cut_us)):
            entities, packed = self._bases.entities(rows), self._bases.pack(rows)
            code = (self._code + keys.BASE).decode()
            commands = write_commands(code, entities, packed, expire_ms=None, count_existing=False)
            writer.put(replace(transaction, rows=0) for transaction in commands)
        return records_since(history, self._cut_us, flagged=bool(self._flag))

    def merge(self, history: History) -> None:
        """Bring the keys in relation `changed` up to date."""
        changed = history.connection.sql("from changed").to_arrow_table()
        names = text_bytes(self._bases.entities(changed))
        code, base_code = self._code, self._code + keys.BASE
        found = {
            entity: _Key(row=row, name=b"%b{%b}" % (code, entity), base_name=b"%b{%b}" % (base_code, entity))
            for row, entity in enumerate(names)
        }
        chosen = list(found.values())
        for key, base in zip(chosen, self._online.values([key.base_name for key in chosen]), strict=True):
            if base is not None:
                with of_key(key.base_name):
                    (cut_us,), _ = self._decoder.decode([base])
                key.old_base, key.old_us = base, int(cut_us)
        _choose(history, changed, chosen, [key.old_us for key in chosen])
        since = records_since(history, _NEVER_CUT, changed=True)
        wanted, gone = (by_entity(history, self._packer, sql) for sql in (since, history.gone()))
        for entity, key in found.items():
            key.wanted, key.gone = wanted.get(entity), gone.get(entity)
        for key, value in zip(chosen, self._online.values([key.name for key in chosen]), strict=True):
            key.cut_us = max(self._cut_us, key.old_us)
            key.size = sum(len(record) for record, _ in self._merged(key, value)[0])
        self._add_corrections(history, found)
        while chosen:
            _choose(history, changed, chosen, [key.cut_us for key in chosen])
            for key in chosen:
                key.base = None
            for rows in history.tables(bases(history, _NEVER_CUT, changed=True)):
                entities, packed = text_bytes(self._bases.entities(rows)), self._bases.pack(rows)
                for entity, base in zip(entities, packed, strict=True):
                    found[entity].base = bytes(base)
            again: list[_Key] = []
            for together in portions(chosen, lambda key: key.size, _KEYS_TOGETHER, _BYTES_TOGETHER):
                again += self._write(together)
            chosen = again

    def _add_corrections(self, history: History, found: dict[bytes, _Key]) -> None:
        """Want new versions up to the cut-off too, of events that are online and not in the table in that version."""
        for rows in history.tables(added_before(history)):
            for events in key_events(self._packer, rows):
                key = found[events.entity]
                split = self._records.split(events.records) if key.unlanded else []
                wanted = [record for record in split if self._records.version(record)[1] in key.unlanded]
                if wanted:
                    more = msgspec.structs.replace(events, records=b"".join(wanted), count=len(wanted))
                    key.wanted = more.after(key.wanted)

    def _merged(self, key: _Key, value: bytes | None) -> tuple[list[tuple[bytes, Facts]], int]:
        """The records that a key that holds `value` should hold if it had no base, each with its facts; how many were
        wrong. Its cut-off is held back by what is not in the table."""
        records = self._records
        with of_key(key.name):
            merged = records.merge(value, key.wanted, key.gone)
        facts = [(record, records.facts(record)) for record in records.split(merged.value)]
        landed = {records.version(record) for record in records.split(key.wanted.records)} if key.wanted else set()
        unlanded = {number for _, (_, created, number, _) in facts if (created, number) not in landed}
        key.unlanded |= unlanded
        if unlanded:
            times = [event_us for _, (event_us, _, number, _) in facts if number in unlanded]
            key.cut_us = min([key.cut_us, *(event_us - 1 for event_us in times if event_us > key.old_us)])
        return facts, merged.removed

    def _kept(self, key: _Key, records: list[tuple[bytes, Facts]]) -> list[bytes]:
        """The records that a key needs besides its base: where it has one at least one, which says so."""
        if key.base is None:
            return [self._records.flagged(record, 0, HAS_BASE) for record, _ in records]
        facts = [fact for _, fact in records]
        needed = {number for event_us, _, number, _ in facts if event_us > key.cut_us}
        old = [fact[:3] for fact in in_force(facts) if fact[0] <= key.cut_us]
        if old:
            needed.add(max(old)[2])  # plain columns have the latest event's values, however old
        if not needed:
            needed.add(max(facts)[2])
        kept = [record for record, (_, _, number, _) in records if number in needed]
        return [self._records.flagged(record, self._flag, HAS_BASE) for record in kept]

    def _write(self, chosen: Sequence[_Key]) -> list[_Key]:
        """Write the bases and records of some keys; those of which an event pushed meanwhile holds the cut-off back."""
        names = [key.name for key in chosen]
        while True:
            again: list[_Key] = []
            added = removed = 0
            with redis_errors(), self._online.client.pipeline() as pipeline:
                pipeline.watch(self._fence.key, *names)
                token, *values = pipeline.mget(self._fence.key, *names)
                if token != self._fence.token:
                    raise overtaken(self._fence.view)
                pipeline.multi()
                for key, name, value in zip(chosen, names, values, strict=True):
                    merged, wrong = self._merged(key, value)
                    if key.base is not None and key.cut_us < event_timestamp_us(key.base):
                        again.append(key)
                        continue
                    kept = self._kept(key, merged)
                    present = {self._records.version(record) for record in self._records.split(value or b"")}
                    added += sum(self._records.version(record) not in present for record in kept)
                    removed += wrong
                    _set(pipeline, name, value, b"".join(kept))
                    _set(pipeline, key.base_name, key.old_base, key.base)
                try:
                    pipeline.execute()
                except redis.WatchError:
                    if len(chosen) == 1:
                        continue
                    half = len(chosen) // 2
                    return self._write(chosen[:half]) + self._write(chosen[half:])
            self.appended, self.removed = self.appended + added, self.removed + removed
            return again


@contextmanager
def of_key(name: bytes) -> Iterator[None]:
    """What is wrong with a key's value as an error that names the key."""
    try:
        yield
    except DamagedValue as error:
        raise error.of(name.decode()) from None


def by_entity(history: History, packer: EventPacker, sql: str) -> dict[bytes, KeyEvents]:
    """The events that a query of the history gives, by key."""
    found: dict[bytes, KeyEvents] = {}
    for rows in history.tables(sql):
        for events in key_events(packer, rows):
            found[events.entity] = events.after(found.get(events.entity))
    return found


def _set(pipeline: Any, name: bytes, old: bytes | None, new: bytes | None) -> None:
    if new:
        if new != old:
            pipeline.set(name, new)
    elif old is not None:
        pipeline.delete(name)


def _choose(history: History, changed: pa.Table, chosen: Sequence[_Key], cuts: Sequence[int]) -> None:
    """Make `changed` and `cuts`, of these keys."""
    names = changed.take(pa.array([key.row for key in chosen], pa.int64()))
    with_cuts = names.append_column("cut_", pa.array(cuts, pa.int64()).cast(pa.timestamp("us", "UTC")))
    connection = history.connection
    connection.register("chosen_cuts", with_cuts)
    connection.execute(f"create or replace temp table changed as select {history.keys} from chosen_cuts")
    connection.execute(f"create or replace temp table cuts as select {history.keys}, cut_ from chosen_cuts")
    connection.unregister("chosen_cuts")
