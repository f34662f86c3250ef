"""Packed rows → the bytes of Redis commands, and sending them, each transaction checked inside Redis against the fence.

Transactions are small enough that no reader waits for long. hiredis packs commands; those that write rows are put
together here, which takes half of its time.

They are sent from a thread of its own. A transaction is WATCH fence, GET fence, MULTI, commands, EXEC. The next one's
commands are sent before this one's EXEC is answered, so Redis always has work; EXEC alone waits for the answer to GET.
"""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import redis
from hiredis import pack_command

from ..errors import OnlineStoreError
from ..layout.portions import portions
from ..layout.records import KeyEvents
from ..layout.rows import Bytes2D, Column, PackedRows, pc, text_buffers, text_bytes
from ..online.store import Fence, OnlineStore, overtaken, redis_errors

ROWS_PER_COMMAND = 500
ROWS_PER_TRANSACTION = 1000  # a millisecond of Redis' time, in which it answers nobody else
EXPIRING_ROWS_PER_TRANSACTION = 300  # each a command of its own
_MAX_KEY_WIDTHS = 64  # different key lengths in a batch up to which each is worth an array of its own
_MAX_TRANSACTION_BYTES = 1 << 20
_QUEUED_TRANSACTIONS = 8
_MULTI, _EXEC = pack_command((b"MULTI",)), pack_command((b"EXEC",))


@dataclass(frozen=True)
class Transaction:
    """Commands to run together: `commands` holds `count` of them, about `rows` rows.

    Where rows are in parts, it is the first part of each that counts. `existing` is an EXISTS command on the same keys,
    to be asked before; empty where nothing is counted.
    """

    commands: list[bytes | memoryview]
    count: int
    rows: int
    existing: bytes = b""
    deletes: bool = False


def write_commands(
    code: str, entities: Column, rows: PackedRows, *, expire_ms: npt.NDArray[np.int64] | None, count_existing: bool
) -> Iterator[Transaction]:
    """Transactions that write rows under `<code>{<entity>}`, each with an expiry in milliseconds since 1970 or none."""
    names = _names(code, entities)
    offsets, data = text_buffers(names)
    lengths = np.diff(offsets)
    widths = np.unique(lengths)
    if isinstance(rows, list) or len(widths) > _MAX_KEY_WIDTHS:
        listed = rows if isinstance(rows, list) else _row_bytes(rows)
        yield from _general([(text_bytes(names), listed)], expire_ms, count_existing)
        return
    for width in widths.tolist():
        chosen = np.flatnonzero(lengths == width)
        if chosen[-1] - chosen[0] + 1 == len(chosen):  # neighbours, as always where integers are sorted
            first, last = int(chosen[0]), int(chosen[-1]) + 1
            name_bytes = data[offsets[first] : offsets[last]].reshape(-1, width)
            values, expiry = rows[first:last], None if expire_ms is None else expire_ms[first:last]
        else:
            name_bytes = data[offsets[chosen][:, None] + np.arange(width)]
            values, expiry = rows[chosen], None if expire_ms is None else expire_ms[chosen]
        if expiry is None or (int(expiry.min()) >= 10**12 and int(expiry.max()) < 10**13):
            yield from _of_one_width(name_bytes, values, expiry, count_existing)
        else:
            listed = _row_bytes(values)
            yield from _general([([bytes(name) for name in name_bytes], listed)], expiry, count_existing)


def write_part_commands(
    parts: Sequence[tuple[str, PackedRows]],
    entities: Column,
    *,
    expire_ms: npt.NDArray[np.int64] | None,
    count_existing: bool,
) -> Iterator[Transaction]:
    """The same of rows in parts, each with its code: those of an entity in one transaction, where they count once."""
    if len(parts) == 1:
        ((code, rows),) = parts
        yield from write_commands(code, entities, rows, expire_ms=expire_ms, count_existing=count_existing)
        return
    listed = [
        (text_bytes(_names(code, entities)), rows if isinstance(rows, list) else _row_bytes(rows))
        for code, rows in parts
    ]
    yield from _general(listed, expire_ms, count_existing)


def delete_commands(codes: Sequence[str], entities: Column, *, count_existing: bool) -> Iterator[Transaction]:
    """Transactions that delete the rows of entities, all parts of one together."""
    yield from delete_key_commands(
        *(text_bytes(_names(code, entities)) for code in codes), count_existing=count_existing
    )


def delete_key_commands(*parts: Sequence[bytes], count_existing: bool) -> Iterator[Transaction]:
    step = ROWS_PER_TRANSACTION // len(parts)
    for start in range(0, len(parts[0]), step):
        chosen = [names[start : start + step] for names in parts]
        existing = pack_command((b"EXISTS", *chosen[0])) if count_existing else b""
        commands: list[bytes | memoryview] = [pack_command((b"UNLINK", *names)) for names in chosen]
        yield Transaction(commands, len(commands), len(chosen[0]), existing, deletes=True)


