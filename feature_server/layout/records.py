"""Event records: packed from the rows of a stream view's `row_sql`, by key; and merged with what a key holds."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..arrow import one_chunk
from ..definitions.facts import FeatureView
from ..errors import DamagedValue
from ..event_ids import digests, event_id_numbers
from .events import (
    COUNTED,
    COUNTS,
    CREATED,
    EVENT,
    EVENT_ID,
    FIRST_ARGUMENT,
    HAS_BASE,
    LENGTH_BYTES,
    digested,
    plan_of,
    record_view,
)
from .row import RowLayout, damaged
from .rows import RowPacker, pc, text_bytes

BASED = "has_base_"  # a column beside those of `row_sql`: whether a record says that its key has a base
Facts: TypeAlias = tuple[int, int, int, bool]  # of a record: event time, created timestamp, event id's number, counts


class PackedEvents(msgspec.Struct, kw_only=True):
    """For each key of a batch: what its braces hold, its records joined, and how many they are.

    For each row: the number of its event id, and its key's place in `entities`.
    """

    entities: list[bytes]
    records: list[bytes]
    counts: npt.NDArray[np.int64]
    numbers: npt.NDArray[Any]
    places: npt.NDArray[np.int32]


class EventPacker:
    """Packs the events of one stream view, given as Arrow tables with the columns of its `row_sql`."""

    def __init__(self, view: FeatureView) -> None:
        plan = plan_of(view)
        self._event_id = plan.event_id
        self._digested = [plan.arguments[i].name for i in sorted(digested(plan))]
        self._packer = RowPacker(record_view(view))

    def pack(self, rows: pa.Table) -> PackedEvents:
        """The records of `rows`, those of one key in the order given. No key or time may be null."""
        keys = self._packer.entities(rows).dictionary_encode()
        codes = keys.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        counts = np.bincount(codes, minlength=len(keys.dictionary))
        ends = np.concatenate(([0], np.cumsum(counts)))
        stored = self._stored(rows)
        packed = self._packer.pack(stored)
        if isinstance(packed, list):
            framed = [len(packed[i]).to_bytes(LENGTH_BYTES, "little") + packed[i] for i in order]
            records = [b"".join(framed[start:stop]) for start, stop in pairwise(ends)]
        else:
            whole = np.ascontiguousarray(packed[order]).tobytes()
            width = packed.shape[1]
            records = [whole[start * width : stop * width] for start, stop in pairwise(ends)]
        return PackedEvents(
            entities=text_bytes(keys.dictionary),
            records=records,
            counts=counts,
            numbers=stored[EVENT_ID].to_numpy(),
            places=codes,
        )

    def _stored(self, rows: pa.Table) -> pa.Table:
        columns: dict[str, Any] = {EVENT_ID: event_id_numbers(rows[EVENT_ID], self._event_id)}
        columns |= {name: digests(one_chunk(rows[name])) for name in self._digested}
        columns[COUNTS] = pc.fill_null(rows[COUNTS], False).cast(pa.uint8())
        if BASED in rows.column_names:
            columns[COUNTS] = pc.add(columns[COUNTS], pc.multiply(rows[BASED].cast(pa.uint8()), HAS_BASE))
        for name, column in columns.items():
            rows = rows.set_column(rows.schema.get_field_index(name), name, column)
        return rows


def moved(parts: Sequence[PackedEvents]) -> list[tuple[int, int]]:
    """Part and row of what has another key in an earlier row, or part, by the number of its event id."""
    numbers = [part.numbers for part in parts]
    if len(pc.unique(pa.array(np.concatenate(numbers)))) == sum(map(len, numbers)):
        return []
    first, found = dict[int, bytes](), list[tuple[int, int]]()
    for place, part in enumerate(parts):
        for row, (number, key) in enumerate(zip(part.numbers.tolist(), part.places.tolist(), strict=True)):
            if first.setdefault(number, part.entities[key]) != part.entities[key]:
                found.append((place, row))
    return found


class Records:
    """Takes apart and merges the records of one stream view."""

    def __init__(self, view: FeatureView) -> None:
        layout = RowLayout(record_view(view).features)
        self._view_id, self._width = view.id, layout.width
        self._begin = LENGTH_BYTES if layout.variable else 0
        created, counts = (self._begin + layout.offsets[layout.names.index(name)] for name in (CREATED, COUNTS))
        self._identity = slice(created, counts)  # created timestamp and event id
        self._flags = counts  # where in a record, with its length before it if it has one, its flags are
        self._head = layout.head(range(FIRST_ARGUMENT))

    def split(self, value: bytes) -> list[bytes]:
        """Each record, with its length before it where records have one."""
        if not self._begin:
            if len(value) % self._width:
                raise self._damaged("a length that is no multiple of a record's")
            return [value[at : at + self._width] for at in range(0, len(value), self._width)]
        found, at = [], 0
        while at < len(value):
            end = at + LENGTH_BYTES + int.from_bytes(value[at : at + LENGTH_BYTES], "little")
            if end > len(value) or end - at < LENGTH_BYTES + self._width:
                raise self._damaged("a record that is cut off")
            found.append(value[at:end])
            at = end
        return found

    def version(self, record: bytes) -> tuple[int, int]:
        """The created timestamp and the event id's number of a record."""
        return self.facts(record)[1:3]

    def facts(self, record: bytes) -> Facts:
        """The event time, created timestamp and event id's number of a record, and whether it counts."""
        event_us, _, created_us, number, flags = self._head.unpack_from(record, self._begin)
        return event_us, created_us, number, bool(flags & COUNTED)

    def flagged(self, record: bytes, on: int, off: int = 0) -> bytes:
        """A record with other flags: those in `off` taken out, those in `on` put in."""
        at = self._flags
        flags = record[at] & ~off | on
        return record if flags == record[at] else b"%b%c%b" % (record[:at], flags, record[at + 1 :])

    def merge(self, value: bytes | None, wanted: "KeyEvents | None", gone: "KeyEvents | None") -> "Merged":
        """What a key that holds `value` should hold: the records wanted, none that is gone, what else is there.

        A record that says otherwise of a version than the one wanted is taken out; flags do not matter to that.
        """
        identity = self._identity
        new = {record[identity]: record for record in (self.split(wanted.records) if wanted else [])}
        old = {record[identity] for record in (self.split(gone.records) if gone else [])} - new.keys()
        kept, removed, present = [], 0, set[bytes]()
        for record in self.split(value or b""):
            version = record[identity]
            wanted_so = new.get(version, record)
            if version in old or (wanted_so != record and wanted_so != self._as_packed(record, wanted_so)):
                removed += 1
                continue
            kept.append(record)
            present.add(version)
        missing = [record for version, record in new.items() if version not in present]
        return Merged(value=b"".join([*kept, *missing]), missing=b"".join(missing), added=len(missing), removed=removed)

    def _as_packed(self, record: bytes, like: bytes) -> bytes:
        """A record that says of its key's base what another one does."""
        return self.flagged(record, like[self._flags] & HAS_BASE, HAS_BASE)

    def _damaged(self, got: str) -> DamagedValue:
        return damaged(self._view_id, "a stored list of events", got)


