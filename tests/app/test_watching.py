"""The port for metrics: what it answers without a key, for all workers, and what it does not."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.support.keys import Keys, bearing
from tests.support.online_rows import NOW, OnlineRows
from tests.support.served import Served, eventually, metrics, served
from tests.support.serving_cases import RISK

READ = "/get-online-features"
RATIO = {"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"]}}
READS = ("features_http_requests_total", READ, "200")


@pytest.fixture
def keys(valkey: str) -> Keys:
    rows = OnlineRows(valkey)
    rows.define(RISK)
    rows.put("merchant__risk", "a", NOW, 0.5)
    return Keys(valkey)


@pytest.fixture
def server(keys: Keys) -> Iterator[Served]:
    with served(keys.url, "--workers", "2", "--metrics-port", "0") as running:
        yield running
        assert "Traceback" not in running.stop()


def ask(url: str, method: str = "GET", **headers: str) -> int:
    return httpx.request(method, url, headers=headers, trust_env=False).status_code


def test_metrics_of_all_workers_need_no_key_there(server: Served, keys: Keys) -> None:
    mine = keys.make("read:*")
    for _ in range(20):
        answer = httpx.post(server.address + READ, json=RATIO, headers=bearing(mine), trust_env=False)
        assert answer.status_code == 200
    eventually(lambda: all(metrics(server.watched).get(READS) == 20 for _ in range(6)))
    assert [ask(f"{server.watched}/{page}") for page in ("health", "ready", "metrics")] == [200, 200, 200]
    assert ask(f"{server.address}/metrics") == 401
    assert ask(f"{server.address}/metrics", **bearing(keys.make("metrics"))) == 200
    assert "WARNING: other machines" not in server.log()


def test_nothing_else_is_answered_there(server: Served, keys: Keys) -> None:
    admin = bearing(keys.make("admin"))
    for page in (
        "/",
        "/entities",
        "/openapi.json",
        "/feature-views/merchant__risk",
        "/sign-in",
        "/explain",
        "/metrics/",
    ):
        assert ask(server.watched + page, **admin) == 404
    for page in (READ, "/push", "/metrics", "/train"):
        assert ask(server.watched + page, "POST", **admin) == 404
    assert ask(f"{server.watched}/metrics", host="evil.example") == 421
    assert ask(f"{server.watched}/metrics", origin="http://evil.example") == 403
    told = httpx.get(server.watched, trust_env=False)
    assert (told.json()["error"], "/metrics" in told.json()["expected"]) == ("NotHere", True)
    refused = ("features_http_requests_total", "other", "421")
    assert eventually(lambda: metrics(server.watched).get(refused) == 1)  # the other worker's within a second


def test_a_worker_that_ends_takes_its_last_scrapes(server: Served, keys: Keys) -> None:
    keys.make("admin")
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"{server.watched}/metrics").status_code == 200
        (first, _) = server.workers()
        first.terminate()
        first.wait(30)
        assert eventually(lambda: len(server.workers()) == 2)
        assert all(client.get(f"{server.watched}/metrics").status_code == 200 for _ in range(5))


def test_other_machines_are_told_of(keys: Keys) -> None:
    keys.make("admin")
    with served(keys.url, "--metrics-port", "0", "--metrics-host", "0.0.0.0") as server:
        assert "WARNING: other machines read http://0.0.0.0:" in server.log()
        assert ask(f"{server.watched}/metrics", host="features.internal:9100") == 200
        assert ask(f"{server.address}/metrics", host="features.internal") == 421


def test_a_port_that_is_taken_is_named(keys: Keys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(AssertionError, match="the port is taken"), served(keys.url, "--metrics-port", port):
            pass
    with (
        pytest.raises(AssertionError, match="port of their own"),
        served(keys.url, "--port", "16566", "--metrics-port", "16566"),
    ):
        pass
