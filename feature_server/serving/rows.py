"""The packed rows of one view → columns of the features asked for, with what is absent and why."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from ..definitions.facts import Feature
from ..errors import OnlineStoreError
from ..layout.row import struct_format
from ..online.registry import OnlineView
from ..times import from_us
from .counts import ValueCounts

PRESENT, NULL_VALUE, NOT_FOUND, OUTSIDE_MAX_AGE = "PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"

_EXACT_US = 2**32 * 1_000_000  # until 2106 a float of seconds tells microseconds apart


def to_datetimes(microseconds: Sequence[int]) -> list[datetime]:
    """Microseconds since 1970 UTC as aware times; OverflowError outside the years 1 to 9999."""
    if not microseconds:
        return []
    if min(microseconds) > -_EXACT_US and max(microseconds) < _EXACT_US:
        # Four times as fast as adding timedeltas.
        return msgspec.convert([us / 1e6 for us in microseconds], list[datetime], strict=False)
    return [from_us(us) for us in microseconds]


class ViewColumns:
    """What one view holds for the entities of a request, one item an entity in every sequence.

    `event_us` is 0 where there is no row. `columns` holds the stored values (see `layout.row.from_stored`) of each
    feature asked for, `nulls` None or a flag per entity that says which of them mean nothing. `absent` maps the
    entities that have no valid row to NOT_FOUND or OUTSIDE_MAX_AGE.
    """

    __slots__ = ("absent", "columns", "event_us", "nulls")

    def __init__(
        self,
        event_us: Sequence[int],
        columns: Sequence[Sequence[Any]],
        nulls: Sequence[Sequence[int] | None],
        absent: dict[int, str] | None,
    ) -> None:
        self.event_us = event_us
        self.columns = columns
        self.nulls = nulls
        self.absent = absent

    def statuses(self, feature: int) -> list[str] | None:
        """The status of each entity's value of a feature; None when all are PRESENT."""
        flags = self.nulls[feature]
        if flags is None:
            return None
        statuses = [NULL_VALUE if flag else PRESENT for flag in flags]
        if self.absent:
            for i, status in self.absent.items():
                statuses[i] = status
        return statuses


