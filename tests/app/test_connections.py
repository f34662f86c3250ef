"""Connections: what one client sends or leaves undone is bounded, answered by name, and no other client notices."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from statistics import median
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from feature_server.app.bodies import MAX_BODY_BYTES
from feature_server.app.connections import connections
from feature_server.settings import HttpLimits
from tests.support.online_rows import NOW, OnlineRows
from tests.support.served import Served, eventually, metrics, served
from tests.support.serving_cases import RISK

READ = "/get-online-features"
RATIO = json.dumps({"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"]}}).encode()
HEAD_BYTES = 65_536
LIMITS = {"FEATURES_HEAD_SECONDS": "1", "FEATURES_BODY_SECONDS": "1.5", "FEATURES_ANSWER_SECONDS": "1"}
RST = struct.pack("ii", 1, 0)  # for SO_LINGER: close with a reset


@pytest.fixture(scope="module")
def stored(valkey_server: str) -> str:
    rows = OnlineRows(valkey_server)
    rows.redis.flushall()
    rows.define(RISK)
    rows.put("merchant__risk", "a", NOW, 0.5)
    return valkey_server


@pytest.fixture(scope="module")
def server(stored: str) -> Iterator[Served]:
    with served(stored) as running:
        yield running
        assert "Traceback" not in running.stop()


@pytest.fixture(scope="module")
def hasty(stored: str) -> Iterator[Served]:
    """A server that waits for no one."""
    with served(stored, **LIMITS) as running:
        yield running
        assert "Traceback" not in running.stop()


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
        body = self._file.read(int(headers["content-length"]))
        return int(line.split()[1]), json.loads(body) if body.startswith(b"{") else body

    def ended(self) -> bytes:
        """What comes until the server closes the connection."""
        found = b""
        with suppress(ConnectionResetError):
            while data := self._file.read1(1 << 16):
                found += data
        return found


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with Client(server) as made:
        yield made


def request(body: bytes = RATIO, *headers: str, path: str = READ, method: str = "POST") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if not any(header.startswith("Transfer-Encoding") for header in headers):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


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


@pytest.mark.parametrize(
    "begin", [b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ", b"GET /", b"GET /health HTTP/1.1\r\nX"]
)
def test_a_head_without_end_is_431(server: Served, client: Client, begin: bytes) -> None:
    before = counted(server, "other", 431)
    client.send(begin)
    with suppress(OSError):
        for _ in range(300):
            client.send(b"a" * 65_536)
    status, error = client.answer()
    assert (status, error["error"], error["where"]) == (431, "HeadTooLarge", "head")
    assert "65,536" in error["expected"]
    assert "FEATURES_HEAD_BYTES" in error["remedy"]
    assert client.ended() == b""
    assert counted(server, "other", 431) == before + 1


def test_a_head_at_the_limit_is_read_and_one_beyond_it_is_431_however_it_is_cut(server: Served) -> None:
    empty = (
        len("/health") + sum(len(name) + 4 for name in ("host", "localhost", "content-length", "0")) - 8 + len("x") + 4
    )
    for size, status in ((HEAD_BYTES - empty, 200), (HEAD_BYTES - empty + 1, 431)):
        whole = request(b"", f"X: {'a' * size}", path="/health", method="GET")
        for cut in (len(whole), 8192, 8191, 1000):
            with Client(server) as client:
                for at in range(0, len(whole), cut):
                    client.send(whole[at : at + cut])
                assert client.answer()[0] == status, (size, cut)


def test_a_head_behind_a_large_body_is_not_counted_with_it(client: Client) -> None:
    large = request(RATIO + b" " * 300_000)
    client.send((large + HEALTH) * 3)
    for _ in range(3):
        assert value(client.answer()) == VALUE
        assert client.answer() == (200, {"status": "ok"})


def test_many_short_headers_are_bounded_too(server: Served, client: Client) -> None:
    client.send(request(b"", *["a: b"] * 20_000, path="/health", method="GET"))
    assert client.answer()[0] == 431
    assert still_answers(server)


@pytest.mark.parametrize("begin", [b"GET /", b"POST /get-online-features HTTP/1.1\r\nHost: localh"])
def test_a_head_that_comes_too_slowly_is_408(hasty: Served, begin: bytes) -> None:
    before = counted(hasty, "other", 408)
    with Client(hasty) as client:
        started = time.monotonic()
        client.send(begin)
        client.socket.settimeout(0.1)
        while time.monotonic() < started + 20:
            try:
                if client.socket.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                client.send(b"a")
        client.socket.settimeout(30)
        status, error = client.answer()
        assert 0.9 < time.monotonic() - started < 10
        assert (status, error["error"], error["where"]) == (408, "TooSlow", "head")
        assert "FEATURES_HEAD_SECONDS" in error["remedy"]
        assert client.ended() == b""
        assert counted(hasty, "other", 408) == before + 1


def test_a_body_that_comes_too_slowly_is_408_and_counts_as_that_of_its_route(hasty: Served) -> None:
    before = counted(hasty, READ, 408)
    with Client(hasty) as client:
        client.send(request()[:-5])
        started = time.monotonic()
        status, error = client.answer()
        assert 1.4 < time.monotonic() - started < 10
        assert (status, error["error"], error["where"]) == (408, "TooSlow", "body")
        assert "FEATURES_BODY_SECONDS" in error["remedy"]
        assert client.ended() == b""
        assert counted(hasty, READ, 408) == before + 1


def test_a_body_that_takes_its_time_but_not_too_long_is_read(hasty: Served) -> None:
    with Client(hasty) as client:
        whole = request()
        for at in range(0, len(whole), 20):
            client.send(whole[at : at + 20])
            time.sleep(0.05)
        assert value(client.answer()) == VALUE


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(hasty: Served) -> None:
    for said in (b"", b"\r\n"):
        with Client(hasty) as client:
            client.send(said)
            started = time.monotonic()
            assert client.ended() == b""
            assert 0.9 < time.monotonic() - started < 10


def test_an_idle_connection_is_kept_beyond_the_time_for_a_head(hasty: Served) -> None:
    with Client(hasty) as client:
        for pause in (0, 1.5):
            time.sleep(pause)
            client.send(request())
            assert value(client.answer()) == VALUE


def test_who_takes_nothing_of_an_answer_is_cut(hasty: Served, valkey_server: str) -> None:
    many = json.dumps({"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a" * 20] * 100_000}})
    (worker,) = hasty.workers()
    with Client(hasty, receive_bytes=4096) as client:
        client.send(request(many.encode()))
        port = client.socket.getsockname()[1]
        eventually(
            lambda: port not in [link.raddr.port for link in worker.net_connections("tcp") if link.raddr], seconds=30
        )
        assert not client.ended().endswith(b"]}]}")
    assert still_answers(hasty)


def test_who_takes_an_answer_slowly_gets_all_of_it(hasty: Served) -> None:
    many = json.dumps({"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a" * 20] * 100_000}})
    with Client(hasty, receive_bytes=65_536) as client:
        client.send(request(many.encode()))
        found, started = b"", time.monotonic()
        while not found.endswith(b"]}]}"):
            found += client.socket.recv(1 << 20)
            time.sleep(0.05 if time.monotonic() < started + 3 else 0)
    assert time.monotonic() - started > 2.5
    _, _, body = found.partition(b"\r\n\r\n")
    assert len(json.loads(body)["results"][1]["values"]) == 100_000


def test_a_client_that_vanishes_is_noticed() -> None:
    """Without a limit the kernel sends to it for a quarter of an hour."""

    async def read_timeout() -> int:
        config = uvicorn.Config(print, lifespan="off", http=connections(HttpLimits(answer_seconds=7), print))
        config.load()
        state = ServerState()
        made = partial(config.http_protocol_class, config=config, server_state=state, app_state={})  # type: ignore[arg-type]
        async with await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            while not state.connections:
                await asyncio.sleep(0.01)
            (connection,) = state.connections
            link = connection.transport.get_extra_info("socket")
            writer.close()
            return link.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    assert asyncio.run(read_timeout()) == 7000


def test_requests_behind_one_another_are_answered_in_turn(server: Served, client: Client) -> None:
    client.send((request() + HEALTH) * 50)
    for _ in range(50):
        assert value(client.answer()) == VALUE
        assert client.answer() == (200, {"status": "ok"})


def test_no_more_is_read_than_can_be_answered(server: Served) -> None:
    """A client that asks and asks, and reads no answer."""
    (worker,) = server.workers()
    before = worker.memory_info().rss
    with Client(server) as client:
        client.socket.settimeout(0.5)
        data = HEALTH * 4000
        sent, deadline = 0, time.monotonic() + 0.9
        with suppress(OSError):
            while time.monotonic() < deadline:
                sent += client.socket.send(data)
        assert worker.memory_info().rss - before < 30 << 20
        assert still_answers(server)


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


def test_a_body_in_chunks_is_read(client: Client) -> None:
    pieces = [RATIO[at : at + 1] for at in range(len(RATIO))]
    client.send(request(chunked(*pieces), "Transfer-Encoding: chunked"))
    client.send(request(chunked(RATIO, end=b"0\r\nHost: evil\r\n\r\n"), "Transfer-Encoding: chunked"))
    assert [value(client.answer()), value(client.answer())] == [VALUE, VALUE]


@pytest.mark.parametrize("endless", [b"0\r\nX: ", b"0\r\n", b"1;x=", b"0" * 20])
def test_what_stands_beside_the_data_of_chunks_is_bounded(server: Served, client: Client, endless: bytes) -> None:
    client.send(request(chunked(RATIO, end=b""), "Transfer-Encoding: chunked") + endless)
    filling = b"a: b\r\n" * 10_000 if endless == b"0\r\n" else (b"0" if endless[:2] == b"00" else b"a") * 60_000
    with suppress(OSError):
        for _ in range(300):
            client.send(filling)
    status, error = client.answer()
    assert (status, error["error"], error["where"]) == (431, "HeadTooLarge", "body")
    assert still_answers(server)


@pytest.mark.parametrize("body", [b"zz\r\n", b"5\nabcde\r\n", b"-1\r\n", b"1\r\nab\r\n0\r\n\r\n"])
def test_chunks_that_are_none_are_400(server: Served, client: Client, body: bytes) -> None:
    before = counted(server, READ, 400)
    client.send(request(body, "Transfer-Encoding: chunked"))
    status, error = client.answer()
    assert (status, error["error"]) == (400, "NotHttp")
    assert client.ended() == b""
    assert counted(server, READ, 400) == before + 1


NO_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x80" * 100,  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"hello\r\n\r\n", b"\0" * 50, b"GET /health HTTP/9.9\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: localhost\r\nA b: c\r\n\r\n",
    b"POST /push HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("sent", NO_HTTP)
def test_what_is_no_http_is_400_as_json(server: Served, client: Client, sent: bytes) -> None:
    client.send(sent)
    status, error = client.answer()
    assert (status, error["error"]) == (400, "NotHttp")
    assert {"what", "got", "remedy"} <= set(error)
    assert client.ended() == b""


def test_a_refusal_waits_for_the_answers_before_it(hasty: Served) -> None:
    for behind, status in ((b"\0", 400), (b"GET /" + b"a" * 80_000, 431), (b"GET /", 408)):
        with Client(hasty) as client:
            client.send((request() + HEALTH) * 20 + behind)
            for _ in range(20):
                assert value(client.answer()) == VALUE
                assert client.answer() == (200, {"status": "ok"})
            assert client.answer()[0] == status
            assert client.ended() == b""


def test_a_request_in_http_1_1_names_its_host(client: Client) -> None:
    client.send(b"GET /health HTTP/1.1\r\n\r\n")
    status, error = client.answer()
    assert (status, error["where"]) == (400, "the header host")


def test_http_1_0_needs_no_host_and_ends_with_its_answer(client: Client) -> None:
    client.send(b"GET /health HTTP/1.0\r\n\r\n")
    assert client.answer() == (200, {"status": "ok"})
    assert client.ended() == b""


def test_a_client_that_asks_first_is_told_to_go_on(client: Client) -> None:
    head = request(RATIO, "Expect: 100-continue").removesuffix(RATIO)
    client.send(head)
    assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(RATIO)
    assert value(client.answer()) == VALUE


H2C = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)


@pytest.mark.parametrize("cut", [10_000, 150, 1])
def test_who_offers_http_2_is_answered_in_http_1_1_with_its_body_read(client: Client, cut: int) -> None:
    """Java's HttpClient offers it with every first request."""
    large = RATIO + b" " * (20_000 if cut > 1 else 0)
    whole = (
        request(large, *H2C)
        + request(chunked(RATIO), "Transfer-Encoding: chunked", *H2C)
        + request(RATIO)
        + request(b"", *H2C, path="/health", method="GET")
    )
    for at in range(0, len(whole), cut):
        client.send(whole[at : at + cut])
    assert [value(client.answer()) for _ in range(3)] == [VALUE] * 3
    assert client.answer() == (200, {"status": "ok"})


