"""One blocking connection to Redis: packed commands go out, replies are read by hiredis."""

import socket
from typing import Any

import hiredis

from .address import RedisAddress
from .refusals import refusal

KEPT_BUFFER_BYTES = 8 << 20  # of a connection; by default hiredis gives back more than 16 KiB after each reply


def reply_parser() -> hiredis.Reader:
    """Parses one connection's replies; memory for long ones is kept, getting it anew costs more than they do."""
    parser = hiredis.Reader()
    parser.setmaxbuf(KEPT_BUFFER_BYTES)
    return parser


def check_reply(address: RedisAddress, reply: Any) -> Any:
    """The reply; the error that it stands for if it is one."""
    if isinstance(reply, hiredis.ReplyError):
        raise refusal(str(reply), where=address.shown)
    return reply


class Connection:
    """Made and introduced at once, raising OSError or what Redis refuses; `timeout` in seconds, for each step.

    After an error replies may still be to come: close it then.
    """

    def __init__(self, address: RedisAddress, timeout: float) -> None:
        self._link: socket.socket = address.connect(timeout)
        self.parser = reply_parser()
        try:
            for command in address.greeting():
                check_reply(address, self.ask(command))
        except BaseException:
            self.close()
            raise

    def ask(self, command: bytes) -> Any:
        """The reply to one command: an error is given, not raised."""
        self._link.sendall(command)
        return self.reply()

    def send(self, commands: bytes) -> None:
        self._link.sendall(commands)

    def reply(self) -> Any:
        """The next reply."""
        while (reply := self.parser.gets()) is False:
            self.parser.feed(self.receive())
        return reply

    def receive(self) -> bytes:
        """What Redis has sent, for `parser`; raises ConnectionError when it has closed the connection."""
        data = self._link.recv(1 << 18)
        if not data:
            raise ConnectionError("connection closed by Redis")
        return data

    def close(self) -> None:
        self._link.close()
