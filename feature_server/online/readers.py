"""Reading from Redis: MGET and nothing else, over connections that mend themselves.

Both readers speak RESP through hiredis. `RedisReader` is sync and may be shared by threads; `AsyncRedisReader` sends
the reads of all requests of one turn of the event loop as one command: the largest saving for many small requests.
A read is safe to repeat, so each is tried again once when its connection drops.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import hiredis

from ..errors import OnlineStoreError, OnlineStoreUnavailable
from .address import Connection, RedisAddress, check_reply, parse_redis_url, reply_parser
from .refusals import refusal

TIMEOUT_SECONDS = 1.0
LATE_SECONDS = 0.01  # from which a timer tells that its loop was held up
MAX_BATCH_KEYS = 10_000
BACKOFF_SECONDS = (0.02, 0.5)  # the first wait after a failed connection attempt, and the longest
_Batch: TypeAlias = "list[tuple[Sequence[bytes], asyncio.Future[Any]]]"  # keys, and who waits for what is there


class ConnectionLost(Exception):
    """The connection dropped before the reply came; the read may be repeated on another one.

    `refused`: what the server said instead, where that is why the connection was left.
    """

    def __init__(self, why: str, refused: OnlineStoreError | None = None) -> None:
        super().__init__(why)
        self.refused = refused


class RedisReader:
    """Sync reads. Connections are kept and shared: each call takes an idle one or opens another."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self.url, self.address = url, parse_redis_url(url)
        self.timeout = timeout
        self.on_reconnect: Callable[[], None] = lambda: None
        self._idle: deque[Connection] = deque()
        self._process = os.getpid()

    def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of `keys`, None for those that do not exist."""
        command = hiredis.pack_command((b"MGET", *keys))
        if self._process != os.getpid():  # a fork shares its parent's sockets, and would read its parent's replies
            self._idle, self._process = deque(), os.getpid()
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        else:
            try:
                return self._ask(connection, command)
            except ConnectionLost:
                self.close()
                self.on_reconnect()
                connection = self._connect()
        try:
            return self._ask(connection, command)
        except ConnectionLost as lost:
            raise lost.refused or self.address.unavailable(lost) from None

    def _ask(self, connection: Connection, command: bytes) -> list[bytes | None]:
        try:
            reply = connection.ask(command)
        except BaseException as error:  # also interrupted: the reply is still to come, nobody else may use this one
            connection.close()
            if isinstance(error, TimeoutError):
                raise self.address.unavailable(f"no answer within {self.timeout:g} s") from None
            if isinstance(error, OSError | hiredis.ProtocolError):
                raise ConnectionLost(str(error) or "connection closed") from None
            raise
        try:
            found: list[bytes | None] = check_reply(self.address, reply)
        except OnlineStoreError as error:
            if error.elsewhere:
                connection.close()
                raise ConnectionLost(error.what, error) from None
            self._idle.append(connection)
            raise
        self._idle.append(connection)
        return found

    def _connect(self) -> Connection:
        try:
            return Connection(self.address, self.timeout)
        except OSError as error:
            raise self.address.unavailable(error) from None

    def close(self) -> None:
        with suppress(IndexError):  # another thread may take the last one
            while self._idle:
                self._idle.pop().close()


class AsyncRedisReader:
    """Async reads over one connection, made when first needed, again after it dropped, and on another event loop."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self.url, self.address = url, parse_redis_url(url)
        self.timeout = timeout
        self.on_connect: Callable[[], None] = lambda: None
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link] | None = None
        self._failure: OnlineStoreError | None = None
        self._wait, self._next_attempt = 0.0, 0.0

    async def mget(self, keys: Sequence[bytes], *, apart: bool = False) -> list[bytes | None]:
        """The values of `keys`, None for those that do not exist; `apart` from what others ask for."""
        for attempt in (1, 2):
            link = self._link
            if link is None or link.closed or link.loop is not asyncio.get_running_loop():
                link = await self._connect()
            try:
                return await (link.mget_apart(keys) if apart else link.mget(keys))
            except ConnectionLost as lost:
                if attempt == 2:
                    if lost.refused is not None:
                        self._fail(lost.refused)
                    raise lost.refused or self.address.unavailable(lost) from None
        raise AssertionError

    def _fail(self, error: OnlineStoreError) -> None:
        (first, longest), now = BACKOFF_SECONDS, time.monotonic()
        before = self._wait if now < self._next_attempt + longest else 0.0  # else it went well since
        self._failure, self._wait = error, min(max(first, before * 2), longest)
        self._next_attempt = now + self._wait

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    async def _connect(self) -> "_Link":
        """One attempt for all that wait; between attempts the last failure is the answer."""
        if self._connecting is None:
            if self._failure is not None and time.monotonic() < self._next_attempt:
                raise self._failure.with_traceback(None)
            self._connecting = asyncio.create_task(self._open())
        return await asyncio.shield(self._connecting)

    async def _in_time(self, work: Coroutine[Any, Any, None]) -> None:
        """Raises TimeoutError; a loop that was held up gives as long again, once, as in `_Link._check_time`."""
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
        due = loop.time() + self.timeout
        try:
            await asyncio.wait({task}, timeout=self.timeout)
            if (late := loop.time() - due) > LATE_SECONDS:
                await asyncio.wait({task}, timeout=late)
            if not task.done():
                raise TimeoutError
            task.result()
        finally:
            task.cancel()

    async def _open(self) -> "_Link":
        address = self.address
        loop = asyncio.get_running_loop()
        link = _Link(address, self.timeout, loop)
        failure: OnlineStoreError
        try:
            await self._in_time(link.open())
        except OnlineStoreError as error:
            failure = error
        except TimeoutError:
            failure = address.unavailable(f"no connection within {self.timeout:g} s")
        except (OSError, ConnectionLost) as error:
            failure = (isinstance(error, ConnectionLost) and error.refused) or address.unavailable(error)
        else:
            self._link, self._failure = link, None
            self.on_connect()
            return link
        finally:
            self._connecting = None
        link.close()
        self._fail(failure)
        raise failure


