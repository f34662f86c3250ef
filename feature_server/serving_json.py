"""Online features as JSON, in the shape of Feast's `POST /get-online-features`. Server only: it needs orjson.

Text is put together from pieces that are the same for many values: the statuses and event timestamps of one view are
written once for all of its features. `docs/http.md` says how each type is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson

from .codec import from_stored
from .dtypes import FLOAT_WIDTHS, DType
from .errors import OnlineStoreError
from .serving import OnlineFeatures, Plan

_EPOCH = datetime(1970, 1, 1)
_UTC = orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z
_ZERO_TIME = b'"1970-01-01T00:00:00Z"'
MAX_REMEMBERED = 50_000
Writer = Callable[[Sequence[Any], Sequence[int] | None], bytes]


class TimestampTexts(dict[int, bytes]):
    """Microseconds since 1970 UTC → JSON text, remembered: many rows carry the same times."""

    def __missing__(self, microseconds: int) -> bytes:
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        text = self[microseconds] = orjson.dumps(_EPOCH + timedelta(0, 0, microseconds), option=_UTC)
        return text


_timestamps = TimestampTexts()


class JsonWriter:
    """Writes the answers of one plan."""

    def __init__(self, plan: Plan) -> None:
        names = [key.name for key in plan.join_keys] + [column.name for column in plan.columns]
        types = [str(key.dtype) for key in plan.join_keys] + [str(column.feature.dtype) for column in plan.columns]
        self._head = b'{"metadata":%b,"results":[' % orjson.dumps({"feature_names": names, "feature_types": types})
        self._keys = [key.name for key in plan.join_keys]
        self._columns = [(column.view, column.position, _writer(column.feature.dtype)) for column in plan.columns]

    def write(self, answer: OnlineFeatures) -> bytes:
        """The body of the HTTP answer."""
        all_present = b",".join([b'"PRESENT"'] * answer.count)
        no_times = b",".join([_ZERO_TIME] * answer.count)
        try:
            times = [b",".join([_timestamps[us] for us in view.event_us]) for view in answer.views]
            parts = [self._head]
            for name in self._keys:
                values = answer.entities[name]
                statuses = all_present
                if None in values:
                    statuses = b",".join([b'"NULL_VALUE"' if value is None else b'"PRESENT"' for value in values])
                parts += (
                    b'{"values":', orjson.dumps(values), b',"statuses":[', statuses,
                    b'],"event_timestamps":[', no_times, b"]},",
                )  # fmt: skip
            views = answer.views
            for view_index, position, write in self._columns:
                view = views[view_index]
                nulls = view.nulls[position]
                statuses = all_present
                if nulls is not None:
                    statuses = b",".join([b'"%b"' % status.encode() for status in view.statuses(position) or ()])
                parts += (
                    b'{"values":', write(view.columns[position], nulls), b',"statuses":[', statuses,
                    b'],"event_timestamps":[', times[view_index], b"]},",
                )  # fmt: skip
        except OverflowError:
            raise OnlineStoreError(
                "a stored time cannot be written as ISO 8601",
                expected="years 1 to 9999",
                remedy="correct the feature's SQL and sync the view again",
            ) from None
        parts[-1] = b"]}]}"
        return b"".join(parts)


def _writer(dtype: DType) -> Writer:
    """A function from stored values and null flags to a JSON array."""
    if dtype.kind in FLOAT_WIDTHS:
        return _floats
    convert = from_stored(dtype)
    if convert is None:
        return lambda values, nulls: orjson.dumps(values if nulls is None else _with_nulls(values, nulls))
    plain: Callable[[Any], Any] = convert
    if dtype.kind == "decimal":
        return lambda values, nulls: _converted(values, nulls, lambda value: f"{plain(value):f}")
    if dtype.is_timestamp:
        return _times
    if dtype.kind == "list" and dtype.item in FLOAT_WIDTHS:
        return lambda values, nulls: _converted(values, nulls, lambda value: _speakable(plain(value)))
    return lambda values, nulls: _converted(values, nulls, plain)


def _floats(values: Sequence[Any], nulls: Sequence[int] | None) -> bytes:
    if nulls is not None:
        values = _with_nulls(values, nulls)
        return orjson.dumps(_speakable(values))
    # The sum is finite only if every value is: orjson would write null for the others.
    return orjson.dumps(values if math.isfinite(sum(values)) else _speakable(values))


def _speakable(values: Sequence[Any]) -> list[Any]:
    """JSON has no NaN and no infinity: they go as the strings that protobuf's JSON uses."""
    return [value if value is None or math.isfinite(value) else _name(value) for value in values]


def _name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _times(values: Sequence[Any], nulls: Sequence[int] | None) -> bytes:
    if nulls is None:
        return b"[%b]" % b",".join([_timestamps[us] for us in values])
    texts = [b"null" if null else _timestamps[us] for us, null in zip(values, nulls, strict=True)]
    return b"[%b]" % b",".join(texts)


def _with_nulls(values: Sequence[Any], nulls: Sequence[int]) -> list[Any]:
    return [None if null else value for value, null in zip(values, nulls, strict=True)]


def _converted(values: Sequence[Any], nulls: Sequence[int] | None, convert: Callable[[Any], Any]) -> bytes:
    if nulls is None:
        return orjson.dumps([convert(value) for value in values], option=_UTC)
    return orjson.dumps(
        [None if null else convert(value) for value, null in zip(values, nulls, strict=True)], option=_UTC
    )
