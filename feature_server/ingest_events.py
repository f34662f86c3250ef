"""Events as they are sent → an Arrow table with the source's columns, and what is wrong with each that is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .dtypes import FLOAT_WIDTHS, INTEGER_WIDTHS, DType
from .errors import RequestError
from .settings import to_us
from .stream_plan import EventSource
from .stream_records import GRACE_US

_TYPES: dict[str, Any] = {
    "bool": bool, "string": str, "date": date, "timestamp": datetime, "timestamptz": datetime, "uuid": UUID,
    "decimal": Decimal, **dict.fromkeys(FLOAT_WIDTHS, float),
}  # fmt: skip
_OLDEST_US, _NEWEST_US = to_us(datetime(1, 1, 2)), to_us(datetime(9999, 12, 30))


class Batch(msgspec.Struct):
    """Events sent together: the `table` of those still accepted, the `index` of each among all `sent`, and
    (index, reason) of those refused."""

    table: pa.Table
    index: npt.NDArray[np.int64]
    sent: int
    rejected: list[tuple[int, str]]

    def refuse(self, reasons: dict[int, str]) -> None:
        """Refuse rows of the table, by their position in it."""
        if not reasons:
            return
        self.rejected += [(int(self.index[row]), reason) for row, reason in reasons.items()]
        kept = np.ones(len(self.index), dtype=np.bool_)
        kept[list(reasons)] = False
        self.table, self.index = self.table.filter(pa.array(kept)), self.index[kept]


class EventReader:
    """Validates events of one source, strictly: all of its columns, no others, each of its type."""

    def __init__(self, source: EventSource) -> None:
        self.source = source
        needed = {source.event_id, source.event_timestamp, source.created_timestamp}
        self._names = [column.name for column in source.columns]
        self._types = [
            _json_type(column.dtype) if column.name in needed else _json_type(column.dtype) | None
            for column in source.columns
        ]
        self._arrow = pa.schema([(column.name, arrow_type(column.dtype)) for column in source.columns])
        fields = [f"c{i}" for i in range(len(self._names))]
        rename = dict(zip(fields, self._names, strict=True))
        self._event = msgspec.defstruct(
            "Event", list(zip(fields, self._types, strict=True)), rename=rename, forbid_unknown_fields=True
        )
        self._columns = msgspec.defstruct(
            "Columns",
            [(field, list[kind]) for field, kind in zip(fields, self._types, strict=True)],  # type: ignore[valid-type]
            rename=rename,
            forbid_unknown_fields=True,
        )
        self._values = msgspec.structs.astuple
        self._events_decoder = msgspec.json.Decoder(list[self._event])  # type: ignore[name-defined]
        self._event_decoder = msgspec.json.Decoder(self._event)
        self._columns_decoder = msgspec.json.Decoder(self._columns)

    def read(self, events: Sequence[Any], now_us: int) -> Batch:
        """Events as Python values: a mapping of the source's columns each."""
        rejected: list[tuple[int, str]] = []
        index = None
        try:
            found = msgspec.convert(events, list[self._event])  # type: ignore[name-defined]
        except msgspec.ValidationError:
            found, index, rejected = _one_by_one(events, lambda event: msgspec.convert(event, self._event))
        return self._batch(self._columns_of(found), index, len(events), rejected, now_us)

    def read_lines(self, lines: Sequence[bytes], now_us: int) -> Batch:
        """Events as JSON, one object each."""
        rejected: list[tuple[int, str]] = []
        index = None
        try:
            found = self._events_decoder.decode(b"[" + b",".join(lines) + b"]")
            if len(found) != len(lines):
                raise msgspec.ValidationError("a line with several objects")
        except (msgspec.ValidationError, msgspec.DecodeError):
            found, index, rejected = _one_by_one(lines, self._event_decoder.decode)
        return self._batch(self._columns_of(found), index, len(lines), rejected, now_us)

    def read_columns(self, body: bytes | msgspec.Raw, now_us: int) -> Batch:
        """Events as one JSON object with a list of values for each column, as Feast sends them.

        Raises RequestError when the columns themselves are wrong.
        """
        try:
            columns = list(self._values(self._columns_decoder.decode(body)))
            rejected: list[tuple[int, str]] = []
            index = None
            self._check_lengths(columns)
        except msgspec.ValidationError:
            columns, index, rejected = self._read_each_value(body)
        sent = len(columns[0]) + len(rejected)
        return self._batch(columns, index, sent, rejected, now_us)

    def _read_each_value(self, body: bytes | msgspec.Raw) -> tuple[list[list[Any]], Any, list[tuple[int, str]]]:
        try:
            raw = msgspec.json.decode(body, type=dict[str, list[msgspec.Raw]])
        except msgspec.ValidationError as error:
            raise RequestError(
                "df is not a list of values for each column", where="df", got=str(error),
                expected="an object with a list for each of " + ", ".join(self._names),
            ) from None  # fmt: skip
        unknown, missing = [n for n in raw if n not in self._names], [n for n in self._names if n not in raw]
        if unknown or missing:
            name = (unknown or missing)[0]
            raise RequestError(
                f"column {name!r} is {'unknown' if unknown else 'missing'}", where=f"df.{name}",
                expected=f"the columns of {self.source.name}: " + ", ".join(self._names), got=", ".join(raw),
            )  # fmt: skip
        given = [raw[name] for name in self._names]
        self._check_lengths(given)
        wrong: dict[int, str] = {}
        columns: list[list[Any]] = []
        for name, kind, values in zip(self._names, self._types, given, strict=True):
            decode = msgspec.json.Decoder(kind).decode
            column: list[Any] = []
            for i, value in enumerate(values):
                try:
                    column.append(decode(value))
                except msgspec.ValidationError as error:
                    column.append(None)
                    wrong.setdefault(i, f"{error} - at `$.{name}`")
            columns.append(column)
        index = np.array([i for i in range(len(given[0])) if i not in wrong], dtype=np.int64)
        return [[column[i] for i in index] for column in columns], index, sorted(wrong.items())

    def _check_lengths(self, columns: Sequence[Sequence[Any]]) -> None:
        if len(set(map(len, columns))) > 1:
            raise RequestError(
                "the columns have different lengths", where="df", expected="one value of every column for each event",
                got=", ".join(f"{name}: {len(values)}" for name, values in zip(self._names, columns, strict=True)),
            )  # fmt: skip

    def _columns_of(self, events: Sequence[Any]) -> list[list[Any]]:
        if not events:
            return [[] for _ in self._names]
        return list(map(list, zip(*map(self._values, events), strict=True)))

    def _batch(
        self,
        columns: list[list[Any]],
        index: npt.NDArray[np.int64] | None,
        sent: int,
        rejected: list[tuple[int, str]],
        now_us: int,
    ) -> Batch:
        index = np.arange(sent) if index is None else index
        try:
            arrays = [pa.array(values, kind) for values, kind in zip(columns, self._arrow.types, strict=True)]
        except (pa.ArrowException, OverflowError, ValueError):
            wrong = self._unfit(columns)
            rejected = rejected + [(int(index[row]), reason) for row, reason in wrong.items()]
            kept = [row for row in range(len(index)) if row not in wrong]
            index = index[kept]
            arrays = [
                pa.array([values[row] for row in kept], kind)
                for values, kind in zip(columns, self._arrow.types, strict=True)
            ]
        batch = Batch(pa.Table.from_arrays(arrays, schema=self._arrow), index, sent, rejected)
        batch.refuse(self._bad_times(batch.table, now_us))
        return batch

    def _unfit(self, columns: list[list[Any]]) -> dict[int, str]:
        """Events with a value that its type cannot keep, such as a decimal with too many digits."""
        wrong: dict[int, str] = {}
        for column, values, kind in zip(self.source.columns, columns, self._arrow.types, strict=True):
            for row, value in enumerate(values):
                try:
                    pa.array([value], kind)
                except (pa.ArrowException, OverflowError, ValueError):
                    wrong.setdefault(row, f"{value} does not fit {column.dtype} - at `$.{column.name}`")
        return wrong

    def _bad_times(self, table: pa.Table, now_us: int) -> dict[int, str]:
        wrong: dict[int, str] = {}
        limits = {self.source.event_timestamp: now_us + GRACE_US}
        if self.source.created_timestamp is not None:
            limits.setdefault(self.source.created_timestamp, _NEWEST_US)
        for name, newest in limits.items():
            if not pa.types.is_timestamp(table[name].type):
                continue
            times = (
                table[name].cast(pa.timestamp("us", table[name].type.tz)).to_numpy().astype("M8[us]").astype(np.int64)
            )
            for row in np.flatnonzero((times < _OLDEST_US) | (times > min(newest, _NEWEST_US))).tolist():
                ahead = times[row] > now_us + GRACE_US
                why = "more than an hour ahead of the clock" if ahead and newest < _NEWEST_US else "out of range"
                wrong.setdefault(row, f"{table[name][row]} is {why} - at `$.{name}`")
        return wrong