class _Link(asyncio.Protocol):
    """One connection: reads asked for during one turn of the loop leave as one MGET, replies come in that order."""

    def __init__(self, address: RedisAddress, timeout: float, loop: asyncio.AbstractEventLoop) -> None:
        self.closed = False
        self._address = address
        self._timeout = timeout
        self.loop = loop
        self._parser = reply_parser()
        self._transport: Any = None
        self._asked: _Batch = []
        self._sent: deque[tuple[float, _Batch]] = deque()  # when, and who waits
        self._given: tuple[float, _Batch] | None = None  # the read that was given longer
        self._heard = 0.0  # when bytes came last
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    async def open(self) -> None:
        """Connect, and introduce this client."""
        address = self._address
        if address.path is not None:
            await self.loop.create_unix_connection(lambda: self, address.path)
        else:
            await self.loop.create_connection(lambda: self, address.host, address.port, ssl=address.ssl_context())
        await self._greet()

    async def _greet(self) -> None:
        for command in self._address.greeting():
            future = self.loop.create_future()
            self._send(command, [((), future)])
            await future

    def mget(self, keys: Sequence[bytes]) -> asyncio.Future[list[bytes | None]]:
        future = self.loop.create_future()
        if not self._asked:
            self.loop.call_soon(self._flush)
        self._asked.append((keys, future))
        return future

    def mget_apart(self, keys: Sequence[bytes]) -> asyncio.Future[list[bytes | None]]:
        """As `mget`, by a command of its own."""
        future = self.loop.create_future()
        if self.closed:
            _fail(future, ConnectionLost("connection closed"))
        else:
            self._send(hiredis.pack_command((b"MGET", *keys)), [(keys, future)])
        return future

    def _flush(self) -> None:
        asked, self._asked = self._asked, []
        if self.closed:
            for _, future in asked:
                _fail(future, ConnectionLost("connection closed"))
            return
        batch: _Batch = []
        command: list[bytes] = [b"MGET"]
        for item in asked:
            if batch and len(command) + len(item[0]) > MAX_BATCH_KEYS:
                self._send(hiredis.pack_command(tuple(command)), batch)
                batch, command = [], [b"MGET"]
            batch.append(item)
            command += item[0]
        if batch:
            self._send(hiredis.pack_command(tuple(command)), batch)

    def _send(self, command: bytes, waiting: _Batch) -> None:
        self._sent.append((self.loop.time(), waiting))
        self._transport.write(command)
        if self._watch is None:
            self._watch_until(self.loop.time() + self._timeout)

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        self._heard, self._given = self.loop.time(), None
        try:
            while (reply := self._parser.gets()) is not False:
                self._deliver(self._sent.popleft()[1], reply)
        except hiredis.ProtocolError as error:
            self._drop(ConnectionLost(str(error)))

    def _deliver(self, waiting: _Batch, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            error = refusal(str(reply), where=self._address.shown)
            lost = ConnectionLost(error.what, error) if error.elsewhere else None
            for _, future in waiting:
                _fail(future, lost or error)
            if lost is not None:
                self._drop(lost)
            return
        if len(waiting) == 1:
            future = waiting[0][1]
            if not future.done():
                future.set_result(reply)
            return
        start = 0
        for keys, future in waiting:
            stop = start + len(keys)
            if not future.done():
                future.set_result(reply[start:stop])
            start = stop

    def _watch_until(self, due: float) -> None:
        self._watch = self.loop.call_at(due, self._check_time, due)

    def _check_time(self, due: float) -> None:
        """One timer watches all reads: it looks at the oldest, and comes back when that one would be too old.

        A reply takes as long as its bytes keep coming, and those behind it wait for it.
        A loop that was held up looks at its timers before it reads what has come meanwhile: a timer that is late gives
        the replies as long again, once.
        """
        self._watch = None
        if not self._sent or self.closed:
            return
        now, oldest = self.loop.time(), self._sent[0]
        until = max(oldest[0], self._heard) + self._timeout
        if until > now:
            self._watch_until(until)
        elif now - due > LATE_SECONDS and self._given is not oldest:
            self._given = oldest
            self._watch_until(now + (now - due))
        else:
            self._drop(self._address.unavailable(f"no answer within {self._timeout:g} s"))

    def connection_lost(self, error: Exception | None) -> None:
        self._drop(ConnectionLost(str(error) if error else "connection closed by Redis"))

    def close(self) -> None:
        self._drop(ConnectionLost("connection closed"))

    def _drop(self, error: Exception) -> None:
        self.closed = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._transport is not None and not self.loop.is_closed():
            self._transport.abort() if isinstance(error, OnlineStoreUnavailable) else self._transport.close()
        while self._sent:
            for _, future in self._sent.popleft()[1]:
                _fail(future, error)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
