"""The bytes that Redis holds of a stream view's keys → `stream_window.Events`, with NumPy alone."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .codec import STRUCT_FORMATS, RowCodec, decode_list, struct_format
from .definitions import FeatureView
from .dtypes import DType
from .errors import OnlineStoreError
from .stream_records import FIRST_ARGUMENT, is_fixed_width, record_view
from .stream_reduce import Values
from .stream_window import Events

_CREATED, _EVENT_ID, _COUNTS = 0, 1, 2


class EventDecoder:
    """Decodes the records of one stream view.

    An argument's values are as NumPy keeps them: numbers, booleans, days, microseconds, decimals as integers (Python's
    beyond 18 digits); strings, UUIDs and lists are Python objects.
    """

    def __init__(self, view: FeatureView) -> None:
        records = record_view(view)
        self._view_id = view.id
        self._codec = RowCodec(records.features)
        self._dtype = _head_dtype(self._codec)
        self._fixed = is_fixed_width(records)
        self.width = self._dtype.itemsize if self._fixed else None

    def decode(self, stored: Sequence[bytes | None]) -> Events:
        """The events of n keys, the values of which are given (None: no such key), as n groups."""
        heads, tails, sizes = self._records(stored)
        group = np.repeat(np.arange(len(sizes)), sizes)
        starts = np.zeros(len(sizes) + 1, dtype=np.int64)
        np.cumsum(sizes, out=starts[1:])
        event_us = np.ascontiguousarray(heads["event"])
        created_us = np.ascontiguousarray(heads[f"v{_CREATED}"])
        events = Events(
            starts=starts,
            event_us=event_us,
            created_us=created_us,
            event_id=np.ascontiguousarray(heads[f"v{_EVENT_ID}"]).view(np.int64),
            counts=np.ascontiguousarray(heads[f"v{_COUNTS}"]).view(np.bool_),
            arguments=[self._argument(heads, tails, i) for i in range(FIRST_ARGUMENT, len(self._codec.dtypes))],
        )
        if _is_sorted(event_us, created_us, group):
            return events
        return events.take(np.lexsort((created_us, event_us, group)), starts)

    def _records(
        self, stored: Sequence[bytes | None]
    ) -> tuple[npt.NDArray[Any], list[bytes], npt.NDArray[np.int64]]:
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

    def _argument(self, heads: npt.NDArray[Any], tails: list[bytes], i: int) -> Values:
        null = (heads["nulls"][:, i >> 3] >> (i & 7) & 1).astype(np.bool_)
        dtype = self._codec.dtypes[i]
        if dtype.fixed_width is None:
            place = self._codec.variable.index(i)
            first = f"end{self._codec.variable[place - 1]}" if place else None
            begin = heads[first].tolist() if first else [0] * len(tails)
            slices = [tail[a:b] for tail, a, b in zip(tails, begin, heads[f"end{i}"].tolist(), strict=True)]
            return Values(_objects([_variable(dtype, part) for part in slices]), null)
        values = heads[f"v{i}"]
        if dtype.kind == "bool":
            return Values(np.ascontiguousarray(values).view(np.bool_), null)
        if dtype.fixed_width == 16:
            pairs = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 16)
            if dtype.kind == "uuid":
                return Values(_objects([row.tobytes() for row in pairs]), null)
            numbers = [int.from_bytes(row.tobytes(), "little", signed=True) for row in pairs]
            return Values(_objects(numbers), null)
        return Values(np.ascontiguousarray(values), null)

    def _damaged(self, got: str) -> OnlineStoreError:
        return OnlineStoreError(
            f"the stored events of {self._view_id!r} have another layout than the online registry says",
            where=self._view_id,
            got=got,
            remedy=f"run `features sync {self._view_id} --full`",
        )


def _is_sorted(event_us: npt.NDArray[Any], created_us: npt.NDArray[Any], group: npt.NDArray[Any]) -> bool:
    later = event_us[1:] > event_us[:-1]
    if later.all():
        return True
    equal = (event_us[1:] == event_us[:-1]) & (created_us[1:] >= created_us[:-1])
    return bool((later | equal | (group[1:] != group[:-1])).all())


def _head_dtype(codec: RowCodec) -> np.dtype[Any]:
    """The fixed-width head of a record; `v3` is feature 3's value, `end3` the end of its bytes."""
    parts: list[Any] = [("event", "<i8"), ("nulls", np.uint8, (codec.bitmap_width,))]
    for i in codec.fixed:
        code = struct_format(codec.dtypes[i])
        parts.append((f"v{i}", "V16" if code == "16s" else "<" + code.replace("?", "B")))
    found = np.dtype([*parts, *((f"end{i}", "<u4") for i in codec.variable)])
    assert found.itemsize == struct.calcsize(codec.head.format)
    return found


def _variable(dtype: DType, stored: bytes) -> Any:
    if dtype.kind == "string":
        return stored.decode()
    assert str(dtype.item) in STRUCT_FORMATS
    return decode_list(str(dtype.item), stored) if stored else []


def _objects(values: list[Any]) -> npt.NDArray[Any]:
    found = np.empty(len(values), dtype=object)
    found[:] = values if not values or not isinstance(values[0], list) else None
    if values and isinstance(values[0], list):
        for i, value in enumerate(values):
            found[i] = value
    return found