def _one_by_one(
    events: Sequence[Any], read: Callable[[Any], Any]
) -> tuple[list[Any], npt.NDArray[np.int64], list[tuple[int, str]]]:
    found, index, rejected = [], [], []
    for i, event in enumerate(events):
        try:
            found.append(read(event))
            index.append(i)
        except msgspec.ValidationError as error:
            rejected.append((i, str(error)))
        except msgspec.DecodeError as error:
            rejected.append((i, f"not JSON: {error}"))
    return found, np.array(index, dtype=np.int64), rejected


def _json_type(dtype: DType) -> Any:
    kind = dtype.kind
    if kind == "list":
        return list[_json_type(DType(str(dtype.item))) | None]  # type: ignore[misc]
    if kind not in INTEGER_WIDTHS:
        return _TYPES[kind]
    bits = INTEGER_WIDTHS[kind] * 8
    if kind == "uint64":
        return Annotated[int, msgspec.Meta(ge=0)]
    low, high = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return Annotated[int, msgspec.Meta(ge=low, le=high)]


def arrow_type(dtype: DType) -> pa.DataType:
    """The Arrow type of a source's column."""
    kind = dtype.kind
    if kind == "list":
        return pa.list_(arrow_type(DType(str(dtype.item))))
    if kind == "decimal":
        return pa.decimal128(dtype.precision, dtype.scale)
    simple: dict[str, pa.DataType] = {
        "bool": pa.bool_(), "string": pa.string(), "date": pa.date32(), "timestamp": pa.timestamp("us"),
        "timestamptz": pa.timestamp("us", "UTC"), "uuid": pa.uuid(),
    }  # fmt: skip
    return simple.get(kind) or getattr(pa, kind)()
