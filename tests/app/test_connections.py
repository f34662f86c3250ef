"""Connections: what one client sends is bounded, what is no HTTP answered by name, and no offer of HTTP/2 taken."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from feature_server.app.bodies import MAX_BODY_BYTES
from tests.support.raw_http import (
    HEALTH,
    RATIO,
    READ,
    VALUE,
    Client,
    chunked,
    counted,
    request,
    still_answers,
    value,
)
from tests.support.served import Served

HEAD_BYTES = 65_536


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with Client(server) as made:
        yield made


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


def test_a_body_in_chunks_is_read(client: Client) -> None:
    pieces = [RATIO[at : at + 1] for at in range(len(RATIO))]
    client.send(request(chunked(*pieces), "Transfer-Encoding: chunked"))
    client.send(request(chunked(RATIO, end=b"0\r\nHost: evil\r\n\r\n"), "Transfer-Encoding: chunked"))
    assert [value(client.answer()), value(client.answer())] == [VALUE, VALUE]


def test_a_flood_of_chunks_is_read_in_turns_and_in_order(server: Served, client: Client) -> None:
    """A later request behind it is answered as itself, and so are those of others meanwhile."""
    flood = chunked(*[b" "] * 100_000, *(RATIO[at : at + 1] for at in range(len(RATIO))), *[b" "] * 100_000)
    client.send(request(flood, "Transfer-Encoding: chunked") + request())
    for _ in range(5):
        assert still_answers(server)
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


def test_a_url_without_a_path_is_told_as_that(client: Client) -> None:
    client.send(b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n")
    status, error = client.answer()
    assert (status, error["got"]) == (400, "a URL without a path")


def test_a_compressed_body_is_415(client: Client) -> None:
    for path in (READ, "/push"):
        client.send(
            request(gzip.compress(RATIO), "Content-Encoding: gzip", "Content-Type: application/json", path=path)
        )
        status, error = client.answer()
        assert (status, error["where"], error["got"]) == (415, "the header content-encoding", "'gzip'")
    client.send(request(RATIO, "Content-Encoding: identity"))
    assert value(client.answer()) == VALUE


def test_a_request_in_http_1_1_names_its_host(client: Client) -> None:
    client.send(b"GET /health HTTP/1.1\r\n\r\n")
    status, error = client.answer()
    assert (status, error["where"]) == (400, "the header host")


def test_http_1_0_needs_no_host_and_ends_with_its_answer(client: Client) -> None:
    client.send(b"GET /health HTTP/1.0\r\n\r\n")
    assert client.answer() == (200, {"status": "ok"})
    assert client.ended() == b""


def test_a_large_answer_to_http_1_0_has_its_length_and_no_chunks(client: Client) -> None:
    body = json.dumps({"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"] * 20_000}}).encode()
    client.send(request(body).replace(b"HTTP/1.1", b"HTTP/1.0"))
    head, _, answer = client.ended().partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"content-length: %d" % len(answer) in head
    assert json.loads(answer)["results"][1]["values"] == [0.5] * 20_000


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