def test_who_offers_http_2_and_waits_is_told_to_go_on(client: Client) -> None:
    client.send(request(RATIO, *H2C, "Expect: 100-continue").removesuffix(RATIO))
    assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(RATIO)
    assert value(client.answer()) == VALUE


def test_a_websocket_is_not_opened(client: Client) -> None:
    ask = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    )
    client.send(request(b"", *ask, path="/health", method="GET"))
    assert client.answer() == (200, {"status": "ok"})
    client.send(request())
    assert value(client.answer()) == VALUE


def test_a_body_too_large_is_answered_though_the_client_sends_on(client: Client) -> None:
    sent = request(b" " * (MAX_BODY_BYTES * 2))

    def send() -> None:
        with suppress(OSError):
            client.send(sent)

    sending = threading.Thread(target=send)
    sending.start()
    status, error = client.answer()
    sending.join()
    assert (status, error["error"]) == (413, "BodyTooLarge")


def test_an_answer_to_a_page_does_not_wait_for_the_body_and_the_next_request_is_read(client: Client) -> None:
    client.send(request(b" " * 200_000, path="/health"))
    client.send(request())
    assert client.answer()[0] == 405
    assert value(client.answer()) == VALUE


def test_a_body_without_end_that_nobody_reads_ends_the_connection(server: Served, client: Client) -> None:
    client.send(request(chunked(b"a", end=b""), "Transfer-Encoding: chunked", path="/health"))
    assert client.answer()[0] == 405
    client.socket.settimeout(10)
    more = chunked(b"a" * 65_536, end=b"") * 10_000
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        client.send(more)


