"""Bytes that are no request, requests cut anywhere, thousands of connections: no 5xx, no trace, no memory lost."""

from __future__ import annotations

import os
import random
import re
import socket
import struct
from contextlib import suppress

from feature_server.online.embedded import EmbeddedValkey
from tests.support.fuzz_requests import Requests
from tests.support.online_rows import NOW, OnlineRows
from tests.support.served import Served, eventually, metrics, served
from tests.support.serving_cases import RISK

SEED = int(os.environ.get("FEATURES_FUZZ_SEED", "1"))
CONNECTIONS = int(os.environ.get("FEATURES_FUZZ_CONNECTIONS", "1500"))
READ = {"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"]}}
LIMITS = {"FEATURES_HEAD_SECONDS": "2", "FEATURES_BODY_SECONDS": "2", "FEATURES_ANSWER_SECONDS": "2"}
ROUTES = ["/", "/health", "/ready", "/metrics", "/openapi.json", "/entities", "/feature-views/{name}", "/{name}"]
RESET = struct.pack("ii", 1, 0)


class Bytes:
    """Draws what is sent on a connection: several requests behind one another, cut and spoilt, or none at all."""

    def __init__(self, seed: int, server: Served) -> None:
        self._draw = random.Random(seed)
        bodies = {"/get-online-features": READ}
        self._requests = Requests(seed, f"127.0.0.1:{server.port}", ROUTES, bodies, {"feature": "a:b", "a": "1"})

    def draw(self) -> bytes:
        draw = self._draw
        if draw.random() < 0.1:
            return draw.randbytes(draw.choice([1, 20, 1000, 100_000]))
        data = b"".join(self._requests.draw().raw for _ in range(draw.choice([1, 1, 2, 5, 30])))
        if draw.random() < 0.5:
            data = data[: draw.randrange(len(data) + 1)]
        for _ in range(draw.choice([0, 0, 1, 3])):
            at = draw.randrange(len(data) + 1)
            data = (
                data[:at] + draw.choice([b"", b"\r\n", b"\0", draw.randbytes(3), data[at : at + 50]]) + data[at + 3 :]
            )
        return data

    def cut(self, data: bytes) -> list[bytes]:
        """As it is written: at once, or in pieces."""
        places = sorted(self._draw.choices(range(len(data) + 1), k=self._draw.choice([0, 0, 1, 4])))
        return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]

    def leaves(self) -> bool:
        return self._draw.random() < 0.3

    def resets(self) -> bool:
        return self._draw.random() < 0.5


def disturb(server: Served, seed: int, count: int) -> list[bytes]:
    """Open `count` connections, 50 at a time, and send on each; the answers with a 5xx."""
    drawn, failed = Bytes(seed, server), list[bytes]()
    for _ in range(count // 50):
        links = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(50)]
        for link in links:
            with suppress(OSError):
                for piece in drawn.cut(drawn.draw()):
                    link.sendall(piece)
            if drawn.leaves():
                if drawn.resets():
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                link.close()
            else:
                with suppress(OSError):
                    link.shutdown(socket.SHUT_WR)
        for link in links:
            found = b""
            with link, suppress(OSError):
                while data := link.recv(1 << 20):
                    found += data
            failed += re.findall(rb"HTTP/1\.1 5[^\r]*", found)
    return failed


def test_whatever_is_sent_nothing_fails_and_nothing_is_kept(tmp_path_factory: object) -> None:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as store:  # type: ignore[attr-defined]
        rows = OnlineRows(store.url)
        rows.define(RISK)
        rows.put("merchant__risk", "a", NOW, 0.5)
        with served(store.url, **LIMITS) as server:
            (worker,) = server.workers()
            assert disturb(server, SEED, CONNECTIONS // 2) == []
            before, files = worker.memory_info().rss, worker.num_fds()
            assert disturb(server, SEED + 1, CONNECTIONS) == []
            eventually(lambda: worker.num_fds() <= files + 3, seconds=20)
            assert worker.memory_info().rss < before + (20 << 20)
            counts = metrics(server.address)
            said = server.stop()
    assert [name for name in counts if name[0] == "features_http_requests_total" and name[2] == "500"] == []
    assert "Traceback" not in said
    assert " ERROR " not in said


def test_thousands_of_connections_that_say_nothing_hold_nobody_up_and_are_closed(tmp_path_factory: object) -> None:
    with (
        EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as store,  # type: ignore[attr-defined]
        served(store.url, **LIMITS) as server,
    ):
        (worker,) = server.workers()
        metrics(server.address)  # connects to Redis
        before, files = worker.memory_info().rss, worker.num_fds()
        links = []
        for at in range(3000):
            link = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            link.sendall((b"", b"GET /", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")[at % 3])
            links.append(link)
        assert metrics(server.address)["features_online_store_up",] == 0
        eventually(lambda: worker.num_fds() <= files + 3, seconds=30)
        assert worker.memory_info().rss < before + (60 << 20)
        for link in links:
            link.close()
        said = server.stop()
    assert "Traceback" not in said
