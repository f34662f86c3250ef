"""Online features as JSON, in the shape of Feast's `POST /get-online-features`. Server only: it needs orjson.

Text is put together from pieces that are the same for many values: the statuses and event timestamps of one view are
written once for all of its features. `docs/http.md` says how each type is written.

For many entities what `serving.rows` does value by value is done at once with NumPy: the fixed part of the rows is
looked at as one table, and numbers go from it to JSON without a Python object a value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from ..definitions.deprecation import deprecation_headers
from ..dtypes import FLOAT_WIDTHS, INTEGER_WIDTHS, DType, json_value
from ..layout.row import UNDECODABLE, RowLayout, from_stored
from ..layout.sliced import SlicedRow
from ..serving.long import long_rows, shortened
from ..serving.plan import A_STEP, Plan
from ..serving.reader import OnlineFeatures
from ..serving.rows import ViewReader, to_datetimes
from ..serving.statuses import NOT_FOUND, NULL_VALUE, absent_at
from .pieces import Lengthy, Result, Writer, in_pieces, joined

MIN_ENTITIES = 8  # below, NumPy's overhead is more than it saves
Column = tuple[bytes, bytes | None]  # values and statuses as JSON without brackets; None when all are PRESENT
View = tuple[list[Column], bytes]  # of its features, and the event timestamps of all of them, without brackets too
Write = Callable[[npt.NDArray[Any], Sequence[bytes], Sequence[int]], bytes]
_BITS = [[bit for bit in range(8) if flags >> bit & 1] for flags in range(256)]
FEW = 8  # elements that are set faster one by one
PRESENT = b'"PRESENT",'
_UTC = orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z
_TABLE = orjson.OPT_SERIALIZE_NUMPY | _UTC
_encode = msgspec.json.Encoder().encode  # faster than orjson where times are aware
_ZERO_TIME = b'"1970-01-01T00:00:00Z",'
_UNWRITABLE = (*UNDECODABLE, TypeError)  # the last of orjson, for a time that it cannot write
_KEY_STATUS = (b'"PRESENT"', b'"NULL_VALUE"')


class JsonWriter:
    """Writes the answers of one plan."""

    def __init__(self, plan: Plan) -> None:
        names = [key.name for key in plan.join_keys] + [column.name for column in plan.columns]
        types = [str(key.dtype) for key in plan.join_keys] + [str(column.feature.dtype) for column in plan.columns]
        self._head = b'{"metadata":%b,"results":[' % orjson.dumps({"feature_names": names, "feature_types": types})
        self._keys = [key.name for key in plan.join_keys]
        self._columns = [(column.view, column.position) for column in plan.columns]
        headers = deprecation_headers(plan.deprecated)
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._view_writers = list(map(ViewWriter, plan.views))

    def write(self, answer: OnlineFeatures) -> bytes:
        """The body of the HTTP answer."""
        present, times = (PRESENT * answer.count)[:-1], (_ZERO_TIME * answer.count)[:-1]
        parts = [self._head]
        for name in self._keys:
            sent = answer.entities[name]
            statuses = present if None not in sent else _key_statuses(sent)
            parts += (b'{"values":', orjson.dumps(sent), b',"statuses":[', statuses)
            parts += (b'],"event_timestamps":[', times, b"]},")
        try:
            views = [view.write(number, answer) for number, view in enumerate(self._view_writers)]
        except _UNWRITABLE:
            _name_the_damaged(answer)
            raise
        tails = [_tail(present, times) for _, times in views]
        for view, position in self._columns:
            values, found = views[view][0][position]
            parts += (b'{"values":[', values, tails[view] if found is None else _tail(found, views[view][1]))
        parts[-1] = parts[-1][:-1] + b"]}"
        return b"".join(parts)

    def write_part(self, answer: OnlineFeatures, results: list[list[Result]]) -> Iterator[None]:
        """Put some entities' part of each result behind those of the others, with pauses after views and columns."""
        present, views, rows = (PRESENT * answer.count)[:-1], list[View](), long_rows(answer)
        for view in self._views(shortened(answer, rows) if rows else answer):
            if view is not None:
                views.append(view)
            yield
        values: bytes | list[bytes]
        lengthy = dict[tuple[int, int], list[bytes]]()
        for number, row in rows.items():
            yield from self._write_long(answer, number, row, views[number][0], lengthy)
        found = self._key_results(answer, present)
        for at, (number, position) in enumerate(self._columns):
            written, times = views[number]
            values, statuses = written[position]
            values = lengthy.get((number, position), values)
            found.append((values, present if statuses is None else statuses, times))
            if at % A_STEP == 0:
                yield
        results += [[] for _ in range(len(found) - len(results))]
        for at, (result, part) in enumerate(zip(results, found, strict=True)):
            result.append(part)
            if at % A_STEP == 0:
                yield

    def join(self, results: list[list[Result]]) -> Iterator[bytes]:
        """The body of the HTTP answer, in pieces; what is written of the results is let go."""
        return joined(self._head, results)

    def _write_long(
        self, answer: OnlineFeatures, number: int, row: SlicedRow, written: list[Column], lengthy: Lengthy
    ) -> Iterator[None]:
        try:
            yield from self._view_writers[number].write_long(number, row, written, lengthy)
        except _UNWRITABLE:
            _name_the_damaged(answer)
            raise

    def _key_results(self, answer: OnlineFeatures, present: bytes) -> list[Result]:
        results, times = list[Result](), (_ZERO_TIME * answer.count)[:-1]
        for name in self._keys:
            sent = answer.entities[name]
            statuses = present if None not in sent else _key_statuses(sent)
            results.append((orjson.dumps(sent)[1:-1], statuses, times))
        return results

    def _views(self, answer: OnlineFeatures) -> Iterator[View | None]:
        """Each view; None before it where there was more to do."""
        try:
            for number, view in enumerate(self._view_writers):
                if view.prepare(answer.count):
                    yield None
                yield view.write(number, answer)
        except _UNWRITABLE:
            _name_the_damaged(answer)
            raise


