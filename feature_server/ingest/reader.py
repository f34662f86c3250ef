"""Events as they are sent → an Arrow table with the source's columns, and what is wrong with each that is refused."""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from datetime import date, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Annotated, Any
from uuid import UUID

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow import arrow_type
from ..definitions.stream import EventSource
from ..dtypes import FLOAT_WIDTHS, INTEGER_WIDTHS, DType, integer_bounds
from ..errors import FeatureStoreError, RequestError, cut, shown
from ..layout.events import GRACE_US
from ..slices import PART, NotJSON, Slices, malformed
from ..times import to_us

_TYPES: dict[str, Any] = {
    "bool": bool, "string": str, "date": date, "timestamp": datetime, "timestamptz": datetime, "uuid": UUID,
    "decimal": Decimal, **dict.fromkeys(FLOAT_WIDTHS, float),
}  # fmt: skip
MOST_TOGETHER, MOST_VALUES = 2_000, 16_000  # events, and their values, that are read in one step
MAX_EVENT_BYTES = 64 << 20  # of JSON, which is at most 256 MB as Redis keeps it
PLAIN_DECIMAL = 39  # characters without an exponent, which make a scale that Arrow can bring to any other
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_YEARS = to_us(datetime.min), to_us(datetime.max)
_OLDEST_US = to_us(datetime(1, 1, 2))
log = logging.getLogger("feature_server")
_logged: set[type[Exception]] = set()
_raw_decoder = msgspec.json.Decoder(list[msgspec.Raw])


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
        self._known = frozenset(self._names)
        self._pii = frozenset(column.name for column in source.columns if column.pii)
        # Reading a number of millions of digits takes long. No list is that long which is decoded whole.
        self._most_bytes = [
            MAX_EVENT_BYTES if column.dtype.kind in ("string", "list") else PART for column in source.columns
        ]
        self._types = [
            _json_type(column.dtype) if column.name in needed else _json_type(column.dtype) | None
            for column in source.columns
        ]
        self._arrow = pa.schema([(column.name, arrow_type(column.dtype, uuid=pa.uuid())) for column in source.columns])
        self.nothing = self._arrow.empty_table()
        fields = [f"c{i}" for i in range(len(self._names))]
        rename = dict(zip(fields, self._names, strict=True))

        def struct(name: str, types: Sequence[Any]) -> type[msgspec.Struct]:
            return msgspec.defstruct(
                name, list(zip(fields, types, strict=True)), rename=rename, forbid_unknown_fields=True
            )

        self._event = struct("Event", self._types)
        self._event_decoder = msgspec.json.Decoder(self._event)
        columns = struct("Columns", [list[kind] for kind in self._types])  # type: ignore[valid-type]
        self._columns_decoder = msgspec.json.Decoder(columns)
        self._decoders = [msgspec.json.Decoder(list[kind]).decode for kind in self._types]  # type: ignore[valid-type]

    def read(self, events: Sequence[Any], now_us: int) -> Batch:
        """Events as Python values: a mapping of the source's columns each."""
        return self._one_by_one(events, lambda event: msgspec.convert(event, self._event), now_us)

    def read_lines(self, lines: Sequence[bytes], now_us: int) -> Batch:
        """Events as JSON, one object each."""
        return self._one_by_one(lines, self._decode, now_us)

    def read_columns(self, body: bytes | msgspec.Raw, now_us: int) -> Batch:
        """Events as one JSON object with a list of values for each column, as Feast sends them.

        Raises RequestError when the columns themselves are wrong.
        """
        rejected: list[tuple[int, str]] = []
        try:
            columns = list(msgspec.structs.astuple(self._columns_decoder.decode(body)))
        except Exception:  # noqa: BLE001 - see `refusal`
            columns, index, rejected = self._read_each_value(self._raw_columns(body))
        else:
            self._check_lengths(columns)
            index = np.arange(len(columns[0]))
        return self._batch(columns, index, len(columns[0]) + len(rejected), rejected, now_us)

    def read_slices(self, given: Mapping[str, Slices], now_us: int) -> list[Batch]:
        """As `read_columns`, of columns that are still JSON: a batch of as many events as are read in a short time.

        Raises MalformedBody too.
        """
        try:
            self._check_names(given)
            columns = [given[name] for name in self._names]
            self._check_lengths(columns)
        except RequestError:
            for column in given.values():
                for _ in _raw_parts([column], column.within(MOST_TOGETHER)):  # which a missing item makes shorter
                    pass
            raise
        most = max(1, min(MOST_TOGETHER, MOST_VALUES // len(columns)))
        size, start, batches = min(column.within(most) for column in columns), 0, list[Batch]()
        pairs = zip(columns, self._decoders, strict=True)
        try:
            if any(column.longest > most for column, most in zip(columns, self._most_bytes, strict=True)):
                raise ValueError("a value may be too long")
            for values in zip(*(column.parts(size, decode) for column, decode in pairs), strict=True):
                index = np.arange(start, start + len(values[0]))
                batches.append(self._batch(list(values), index, len(index), [], now_us))
                start += len(index)
        except Exception:  # noqa: BLE001 - see `refusal`
            batches = list(self._batches_of_each_value(columns, size, now_us))
        return batches

    def _batches_of_each_value(self, columns: Sequence[Slices], size: int, now_us: int) -> Iterator[Batch]:
        start = 0
        for values in _raw_parts(columns, size):
            found, index, rejected = self._read_each_value(values)
            rejected = [(start + i, reason) for i, reason in rejected]
            yield self._batch(found, start + index, len(values[0]), rejected, now_us)
            start += len(values[0])

    def _one_by_one(self, events: Sequence[Any], read: Callable[[Any], Any], now_us: int) -> Batch:
        """As fast as all at once, and what is wrong with one event cannot touch another."""
        found, index, rejected = [], [], []
        for i, event in enumerate(events):
            try:
                found.append(read(event))
                index.append(i)
            except Exception as error:  # noqa: BLE001 - see `refusal`
                rejected.append((i, refusal(error)))
        columns = list(map(list, zip(*map(msgspec.structs.astuple, found), strict=True))) or [[] for _ in self._names]
        return self._batch(columns, np.array(index, dtype=np.int64), len(events), rejected, now_us)

    def _decode(self, line: bytes) -> Any:
        if len(line) > MAX_EVENT_BYTES:
            raise ValueError(f"an event of {len(line):,} bytes, of at most {MAX_EVENT_BYTES:,}")
        return self._event_decoder.decode(line)

    def _raw_columns(self, body: bytes | msgspec.Raw) -> list[list[msgspec.Raw]]:
        try:
            raw = msgspec.json.decode(body, type=dict[str, list[msgspec.Raw]])
        except Exception as error:  # noqa: BLE001 - see `refusal`
            raise RequestError(
                "df is not a list of values for each column", where="df", got=cut(refusal(error)),
                expected="an object with a list for each of " + ", ".join(self._names),
            ) from None  # fmt: skip
        self._check_names(raw)
        given = [raw[name] for name in self._names]
        self._check_lengths(given)
        return given

    def _read_each_value(
        self, given: Sequence[Sequence[msgspec.Raw]]
    ) -> tuple[list[list[Any]], npt.NDArray[np.int64], list[tuple[int, str]]]:
        wrong: dict[int, str] = {}
        columns: list[list[Any]] = [[None] * len(values) for values in given]
        facts = zip(self._names, self._types, self._most_bytes, given, columns, strict=True)
        for name, kind, most, values, column in facts:
            decode = msgspec.json.Decoder(kind).decode
            for i, value in enumerate(values):
                try:
                    if (size := memoryview(value).nbytes) > most:
                        raise ValueError(f"a value of {size:,} characters, of at most {most:,}")
                    column[i] = decode(value)
                except Exception as error:  # noqa: BLE001 - see `refusal`
                    wrong.setdefault(i, f"{refusal(error)} - at `$.{name}`")
        index = np.array([i for i in range(len(given[0])) if i not in wrong], dtype=np.int64)
        return [[column[i] for i in index] for column in columns], index, sorted(wrong.items())

    def _check_names(self, given: Collection[str]) -> None:
        unknown, missing = [n for n in given if n not in self._known], [n for n in self._names if n not in given]
        if unknown or missing:
            name = (unknown or missing)[0]
            raise RequestError(
                f"column {shown(name)} is {'unknown' if unknown else 'missing'}", where=f"df.{cut(name)}",
                expected=f"the columns of {self.source.name}: " + ", ".join(self._names),
                got=cut(", ".join(given), 500),
            )  # fmt: skip

    def _check_lengths(self, columns: Sequence[Sized]) -> None:
        if len(set(map(len, columns))) > 1:
            raise RequestError(
                "the columns have different lengths", where="df", expected="one value of every column for each event",
                got=", ".join(f"{name}: {len(values)}" for name, values in zip(self._names, columns, strict=True)),
            )  # fmt: skip

    def _batch(
        self,
        columns: list[list[Any]],
        index: npt.NDArray[np.int64],
        sent: int,
        rejected: list[tuple[int, str]],
        now_us: int,
    ) -> Batch:
        try:
            table = self._table(columns)
        except Exception:  # noqa: BLE001 - see `refusal`
            wrong = self._unfit(columns)
            rejected = rejected + [(int(index[row]), reason) for row, reason in wrong.items()]
            kept = [row for row in range(len(index)) if row not in wrong]
            index, columns = index[kept], [[values[row] for row in kept] for values in columns]
            table = self._table(columns)
        batch = Batch(table, index, sent, rejected)
        batch.refuse(self._bad_times(table, columns, now_us) | self._became_infinite(table, columns))
        return batch

    def _table(self, columns: list[list[Any]]) -> pa.Table:
        arrays = [_array(values, kind) for values, kind in zip(columns, self._arrow.types, strict=True)]
        return pa.Table.from_arrays(arrays, schema=self._arrow)

    def _unfit(self, columns: list[list[Any]]) -> dict[int, str]:
        """Events with a value that its type cannot keep, such as a decimal with too many digits."""
        wrong: dict[int, str] = {}
        for column, values, kind in zip(self.source.columns, columns, self._arrow.types, strict=True):
            for row, value in enumerate(values):
                try:
                    _array([value], kind)
                except Exception:  # noqa: BLE001 - see `refusal`
                    told = self._told(value, column.name)
                    wrong.setdefault(row, f"{told} does not fit {column.dtype} - at `$.{column.name}`")
        return wrong

    def _told(self, value: Any, name: str) -> str:
        """A value as a reason shows it; not that of a column which is pii, for reasons are kept and logged."""
        return "a value" if name in self._pii else _shown(value)

    def _became_infinite(self, table: pa.Table, columns: list[list[Any]]) -> dict[int, str]:
        """Numbers beyond what real keeps, which are infinite as one; what was sent as infinite is as it was sent."""
        wrong: dict[int, str] = {}
        for column, values in zip(self.source.columns, columns, strict=True):
            kept: Any = table[column.name]
            kept = pc.list_flatten(kept) if column.dtype.kind == "list" else kept
            if not pa.types.is_float32(kept.type) or not pc.any(pc.is_inf(kept)).as_py():
                continue
            for row, value in enumerate(values):
                items = value if isinstance(value, list) else [value]
                for item in items or ():
                    if item is not None and _FLOAT32_MAX < abs(item) < math.inf:
                        told = self._told(item, column.name)
                        wrong.setdefault(row, f"{told} does not fit {column.dtype} - at `$.{column.name}`")
        return wrong

    def _bad_times(self, table: pa.Table, columns: list[list[Any]], now_us: int) -> dict[int, str]:
        """Times outside the years 1 to 9999 in UTC, which no reader of the files could show, and, of the event and of
        its creation, those ahead of the clock: what is created later would hide every correction until then."""
        wrong: dict[int, str] = {}
        limited, newest_us = {self.source.event_timestamp, self.source.created_timestamp}, now_us + GRACE_US
        for name, values in zip(self._names, columns, strict=True):
            kind = table[name].type
            if not pa.types.is_timestamp(kind):
                continue
            moments = table[name].cast(pa.timestamp("us", kind.tz)).to_numpy().astype("M8[us]")
            times = moments.astype(np.int64)
            oldest, newest = (_OLDEST_US, min(newest_us, _YEARS[1])) if name in limited else _YEARS
            for row in np.flatnonzero(((times < oldest) | (times > newest)) & ~np.isnat(moments)).tolist():
                ahead = name in limited and times[row] > newest_us
                why = "more than an hour ahead of the clock" if ahead else "out of range"
                wrong.setdefault(row, f"{self._told(values[row], name)} is {why} - at `$.{name}`")
        return wrong


def _raw_parts(columns: Sequence[Slices], size: int) -> Iterator[tuple[list[msgspec.Raw], ...]]:
    """Columns, `size` events at a time, as JSON. Raises MalformedBody."""
    try:
        yield from zip(*(column.parts(size, _decode_raw) for column in columns), strict=True)
    except (NotJSON, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from None


def _decode_raw(items: bytes) -> list[msgspec.Raw]:
    items.decode()  # a Raw is not looked into
    return _raw_decoder.decode(items)


def refusal(error: Exception) -> str:
    """Why an event is refused when something was raised while it was read: whatever that is, it is this event's alone.

    So the code that reads events catches every Exception. A kind that nobody thought of is logged, once.
    """
    if isinstance(error, msgspec.ValidationError):
        return str(error)
    if isinstance(error, msgspec.DecodeError):
        return f"not JSON: {error}"
    if isinstance(error, UnicodeError):
        return f"not UTF-8: {error}"
    if isinstance(error, RecursionError):
        return "not JSON: nested too deeply"
    if isinstance(error, FeatureStoreError):
        return error.what if error.got is None else f"{error.what}: {error.got}"
    if type(error) is ValueError:
        return str(error)
    reason = f"{type(error).__name__}: {_shown(error)}"
    if type(error) not in _logged:
        _logged.add(type(error))
        log.warning("events are refused for a reason that was not foreseen: %s", type(error).__name__)
    return reason


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Arrow's array of them; raises for a value that it cannot keep.

    Arrow reads decimals of a scale far beyond the type's as other numbers, and long ones for minutes.
    """
    if not pa.types.is_decimal(kind):
        return pa.array(values, kind)
    texts = list(map(str, values))
    if "E" in "".join(texts) or max(map(len, texts), default=0) > PLAIN_DECIMAL:
        exact, last = Context(kind.precision, traps=[Inexact, InvalidOperation]), Decimal(1).scaleb(-kind.scale)
        values = [value if value is None else exact.quantize(value, last) for value in values]
    return pa.array(values, kind)


def _shown(value: Any) -> str:
    try:
        return cut(str(value))
    except Exception:  # noqa: BLE001 - such as an integer of 5,000 digits
        return f"a {type(value).__name__}"


def _json_type(dtype: DType) -> Any:
    kind = dtype.kind
    if kind == "list":
        return list[_json_type(DType(str(dtype.item))) | None]  # type: ignore[misc]
    if kind not in INTEGER_WIDTHS:
        return _TYPES[kind]
    low, high = integer_bounds(kind)
    if kind == "uint64":
        return Annotated[int, msgspec.Meta(ge=low)]
    return Annotated[int, msgspec.Meta(ge=low, le=high)]


def give_back(batches: Sequence[Batch], rejected: dict[int, str]) -> None:
    """Tell each batch which of its events were refused when all were looked at together."""
    start = 0
    for batch in batches if rejected else ():
        count = batch.table.num_rows
        batch.refuse({row - start: why for row, why in rejected.items() if start <= row < start + count})
        start += count


def by_halves(events: pa.Table, look: Callable[[pa.Table], dict[int, str] | None]) -> dict[int, str]:
    """What `look` finds, by position; where it answers None it is asked about each half."""
    found: dict[int, str] = {}
    waiting = [(0, events.num_rows)]
    while waiting:
        start, count = waiting.pop()
        reasons = look(events.slice(start, count))
        if reasons is None:
            waiting += [(start, count // 2), (start + count // 2, count - count // 2)]
        else:
            found |= {start + row: reason for row, reason in reasons.items()}
    return found
