"""Clients that are slow, leave, or send without end are cut within limits and counted as that; no other notices."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from statistics import median

import pytest
import uvicorn
from uvicorn.server import ServerState

from feature_server.app.connections import connections
from feature_server.limits import HttpLimits
from tests.support.online_rows import OnlineRows
from tests.support.raw_http import (
    HEALTH,
    READ,
    VALUE,
    Client,
    counted,
    request,
    still_answers,
    store_ratio,
    value,
)
from tests.support.served import Served, eventually, metrics, served

LIMITS = {"FEATURES_HEAD_SECONDS": "1", "FEATURES_BODY_SECONDS": "1.5", "FEATURES_ANSWER_SECONDS": "1"}
RST = struct.pack("ii", 1, 0)  # for SO_LINGER: close with a reset


@pytest.fixture(scope="module")
def hasty(valkey_server: str) -> Iterator[Served]:
    """A server that waits for no one."""
    store_ratio(valkey_server)
    with served(valkey_server, **LIMITS) as running:
        yield running
        assert "Traceback" not in running.stop()


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


def test_blank_lines_behind_an_answer_are_the_head_of_a_request_that_never_comes(hasty: Served) -> None:
    with Client(hasty) as client:
        client.send(request())
        assert value(client.answer()) == VALUE
        client.send(b"\r\n")
        started = time.monotonic()
        assert client.ended() == b""
        assert 0.9 < time.monotonic() - started < 10
    with Client(hasty) as client:
        client.send(b"\r\n" * 3 + request() + b"\r\n" + request())
        assert [value(client.answer()), value(client.answer())] == [VALUE, VALUE]
        client.send(b"\r\n" * 100_000)
        status, error = client.answer()
        assert (status, error["error"], error["where"]) == (431, "HeadTooLarge", "head")


def test_how_long_an_idle_connection_is_kept_can_be_set(valkey_server: str) -> None:
    store_ratio(valkey_server)
    with served(valkey_server, FEATURES_IDLE_SECONDS="1") as running, Client(running) as client:
        client.send(request())
        assert value(client.answer()) == VALUE
        started = time.monotonic()
        assert client.ended() == b""
        assert 0.9 < time.monotonic() - started < 10


def test_who_takes_nothing_of_an_answer_is_cut(hasty: Served, valkey_server: str) -> None:
    many = json.dumps({"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a" * 20] * 100_000}})
    (worker,) = hasty.workers()
    with Client(hasty, receive_bytes=4096) as client:
        client.send(request(many.encode()))
        port = client.socket.getsockname()[1]

        def is_open() -> bool:
            return port in [link.raddr.port for link in worker.net_connections("tcp") if link.raddr]

        eventually(is_open, seconds=30)
        eventually(lambda: not is_open(), seconds=30)
        assert not client.ended().endswith(b"]}]}")
    assert still_answers(hasty)


def test_who_takes_an_answer_slowly_gets_all_of_it(hasty: Served) -> None:
    many = json.dumps({"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a" * 20] * 100_000}})
    with Client(hasty, receive_bytes=65_536) as client:
        client.send(request(many.encode()))
        found, started = b"", time.monotonic()
        while not found.endswith(b"\r\n0\r\n\r\n"):
            found += client.socket.recv(1 << 20)
            time.sleep(0.05 if time.monotonic() < started + 3 else 0)
    assert time.monotonic() - started > 2.5
    _, _, chunks = found.partition(b"\r\n\r\n")
    body = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        body, chunks = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    assert len(json.loads(body)["results"][1]["values"]) == 100_000


def test_a_client_that_vanishes_is_noticed() -> None:
    """Without a limit the kernel sends to it for a quarter of an hour."""

    async def read_timeout() -> int:
        config = uvicorn.Config(print, lifespan="off", http=connections(HttpLimits(answer_seconds=7), 1, print))
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


def test_a_refusal_waits_for_the_answers_before_it(hasty: Served) -> None:
    for behind, status in ((b"\0", 400), (b"GET /" + b"a" * 80_000, 431), (b"GET /", 408)):
        with Client(hasty) as client:
            client.send((request() + HEALTH) * 20 + behind)
            for _ in range(20):
                assert value(client.answer()) == VALUE
                assert client.answer() == (200, {"status": "ok"})
            assert client.answer()[0] == status
            assert client.ended() == b""


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
    left = before.get("499", 0) + 2
    after = eventually(lambda: (now := requests_by_status(server, route)).get("499") == left and now)
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