class ViewWriter:
    """Writes the features asked for of one view of a plan."""

    def __init__(self, view: ViewReader) -> None:
        self._view = view

    @cached_property
    def _writers(self) -> list[Writer]:
        return [_writer(feature.dtype) for feature in self._view.features]

    @cached_property
    def _plain(self) -> bool:
        """Whether all features are written as they are stored."""
        return all(from_stored(feature.dtype) is None for feature in self._view.features)

    @cached_property
    def _table(self) -> TableReader | None:
        return None if self._view.stream else TableReader(self._view, self._writers)

    def prepare(self, count: int) -> bool:
        """Work out what is the same for all answers of so many entities; False where that was done before."""
        name = "_table" if count >= MIN_ENTITIES else "_writers"
        known = name in self.__dict__
        getattr(self, name)
        return not known

    def write(self, number: int, answer: OnlineFeatures) -> View:
        """What an answer says of the view, which is its plan's how-manieth."""
        if answer.count >= MIN_ENTITIES and self._table is not None:
            table = self._table.write(answer.rows[number], answer.now_us)
            if table is not None:
                times, written = table
                return written, times[1:-1]
        columns = answer.view(number)
        times = _encode(to_datetimes(columns.event_us))[1:-1]
        if self._plain and not any(columns.nulls):
            text = orjson.dumps(columns.columns)
            if b"n" not in text:  # null, for NaN or infinity
                return [(values, None) for values in text[2:-2].split(b"],[")], times
        written = []
        for i, (write, column, flags) in enumerate(zip(self._writers, columns.columns, columns.nulls, strict=True)):
            told = None if flags is None else [b'"%b"' % text.encode() for text in columns.statuses(i) or ()]
            written.append((write(column, flags)[1:-1], None if told is None else b",".join(told)))
        return written, times

    def write_long(self, number: int, row: SlicedRow, written: list[Column], lengthy: Lengthy) -> Iterator[None]:
        """The texts and lists of a long row, each in pieces, where `written` has empty ones; with pauses."""
        for at, (i, write) in enumerate(zip(self._view.wanted, self._writers, strict=True)):
            if i in self._view.layout.variable and written[at][1] is None:
                is_list = self._view.layout.dtypes[i].kind == "list"
                yield from in_pieces(row.slices(i), write, lengthy.setdefault((number, at), []), is_list=is_list)


def _name_the_damaged(answer: OnlineFeatures) -> None:
    """Raise the error that says of what key a value cannot be made, if there is one."""
    for column in answer.plan.columns:
        answer.column(column)
        answer.times(column.view)


def _key_statuses(sent: Sequence[Any]) -> bytes:
    return b",".join([_KEY_STATUS[value is None] for value in sent])


def _tail(statuses: bytes, times: bytes) -> bytes:
    return b'],"statuses":[%b],"event_timestamps":[%b]},' % (statuses, times)


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


