"""Requests as bytes over a socket, and the answers to them."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tests.support.online_rows import NOW, OnlineRows
from tests.support.served import Served, metrics
from tests.support.serving_cases import RISK

READ = "/get-online-features"
RATIO = json.dumps({"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"]}}).encode()


def store_ratio(valkey: str) -> None:
    """What RATIO asks for, in an emptied Valkey."""
    rows = OnlineRows(valkey)
    rows.redis.flushall()
    rows.define(RISK)
    rows.put("merchant__risk", "a", NOW, 0.5)


class Client:
    """A socket, and the answers read from it one after another."""

    def __init__(self, server: Served, *, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", server.port))
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, Any]:
        """Status and body of the next answer, as JSON where it is that."""
        line = self._file.readline()
        headers = http.client.parse_headers(self._file)
        if headers["transfer-encoding"] == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self._file.read(int(headers["content-length"]))
        return int(line.split()[1]), json.loads(body) if body.startswith(b"{") else body

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._file.readline(), 16):
            yield self._file.read(size)
            self._file.readline()
        self._file.readline()

    def ended(self) -> bytes:
        """What comes until the server closes the connection."""
        found = b""
        with suppress(ConnectionResetError):
            while data := self._file.read1(1 << 16):
                found += data
        return found


def request(body: bytes = RATIO, *headers: str, path: str = READ, method: str = "POST") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if not any(header.startswith("Transfer-Encoding") for header in headers):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


def value(answer: tuple[int, Any]) -> tuple[int, Any]:
    status, body = answer
    return status, body["results"][1]["values"] if status == 200 else body


HEALTH = request(b"", path="/health", method="GET")
VALUE = (200, [0.5])


def counted(server: Served, route: str, status: int) -> float:
    return metrics(server.address).get(("features_http_requests_total", route, str(status)), 0)


def still_answers(server: Served) -> bool:
    with Client(server) as other:
        other.send(request())
        return value(other.answer()) == VALUE
