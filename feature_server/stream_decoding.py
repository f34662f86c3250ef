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
from .stream_window import Events

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
        self._dtype = head_dtype(self._codec)
        self._fixed = is_fixed_width(records)
        self.width = self._dtype.itemsize if self._fixed else None

    def decode(self, stored: Sequence[bytes | None]) -> tuple[Events, list[Dictionary]]:
        """The events of n keys, the values of which are given (None: no such key), as n groups.

        With them, for each argument, what its integers are places in, where it is no number. `event_id` is None where
        every event has one version.
        """
        heads, tails, starts = self._records(stored)
        event_us, event_id = _column(heads, "event"), _column(heads, f"v{_EVENT_ID}").view(np.int64)
        no_null, nulls = np.zeros(len(heads), dtype=np.bool_), heads["nulls"]
        some_null = bool(np.count_nonzero(nulls))
        found: list[tuple[Values | None, Dictionary]] = [(None, None)] * len(self._all)
        for i in self._wanted:
            null = (nulls[:, i >> 3] >> (i & 7) & 1).astype(np.bool_) if some_null else no_null
            found[i - FIRST_ARGUMENT] = self._argument(heads, tails, i, null)
        steps = _Steps(starts, len(heads))
        events = Events(
            starts=starts,
            event_us=event_us,
            created_us=heads[f"v{_CREATED}"],
            event_id=None if steps.all_up(event_id) or _are_distinct(event_id) else event_id,
            counts=heads[f"v{_COUNTS}"].view(np.bool_),
            arguments=[values for values, _ in found],
        )
        if not steps.all_up(event_us):
            created_us = _column(heads, f"v{_CREATED}")
            if not steps.all_up(event_us, created_us):
                group = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
                events = events.take(np.lexsort((created_us, event_us, group)), starts)
        return events, [dictionary for _, dictionary in found]

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
        """The fixed-width heads of all records, what follows each (of records that differ in width), and where each
        key's records begin."""
        values: Any = [value or b"" for value in stored] if None in stored else stored
        starts = np.zeros(len(values) + 1, dtype=np.int64)
        if self._fixed:
            np.cumsum(np.fromiter(map(len, values), dtype=np.int64, count=len(values)), out=starts[1:])
            starts, rest = np.divmod(starts, self._dtype.itemsize)
            if np.count_nonzero(rest):
                raise self._damaged("a length that is no multiple of a record's")
            return np.frombuffer(b"".join(values), self._dtype), [], starts
        head = self._dtype.itemsize
        heads: list[bytes] = []
        tails: list[bytes] = []
        for i, value in enumerate(values):
            at = 0
            while at < len(value):
                start, at = at + 4, at + 4 + int.from_bytes(value[at : at + 4], "little")
                if at > len(value) or at - start < head:
                    raise self._damaged("a record that is cut off")
                heads.append(value[start : start + head])
                tails.append(value[start + head : at])
            starts[i + 1] = len(heads)
        return np.frombuffer(b"".join(heads), self._dtype), tails, starts

    def _argument(
        self, heads: npt.NDArray[Any], tails: list[bytes], i: int, null: npt.NDArray[np.bool_]
    ) -> tuple[Values, Dictionary]:
        dtype = self._codec.dtypes[i]
        if dtype.fixed_width is None:
            place = self._codec.variable.index(i)
            begin = heads[f"end{self._codec.variable[place - 1]}"].tolist() if place else [0] * len(tails)
            slices = [tail[a:b] for tail, a, b in zip(tails, begin, heads[f"end{i}"].tolist(), strict=True)]
            return _places(slices, null)
        values = _column(heads, f"v{i}")
        if dtype.kind == "bool":
            return Values(values.view(np.bool_), null), None
        if dtype.fixed_width == 16:
            stored = values.tobytes()
            parts = [stored[at : at + 16] for at in range(0, len(stored), 16)]
            if dtype.kind == "uuid":
                return _places(parts, null)
            numbers = np.empty(len(parts), dtype=object)
            numbers[:] = [int.from_bytes(part, "little", signed=True) for part in parts]
            return Values(numbers, null), None
        return Values(values, null), None

    def _damaged(self, got: str) -> OnlineStoreError:
        return OnlineStoreError(
            f"the stored events of {self._view_id!r} have another layout than the online registry says",
            where=self._view_id,
            got=got,
            remedy=f"run `features sync {self._view_id} --full`",
        )


class _Steps:
    """The steps from one event to the next within the groups."""

    def __init__(self, starts: npt.NDArray[np.int64], size: int) -> None:
        inner = starts[1:-1]
        if len(inner) and (inner[0] == 0 or inner[-1] == size):  # groups without events at either end
            inner = inner[(inner > 0) & (inner < size)]
        self._between = inner - 1  # those from one group to the next

    def all_up(self, values: npt.NDArray[Any], ties: npt.NDArray[Any] | None = None) -> bool:
        """Whether `values` increase within each group, or stay equal while `ties` do not decrease."""
        up = values[1:] > values[:-1]
        if ties is not None:
            up |= (values[1:] == values[:-1]) & (ties[1:] >= ties[:-1])
        up[self._between] = True
        return np.count_nonzero(up) == len(up)


def _are_distinct(event_id: npt.NDArray[np.int64]) -> bool:
    in_order = np.sort(event_id)
    return not np.count_nonzero(in_order[1:] == in_order[:-1])


def _column(heads: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    return np.ascontiguousarray(heads[name])


def _places(values: list[bytes], null: npt.NDArray[np.bool_]) -> tuple[Values, Dictionary]:
    """Bytes as places in a sorted list of those that occur."""
    dictionary = sorted(set(values))
    place = {value: i for i, value in enumerate(dictionary)}
    return Values(np.fromiter(map(place.__getitem__, values), dtype=np.int64, count=len(values)), null), dictionary


def head_dtype(codec: RowCodec) -> np.dtype[Any]:
    """The fixed-width head of a record; `v3` is feature 3's value, `end3` the end of its bytes."""
    parts: list[Any] = [("event", "<i8"), ("nulls", np.uint8, (codec.bitmap_width,))]
    for i in codec.fixed:
        code = struct_format(codec.dtypes[i])
        parts.append((f"v{i}", "V16" if code == "16s" else "<" + code.replace("?", "B")))
    found = np.dtype([*parts, *((f"end{i}", "<u4") for i in codec.variable)])
    assert found.itemsize == struct.calcsize(codec.head.format)
    return found
