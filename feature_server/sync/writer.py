"""Sends transactions to Redis from a thread of its own, each checked inside Redis against the view's fence.

A transaction is WATCH fence, GET fence, MULTI, commands, EXEC. The next one's commands are sent before this one's EXEC
is answered, so Redis always has work; EXEC alone waits for the answer to GET.
"""

import queue
import threading
from collections.abc import Iterable
from typing import Any, Self

import redis
from hiredis import pack_command

from ..errors import OnlineStoreError
from ..layout import keys
from ..online.store import Fence, OnlineStore, overtaken, redis_errors
from .commands import Transaction

_QUEUED_TRANSACTIONS = 8
_MULTI, _EXEC = pack_command((b"MULTI",)), pack_command((b"EXEC",))


class FencedWriter:
    """Writes under one code. Use as a context manager: leaving it without an error waits until all is written.

    `written` and `deleted` count rows; of those deleted only the ones that were there.
    """

    def __init__(self, store: OnlineStore, fence: Fence, code: str) -> None:
        self.written = self.deleted = 0
        self._fence, self._code = fence, code.encode()
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
            self._queue.put(transaction)

    def __enter__(self) -> Self:
        return self

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
            self._connection.send_packed_command([pack_command((b"HINCRBY", keys.ROWS, self._code, change)) + _EXEC])
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
            self.deleted += sum(results[: transaction.count])
        else:
            self.written += transaction.rows

    def _answer(self) -> Any:
        answer = self._connection.read_response(disable_decoding=True)
        if isinstance(answer, redis.ResponseError):
            raise answer
        return answer