def test_a_body_that_never_comes_of_a_request_that_is_answered_ends_the_connection(hasty: Served) -> None:
    with Client(hasty) as client:
        client.send(request(b" " * 100, path="/health")[:-50])
        assert client.answer()[0] == 405
        started = time.monotonic()
        assert client.ended() == b""
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("path", [READ, "/", "/metrics", "/feature-views/merchant__risk"])
def test_a_client_that_leaves_counts_as_one_that_left(server: Served, valkey_server: str, path: str) -> None:
    """Neither as a 200 nor as a 500, and nothing is logged."""
    route = "/feature-views/{name}" if path.startswith("/feature-views/") else path
    sent = request() if path == READ else request(b"", "Accept: text/html", path=path, method="GET")
    before = requests_by_status(server, route)
    with OnlineRows(valkey_server).redis as redis:
        redis.client_pause(600)
        for reset in (False, True):
            with Client(server) as client:
                client.send(sent)
                if reset:
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
                time.sleep(0.1)
    after = eventually(lambda: (now := requests_by_status(server, route)) != before and now)
    assert after["499"] == before.get("499", 0) + 2
    assert {status: count for status, count in after.items() if status not in ("499", "200")} == {
        status: count for status, count in before.items() if status not in ("499", "200")
    }


def test_a_client_that_leaves_at_once_is_no_failure_on_any_path(server: Served) -> None:
    for path in (
        "/",
        "/health",
        "/ready",
        "/metrics",
        "/openapi.json",
        "/entities",
        "/explain?feature=a:b",
        "/none",
        READ,
    ):
        for reset in (False, True):
            with Client(server) as client:
                client.send(request(b"", "Accept: text/html", path=path, method="GET") * 3)
                if reset:
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    assert still_answers(server)
    found = metrics(server.address)
    assert [name for name in found if name[0] == "features_http_requests_total" and name[2] == "500"] == []


