"""One connection to Redis that sends transactions of many commands: replies are read by hiredis alone."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import hiredis

from .errors import OnlineStoreError
from .reading import reply_parser
from .reading_url import RedisAddress, parse_redis_url

TIMEOUT_SECONDS = 30.0
Command = tuple[bytes, ...]


class Changed(Exception):
    """A key that the transaction depends on has changed: nothing was done."""


class Link:
    """Sends transactions; connects when first needed, and again after the connection dropped."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self.address: RedisAddress = parse_redis_url(url)
        self._timeout = timeout
        self._open: tuple[socket.socket, hiredis.Reader] | None = None

    def ask(self, *command: bytes) -> Any:
        """One command's reply."""
        return self._run(lambda: self._exchange([command]))[0]

    def transact(self, key: bytes, expected: bytes | None, commands: Sequence[Command]) -> list[Any]:
        """Run the commands as one transaction while `key` has the value expected; raises Changed otherwise."""

        def run() -> list[Any]:
            _, found, _ = self._exchange([(b"WATCH", key), (b"GET", key), (b"MULTI",)], commands)
            self._exchange([], skip=len(commands))  # QUEUED
            if found != expected:
                self._exchange([(b"DISCARD",)])
                raise Changed
            (results,) = self._exchange([(b"EXEC",)])
            if results is None:
                raise Changed
            for result in results:
                _check(self.address, result)
            return list(results)

        return self._run(run)

    def close(self) -> None:
        if self._open is not None:
            self._open[0].close()
            self._open = None

    def _run(self, work: Any) -> Any:
        """Do `work`; once more when an idle connection turns out to be closed: sent twice, an event counts once."""
        fresh = self._open is None
        try:
            return work()
        except (OSError, hiredis.ProtocolError) as error:
            self.close()
            if fresh or not isinstance(error, ConnectionError):
                raise self.address.unavailable(error) from None
        except Changed:
            raise
        except BaseException:  # replies may still be to come
            self.close()
            raise
        try:
            return work()
        except (OSError, hiredis.ProtocolError) as error:
            self.close()
            raise self.address.unavailable(error) from None

    def _exchange(self, commands: Sequence[Command], more: Sequence[Command] = (), *, skip: int = 0) -> list[Any]:
        """Send all commands; read the replies to the first ones, or pass over `skip` replies of earlier ones."""
        link, parser = self._connected()
        if commands or more:
            link.sendall(b"".join([hiredis.pack_command(command) for command in (*commands, *more)]))
        replies = []
        for _ in range(skip or len(commands)):
            while (reply := parser.gets()) is False:
                data = link.recv(1 << 18)
                if not data:
                    raise ConnectionError("connection closed by Redis")
                parser.feed(data)
            replies.append(_check(self.address, reply))
        return replies

    def _connected(self) -> tuple[socket.socket, hiredis.Reader]:
        if self._open is not None:
            return self._open
        address = self.address
        if address.path is not None:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            link.settimeout(self._timeout)
            link.connect(address.path)
        else:
            link = socket.create_connection((address.host, address.port), timeout=self._timeout)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if (context := address.ssl_context()) is not None:
                link = context.wrap_socket(link, server_hostname=address.host)
        self._open = link, reply_parser()
        for command in address.greeting():
            link.sendall(command)
            self._exchange([], skip=1)
        return self._open


def _check(address: RedisAddress, reply: Any) -> Any:
    if isinstance(reply, hiredis.ReplyError):
        raise OnlineStoreError(
            "Redis refuses a command", where=address.shown, got=str(reply),
            remedy="see Redis' log: memory, disk, permissions, or a read-only replica",
        )  # fmt: skip
    return reply
