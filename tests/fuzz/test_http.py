"""Hostile requests to every route of a real server: no 5xx, no hang, no stack trace, good answers beside unchanged."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import redis

from feature_server.app.bodies import MAX_BODY_BYTES
from tests.support.fuzz_requests import Hostile, Requests
from tests.support.live_project import NOW, LiveProject, make_live_view, payment
from tests.support.online_rows import OnlineRows, service, view
from tests.support.served import Served, served

SEED = int(os.environ.get("FEATURES_FUZZ_SEED", "1"))
REQUESTS = int(os.environ.get("FEATURES_FUZZ_REQUESTS", "700"))
VIEW = make_live_view()
ROUTES = ["/", "/health", "/ready", "/metrics", "/openapi.json", "/entities", "/entities/{name}", "/feature-views",
          "/feature-views/{name}", "/feature-services", "/feature-services/{name}", "/explain", "/{name}"]  # fmt: skip
KEYS = {"text": "string", "number": "int32", "day": "date", "id": "uuid", "flag": "bool"}
EVENT = {"payment_id": 1, "customer": 900, "merchant": "m", "amount": "1.00", "paid_at": NOW.isoformat(),
         "ingested_at": NOW.isoformat()}  # fmt: skip
EVENTS = {"push_source_name": "shop.payments", "df": {name: [value] * 2 for name, value in EVENT.items()}}
READ = {"features": ["customer__payments:n", "customer__payments:spent"], "entities": {"customer": [5, 900]}}
ALL_KEYS = {
    "feature_service": "all_v1", "full_feature_names": True,
    "entities": {"text": ["a", "b"], "number": [1, 2], "day": ["2024-05-01", "2024-05-02"], "flag": [True, False],
                 "id": ["123e4567-e89b-12d3-a456-426614174000"] * 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, valkey_server: str) -> Iterator[Served]:
    with redis.Redis.from_url(valkey_server) as connection:
        connection.flushall()
    project = LiveProject(tmp_path_factory.mktemp("fuzzed"), valkey_server, VIEW)
    project.landed("a", [payment(1, 5, 30, "3.00")])
    project.publish()
    project.sync()
    folders = {"FEATURES_PROJECT_DIR": str(project.folder), "FEATURES_OFFLINE": str(project.offline.root)}
    with served(valkey_server, clock=NOW.isoformat(), **folders) as server:
        yield server


@pytest.fixture(scope="module")
def keyed(valkey_server: str) -> Iterator[Served]:
    url = f"{valkey_server}?db=1"
    rows = OnlineRows(url)
    views = [view(f"{name}__v", {name: kind}, {"x": "float64", "y": "string"}) for name, kind in KEYS.items()]
    rows.define(*views, services=[service("all_v1", *(f"{name}__v:x" for name in KEYS))])
    rows.put("text__v", "a", NOW, 0.5, "y")
    with served(url) as server:
        yield server


class Line:
    """A connection that is made again when the server has ended it."""

    def __init__(self, port: int) -> None:
        self._port, self._socket = port, socket.socket()
        self._connect()

    def _connect(self) -> None:
        self._socket.close()
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=60)

    def ask(self, request: Hostile) -> tuple[int, bytes]:
        """Status and body; (0, b"") where the connection ends without an answer."""
        try:
            self._socket.sendall(request.raw)
            if not request.whole:
                with suppress(OSError):  # the server was quicker
                    self._socket.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(self._socket, method=request.method)
            answer.begin()
            body = answer.read()
        except (http.client.BadStatusLine, OSError):
            self._connect()
            return 0, b""
        if answer.will_close or not request.whole:
            self._connect()
        return answer.status, body


def fuzz(server: Served, bodies: dict[str, Any], questions: dict[str, str], count: int) -> None:
    """Draw and ask `count` times."""
    line, failures = Line(server.port), list[str]()
    requests = Requests(SEED, f"127.0.0.1:{server.port}", ROUTES, bodies, questions)
    for number in range(count):
        request = requests.draw()
        status, body = line.ask(request)
        if status >= 500 or (request.whole and not status):
            failures.append(f"request {number} of seed {SEED}: {status} {body[:300]!r} for {request.raw[:1000]!r}")
    assert failures == []


def test_hostile_requests_get_no_5xx_and_disturb_nobody(live: Served) -> None:
    """Beside them, good pushes and reads: each event that is answered counts."""
    ended, counted = threading.Event(), list[tuple[Any, ...]]()

    def beside() -> None:
        with httpx.Client(base_url=live.address, timeout=60, trust_env=False) as client:
            while not ended.is_set() and len(counted) < 500:
                event = EVENT | {"payment_id": 1_000_000 + len(counted), "customer": 7}
                pushed = client.post("/push", json={**EVENTS, "df": {name: [value] for name, value in event.items()}})
                read = client.post("/get-online-features", json=READ | {"entities": {"customer": [7, 5]}})
                spent = [column["values"] for column in read.json()["results"][1:]]
                counted.append((pushed.status_code, pushed.json(), read.status_code, spent))
                ended.wait(0.02)

    good = threading.Thread(target=beside)
    good.start()
    try:
        bodies = {"/get-online-features": READ, "/push": EVENTS}
        fuzz(live, bodies, {"feature": f"{VIEW.id}:spent", "customer": "5"}, REQUESTS)
    finally:
        ended.set()
        good.join()
    assert counted == [
        (200, {"accepted": 1, "rejected": []}, 200, [[n + 1, 1], [f"{n + 1}.00", "3.00"]]) for n in range(len(counted))
    ]


def test_hostile_keys_of_every_type_get_no_5xx(keyed: Served) -> None:
    with httpx.Client(base_url=keyed.address, timeout=60, trust_env=False) as client:
        before = client.post("/get-online-features", json=ALL_KEYS)
        fuzz(keyed, {"/get-online-features": ALL_KEYS}, {"feature": "text__v:x", "text": "a"}, REQUESTS)
        after = client.post("/get-online-features", json=ALL_KEYS)
    assert (before.status_code, before.content) == (200, after.content)


@pytest.mark.parametrize("path", ["/get-online-features", "/push"])
def test_a_body_at_the_limit_is_read_and_one_beyond_it_is_not(live: Served, path: str) -> None:
    says_json = {"content-type": "application/json"}
    for size, status in ((MAX_BODY_BYTES, 422), (MAX_BODY_BYTES + 1, 413)):
        body = b'{"a":"' + b"x" * (size - 8) + b'"}'
        answer = httpx.post(f"{live.address}{path}", content=body, headers=says_json, timeout=60, trust_env=False)
        assert answer.status_code == status


def test_no_stack_trace_was_logged(live: Served, keyed: Served) -> None:
    for server in (live, keyed):
        said = server.stop()
        assert "Traceback" not in said
        assert " ERROR " not in said
