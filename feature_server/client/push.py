"""Live events out of Python: what is pushed in one go, what is sent again, and what became of each event.

An event has an id and counts once however often it is pushed. So whatever got no answer is sent again as it is.
"""

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from types import NoneType
from typing import Any

import msgspec

from ..errors import UNREADABLE, FeatureStoreError, OnlineStoreUnavailable, RequestError, cut, shown
from ..protocol import PushEvents, PushResponse, RejectedEvent
from .columns import python_values
from .http import NO_HEADERS, error_of

BATCH_EVENTS = 1000
BATCH_BYTES = 4 << 20  # a feature server takes at most twice that
TIMEOUT_SECONDS = 30.0  # for the answer to a batch
RETRY_SECONDS = 10.0
_NEVER_NAN = {int, str, bool, NoneType, datetime, Decimal}
_BYTES = {bytes, bytearray, memoryview}  # msgspec would write them as text, in base64
_DATA_FRAMES = ("pandas", "polars", "pyarrow")


class PushResult(PushResponse, frozen=True, kw_only=True):
    """How many events were taken in, and those that were not; the former can be read from now on."""


async def push_events(
    ask: Callable[[bytes], Awaitable[PushResponse | FeatureStoreError]],
    sleep: Callable[[float], Awaitable[None]],
    events: Any,
    retry_seconds: float,
) -> PushResult:
    """Push events batch by batch: `ask` is given the columns of one.

    A batch that could not be answered is pushed again for `retry_seconds`; then OnlineStoreUnavailable says how far it
    came.
    """
    rejected: list[RejectedEvent] = []
    accepted, whole = 0, any(kind.__module__.partition(".")[0] in _DATA_FRAMES for kind in type(events).__mro__)
    for places, body in _batches(_data_frame(events) if whole else _listed(events), rejected):
        deadline = time.monotonic() + retry_seconds
        while isinstance(answer := await ask(body), OnlineStoreUnavailable):
            wait = float(answer.retry_after_seconds)
            if time.monotonic() + wait > deadline:
                again = f"{accepted:,} were taken in, and one that is pushed twice counts once"
                answer.remedy = f"push the same events again: {again}"
                raise answer
            await sleep(wait)
        if isinstance(answer, RequestError) and not whole and (answer.where or "").startswith("df"):
            rejected += [RejectedEvent(i, answer.what) for i in places]  # columns that are not the source's
            continue
        if isinstance(answer, FeatureStoreError):
            raise answer
        accepted += answer.accepted
        rejected += [RejectedEvent(places[found.index], found.reason) for found in answer.rejected]
    return PushResult(accepted=accepted, rejected=tuple(sorted(rejected, key=lambda found: found.index)))


def encode_push(source: str, columns: bytes) -> bytes:
    """The body of `POST /push`."""
    try:
        return msgspec.json.encode(PushEvents(push_source_name=source, df=msgspec.Raw(columns)))
    except UnicodeEncodeError:
        raise RequestError("the name of the source has no UTF-8", where="source", got=shown(source)) from None


def decode_push(
    status: int, body: bytes, url: str, headers: Mapping[str, str] = NO_HEADERS
) -> PushResponse | FeatureStoreError:
    """What the server says of a batch."""
    if status in (200, 422):
        try:
            return msgspec.json.decode(body, type=PushResponse)
        except UNREADABLE:  # an error, then
            pass
    return error_of(status, body, url, headers)


def _listed(events: Any) -> Iterator[tuple[Sequence[int], dict[str, list[Any]]]]:
    """Events with the same columns together: the places of those, and their columns."""
    if isinstance(events, Mapping | str | bytes) or not isinstance(events, Iterable):
        raise _no_list(events)
    groups: dict[tuple[str, ...], list[tuple[int, Any]]] = {}
    for i, event in enumerate(events):
        if not isinstance(event, Mapping):
            raise RequestError(
                "an event is not a mapping", where=f"events[{i}]", expected="column names and values",
                got=type(event).__name__,
            )  # fmt: skip
        for name in event:
            if not isinstance(name, str):
                raise RequestError("the name of a column is no text", where=f"events[{i}]", got=shown(name))
        groups.setdefault(tuple(sorted(event)), []).append((i, event))
    for names, members in groups.items():
        yield [i for i, _ in members], {name: [event[name] for _, event in members] for name in names}