def in_force(facts: Iterable[Facts]) -> list[Facts]:
    """The facts of the events of one key that count, each in its version in force (as in `windows.window`)."""
    latest: dict[int, Facts] = {}
    for fact in facts:
        event_us, created_us, number, _ = fact
        before = latest.get(number)
        if before is None or (created_us, event_us) >= (before[1], before[0]):
            latest[number] = fact
    return [fact for fact in latest.values() if fact[3]]


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """What a key should hold: `value`, that is what it holds less `removed` records, and the `added` ones `missing`."""

    value: bytes
    missing: bytes
    added: int
    removed: int


class KeyEvents(msgspec.Struct, frozen=True, kw_only=True):
    """Some events of one key: its name between the braces, the records joined, how many, and the newest one's time."""

    entity: bytes
    records: bytes
    count: int
    newest_us: int

    def after(self, earlier: "KeyEvents | None") -> "KeyEvents":
        if earlier is None:
            return self
        return KeyEvents(
            entity=self.entity,
            records=earlier.records + self.records,
            count=earlier.count + self.count,
            newest_us=max(earlier.newest_us, self.newest_us),
        )


def key_events(packer: EventPacker, rows: pa.Table) -> list[KeyEvents]:
    """The events of each key among rows sorted by key and event time."""
    packed = packer.pack(rows)
    ends = np.cumsum(packed.counts)
    times = rows[EVENT].cast(pa.int64()).to_numpy()
    return [
        KeyEvents(entity=entity, records=records, count=int(count), newest_us=int(times[end - 1]))
        for entity, records, count, end in zip(packed.entities, packed.records, packed.counts, ends, strict=True)
    ]