class TableReader:
    """Reads and writes the features asked for of one view; `writers` are those of single values."""

    def __init__(self, view: ViewReader, writers: Sequence[Writer]) -> None:
        self._view, self._layout, self._dtype = view, view.layout, view.layout.head_dtype
        self._writes: list[Write] = []
        self._floats: list[tuple[int, str]] = []  # position and field of the features that are written together
        for at, (i, writer) in enumerate(zip(view.wanted, writers, strict=True)):
            dtype = self._layout.dtypes[i]
            self._writes.append(
                _variable(self._layout, i, writer) if dtype.fixed_width is None else _fixed(f"v{i}", dtype.kind, writer)
            )
            if dtype.kind in FLOAT_WIDTHS:
                self._floats.append((at, f"v{i}"))
        self._bits = np.array(view.wanted)
        self._of_bit = {bit: at for at, bit in enumerate(view.wanted)}
        self._no_nulls: list[list[int]] = [[] for _ in view.wanted]

    def write(self, rows: Sequence[bytes | None], now_us: int) -> tuple[bytes, list[Column]] | None:
        """The event timestamps as a JSON array, and each feature's column; None for rows that are damaged."""
        present: Sequence[Any] = rows
        try:
            heads = self._heads(present)
        except TypeError:  # None, which is cheaper to meet than to look for
            present = [self._view.no_row if row is None else row for row in rows]
            heads = self._heads(present)
        width, lengths = self._layout.width, [*map(len, present)]
        if len(heads) != len(rows) * width:
            return None
        table = np.frombuffer(heads, self._dtype)
        if not self._layout.variable:
            whole = lengths.count(width) == len(rows)
        else:
            whole = bool(self._layout.whole(table, np.array(lengths)).all())
        if not whole:
            return None
        event_us = np.ascontiguousarray(table["event"])
        absent = absent_at(event_us, now_us, self._view.ttl_us)
        for i, status in absent.items():
            if status is NOT_FOUND:
                event_us[i] = 0
        nulls = self._nulls(heads, table["nulls"], absent)
        written = self._write_floats(table, nulls)
        columns, empty = [], 0
        for at, (write, missing) in enumerate(zip(self._writes, nulls, strict=True)):
            values = written.get(at)
            if values is None:
                values = write(table, present, missing)[1:-1]
            columns.append((values, _statuses(len(rows), missing, absent)))
            empty += len(missing)
        self._view.counts.add(len(rows), len(nulls), empty, absent)
        return orjson.dumps(event_us.view("M8[us]"), option=_TABLE), columns

    def _heads(self, rows: Sequence[bytes]) -> bytes:
        return b"".join([row[: self._layout.width] for row in rows] if self._layout.variable else rows)

    def _nulls(self, heads: bytes, bitmaps: npt.NDArray[np.uint8], absent: dict[int, str]) -> list[list[int]]:
        """For each feature, which entities have no value."""
        rows, width = bitmaps.shape
        planes = [heads[at :: self._layout.width] for at in range(self._layout.bitmap, self._layout.bitmap + width)]
        marked = rows * width - sum(plane.count(0) for plane in planes)
        if marked == 0 and not absent:
            return self._no_nulls
        if marked > rows or absent:
            bits = np.unpackbits(bitmaps, axis=1, bitorder="little")
            if absent:
                bits[list(absent)] = 1
            features, entities = bits.T[self._bits].nonzero()
            bounds = features.searchsorted(np.arange(len(self._bits) + 1)).tolist()
            positions = entities.tolist()
            return [positions[start:stop] for start, stop in pairwise(bounds)]
        found: list[list[int]] = [[] for _ in self._no_nulls]
        for byte, plane in enumerate(planes):
            for entity, flags in enumerate(plane):
                if flags:
                    for bit in _BITS[flags]:
                        if (feature := self._of_bit.get(8 * byte + bit)) is not None:
                            found[feature].append(entity)
        return found

    def _write_floats(self, table: npt.NDArray[Any], nulls: Sequence[Sequence[int]]) -> dict[int, bytes]:
        """The columns of floats by position; none when one of them holds NaN or an infinity."""
        if not self._floats:
            return {}
        numbers = np.empty((len(self._floats), len(table)))
        for i, (_, field) in enumerate(self._floats):
            numbers[i] = table[field]
        if not np.isfinite(numbers).all():
            return {}
        for i, (at, _) in enumerate(self._floats):
            if len(nulls[at]) > FEW:
                numbers[i, nulls[at]] = np.nan  # which orjson writes as null
            else:
                for entity in nulls[at]:
                    numbers[i, entity] = np.nan
        return {
            at: orjson.dumps(column, option=_TABLE)[1:-1] for (at, _), column in zip(self._floats, numbers, strict=True)
        }


def _fixed(field: str, kind: str, writer: Writer) -> Write:
    """What writes a column of fixed width, given the table, the rows and which entities have no value."""
    as_it_is = kind in INTEGER_WIDTHS or kind == "bool"

    def write(table: npt.NDArray[Any], rows: Sequence[bytes], nulls: Sequence[int]) -> bytes:
        if as_it_is and not nulls:
            return orjson.dumps(np.ascontiguousarray(table[field]), option=_TABLE)
        return writer(table[field].tolist(), _flags(len(rows), nulls))

    return write


def _variable(layout: RowLayout, i: int, writer: Writer) -> Write:
    """What writes a column of strings or lists."""

    def write(table: npt.NDArray[Any], rows: Sequence[bytes], nulls: Sequence[int]) -> bytes:
        spans = zip(rows, *(places.tolist() for places in layout.spans(table, i)), strict=True)
        return writer([row[begin:end] for row, begin, end in spans], _flags(len(rows), nulls))

    return write


def _flags(count: int, nulls: Sequence[int]) -> list[int] | None:
    if not nulls:
        return None
    flags = [0] * count
    for i in nulls:
        flags[i] = 1
    return flags


def _statuses(count: int, nulls: Sequence[int], absent: dict[int, str]) -> bytes | None:
    if not nulls:
        return None
    parts: list[bytes] = []
    at = 0
    for i in nulls:
        parts += (PRESENT * (i - at), b'"%b",' % absent.get(i, NULL_VALUE).encode())
        at = i + 1
    return b"".join([*parts, PRESENT * (count - at)])[:-1]