def _names(code: str, entities: Column) -> Column:
    text = pa.large_string()
    return pc.binary_join_element_wise(
        pa.scalar(code + "{", text), entities.cast(text), pa.scalar("}", text), pa.scalar("", text)
    )


def _row_bytes(rows: Bytes2D) -> list[bytes]:
    stored, width = rows.tobytes(), rows.shape[1]
    return [stored[at : at + width] for at in range(0, len(stored), width)]


def _template(count: int, parts: Sequence[bytes | Bytes2D]) -> Bytes2D:
    """Rows of bytes, each the parts side by side: a constant, or that row's own bytes."""
    widths = [len(part) if isinstance(part, bytes) else part.shape[1] for part in parts]
    lines = np.empty((count, sum(widths)), dtype=np.uint8)
    at = 0
    for part, width in zip(parts, widths, strict=True):
        lines[:, at : at + width] = np.frombuffer(part, dtype=np.uint8) if isinstance(part, bytes) else part
        at += width
    return lines


def _of_one_width(
    names: Bytes2D, rows: Bytes2D, expire_ms: npt.NDArray[np.int64] | None, count_existing: bool
) -> Iterator[Transaction]:
    """Rows and names of equal width each, with expiries of 13 digits or none: MSETs, or a SET for each."""
    head, middle = b"$%d\r\n" % names.shape[1], b"\r\n$%d\r\n" % rows.shape[1]
    if expire_ms is None:
        most, lines = ROWS_PER_TRANSACTION, _template(len(names), [head, names, middle, rows, b"\r\n"])
    else:
        _, digits = text_buffers(pa.array(expire_ms).cast(pa.large_string()))
        times, end = digits[: 13 * len(names)].reshape(-1, 13), b"\r\n$4\r\nPXAT\r\n$13\r\n"
        head = b"*5\r\n$3\r\nSET\r\n" + head
        most = EXPIRING_ROWS_PER_TRANSACTION
        lines = _template(len(names), [head, names, middle, rows, end, times, b"\r\n"])
    step = max(1, min(most, _MAX_TRANSACTION_BYTES // lines.shape[1]))  # fewer where rows are wide
    for start in range(0, len(names), step):
        stop = min(start + step, len(names))
        commands: list[bytes | memoryview] = []
        for at in range(start, stop, ROWS_PER_COMMAND):
            part = lines[at : min(at + ROWS_PER_COMMAND, stop)]
            if expire_ms is None:
                commands.append(b"*%d\r\n$4\r\nMSET\r\n" % (2 * len(part) + 1))
            commands.append(part.reshape(-1).data)
        count = len(commands) // 2 if expire_ms is None else stop - start
        yield Transaction(commands, count, stop - start, _existing(names[start:stop]) if count_existing else b"")


def _existing(names: Bytes2D) -> bytes:
    lines = _template(len(names), [b"$%d\r\n" % names.shape[1], names, b"\r\n"])
    return b"*%d\r\n$6\r\nEXISTS\r\n" % (len(names) + 1) + lines.tobytes()


def _general(
    parts: Sequence[tuple[Sequence[bytes], Sequence[bytes]]],
    expire_ms: npt.NDArray[np.int64] | None,
    count_existing: bool,
) -> Iterator[Transaction]:
    """Rows of any length, one at a time; of each part the names and the rows."""
    most = (ROWS_PER_TRANSACTION if expire_ms is None else EXPIRING_ROWS_PER_TRANSACTION) // len(parts)
    names, total = parts[0][0], len(parts[0][0])
    sizes = np.cumsum([0, *map(sum, zip(*(map(len, rows) for _, rows in parts), strict=True))])
    cuts = [0]
    while cuts[-1] < total:
        full = int(np.searchsorted(sizes, sizes[cuts[-1]] + _MAX_TRANSACTION_BYTES, side="right")) - 1
        cuts.append(min(max(full, cuts[-1] + 1), cuts[-1] + most, total))
    for start, stop in pairwise(cuts):
        times = None if expire_ms is None else [b"%d" % moment for moment in expire_ms[start:stop].tolist()]
        commands: list[bytes | memoryview] = []
        for of_part, rows in parts:
            commands += _setting(list(zip(of_part[start:stop], rows[start:stop], strict=True)), times)
        count = len(parts) if times is None else len(parts) * len(times)
        existing = pack_command((b"EXISTS", *names[start:stop])) if count_existing else b""
        yield Transaction(commands, count, stop - start, existing)


def _setting(pairs: Sequence[tuple[bytes, bytes]], times: Sequence[bytes] | None) -> list[bytes]:
    """An MSET, or a SET for each where there are expiries."""
    if times is None:
        lines = [b"$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(row), row) for name, row in pairs]
        return [b"*%d\r\n$4\r\nMSET\r\n" % (2 * len(lines) + 1), b"".join(lines)]
    return [
        b"".join(
            b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$4\r\nPXAT\r\n$%d\r\n%b\r\n"
            % (len(name), name, len(row), row, len(moment), moment)
            for (name, row), moment in zip(pairs, times, strict=True)
        )
    ]


def append_commands(code: str, events: Iterable[KeyEvents], keep_us: int | None) -> Iterator[Transaction]:
    """Transactions that append records to keys, kept for at least `keep_us` after their newest event."""
    for part in portions(events, lambda of: len(of.records), EXPIRING_ROWS_PER_TRANSACTION, _MAX_TRANSACTION_BYTES):
        commands: list[bytes] = []
        for of in part:
            name = b"%b{%b}" % (code.encode(), of.entity)
            commands.append(pack_command((b"APPEND", name, of.records)))
            if keep_us is not None:
                moment = b"%d" % -(-(of.newest_us + keep_us) // 1000)
                commands += [pack_command((b"PEXPIREAT", name, moment, rule)) for rule in (b"NX", b"GT")]
        yield Transaction([b"".join(commands)], len(commands), sum(of.count for of in part))


class FencedWriter(AbstractContextManager["FencedWriter"]):
    """Writes under one code. Use as a context manager: leaving it without an error waits until all is written.

    `written` and `deleted` count rows; of those deleted only the ones that were there.
    """

    def __init__(self, store: OnlineStore, fence: Fence, code: str) -> None:
        self.written = self.deleted = 0
        self._store, self._fence, self._code = store, fence, code.encode()
        self._opening = pack_command((b"WATCH", fence.key)) + pack_command((b"GET", fence.key))
        self._pool = store.client.connection_pool
        self._queue: queue.Queue[Transaction | None] = queue.Queue(_QUEUED_TRANSACTIONS)
        self._failure: BaseException | None = None
        self._ended = False  # whether the None that ends the queue was taken from it
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, transactions: Iterable[Transaction]) -> None:
        """Hand over transactions; raises what went wrong with an earlier one."""
        for transaction in transactions:
            if self._failure is not None:
                raise self._failure
            self._store.sent_bytes += sum(map(len, transaction.commands))
            self._queue.put(transaction)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._failure = self._failure or OnlineStoreError("the sync ended early")
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            with redis_errors():
                self._connection = self._pool.get_connection()
                try:
                    self._send_all()
                except BaseException:
                    self._connection.disconnect()  # with answers to come, and its fence watched
                    raise
                finally:
                    self._pool.release(self._connection)
        except BaseException as error:  # noqa: BLE001 - raised where rows are handed over
            self._failure = error
            while not self._ended:
                self._next()

    def _send_all(self) -> None:
        unanswered: Transaction | None = None
        while (transaction := self._next()) is not None and self._failure is None:
            self._connection.send_packed_command([self._opening + transaction.existing + _MULTI, *transaction.commands])
            if unanswered is not None:
                self._finish(unanswered)
            change = self._begin(transaction)
            self._connection.send_packed_command(
                [pack_command((b"HINCRBY", self._store.names.rows, self._code, change)) + _EXEC]
            )
            unanswered = transaction
        if unanswered is not None:
            self._finish(unanswered)
        if transaction is not None:
            raise OnlineStoreError("the sync ended early")

    def _next(self) -> Transaction | None:
        transaction = self._queue.get()
        self._ended = transaction is None
        return transaction

    def _begin(self, transaction: Transaction) -> int:
        """Read what is answered before EXEC; by how much the transaction changes the number of rows."""
        self._answer()
        if self._answer() != self._fence.token:
            raise overtaken(self._fence.view)
        existing = self._answer() if transaction.existing else 0
        for _ in range(1 + transaction.count):  # OK to MULTI, QUEUED to each command
            self._answer()
        return (0 if transaction.deletes else transaction.rows) - int(existing)

    def _finish(self, transaction: Transaction) -> None:
        self._answer()  # QUEUED to HINCRBY
        results = self._answer()
        if results is None:
            raise overtaken(self._fence.view)
        for result in results:
            if isinstance(result, Exception):
                raise result
        if transaction.deletes:
            self.deleted += results[0]
        else:
            self.written += transaction.rows

    def _answer(self) -> Any:
        answer = self._connection.read_response(disable_decoding=True)
        if isinstance(answer, redis.ResponseError):
            raise answer
        return answer