class ViewReader:
    """Reads the features asked for out of a view's packed rows.

    The bytes of features that nobody asked for are skipped without making Python values of them.
    """

    stream = False
    bases = False  # whether `read` needs the bases of lifetime windows too

    def __init__(
        self, online: OnlineView, ttl_us: int | None, features: Sequence[Feature], counts: ValueCounts
    ) -> None:
        definition = online.definition
        self.view_id = definition.id
        self.ttl_us = ttl_us
        self.features = tuple(features)
        self.online = online
        self.counts = counts
        position = {feature.name: i for i, feature in enumerate(definition.features)}
        wanted = [position[feature.name] for feature in features]
        fixed = [i for i, feature in enumerate(definition.features) if feature.dtype.fixed_width is not None]
        variable = [i for i, feature in enumerate(definition.features) if feature.dtype.fixed_width is None]
        self._bits = tuple((i >> 3, i & 7) for i in wanted)
        bitmap_width = (len(definition.features) + 7) // 8
        self._no_nulls = bytes(bitmap_width)
        layout = [f"<q{bitmap_width}s"]
        at: dict[int, int] = {}
        for i in fixed:
            dtype = definition.features[i].dtype
            if i in wanted:
                at[i] = 2 + len(at)
                layout.append(struct_format(dtype))
            else:
                layout.append(f"{dtype.fixed_width}x")
        ends = 2 + len(at)
        # A value of variable width reaches from the end of the one before it to its own end.
        self._columns = tuple(
            (at[i], None) if i in at else (ends + variable.index(i) - 1, ends + variable.index(i)) for i in wanted
        )
        self._first_variable = ends - 1
        self._head = struct.Struct("".join(layout) + "I" * len(variable))
        self._unpack = self._head.unpack_from if variable else self._head.unpack
        nulls = bytes(0xFF for _ in range(bitmap_width))
        self._null_tail = nulls + bytes(self._head.size - 8 - bitmap_width)
        self._no_row = bytes(8) + self._null_tail

    def read(self, rows: Sequence[bytes | None], now_us: int, unknown: set[int] | None = None) -> ViewColumns:
        """The columns of `rows`, one row an entity, as of `now_us`; `unknown` entities have a null key."""
        if not rows:
            return ViewColumns((), [()] * len(self.features), [None] * len(self.features), None)
        absent: dict[int, str] | None = None
        present = rows
        if None in rows:
            absent = {i: NOT_FOUND for i, row in enumerate(rows) if row is None}
            present = [self._no_row if row is None else row for row in rows]
        unpacked = self._unpacked(present)  # type: ignore[arg-type]
        if max(unpacked[0]) > now_us or (self.ttl_us is not None and min(unpacked[0]) < now_us - self.ttl_us):
            absent, valid = self._without_invalid(present, unpacked[0], absent or {}, now_us)  # type: ignore[arg-type]
            if valid is not None:
                present, unpacked = valid, self._unpacked(valid)
        columns = [
            unpacked[start] if end is None else self._slices(present, unpacked, start, end)  # type: ignore[arg-type]
            for start, end in self._columns
        ]
        nulls = self._nulls(unpacked[1])
        self._count(len(rows), nulls, absent)
        return ViewColumns(unpacked[0], columns, nulls, absent)

    def _unpacked(self, rows: Sequence[bytes]) -> list[tuple[Any, ...]]:
        try:
            return list(zip(*map(self._unpack, rows), strict=True))
        except struct.error as error:
            raise OnlineStoreError(
                f"a stored row of {self.view_id!r} has another layout than the online registry says",
                where=self.view_id,
                got=str(error),
                remedy=f"run `features sync {self.view_id} --full`",
            ) from None

    def _without_invalid(
        self, rows: Sequence[bytes], event_us: Sequence[int], absent: dict[int, str], now_us: int
    ) -> tuple[dict[int, str], list[bytes] | None]:
        """The rows with those that do not count at `now_us` replaced: expired ones, and ones from the future.

        None in place of the rows when all of them do.
        """
        kept, missing = list(rows), len(absent)
        oldest = now_us - self.ttl_us if self.ttl_us is not None else min(event_us)
        for i, event in enumerate(event_us):
            if i in absent:
                continue
            if event > now_us:
                absent[i], kept[i] = NOT_FOUND, self._no_row
            elif event < oldest:
                absent[i], kept[i] = OUTSIDE_MAX_AGE, rows[i][:8] + self._null_tail
        return absent, kept if len(absent) > missing else None

    def _slices(self, rows: Sequence[bytes], unpacked: Sequence[tuple[int, ...]], start: int, end: int) -> list[bytes]:
        base = self._head.size
        if start == self._first_variable:
            return [row[base : base + stop] for row, stop in zip(rows, unpacked[end], strict=True)]
        return [
            row[base + begin : base + stop]
            for row, begin, stop in zip(rows, unpacked[start], unpacked[end], strict=True)
        ]

    def _nulls(self, bitmaps: Sequence[bytes]) -> list[Sequence[int] | None]:
        if bitmaps.count(self._no_nulls) == len(bitmaps):
            return [None] * len(self._bits)
        found: list[Sequence[int] | None] = []
        for byte, bit in self._bits:
            flags = [bitmap[byte] >> bit & 1 for bitmap in bitmaps]
            found.append(flags if any(flags) else None)
        return found

    def _count(self, rows: int, nulls: Sequence[Sequence[int] | None], absent: dict[int, str] | None) -> None:
        counts, features = self.counts, len(self.features)
        empty = sum(sum(flags) for flags in nulls if flags is not None)
        counts.present += rows * features - empty
        if absent:
            expired = sum(1 for status in absent.values() if status is OUTSIDE_MAX_AGE)
            counts.outside_max_age += expired * features
            counts.not_found += (len(absent) - expired) * features
            empty -= len(absent) * features
        counts.null_value += empty
