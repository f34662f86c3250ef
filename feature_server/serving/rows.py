"""The packed rows of one view → columns of the features asked for, with what is absent and why."""

import struct
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from operator import le
from typing import Any

import msgspec

from ..definitions.facts import Feature
from ..errors import DamagedValue
from ..layout.row import RowLayout, damaged
from ..online.registry import OnlineView
from ..times import from_us
from .statuses import NOT_FOUND, NULL_VALUE, PRESENT, ValueCounts, absent_at

_EXACT_US = 2**32 * 1_000_000  # until 2106 a float of seconds tells microseconds apart


def to_datetimes(microseconds: Sequence[int]) -> list[datetime]:
    """Microseconds since 1970 UTC as aware times; OverflowError outside the years 1 to 9999."""
    if not microseconds:
        return []
    if min(microseconds) > -_EXACT_US and max(microseconds) < _EXACT_US:
        # Four times as fast as adding timedeltas.
        return msgspec.convert([us / 1e6 for us in microseconds], list[datetime], strict=False)
    return [from_us(us) for us in microseconds]


class ViewColumns(msgspec.Struct):
    """What one view holds for the entities of a request, one item an entity in every sequence.

    `event_us` is 0 where there is no row. `columns` holds the stored values (see `layout.row.from_stored`) of each
    feature asked for, `nulls` None or a flag per entity that says which of them mean nothing. `absent` maps, for each
    feature, the entities that have no valid row to NOT_FOUND or OUTSIDE_MAX_AGE.
    """

    event_us: Sequence[int]
    columns: Sequence[Sequence[Any]]
    nulls: Sequence[Sequence[int] | None]
    absent: Sequence[Mapping[int, str]]

    def statuses(self, feature: int) -> list[str] | None:
        """The status of each entity's value of a feature; None when all are PRESENT."""
        flags = self.nulls[feature]
        if flags is None:
            return None
        statuses = [NULL_VALUE if flag else PRESENT for flag in flags]
        for i, status in self.absent[feature].items():
            statuses[i] = status
        return statuses


class ViewReader:
    """Reads the features asked for out of a view's packed rows.

    The bytes of features that nobody asked for are skipped without making Python values of them.
    """

    stream = False
    doubtful = False  # whether Redis may have evicted keys of the view
    bases = False  # whether `read` needs the bases of lifetime windows too

    def __init__(
        self, online: OnlineView, ttl_us: int | None, features: Sequence[Feature], counts: ValueCounts
    ) -> None:
        self.view_id, self.ttl_us = online.definition.id, ttl_us
        self.features, self.online, self.counts = tuple(features), online, counts
        self._prepare()

    def _prepare(self) -> None:
        """Work out what is the same for all reads."""
        self.layout = layout = RowLayout(self.online.definition.features)
        places = {name: i for i, name in enumerate(layout.names)}
        self.wanted = [places[feature.name] for feature in self.features]
        self.no_row = layout.no_row()
        self._bits = [(i >> 3, i & 7) for i in self.wanted]
        self._no_nulls, self._all_nulls = bytes(layout.bitmap_width), b"\xff" * layout.bitmap_width
        head = layout.head({*self.wanted, *layout.variable})
        self._unpack = head.unpack_from if layout.variable else head.unpack
        wanted = set(self.wanted)
        unpacked = [i for i in layout.fixed if i in wanted] + list(layout.variable)
        found, variable = {i: 2 + n for n, i in enumerate(unpacked)}, set(layout.variable)
        self._places = [(found[i], i in variable) for i in self.wanted]
        self._first_variable = 2 + len(unpacked) - len(layout.variable)
        self._ends = range(self._first_variable, 2 + len(unpacked))

    def read(self, rows: Sequence[bytes | None], now_us: int, unknown: Collection[int] = ()) -> ViewColumns:
        """The columns of `rows`, one row an entity, as of `now_us`; `unknown` entities have a null key.

        Raises DamagedValue, with the first one's place, for a row that is not laid out as the online registry says.
        """
        features = len(self.features)
        if not rows:
            return ViewColumns((), [()] * features, [None] * features, [{}] * features)
        present: Any = [self.no_row if row is None else row for row in rows] if None in rows else rows
        unpacked = self._unpacked(present)
        absent = absent_at(unpacked[0], now_us, self.ttl_us)
        if absent:
            event_us, bitmaps = list(unpacked[0]), list(unpacked[1])
            for i, status in absent.items():
                bitmaps[i] = self._all_nulls
                if status is NOT_FOUND:
                    event_us[i] = 0
            unpacked[:2] = event_us, bitmaps
        columns = [
            self._slices(present, unpacked, place) if is_variable else unpacked[place]
            for place, is_variable in self._places
        ]
        nulls = self._nulls(unpacked[1])
        self.counts.add(len(rows), features, sum(map(sum, filter(None, nulls))), absent)
        return ViewColumns(unpacked[0], columns, nulls, [absent] * features)

    def _unpacked(self, rows: Sequence[bytes]) -> list[Sequence[Any]]:
        try:
            unpacked: list[Sequence[Any]] = list(zip(*map(self._unpack, rows), strict=True))
        except struct.error:
            raise self._damaged(rows) from None
        if self._ends:
            width, ends = self.layout.width, [unpacked[place] for place in self._ends]
            rising = all(all(map(le, end, following)) for end, following in pairwise(ends))
            if not rising or [len(row) - width for row in rows] != [*ends[-1]]:
                raise self._damaged(rows)
        return unpacked

    def _damaged(self, rows: Sequence[bytes]) -> DamagedValue:
        """The error for the first of the rows that is damaged."""
        for place, row in enumerate(rows):
            if len(row) < self.layout.width:
                return self._error(f"{len(row)} bytes, of {self.layout.width} at least").at(place)
            ends = [0, *(self._unpack(row)[at] for at in self._ends)]
            if len(row) != self.layout.width + ends[-1] or ends != sorted(ends):
                return self._error(f"{len(row)} bytes, which are not those of its values").at(place)
        raise AssertionError("no row is damaged")

    def _error(self, got: str) -> DamagedValue:
        return damaged(self.view_id, "a stored row", got)

    def _slices(self, rows: Sequence[bytes], unpacked: Sequence[Sequence[int]], place: int) -> list[bytes]:
        """Strings or lists: their bytes reach from the end of the ones before to their own."""
        base = self.layout.width
        if place == self._first_variable:
            return [row[base : base + stop] for row, stop in zip(rows, unpacked[place], strict=True)]
        spans = zip(rows, unpacked[place - 1], unpacked[place], strict=True)
        return [row[base + begin : base + stop] for row, begin, stop in spans]

    def _nulls(self, bitmaps: Sequence[bytes]) -> list[Sequence[int] | None]:
        if bitmaps.count(self._no_nulls) == len(bitmaps):
            return [None] * len(self._bits)
        found: list[Sequence[int] | None] = []
        for byte, bit in self._bits:
            flags = [bitmap[byte] >> bit & 1 for bitmap in bitmaps]
            found.append(flags if any(flags) else None)
        return found
