"""The rows of a stream view's `row_sql` → event records, grouped by key."""

from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from ..definitions.facts import FeatureView
from ..dtypes import INTEGER_WIDTHS, DType
from .events import COUNTS, EVENT_ID, LENGTH_BYTES, digest, digested, plan_of, record_view
from .rows import RowPacker, text_bytes

pc: Any = compute


class PackedEvents(msgspec.Struct, kw_only=True):
    """For each key of a batch: what its braces hold, its records joined, and how many they are."""

    entities: list[bytes]
    records: list[bytes]
    counts: npt.NDArray[np.int64]


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
        packed = self._packer.pack(self._stored(rows))
        if isinstance(packed, list):
            framed = [len(packed[i]).to_bytes(LENGTH_BYTES, "little") + packed[i] for i in order]
            records = [b"".join(framed[start:stop]) for start, stop in pairwise(ends)]
        else:
            whole = np.ascontiguousarray(packed[order]).tobytes()
            width = packed.shape[1]
            records = [whole[start * width : stop * width] for start, stop in pairwise(ends)]
        return PackedEvents(entities=text_bytes(keys.dictionary), records=records, counts=counts)

    def moved(self, rows: pa.Table) -> list[int]:
        """Rows whose event has another key in an earlier row."""
        numbers = event_id_numbers(rows[EVENT_ID], self._event_id)
        if len(pc.unique(numbers)) == len(numbers):
            return []
        first: dict[Any, Any] = {}
        found = []
        for row, (number, entity) in enumerate(
            zip(numbers.to_pylist(), self._packer.entities(rows).to_pylist(), strict=True)
        ):
            if first.setdefault(number, entity) != entity:
                found.append(row)
        return found

    def _stored(self, rows: pa.Table) -> pa.Table:
        rows = _with(rows, EVENT_ID, event_id_numbers(rows[EVENT_ID], self._event_id))
        counts = rows[COUNTS]
        if counts.null_count:
            rows = _with(rows, COUNTS, pc.fill_null(counts, False))
        for name in self._digested:
            rows = _with(rows, name, _digests(rows[name]))
        return rows


def event_id_numbers(ids: Any, dtype: DType) -> pa.Array:
    """A column of event ids as records keep them, uint64: `layout.events.event_id_number`, many at a time."""
    ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    if dtype.kind == "uint64":
        return ids
    if dtype.kind in INTEGER_WIDTHS:
        return ids.cast(pa.int64()).view(pa.uint64())
    return _digests(ids if pa.types.is_string(ids.type) else ids.cast(pa.string()))


def _digests(texts: Any) -> pa.Array:
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    coded = texts.dictionary_encode()
    numbers = pa.array([digest(text) for text in coded.dictionary.to_pylist()], pa.uint64())
    return numbers.take(coded.indices)


def _with(rows: pa.Table, name: str, column: Any) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, column)
