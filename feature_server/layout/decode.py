"""The bytes that Redis holds of a stream view's keys → `windows.window.Events`, with NumPy alone."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..definitions.aggregates import Part, compared_argument, is_count
from ..definitions.facts import FeatureView
from ..errors import DamagedValue
from ..times import NEVER
from ..windows.reduce import Values
from ..windows.window import NO_EVENT, Events, superseded_at
from .events import (
    COUNTED,
    FIRST_ARGUMENT,
    HAS_BASE,
    LENGTH_BYTES,
    base_view,
    part_features,
    plan_of,
    record_view,
)
from .row import RowLayout, damaged

Array: TypeAlias = npt.NDArray[Any]
Dictionary: TypeAlias = Sequence[bytes] | None
_CREATED, _EVENT_ID, _COUNTS = 0, 1, 2


class Decoded(NamedTuple):
    """Events of some keys as groups; what their arguments' integers are places in, where they are no numbers; and the
    flags of all records, those of each key from `starts` on."""

    events: Events
    dictionaries: list[Dictionary]
    flags: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]

    def of_keys(self) -> npt.NDArray[np.uint8]:
        """The flags that any record of each key has."""
        found = np.zeros(len(self.starts) - 1, dtype=np.uint8)
        some = np.flatnonzero(self.starts[1:] > self.starts[:-1])
        if len(some):
            found[some] = np.bitwise_or.reduceat(self.flags, self.starts[some])
        return found


class EventDecoder:
    """Decodes the records of one stream view; of the plan's arguments only those given, by default all.

    An argument's values are as in `index.values`: numbers, booleans, days, microseconds, decimals as integers (Python's
    beyond 18 digits); strings, UUIDs and lists are places in a sorted list of their stored bytes, or in that of all
    records where the plan only picks events and never compares the argument.
    """

    def __init__(self, view: FeatureView, arguments: Collection[int] | None = None) -> None:
        records = record_view(view)
        self._view_id = view.id
        self._layout = RowLayout(records.features)
        self._all = range(FIRST_ARGUMENT, len(records.features))
        self._wanted = self._all if arguments is None else {FIRST_ARGUMENT + i for i in arguments}
        self._compared = {
            FIRST_ARGUMENT + i for aggregate in plan_of(view).aggregates for i in compared_argument(aggregate)
        }

    def decode(self, stored: Sequence[bytes | None]) -> Decoded:
        """The events of n keys, the values of which are given (None: no such key), as n groups.

        `event_id` is None where every event has one version. Raises DamagedValue, with the first key's place.
        """
        records = self._records(stored)
        heads, starts = records.heads, records.starts
        flags = _column(heads, f"v{_COUNTS}")
        event_us, event_id = _column(heads, "event"), _column(heads, f"v{_EVENT_ID}").view(np.int64)
        no_null = np.zeros(len(heads), dtype=np.bool_)
        some_null = bool(np.count_nonzero(heads["nulls"]))
        found: list[tuple[Values | None, Dictionary]] = [(None, None)] * len(self._all)
        for i in self._wanted:
            null = self._layout.nulls(heads, i) if some_null else no_null
            found[i - FIRST_ARGUMENT] = self._argument(records, i, null)
        # The steps from one group's last event to the next group's first, which may go anywhere.
        between = starts[np.searchsorted(starts, 0, "right") : np.searchsorted(starts, len(heads))] - 1
        events = Events(
            starts=starts,
            event_us=event_us,
            created_us=heads[f"v{_CREATED}"],
            event_id=None if _ascend(between, event_id) or _are_distinct(event_id) else event_id,
            counts=(flags & COUNTED).view(np.bool_),
            arguments=[values for values, _ in found],
        )
        if not _ascend(between, event_us):
            created_us, number = _column(heads, f"v{_CREATED}"), _column(heads, f"v{_EVENT_ID}")
            if not _ascend(between, event_us, created_us, number):
                group = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
                events = events.take(np.lexsort((number, created_us, event_us, group)), starts)
        return Decoded(events, [dictionary for _, dictionary in found], flags, starts)

    def trimmed(self, stored: bytes, before_us: int | None) -> bytes:
        """A key's value without the records that no read needs from now on.

        Those are superseded versions, and events that occurred and were created before `before_us`, but for the latest
        of them that counts, or of all where none of them does: no key is without records. One created later may still
        keep an earlier version, sent again, from counting. What the flags of all say of the key, the first one's say
        then.
        """
        records = self._records([stored])
        heads = records.heads
        order = np.lexsort((heads[f"v{_EVENT_ID}"], heads[f"v{_CREATED}"], heads["event"]))
        created_us, event_id = heads[f"v{_CREATED}"][order], heads[f"v{_EVENT_ID}"][order]
        needed = superseded_at(np.array([0, len(heads)]), event_id, created_us) == NEVER
        if before_us is not None:
            old = needed & (np.maximum(heads["event"][order], created_us) < before_us)
            counted = np.flatnonzero(old & (heads[f"v{_COUNTS}"][order] & COUNTED != 0))
            last = (counted if len(counted) else np.flatnonzero(needed))[-1:]
            needed &= ~old
            needed[last] = True
        keep = np.zeros(len(heads), dtype=np.bool_)
        keep[order[needed]] = True
        at, begin = self._layout.offsets[_COUNTS], 0
        if records.begin is None:
            kept = bytearray(heads[keep].tobytes())
        else:
            begin, ends = LENGTH_BYTES, records.begin + self._layout.spans(heads, self._layout.variable[-1])[1]
            spans = zip((records.begin[keep] - LENGTH_BYTES).tolist(), ends[keep].tolist(), strict=True)
            kept = bytearray(b"").join([records.whole[start:end] for start, end in spans])
        if kept:
            kept[begin + at] |= int(np.bitwise_or.reduce(heads[f"v{_COUNTS}"])) & HAS_BASE
        return bytes(kept)

    def _records(self, stored: Sequence[bytes | None]) -> "_Records":
        try:
            return self._taken_apart(stored)
        except DamagedValue:
            for place, value in enumerate(stored):
                try:
                    self._taken_apart([value])
                except DamagedValue as error:
                    raise error.at(place) from None
            raise

    def _taken_apart(self, stored: Sequence[bytes | None]) -> "_Records":
        if b"" in stored:
            raise self._damaged("no bytes")
        values: Any = [value or b"" for value in stored] if None in stored else stored
        ends = np.zeros(len(values) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, values), dtype=np.int64, count=len(values)), out=ends[1:])
        whole = b"".join(values)
        width, dtype = self._layout.width, self._layout.head_dtype
        if not self._layout.variable:
            starts, rest = np.divmod(ends, width)
            if np.count_nonzero(rest):
                raise self._damaged("a length that is no multiple of a record's")
            return _Records(np.frombuffer(whole, dtype), starts, whole, None)
        places, lengths = _lengths(whole)
        starts = np.searchsorted(places, ends)
        found = np.append(places, len(whole))
        fit = np.array_equal(found[1:], places + LENGTH_BYTES + lengths) and lengths.min(initial=width) >= width
        if not fit or not np.array_equal(found[starts], ends):
            raise self._damaged("a record that is cut off")
        if not len(places):
            return _Records(np.empty(0, dtype), starts, whole, places)
        begin = places + LENGTH_BYTES
        anywhere = np.ndarray(len(whole) - width + 1, np.dtype((np.void, width)), whole, 0, (1,))  # overlapping
        heads = anywhere[begin].view(dtype)
        if not self._layout.whole(heads, lengths).all():
            raise self._damaged("a record whose strings or lists do not end where it does")
        return _Records(heads, starts, whole, begin)

    def _argument(self, records: "_Records", i: int, null: npt.NDArray[np.bool_]) -> tuple[Values, Dictionary]:
        dtype, heads = self._layout.dtypes[i], records.heads
        if dtype.fixed_width is None:
            assert records.begin is not None
            start, end = self._layout.spans(heads, i)
            return self._placed(_Slices(records.whole, records.begin + start, records.begin + end), i, null)
        values = _column(heads, f"v{i}")
        if dtype.fixed_width == 16:
            starts = np.arange(len(values)) * 16
            parts = _Slices(values.tobytes(), starts, starts + 16)
            if dtype.kind == "uuid":
                return self._placed(parts, i, null)
            return Values(objects([int.from_bytes(part, "little", signed=True) for part in parts]), null), None
        return Values(values, null), None

    def _placed(self, parts: "_Slices", i: int, null: npt.NDArray[np.bool_]) -> tuple[Values, Dictionary]:
        """Bytes as places: in a sorted list of those that occur, or in `parts` as they are."""
        if i not in self._compared:
            return Values(np.arange(len(parts)), null), parts
        texts = parts.all()
        dictionary = sorted(set(texts))
        place = {text: n for n, text in enumerate(dictionary)}
        return Values(np.fromiter(map(place.__getitem__, texts), dtype=np.int64, count=len(texts)), null), dictionary

    def _damaged(self, got: str) -> DamagedValue:
        return damaged(self._view_id, "a stored list of events", got)


class _Slices(Sequence[bytes]):
    """Parts of one string of bytes, cut when they are asked for."""

    def __init__(self, whole: bytes, start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]) -> None:
        self._whole, self._start, self._end = whole, start, end

    def __len__(self) -> int:
        return len(self._start)

    def __getitem__(self, i: Any) -> Any:
        return self._whole[self._start[i] : self._end[i]]

    def all(self) -> list[bytes]:
        whole = self._whole
        return [whole[a:b] for a, b in zip(self._start.tolist(), self._end.tolist(), strict=True)]


class _Records(NamedTuple):
    """The fixed-width heads of all records, where each key's begin, and the bytes they are from.

    Where records differ in width, `begin` is where each head begins in those bytes.
    """

    heads: npt.NDArray[Any]
    starts: npt.NDArray[np.int64]
    whole: bytes
    begin: npt.NDArray[np.int64] | None


def _ascend(between: Array, values: Array, *ties: Array) -> bool:
    """Whether values increase at all steps but those `between` groups; of equal ones the first of `ties` that differs
    must, if `ties` are given."""
    up = values[1:] > values[:-1]
    equal = values[1:] == values[:-1] if ties else up
    for more in ties:
        up |= equal & (more[1:] > more[:-1])
        equal &= more[1:] == more[:-1]
    if ties:
        up |= equal
    up[between] = True
    return np.count_nonzero(up) == len(up)


def _are_distinct(event_id: npt.NDArray[np.int64]) -> bool:
    in_order = np.sort(event_id)
    return not np.count_nonzero(in_order[1:] == in_order[:-1])


def _column(heads: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    return np.ascontiguousarray(heads[name])


def _lengths(whole: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each record's length stands, and the length, of records one after the other; the last may be cut off."""
    places: list[int] = []
    at, size = 0, len(whole)
    while at < size:
        places.append(at)
        at += LENGTH_BYTES + whole[at]  # most are shorter than 256 bytes: it is the length
    found = _uint32(whole, np.array(places, dtype=np.int64))
    if not places or (len(whole) - places[-1] >= LENGTH_BYTES and found[1].max() < 256):
        return found
    places, at = [], 0
    while at < size:
        places.append(at)
        at += LENGTH_BYTES + int.from_bytes(whole[at : at + LENGTH_BYTES], "little")
    return _uint32(whole, np.array(places, dtype=np.int64))


