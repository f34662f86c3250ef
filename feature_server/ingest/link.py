"""One connection to Redis that sends transactions of many commands: replies are read by hiredis alone."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import hiredis

from ..errors import OnlineStoreError
from ..layout.portions import portions
from ..online.address import Connection, RedisAddress, check_reply, parse_redis_url

TIMEOUT_SECONDS = 30.0
SEND_BYTES = 1 << 20  # of commands that are joined
_MULTI, _EXEC = hiredis.pack_command((b"MULTI",)), hiredis.pack_command((b"EXEC",))
Packed: TypeAlias = bytes | memoryview  # commands as Redis reads them, or a part of one
Result = TypeVar("Result")


class Changed(Exception):
    """A key that the transaction depends on has changed: nothing was done."""


class Absent(Exception):
    """Keys that the transaction needs are not there: nothing was done."""

    def __init__(self, keys: frozenset[bytes]) -> None:
        self.keys = keys


class Link:
    """Sends transactions; connects when first needed, and again after the connection dropped.

    Pushes depend on the epoch: it is watched all the time, so that a push is one round trip.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self.address: RedisAddress = parse_redis_url(url)
        self._timeout = timeout
        self._process = os.getpid()
        self._watch = _commands([(b"WATCH", self.address.names.epoch), (b"GET", self.address.names.epoch)])
        self._guarded: tuple[bytes | None] | None = None  # the guard's value since which it is watched
        self._open: Connection | None = None

    def ask(self, *command: bytes) -> Any:
        """One command's reply."""
        return self._run(lambda: self._exchange(hiredis.pack_command(command), 1)[0])

    def push(
        self, expected: bytes | None, commands: Sequence[Packed], count: int, needed: Sequence[bytes] = ()
    ) -> list[Any]:
        """Run `count` packed commands as one transaction while the guard has the value expected; their replies.

        One of them may be an error: what fails as it runs undoes nothing of the others. Raises Changed otherwise, and
        Absent where a key `needed` is not there.
        """

        def run() -> list[Any]:
            if self._guarded != (expected,):
                self._guarded = (self._exchange(self._watch, 2)[1],)
            if self._guarded != (expected,):
                raise Changed
            if needed:
                asked = [(b"WATCH", *needed), *((b"EXISTS", key) for key in needed)]
                found = self._exchange(_commands(asked), len(asked))[1:]
                if absent := frozenset(key for key, there in zip(needed, found, strict=True) if not there):
                    raise Absent(absent)
            self._guarded = None
            results = self._transaction(commands, count, self._watch)
            self._guarded = (self._replies(2)[1],)
            if results is None:
                raise Changed
            return results

        return self._run(run)

    def replace(self, key: bytes, expected: bytes, command: Sequence[bytes]) -> None:
        """Run one command while `key` has the value expected; raises Changed otherwise."""

        def run() -> None:
            self._guarded = None
            if self._exchange(_commands([(b"WATCH", key), (b"GET", key)]), 2)[1] != expected:
                self._exchange(hiredis.pack_command((b"UNWATCH",)), 1)
                raise Changed
            results = self._transaction([hiredis.pack_command(tuple(command))], 1)
            if results is None:
                raise Changed
            self.check(results[0])

        self._run(run)

    def check(self, reply: Any) -> Any:
        """The reply; the error that it stands for if it is one."""
        return check_reply(self.address, reply)

    def close(self) -> None:
        self._guarded = None
        if self._open is not None:
            self._open.close()
            self._open = None

    def _run(self, work: Callable[[], Result]) -> Result:
        """Do `work`; once more, over another connection, where one that was open turns out to be closed or to lead to a
        server that was demoted: sent twice, an event counts once."""
        if self._process != os.getpid():  # a fork shares its parent's connection, and would read its parent's replies
            self.close()
            self._process = os.getpid()
        while True:
            fresh = self._open is None
            try:
                return work()
            except (OSError, hiredis.ProtocolError) as error:
                self.close()
                if fresh or not isinstance(error, ConnectionError):
                    raise self.address.unavailable(error) from None
            except (Changed, Absent):
                raise
            except OnlineStoreError as error:
                self.close()
                if fresh or not error.elsewhere:
                    raise
            except BaseException:  # replies may still be to come
                self.close()
                raise

    def _transaction(self, commands: Sequence[Packed], count: int, after: bytes = b"") -> list[Any] | None:
        """The replies of EXEC; the replies to `after` are still to be read."""
        connection = self._connected()
        for portion in portions([_MULTI, *commands, _EXEC, after], len, len(commands) + 3, SEND_BYTES):
            connection.send(portion[0] if len(portion) == 1 else b"".join(portion))
        queued, received = b"+OK\r\n" + b"+QUEUED\r\n" * count, b""
        while len(received) < len(queued) and queued.startswith(received):
            received += connection.receive()
        if received.startswith(queued):
            connection.parser.feed(received[len(queued) :])
        else:  # a command was refused
            connection.parser.feed(received)
            self._replies(count + 1)
        results: list[Any] | None = self._replies(1)[0]
        return results

    def _exchange(self, packed: bytes, count: int) -> list[Any]:
        """Send commands and read the replies to them."""
        self._connected().send(packed)
        return self._replies(count)

    def _replies(self, count: int) -> list[Any]:
        connection = self._connected()
        return [self.check(connection.reply()) for _ in range(count)]

    def _connected(self) -> Connection:
        if self._open is None:
            self._open = Connection(self.address, self._timeout)
        return self._open


def _commands(commands: Sequence[tuple[bytes, ...]]) -> bytes:
    return b"".join([hiredis.pack_command(command) for command in commands])
