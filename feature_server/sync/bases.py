"""Lifetime windows in a sync: each key's events up to a cut-off become its base, those after it stay records.

A base holds events of the offline table alone. What was pushed and is not in the table yet holds its key's cut-off
back, unless it came later than the cut-off already there: such an event is left out until the table has it. A key's
base and its records change in one transaction, that fails when a push comes between.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pyarrow as pa
import redis

from ..definitions.facts import FeatureView
from ..history.bases import added_before, bases, hold_back, records_since
from ..history.events import History
from ..layout import keys
from ..layout.events import base_view, cut_off_us
from ..layout.records import EventPacker, Facts, KeyEvents, Records, in_force, key_events
from ..layout.row import event_timestamp_us
from ..layout.rows import RowPacker, text_bytes
from ..online.portions import portions
from ..online.store import Fence, OnlineStore, overtaken, redis_errors
from .commands import write_commands
from .writer import FencedWriter

_KEYS_TOGETHER = 100
_BYTES_TOGETHER = 1 << 20
_PAGE = 500
_NEVER_CUT = -62_135_596_800_000_000  # the year 1: no event is older


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


class _Merged(msgspec.Struct, frozen=True, kw_only=True):
    """The records that a key should hold if it had no base: each with its facts; how many were wrong."""

    records: list[bytes]
    facts: list[Facts]
    removed: int


class BaseSync:
    """Writes the bases of one stream view under one code."""

    def __init__(self, view: FeatureView, online: OnlineStore, fence: Fence, code: str, now_us: int) -> None:
        self._online, self._fence, self._code = online, fence, code.encode()
        self._cut_us = cut_off_us(view, now_us)
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
        return records_since(history, self._cut_us)

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
        for key, base in zip(chosen, values_of(self._online, [key.base_name for key in chosen]), strict=True):
            if base is not None:
                key.old_base, key.old_us = base, event_timestamp_us(base)
        _choose(history, changed, chosen, [key.old_us for key in chosen])
        since = records_since(history, _NEVER_CUT, changed=True)
        wanted, gone = (by_entity(history, self._packer, sql) for sql in (since, history.gone()))
        for entity, key in found.items():
            key.wanted, key.gone = wanted.get(entity), gone.get(entity)
        for key, value in zip(chosen, values_of(self._online, [key.name for key in chosen]), strict=True):
            key.cut_us = max(self._cut_us, key.old_us)
            key.size = sum(map(len, self._merged(key, value).records))
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

    def _merged(self, key: _Key, value: bytes | None) -> _Merged:
        """What a key that holds `value` should hold; its cut-off held back by what is not in the table."""
        records = self._records
        merged = records.merge(value, key.wanted, key.gone)
        split = records.split(merged.value)
        facts = [records.facts(record) for record in split]
        landed = {records.version(record) for record in records.split(key.wanted.records)} if key.wanted else set()
        unlanded = {number for _, created, number, _ in facts if (created, number) not in landed}
        key.unlanded |= unlanded
        if unlanded:
            held = [event_us - 1 for event_us, _, number, _ in facts if number in unlanded and event_us > key.old_us]
            key.cut_us = min([key.cut_us, *held])
        return _Merged(records=split, facts=facts, removed=merged.removed)

    def _kept(self, key: _Key, merged: _Merged) -> list[bytes]:
        """The records that a key needs besides its base."""
        if key.base is None:
            return merged.records
        needed = {number for event_us, _, number, _ in merged.facts if event_us > key.cut_us}
        old = [fact[:3] for fact in in_force(merged.facts) if fact[0] <= key.cut_us]
        if old:
            needed.add(max(old)[2])  # plain columns have the latest event's values, however old
        return [
            record for record, (_, _, number, _) in zip(merged.records, merged.facts, strict=True) if number in needed
        ]

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
                    merged = self._merged(key, value)
                    if key.base is not None and key.cut_us < event_timestamp_us(key.base):
                        again.append(key)
                        continue
                    kept = self._kept(key, merged)
                    present = {self._records.version(record) for record in self._records.split(value or b"")}
                    added += sum(self._records.version(record) not in present for record in kept)
                    removed += merged.removed
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


def values_of(online: OnlineStore, names: Sequence[bytes]) -> Iterator[bytes | None]:
    """What Redis holds under each name, asked for some at a time."""
    for start in range(0, len(names), _PAGE):
        with redis_errors():
            values = online.client.mget(names[start : start + _PAGE])
        yield from values


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
