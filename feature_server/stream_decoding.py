"""The bytes that Redis holds of a stream view's keys → `stream_window.Events`, with NumPy alone."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .codec import RowCodec, struct_format
from .definitions import FeatureView
from .errors import OnlineStoreError
from .stream_records import FIRST_ARGUMENT, is_fixed_width, record_view
from .stream_reduce import Values
from .stream_window import NEVER, Events

Dictionary: TypeAlias = list[bytes] | None
_CREATED, _EVENT_ID, _COUNTS = 0, 1, 2


class EventDecoder:
    """Decodes the records of one stream view; of the plan's arguments only those given, by default all.

    An argument's values are as in `stream_arrow`: numbers, booleans, days, microseconds, decimals as integers (Python's
    beyond 18 digits); strings, UUIDs and lists are places in a sorted list of their stored bytes.
    """

    def __init__(self, view: FeatureView, arguments: Collection[int] | None = None) -> None:
        records = record_view(view)
        self._view_id = view.id
        self._codec = RowCodec(records.features)
        self._all = range(FIRST_ARGUMENT, len(records.features))
        self._wanted = self._all if arguments is None else {FIRST_ARGUMENT + i for i in arguments}
        self._dtype = _head_dtype(self._codec)
        self._fixed = is_fixed_width(records)
        self.width = self._dtype.itemsize if self._fixed else None

    def decode(self, stored: Sequence[bytes | None]) -> tuple[Events, list[Dictionary]]:
        """The events of n keys, the values of which are given (None: no such key), as n groups.

        With them, for each argument, what its integers are places in, where it is no number.
        """
        heads, tails, sizes = self._records(stored)
        starts = np.zeros(len(sizes) + 1, dtype=np.int64)
        np.cumsum(sizes, out=starts[1:])
        event_us = np.ascontiguousarray(heads["event"])
        created_us = np.ascontiguousarray(heads[f"v{_CREATED}"])
        arguments = [self._argument(heads, tails, i) if i in self._wanted else (None, None) for i in self._all]
        event_id = np.ascontiguousarray(heads[f"v{_EVENT_ID}"]).view(np.int64)
        events = Events(
            starts=starts,
            event_us=event_us,
            created_us=created_us,
            event_id=event_id,
            counts=np.ascontiguousarray(heads[f"v{_COUNTS}"]).view(np.bool_),
            arguments=[values for values, _ in arguments],
            superseded=np.full(len(heads), NEVER) if _increases(event_id, starts) else None,
        )
        if not _is_sorted(event_us, created_us, starts):
            group = np.repeat(np.arange(len(sizes)), sizes)
            events = events.take(np.lexsort((created_us, event_us, group)), starts)
        return events, [dictionary for _, dictionary in arguments]

    def trimmed(self, stored: bytes, before_us: int | None) -> bytes:
        """A key's value without the records that no read needs from now on.

        Those are superseded versions, and events that occurred and were created before `before_us`, but for the latest
        of them that counts. One created later may still keep an earlier version, sent again, from counting.
        """
        heads, tails, _ = self._records([stored])
        order = np.lexsort((np.arange(len(heads)), heads[f"v{_CREATED}"], heads[f"v{_EVENT_ID}"]))
        ids = heads[f"v{_EVENT_ID}"][order]
        keep = np.zeros(len(heads), dtype=np.bool_)
        keep[order[np.append(ids[1:] != ids[:-1], True)]] = True
        if before_us is not None:
            old = np.maximum(heads["event"], heads[f"v{_CREATED}"]) < before_us
            counted = np.flatnonzero(keep & old & (heads[f"v{_COUNTS}"] != 0))
            keep &= ~old
            if len(counted):
                keep[counted[np.lexsort((heads[f"v{_CREATED}"][counted], heads["event"][counted]))[-1]]] = True
        if self._fixed:
            return heads[keep].tobytes()
        width = self._dtype.itemsize
        return b"".join(
            (width + len(tails[row])).to_bytes(4, "little") + heads[row].tobytes() + tails[row]
            for row in np.flatnonzero(keep)
        )

    def _records(self, stored: Sequence[bytes | None]) -> tuple[npt.NDArray[Any], list[bytes], npt.NDArray[np.int64]]:
        """The fixed-width heads of all records, what follows each (of records that differ in width), records a key."""
        values = [value or b"" for value in stored]
        lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
        if self._fixed:
            sizes, rest = np.divmod(lengths, self._dtype.itemsize)
            if rest.any():
                raise self._damaged("a length that is no multiple of a record's")
            return np.frombuffer(b"".join(values), self._dtype), [], sizes
        head = self._dtype.itemsize
        heads, tails, sizes = [], [], np.zeros(len(values), dtype=np.int64)
        for i, value in enumerate(values):
            at = 0
            while at < len(value):
                start, at = at + 4, at + 4 + int.from_bytes(value[at : at + 4], "little")
                if at > len(value) or at - start < head:
                    raise self._damaged("a record that is cut off")
                heads.append(value[start : start + head])
                tails.append(value[start + head : at])
                sizes[i] += 1
        return np.frombuffer(b"".join(heads), self._dtype), tails, sizes

    def _argument(self, heads: npt.NDArray[Any], tails: list[bytes], i: int) -> tuple[Values, Dictionary]:
        null = np.zeros(len(heads), dtype=np.bool_)
        bits = heads["nulls"][:, i >> 3]
        if bits.any():
            null = (bits >> (i & 7) & 1).astype(np.bool_)
        dtype = self._codec.dtypes[i]
        if dtype.fixed_width is None:
            place = self._codec.variable.index(i)
            begin = heads[f"end{self._codec.variable[place - 1]}"].tolist() if place else [0] * len(tails)
            slices = [tail[a:b] for tail, a, b in zip(tails, begin, heads[f"end{i}"].tolist(), strict=True)]
            return _places(slices, null)
        values = heads[f"v{i}"]
        if dtype.kind == "bool":
            return Values(np.ascontiguousarray(values).view(np.bool_), null), None
        if dtype.fixed_width == 16:
            stored = np.ascontiguousarray(values).tobytes()
            parts = [stored[at : at + 16] for at in range(0, len(stored), 16)]
            if dtype.kind == "uuid":
                return _places(parts, null)
            numbers = np.empty(len(parts), dtype=object)
            numbers[:] = [int.from_bytes(part, "little", signed=True) for part in parts]
            return Values(numbers, null), None
        return Values(np.ascontiguousarray(values), null), None

    def _damaged(self, got: str) -> OnlineStoreError:
        return OnlineStoreError(
            f"the stored events of {self._view_id!r} have another layout than the online registry says",
            where=self._view_id,
            got=got,
            remedy=f"run `features sync {self._view_id} --full`",
        )


def _increases(event_id: npt.NDArray[Any], starts: npt.NDArray[Any]) -> bool:
    """Whether each group's event ids increase, so that none occurs twice."""
    later = event_id[1:] > event_id[:-1]
    later[_first_of_groups(starts, len(event_id))] = True
    return bool(later.all())