def requests_by_status(server: Served, route: str) -> dict[str, float]:
    found = metrics(server.address)
    return {name[2]: count for name, count in found.items() if name[:2] == ("features_http_requests_total", route)}


def test_one_that_leaves_amid_its_body_counts_as_one_that_left(server: Served) -> None:
    before = counted(server, READ, 499)
    with Client(server) as client:
        client.send(request()[:-5])
        time.sleep(0.1)
    eventually(lambda: counted(server, READ, 499) == before + 1)


FLOODS = ["GET /", "GET /health HTTP/1.1\r\nX: "]
FLOOD = """
import socket, sys
while True:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as link:
        try:
            link.sendall(sys.argv[2].encode())
            while True:
                link.sendall(b"a" * 65_536)
        except OSError:
            pass
"""


def test_others_do_not_notice(server: Served) -> None:
    """Reads beside clients that send heads and bodies without end, byte by byte, or nothing at all."""

    def worst() -> tuple[float, float]:
        found = []
        with Client(server) as client:
            for _ in range(300):
                started = time.perf_counter()
                client.send(request())
                assert value(client.answer()) == VALUE
                found.append(time.perf_counter() - started)
        return median(found), sorted(found)[-10]

    quiet = worst()
    held = [Client(server) for _ in range(200)]
    for client in held:
        client.send(b"POST / HTTP/1.1\r\nHost: loc")
    processes = [subprocess.Popen([sys.executable, "-c", FLOOD, str(server.port), begin]) for begin in FLOODS]
    try:
        beside = worst()
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for client in held:
            client.socket.close()
    assert beside[1] < quiet[1] + 0.1, (quiet, beside)