def _uint32(whole: bytes, places: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    if not len(places) or len(whole) - places[-1] < LENGTH_BYTES:
        return places, np.zeros(len(places), dtype=np.int64)  # too short for any record
    anywhere = np.ndarray(len(whole) - LENGTH_BYTES + 1, "<u4", whole, 0, (1,))
    return places, anywhere[places].astype(np.int64)


class BaseDecoder:
    """Decodes the bases of one stream view; of their states only those given."""

    def __init__(self, view: FeatureView, wanted: Sequence[Part]) -> None:
        self._view_id, self._parts, self._wanted = view.id, part_features(plan_of(view)), frozenset(wanted)
        features = base_view(view).features
        self._layout = RowLayout(features)
        counted = {feature.name for part, found in self._parts if is_count(part) for feature in found}
        none = np.zeros(1, self._layout.head_dtype)
        none["event"] = NO_EVENT
        for i in (i for i, feature in enumerate(features) if feature.name not in counted):
            none["nulls"][0, i >> 3] |= 1 << (i & 7)
        self._none = none.tobytes()

    def decode(self, bases: Sequence[bytes | None]) -> tuple[npt.NDArray[np.int64], dict[Part, list[Values]]]:
        """The cut-off of each key, NO_EVENT where it has no base, and each state.

        Raises DamagedValue, with the first key's place.
        """
        rows = [self._none if base is None else base for base in bases]
        width, lengths = self._layout.width, np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        short = np.flatnonzero(lengths < width)
        if not len(short):
            heads = np.frombuffer(b"".join([row[:width] for row in rows]), self._layout.head_dtype)
            short = np.flatnonzero(~self._layout.whole(heads, lengths))
        if len(short):
            place = int(short[0])
            got = f"{lengths[place]} bytes, which are not those of its states"
            raise damaged(self._view_id, "a stored base", got).at(place)
        states, i = dict[Part, list[Values]](), 0
        for part, features in self._parts:
            if part in self._wanted:
                states[part] = [self._values(heads, rows, i + place) for place in range(len(features))]
            i += len(features)
        return _column(heads, "event"), states

    def _values(self, heads: Array, rows: Sequence[bytes], i: int) -> Values:
        dtype, null = self._layout.dtypes[i], self._layout.nulls(heads, i)
        if dtype.fixed_width is None:
            spans = zip(rows, *(places.tolist() for places in self._layout.spans(heads, i)), strict=True)
            return Values(objects([row[begin:end] for row, begin, end in spans]), null)
        values = _column(heads, f"v{i}")
        if dtype.kind == "uuid":
            return Values(objects([value.tobytes() for value in values]), null)
        if dtype.fixed_width == 16:
            halves = values.view("<i8").reshape(-1, 2)
            low, high = np.ascontiguousarray(halves[:, 0]), halves[:, 1]
            if (high == low >> 63).all():
                return Values(low, null)
            return Values(objects([int.from_bytes(value.tobytes(), "little", signed=True) for value in values]), null)
        return Values(values, null)


def objects(values: list[Any]) -> Array:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found