def _is_sorted(event_us: npt.NDArray[Any], created_us: npt.NDArray[Any], starts: npt.NDArray[Any]) -> bool:
    ordered = event_us[1:] > event_us[:-1]
    ordered[_first_of_groups(starts, len(event_us))] = True
    if ordered.all():
        return True
    return bool((ordered | ((event_us[1:] == event_us[:-1]) & (created_us[1:] >= created_us[:-1]))).all())


def _first_of_groups(starts: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Where, among the steps from one event to the next, another group begins."""
    inner = starts[1:-1]
    return inner[(inner > 0) & (inner < size)] - 1


def _places(values: list[bytes], null: npt.NDArray[np.bool_]) -> tuple[Values, Dictionary]:
    """Bytes as places in a sorted list of those that occur."""
    dictionary = sorted(set(values))
    place = {value: i for i, value in enumerate(dictionary)}
    return Values(np.fromiter(map(place.__getitem__, values), dtype=np.int64, count=len(values)), null), dictionary


def _head_dtype(codec: RowCodec) -> np.dtype[Any]:
    """The fixed-width head of a record; `v3` is feature 3's value, `end3` the end of its bytes."""
    parts: list[Any] = [("event", "<i8"), ("nulls", np.uint8, (codec.bitmap_width,))]
    for i in codec.fixed:
        code = struct_format(codec.dtypes[i])
        parts.append((f"v{i}", "V16" if code == "16s" else "<" + code.replace("?", "B")))
    found = np.dtype([*parts, *((f"end{i}", "<u4") for i in codec.variable)])
    assert found.itemsize == struct.calcsize(codec.head.format)
    return found
