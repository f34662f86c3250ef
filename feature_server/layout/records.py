"""The records of one key: those that are wanted there, those that are to go, and what is there."""

import struct
from collections.abc import Iterable
from typing import TypeAlias

import msgspec
import numpy as np
import pyarrow as pa

from ..definitions.facts import FeatureView
from ..errors import OnlineStoreError
from .events import COUNTS, CREATED, EVENT, FIRST_ARGUMENT, LENGTH_BYTES, record_view
from .pack import EventPacker
from .row import RowLayout

Facts: TypeAlias = tuple[int, int, int, bool]  # of a record: event time, created timestamp, event id's number, counts


class Records:
    """Takes apart and merges the records of one stream view."""

    def __init__(self, view: FeatureView) -> None:
        layout = RowLayout(record_view(view).features)
        self._view_id, self._width = view.id, layout.width
        self._begin = LENGTH_BYTES if layout.variable else 0
        created, counts = (self._begin + layout.offsets[layout.names.index(name)] for name in (CREATED, COUNTS))
        self._identity = slice(created, counts)  # created timestamp and event id
        self._head = layout.head(range(FIRST_ARGUMENT))

    def split(self, value: bytes) -> list[bytes]:
        """Each record, with its length before it where records have one."""
        if not self._begin:
            if len(value) % self._width:
                raise self._damaged()
            return [value[at : at + self._width] for at in range(0, len(value), self._width)]
        found, at = [], 0
        while at < len(value):
            end = at + LENGTH_BYTES + int.from_bytes(value[at : at + LENGTH_BYTES], "little")
            if end > len(value) or end - at < LENGTH_BYTES + self._width:
                raise self._damaged()
            found.append(value[at:end])
            at = end
        return found

    def version(self, record: bytes) -> tuple[int, int]:
        """The created timestamp and the event id's number of a record."""
        created, number = struct.unpack("<qQ", record[self._identity])
        return created, number

    def facts(self, record: bytes) -> Facts:
        """The event time, created timestamp and event id's number of a record, and whether it counts."""
        event_us, _, created_us, number, counts = self._head.unpack_from(record, self._begin)
        return event_us, created_us, number, counts

    def merge(self, value: bytes | None, wanted: "KeyEvents | None", gone: "KeyEvents | None") -> "Merged":
        """What a key that holds `value` should hold: the records wanted, none that is gone, what else is there.

        A record that says otherwise of a version than the one wanted is taken out.
        """
        identity = self._identity
        new = {record[identity]: record for record in (self.split(wanted.records) if wanted else [])}
        old = {record[identity] for record in (self.split(gone.records) if gone else [])} - new.keys()
        kept, removed, present = [], 0, set[bytes]()
        for record in self.split(value or b""):
            version = record[identity]
            if version in old or new.get(version, record) != record:
                removed += 1
                continue
            kept.append(record)
            present.add(version)
        missing = [record for version, record in new.items() if version not in present]
        return Merged(value=b"".join([*kept, *missing]), missing=b"".join(missing), added=len(missing), removed=removed)

    def _damaged(self) -> OnlineStoreError:
        return OnlineStoreError(
            "the events of a key cannot be taken apart", where=self._view_id,
            remedy=f"run `features sync --full {self._view_id}`",
        )  # fmt: skip


def in_force(facts: Iterable[Facts]) -> list[Facts]:
    """The facts of the events of one key that count, each in its version in force (as in `windows.versions`)."""
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
