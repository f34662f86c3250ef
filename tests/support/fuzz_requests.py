"""Hostile HTTP requests as bytes: any path, query, header and body that a client could send, drawn from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

METHODS = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "BREW"]
NAMES = [
    "", ".", "..", "%00", "%FF", "%ED%A0%80", "%2e%2e%2f", "%F0%9F%98%80", "<b>", "%0d%0aSet-Cookie:%20a=b", "{name}",
    "a" * 20_000, "%", "%zz", "customer__payments", "customer__payments@v2", "customer", "@", ":", "*",
]  # fmt: skip
TIMES = [
    "2024-05-01T12:00:00Z", "0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00",
    "2024-05-01T24:00:00Z", "2024-W18-3", "10000-01-01", "-0001-01-01", "2024-05-01T12:00:00.1234567Z", "1970-01-01",
]  # fmt: skip
TEXTS = [
    *TIMES,
    "", "\0", "a\0b", "\ud800", "\udfff\ud800", "\u202e", "\ufffe", "\U0001f600", "a" * 70_000, "5", "05", "-0", "1e3",
    "9" * 30, "9" * 5_000, "0x10", "NaN", "-Infinity", "null", "true", " 5", "5\n", "٣", "%FF", "'; drop table x; --",
    "../..",
]  # fmt: skip
NUMBERS = [
    "0", "-0", "1e0", "5.0", "1e400", "-1e400", "1e-400", "9" * 400, "NaN", "Infinity", "-Infinity", "01", "+1", "1.",
    ".5", "0x1", str(2**63), str(-(2**63) - 1), str(2**64), str(2**53 + 1), "1" + "0" * 5_000,
]  # fmt: skip
PIECES = [
    b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\0", b"\xef\xbb\xbf", b'\\ud800"', b"\\u0000", b"\\x", b",", b'"', b"{",
    b"]", b"[" * 600, b'{"a":' * 600, b"//", b"NaN",
]  # fmt: skip
TYPES = [
    "application/json", "application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded",
    "multipart/form-data", "application/json, text/plain", ";", "\xff", "application/json;" + "a" * 9_000,
]  # fmt: skip
HEADERS = [
    "Accept: text/html", "Accept: */*", "Accept: \xff", "Accept-Encoding: gzip", "Content-Encoding: gzip",
    "Expect: 100-continue", "Origin: null", "Origin: http://evil.example", "Origin: \xff",
    "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: \xff", "Host: evil.example", "Host: [::1", "Host: \xff", "Host: ",
    "Cookie: " + "a" * 30_000, "X-Forwarded-For: \xff", "Upgrade: websocket\r\nConnection: Upgrade",
    "Upgrade: h2c\r\nConnection: Upgrade", "Connection: close", "If-None-Match: *", "Range: bytes=0-1",
    "Te: trailers",
]  # fmt: skip


class Hostile(NamedTuple):
    """A request; `whole` when it is one that must be answered, and not an end of a connection in the midst of it."""

    method: str
    raw: bytes
    whole: bool


class Requests:
    """Draws requests to a server's `routes`; `bodies` has one that it takes for each route that takes one, `questions`
    the parameters of /explain."""

    def __init__(
        self, seed: int, host: str, routes: Sequence[str], bodies: dict[str, Any], questions: dict[str, str]
    ) -> None:
        self._draw = random.Random(seed)
        self._host, self._routes, self._bodies, self._questions = host, routes, bodies, questions

    def draw(self) -> Hostile:
        draw = self._draw
        path = draw.choice([*self._bodies] * 6 + [*self._routes] + ["/explain"] * 3)
        method = "POST" if path in self._bodies and draw.random() < 0.9 else draw.choice(["GET"] * 6 + METHODS)
        target = path.replace("{name}", draw.choice(NAMES)).encode()
        if path == "/explain" or draw.random() < 0.05:
            target += b"?" + self._query()
        if draw.random() < 0.03:
            target = draw.choice(
                [b"*", b"//", b"http://evil.example/", b"/\xff", b"/%00", b"/" + b"a/" * 9_000, b"?", b"/ /"]
            )
        headers = [f"Host: {self._host}"]
        if draw.random() < 0.3:
            more = draw.sample(HEADERS, draw.randint(1, 3))
            if draw.random() < 0.7 and any(line.startswith("Host:") for line in more):
                headers.clear()  # one name, and not two
            headers += more
        body = self._body(path) if method in ("POST", "PUT", "PATCH") else b""
        if body or method == "POST":
            headers.append(f"Content-Type: {draw.choice(['application/json'] * 12 + TYPES)}")
        return self._framed(method, target, headers, body)

    def _framed(self, method: str, target: bytes, headers: list[str], body: bytes) -> Hostile:
        draw = self._draw
        whole = True
        if body and draw.random() < 0.15:
            cuts = sorted(draw.choices(range(len(body) + 1), k=draw.randint(0, 5)))
            pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
            headers.append("Transfer-Encoding: chunked")
            if draw.random() < 0.3:
                body, whole = body.replace(b"\r\n", draw.choice([b"zz\r\n", b"\n", b""]), 1), False
        elif body:
            length = len(body)
            if draw.random() < 0.08:
                length, whole = draw.choice([length + 7, max(0, length - 7), 10**30, -1]), False
            headers.append(f"Content-Length: {length}")
        head = "\r\n".join([f"{method} ", *headers, "", ""]).encode("latin-1")
        head = head.replace(b" ", b" %b HTTP/1.1" % target, 1)
        if draw.random() < 0.03:
            return Hostile(method, self._spoilt(head) + body, False)
        return Hostile(method, head + body, whole and b"\r\nUpgrade:" not in head)

    def _query(self) -> bytes:
        draw = self._draw
        given = list(self._questions.items())
        for _ in range(draw.choice([0, 1, 1, 2])):
            change = draw.randrange(4)
            place = draw.randrange(len(given)) if given else 0
            if change == 0 and given:
                given[place] = (given[place][0], draw.choice(TEXTS))
            elif change == 1 and given:
                given.pop(place)
            elif change == 2:
                given.append((draw.choice(["at", "feature", "customer", *TEXTS]), draw.choice(TEXTS)))
            else:
                given.append(("at", draw.choice([*TIMES] * 4 + TEXTS)))
        text = "&".join(f"{quote(n, errors='surrogatepass')}={quote(v, errors='surrogatepass')}" for n, v in given)
        return self._spoilt(text.encode()) if draw.random() < 0.1 else text.encode()

    def _body(self, path: str) -> bytes:
        draw = self._draw
        good = self._bodies[path if path in self._bodies else draw.choice([*self._bodies])]
        text = self._json(json.loads(json.dumps(good)), 0.08)
        body = text.encode("utf-8", "surrogatepass")
        way = draw.random()
        if way < 0.02:
            return body.decode("utf-8", "replace").encode(draw.choice(["utf-16", "utf-32", "latin-1"]), "replace")
        return self._spoilt(body) if way < 0.3 else body

    def _json(self, value: Any, chance: float) -> str:
        """Any part of a value may be another one, also one that json.dumps would not write."""
        draw = self._draw
        if draw.random() < chance:
            deep = draw.choice([50, 500, 5_000])
            return draw.choice([
                *NUMBERS, "null", "true", "{}", "[]", "[" * deep + "]" * deep, '{"a":' * deep + "1" + "}" * deep,
                *(json.dumps(text) for text in TEXTS), *(json.dumps(text, ensure_ascii=False) for text in TEXTS),
            ])  # fmt: skip
        if isinstance(value, list):
            return "[" + ",".join(self._json(item, chance) for item in value) + "]"
        if isinstance(value, dict):
            items = [(name if draw.random() > 0.02 else draw.choice(TEXTS), item) for name, item in value.items()]
            if items and draw.random() < 0.05:
                items.append(draw.choice(items))  # a key twice
            return "{" + ",".join(f"{json.dumps(name)}:{self._json(item, chance)}" for name, item in items) + "}"
        return json.dumps(value)

    def _spoilt(self, data: bytes) -> bytes:
        draw = self._draw
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(data) + 1)
            other = draw.choice([b"", draw.choice(PIECES) + data[at:], bytes([draw.randrange(256)]) + data[at + 1 :]])
            data = data[:at] + draw.choice([other, data[max(0, at - 9) :]])
        return data