def _no_list(events: Any) -> RequestError:
    return RequestError(
        "events are not a list", where="events", expected="a list of mappings, or a DataFrame",
        got=type(events).__name__, remedy="push one event as [event]",
    )  # fmt: skip


def _data_frame(frame: Any) -> Iterator[tuple[Sequence[int], dict[str, list[Any]]]]:
    """The columns of a pandas or polars DataFrame, a LazyFrame, or Arrow's table, batch or reader of batches.

    What pandas holds to be missing is None.
    """
    for read in ("collect", "read_all"):
        if hasattr(frame, read):
            frame = _converted("events", getattr(frame, read))
    if not hasattr(frame, "columns"):
        raise _no_list(frame)
    names = [str(name) for name in (frame.schema.names if hasattr(frame, "to_pydict") else frame.columns)]
    if len(set(names)) < len(names):
        raise RequestError("two columns have one name", where="events", got=cut(", ".join(names)), remedy="rename one")
    if hasattr(frame, "iloc"):
        listed = [frame.iloc[:, place] for place in range(len(names))]
    else:
        listed = frame.get_columns() if hasattr(frame, "get_columns") else frame.columns
    columns = {
        name: _converted(f"events.{cut(name)}", partial(python_values, column))
        for name, column in zip(names, listed, strict=True)
    }
    yield range(len(frame)), columns


def _converted(where: str, convert: Callable[[], Any]) -> Any:
    """What a library makes of its own values; RequestError for those it cannot say, such as times beyond Python's."""
    try:
        return convert()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # that of polars before 2
            raise
        raise RequestError(
            "events cannot be read", where=where, got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        ) from None


def _batches(
    groups: Iterable[tuple[Sequence[int], dict[str, list[Any]]]], rejected: list[RejectedEvent]
) -> Iterator[tuple[Sequence[int], bytes]]:
    """The places of events with the same columns, and these as JSON: a list of values for each column.

    At most BATCH_EVENTS events and BATCH_BYTES together; events that JSON cannot say go to `rejected`.
    """
    for places, columns in groups:
        waiting = [range(i, min(i + BATCH_EVENTS, len(places))) for i in range(0, len(places), BATCH_EVENTS)][::-1]
        while waiting:
            rows: Sequence[int] = waiting.pop()
            try:
                body = _encode(columns, rows)
            except Exception:  # noqa: BLE001 - whatever is wrong with one event is that event's alone
                wrong = {row: reason for row in rows if (reason := _why(columns, row))}
                rejected += [RejectedEvent(places[row], reason) for row, reason in wrong.items()]
                rows = [row for row in rows if row not in wrong]
                body = _encode(columns, rows) if rows else b""
            if len(body) > BATCH_BYTES and len(rows) > 1:
                waiting += [rows[len(rows) // 2 :], rows[: len(rows) // 2]]  # type: ignore[list-item]
            elif rows:
                yield [places[row] for row in rows], body


def _encode(columns: dict[str, list[Any]], rows: Sequence[int]) -> bytes:
    chosen = {name: [values[row] for row in rows] for name, values in columns.items()}
    for values in chosen.values():
        if not _BYTES.isdisjoint(map(type, values)):
            raise ValueError("JSON has no bytes; give text or a number")
        if not _NEVER_NAN.issuperset(map(type, values)) and not all(map(_is_finite, values)):
            raise ValueError("JSON has no NaN and no infinity; a missing value is None")
    return msgspec.json.encode(chosen, enc_hook=_plain)


def _why(columns: dict[str, list[Any]], row: int) -> str | None:
    """What keeps an event from being written as JSON."""
    for name, values in columns.items():
        try:
            _encode({name: values}, [row])
        except Exception as error:  # noqa: BLE001 - see `_batches`
            return f"{cut(str(error), 200)} - at `$.{cut(name)}`"
    return None


def _is_finite(value: Any) -> bool:
    """Whether no NaN and no infinity is in a value, for which msgspec would write null."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not hasattr(value, "tolist") or _is_finite(value.tolist())


def _plain(value: Any) -> Any:
    """The Python value of NumPy's numbers and arrays and of pandas' times."""
    if hasattr(value, "to_pydatetime") and not getattr(value, "nanosecond", 1):
        return value.to_pydatetime()
    if getattr(getattr(value, "dtype", None), "kind", None) in ("b", "i", "u", "f", "U"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be sent: {shown(value)}")
