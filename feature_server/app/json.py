"""Online features as JSON, in the shape of Feast's `POST /get-online-features`. Server only: it needs orjson.

Text is put together from pieces that are the same for many values: the statuses and event timestamps of one view are
written once for all of its features. `docs/http.md` says how each type is written.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import orjson

from ..dtypes import FLOAT_WIDTHS, DType, json_value
from ..errors import OnlineStoreError
from ..layout.row import from_stored
from ..serving.reader import OnlineFeatures, Plan
from ..serving.rows import to_datetimes
from .table import MIN_ENTITIES, PRESENT, TableReader, Writer

_UTC = orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z
_encode = msgspec.json.Encoder().encode  # faster than orjson where times are aware
_ZERO_TIME = b'"1970-01-01T00:00:00Z",'
_KEY_STATUS = (b'"PRESENT"', b'"NULL_VALUE"')


class JsonWriter:
    """Writes the answers of one plan."""

    def __init__(self, plan: Plan) -> None:
        names = [key.name for key in plan.join_keys] + [column.name for column in plan.columns]
        types = [str(key.dtype) for key in plan.join_keys] + [str(column.feature.dtype) for column in plan.columns]
        self._head = b'{"metadata":%b,"results":[' % orjson.dumps({"feature_names": names, "feature_types": types})
        self._keys = [key.name for key in plan.join_keys]
        self._columns = [(column.view, column.position) for column in plan.columns]
        self._writers = [[_writer(feature.dtype) for feature in view.features] for view in plan.views]
        self._plain = [all(from_stored(feature.dtype) is None for feature in view.features) for view in plan.views]
        self._tables = [
            None if view.stream else TableReader(view, writers)
            for view, writers in zip(plan.views, self._writers, strict=True)
        ]

    def write(self, answer: OnlineFeatures) -> bytes:
        """The body of the HTTP answer."""
        present, times = (PRESENT * answer.count)[:-1], (_ZERO_TIME * answer.count)[:-1]
        parts = [self._head]
        for name in self._keys:
            sent = answer.entities[name]
            statuses = present if None not in sent else b",".join([_KEY_STATUS[value is None] for value in sent])
            parts += (b'{"values":', orjson.dumps(sent), b',"statuses":[', statuses)
            parts += (b'],"event_timestamps":[', times, b"]},")
        try:
            written = [self._write_view(i, answer, present) for i in range(len(self._writers))]
        except OverflowError:
            raise OnlineStoreError(
                "a stored time cannot be written as ISO 8601",
                expected="years 1 to 9999",
                remedy="correct the feature's SQL and sync the view again",
            ) from None
        for view, position in self._columns:
            values, tails = written[view]
            parts += (b'{"values":[', values[position], tails[position])
        parts[-1] = parts[-1][:-1] + b"]}"
        return b"".join(parts)

    def _write_view(self, view: int, answer: OnlineFeatures, present: bytes) -> tuple[list[bytes], list[bytes]]:
        """The values of each feature of a view, and for each what follows: the bracket, statuses, event timestamps."""
        reader = self._tables[view]
        if reader is not None and answer.count >= MIN_ENTITIES:
            table = reader.write(answer.rows[view], answer.now_us)
            if table is not None:
                times, written = table
                tail = _tail(present, times)
                tails = [tail if statuses is None else _tail(statuses, times) for _, statuses in written]
                return [values for values, _ in written], tails
        columns = answer.view(view)
        times = _encode(to_datetimes(columns.event_us))
        if self._plain[view] and not any(columns.nulls):
            text = orjson.dumps(columns.columns)
            if b"n" not in text:  # null, for NaN or infinity
                values = text[2:-2].split(b"],[")
                return values, [_tail(present, times)] * len(values)
        values = [
            write(column, flags)[1:-1]
            for write, column, flags in zip(self._writers[view], columns.columns, columns.nulls, strict=True)
        ]
        tails = [_tail(present, times)] * len(values)
        for i, flags in enumerate(columns.nulls):
            if flags is not None:
                tails[i] = _tail(b",".join([b'"%b"' % text.encode() for text in columns.statuses(i) or ()]), times)
        return values, tails


def _tail(statuses: bytes, times: bytes) -> bytes:
    return b'],"statuses":[%b],"event_timestamps":%b},' % (statuses, times)


def _writer(dtype: DType) -> Writer:
    """A function from stored values and null flags to a JSON array."""
    if dtype.kind in FLOAT_WIDTHS:
        return _floats
    if dtype.is_timestamp:
        return _times
    convert = from_stored(dtype)
    if convert is None:
        return lambda values, nulls: orjson.dumps(_with_nulls(values, nulls))
    if dtype.kind == "decimal":
        return lambda values, nulls: _converted(values, nulls, lambda value: f"{convert(value):f}")
    if dtype.item in FLOAT_WIDTHS:
        return lambda values, nulls: _converted(values, nulls, lambda value: _speakable(convert(value)))
    return lambda values, nulls: _converted(values, nulls, convert)


def _floats(values: Sequence[Any], nulls: Sequence[int] | None) -> bytes:
    if nulls is not None:
        values = _with_nulls(values, nulls)
        return orjson.dumps(_speakable(values))
    # The sum is finite only if every value is: orjson would write null for the others.
    return orjson.dumps(values if math.isfinite(sum(values)) else _speakable(values))


def _speakable(values: Sequence[Any]) -> list[Any]:
    """JSON has no NaN and no infinity: they go as the strings that protobuf's JSON uses."""
    return [value if value is None or math.isfinite(value) else json_value(value) for value in values]


def _times(values: Sequence[Any], nulls: Sequence[int] | None) -> bytes:
    return _encode(_with_nulls(to_datetimes(values), nulls))


def _with_nulls(values: Sequence[Any], nulls: Sequence[int] | None) -> Sequence[Any]:
    return values if nulls is None else [None if null else value for value, null in zip(values, nulls, strict=True)]


def _converted(values: Sequence[Any], nulls: Sequence[int] | None, convert: Callable[[Any], Any]) -> bytes:
    if nulls is None:
        return orjson.dumps([convert(value) for value in values], option=_UTC)
    pairs = zip(values, nulls, strict=True)
    return orjson.dumps([None if null else convert(value) for value, null in pairs], option=_UTC)
