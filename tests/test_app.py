"""`features serve`: Feast's protocol to the letter, errors that help, no request lost, no process left."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from online_rows import NOW, OnlineRows, service, view
from prometheus_client.parser import text_string_to_metric_families
from served import Served, served
from test_serving import AT_NOW, DELAYS, FRAUD, PROFILE, RISK, SECOND, TRANSACTIONS

from feature_server import FeatureClient
from feature_server.embedded import EmbeddedValkey

READ = "/get-online-features"
RATIO = {"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"]}}


@pytest.fixture(scope="module")
def server(valkey_server: str) -> Iterator[Served]:
    with served(valkey_server) as running:
        yield running


@pytest.fixture
def rows(valkey: str) -> OnlineRows:
    rows = OnlineRows(valkey)
    rows.define(TRANSACTIONS, PROFILE, RISK, DELAYS, services=[FRAUD])
    return rows


@pytest.fixture
def http_client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=10, trust_env=False) as client:
        yield client


def eventually(holds: Callable[[], Any], *, seconds: float = 15) -> Any:
    """Wait until `holds()` is true, and give what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return found


def test_an_answer_has_feasts_shape(rows: OnlineRows, http_client: httpx.Client) -> None:
    rows.put("customer__transactions", 1, NOW - SECOND / 4, 2**53 + 1, float("nan"))
    rows.put("customer__transactions", 2, NOW, 4, None)
    request = {
        "features": ["customer__transactions:amount", "merchant__risk:ratio", "customer__transactions:transactions_1h"],
        "entities": {"customer_id": [1, 2, None], "merchant_id": ["a", "b", "c"]},
        "full_feature_names": True,
    }
    response = http_client.post(READ, json=request)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert b"9007199254740993" in response.content
    none = "1970-01-01T00:00:00Z"
    times = ["2026-03-01T11:59:59.750000Z", "2026-03-01T12:00:00Z", none]
    assert response.json() == {
        "metadata": {
            "feature_names": [
                "customer_id",
                "merchant_id",
                "customer__transactions__amount",
                "merchant__risk__ratio",
                "customer__transactions__transactions_1h",
            ],
            "feature_types": ["int64", "string", "float64", "float32", "int64"],
        },
        "results": [
            {
                "values": [1, 2, None],
                "statuses": ["PRESENT", "PRESENT", "NULL_VALUE"],
                "event_timestamps": [none, none, none],
            },
            {"values": ["a", "b", "c"], "statuses": ["PRESENT"] * 3, "event_timestamps": [none, none, none]},
            {
                "values": ["NaN", None, None],
                "statuses": ["PRESENT", "NULL_VALUE", "NOT_FOUND"],
                "event_timestamps": times,
            },
            {"values": [None] * 3, "statuses": ["NOT_FOUND"] * 3, "event_timestamps": [none, none, none]},
            {
                "values": [2**53 + 1, 4, None],
                "statuses": ["PRESENT", "PRESENT", "NOT_FOUND"],
                "event_timestamps": times,
            },
        ],
    }


def test_a_request_as_curl_sends_it_is_understood(rows: OnlineRows, http_client: httpx.Client) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = json.dumps({"feature_service": "fraud_v1", "entities": {"customer_id": [1], "merchant_id": ["a"]}})
    assert http_client.post(READ, content=body, headers=form).status_code == 200


BAD = [
    (b"{", 400, "$", "the body is not JSON"),
    (b"", 400, "$", "the body is not JSON"),
    (b"[]", 422, "$", "Expected `object`, got `array`"),
    (b"{}", 422, "$", "missing required field `entities`"),
    (b'{"entities": {"customer_id": 1}}', 422, "$.entities[...]", "Expected `array`, got `int`"),
    (b'{"entities": {}, "feature": []}', 422, "$", "unknown field `feature`"),
    (b'{"entities": {}}', 422, "features", "no features are asked for"),
    (b'{"entities": {}, "feature_service": "fraud"}', 404, None, "unknown feature_service 'fraud'"),
    (b'{"entities": {}, "features": ["merchant__risk:ratio"]}', 422, "entities", "join key 'merchant_id' is missing"),
    (
        b'{"entities": {"merchant_id": [1]}, "features": ["merchant__risk:ratio"]}',
        422,
        "entities.merchant_id",
        "a value of join key 'merchant_id' has the wrong type",
    ),
    (b'{"entities": {"merchant_id": ["' + b"a" * (9 << 20) + b'"]}}', 413, "body", "the body is too large"),
]


@pytest.mark.parametrize(("body", "status", "where", "what"), BAD)
def test_a_bad_request_says_what_is_wrong_where_and_what_to_do(
    rows: OnlineRows, http_client: httpx.Client, body: bytes, status: int, where: str | None, what: str
) -> None:
    response = http_client.post(READ, content=body)
    error = response.json()
    assert response.status_code == status
    assert what in error["what"]
    assert error.get("where") == where
    assert {"error", "what", "expected"} <= set(error)
    assert http_client.get("/health").status_code == 200


def test_wrong_paths_and_methods_say_what_there_is(http_client: httpx.Client) -> None:
    missing = http_client.post("/get-online-feature", json={})
    assert (missing.status_code, missing.json()["where"]) == (404, "POST /get-online-feature")
    wrong = http_client.get(READ)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert "/openapi.json" in wrong.json()["remedy"]
    assert http_client.post("/health").status_code == 405


def test_the_registry_can_be_read(rows: OnlineRows, http_client: httpx.Client) -> None:
    assert [entity["name"] for entity in http_client.get("/entities").json()] == [
        "customer",
        "merchant",
        "carrier_airport",
    ]
    found = http_client.get("/feature-views/customer__transactions").json()
    assert (found["ttl"], found["feature_services"]) == ("1h", ["fraud_v1"])
    assert found["online"]["newest_event_timestamp"] == "2026-03-01T12:00:00Z"
    assert [view["id"] for view in http_client.get("/feature-views").json()] == sorted(rows.views)
    (listed,) = http_client.get("/feature-services").json()
    assert listed == http_client.get("/feature-services/fraud_v1").json()
    assert [feature["feature"] for feature in listed["features"]] == [ref.text for ref in FRAUD.features]
    missing = http_client.get("/feature-views/customer__transaction")
    assert missing.status_code == 404
    assert missing.json()["remedy"] == "did you mean 'customer__transactions'?"


def test_pages_are_html_for_a_browser_and_escape_what_they_show(rows: OnlineRows, http_client: httpx.Client) -> None:
    odd = view("thing__<b>odd</b>", {"thing": "string"}, {"x": "int64"})
    rows.define(TRANSACTIONS, odd, services=[service("odd_v1", "thing__<b>odd</b>:x")])
    browser = {"accept": "text/html,application/xhtml+xml"}
    pages = ["/", "/feature-views/thing__%3Cb%3Eodd%3C%2Fb%3E", "/feature-services/odd_v1", "/entities/thing"]
    for path in pages[::2]:
        response = http_client.get(path, headers=browser)
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert "thing__&lt;b&gt;odd" in response.text
        assert "<b>odd" not in response.text
    assert "FEATURES_CLOCK" in http_client.get("/", headers=browser).text
    missing = http_client.get("/feature-views/none", headers=browser)
    assert (missing.status_code, "unknown feature_view" in missing.text) == (404, True)


def test_ready_says_why_not(valkey: str, http_client: httpx.Client) -> None:
    empty = http_client.get("/ready")
    assert empty.status_code == 503
    assert "features sync" in empty.json()["reasons"][0]
    rows = OnlineRows(valkey)
    rows.define(TRANSACTIONS, unsynced=[RISK, view("thing__offline", {"thing": "int64"}, {"x": "int64"}, online=False)])
    (reason,) = http_client.get("/ready").json()["reasons"]
    assert reason == "feature view 'merchant__risk' is not synced: run `features sync merchant__risk`"
    rows.define(TRANSACTIONS, RISK)
    ready = http_client.get("/ready")
    assert ready.status_code == 200
    assert ready.json() == {
        "ready": True, "reasons": [], "clock": "stopped at 2026-03-01T12:00:00+00:00 by FEATURES_CLOCK",
    }  # fmt: skip
    assert http_client.get("/health").json() == {"status": "ok"}


def metrics(address: str) -> dict[tuple[str, ...], float]:
    """Samples by name and label values, in the order of the labels' names."""
    text = httpx.get(f"{address}/metrics", trust_env=False).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_requests_and_values(rows: OnlineRows, server: Served, http_client: httpx.Client) -> None:
    before = metrics(server.address)
    rows.put("customer__transactions", 1, NOW, 1, None)
    rows.put("customer__transactions", 2, NOW - 7200 * SECOND, 1, 1.0)
    features = ["customer__transactions:amount", "customer__transactions:transactions_1h"]
    http_client.post(READ, json={"features": features, "entities": {"customer_id": [1, 2, 3, 1]}})
    http_client.post(READ, content=b"{")
    http_client.get("/no/such/page")
    after = metrics(server.address)

    def grown(*name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown("features_http_requests_total", READ, "200") == 1
    assert grown("features_http_requests_total", READ, "400") == 1
    assert grown("features_http_requests_total", "other", "404") == 1
    assert grown("features_read_seconds_count") == 1
    assert grown("features_entities_total") == 4
    view_id = "customer__transactions"
    statuses = ("PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE")
    assert [grown("features_values_total", status, view_id) for status in statuses] == [2, 2, 2, 2]
    assert after["features_view_newest_event_age_seconds", view_id] == 0
    assert after["features_online_store_up",] == 1


def test_redis_gone_is_503_and_the_service_resumes_by_itself(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as store, served(store.url) as running:
        rows = OnlineRows(store.url)
        rows.define(RISK)
        rows.put("merchant__risk", "a", NOW, 0.5)
        rows.redis.save()
        with httpx.Client(base_url=running.address, trust_env=False) as client:
            assert client.post(READ, json=RATIO).status_code == 200
            os.kill(rows.redis.info("server")["process_id"], signal.SIGKILL)
            gone = eventually(lambda: (answer := client.post(READ, json=RATIO)).status_code == 503 and answer)
            assert gone.headers["retry-after"] == "1"
            assert gone.json()["error"] == "OnlineStoreUnavailable"
            assert client.get("/ready").status_code == 503
            assert client.get("/feature-views").status_code == 503
            assert client.get("/health").status_code == 200
            assert metrics(running.address)["features_online_store_up",] == 0
            with EmbeddedValkey(tmp_path):
                back = eventually(lambda: (answer := client.post(READ, json=RATIO)).status_code == 200 and answer)
                assert back.json()["results"][1]["values"] == [0.5]
                assert client.get("/ready").status_code == 200


def test_requests_in_flight_are_answered_before_the_server_ends(rows: OnlineRows, valkey: str) -> None:
    rows.put("merchant__risk", "a", NOW, 0.5)

    def read(connection: http.client.HTTPConnection) -> tuple[int, list[float]]:
        response = connection.getresponse()
        return response.status, json.loads(response.read())["results"][1]["values"]

    with served(valkey, "--workers", "2") as running:
        connections = [http.client.HTTPConnection("127.0.0.1", running.port, timeout=30) for _ in range(20)]
        for connection in connections:
            connection.request("POST", READ, json.dumps(RATIO))
            assert read(connection) == (200, [0.5])
        rows.redis.client_pause(600)
        for connection in connections:
            connection.request("POST", READ, json.dumps(RATIO))
        running.process.send_signal(signal.SIGTERM)
        assert [read(connection) for connection in connections] == [(200, [0.5])] * 20
        assert "WARNING: the clock is stopped at 2026-03-01T12:00:00+00:00" in running.stop()


def test_under_load_no_request_is_lost_when_the_server_ends(rows: OnlineRows, valkey: str) -> None:
    rows.put("merchant__risk", "a", NOW, 0.5)
    body = json.dumps(RATIO)

    def read_until_refused(port: int) -> int:
        """Requests answered, on connections kept as long as the server keeps them, until none can be made."""
        answered = 0
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.connect()
            except ConnectionRefusedError:
                return answered
            while connection.sock is not None:
                connection.request("POST", READ, body)
                response = connection.getresponse()
                assert response.status == 200
                assert b"0.5" in response.read()
                answered += 1

    with served(valkey, "--workers", "2") as running, ThreadPoolExecutor(3) as pool:
        counts = [pool.submit(read_until_refused, running.port) for _ in range(3)]
        time.sleep(0.5)
        running.stop()
        assert all(count.result() > 0 for count in counts)


def test_a_killed_worker_is_replaced_and_the_counts_go_on(rows: OnlineRows, valkey: str) -> None:
    with served(valkey, "--workers", "2") as running:
        before = {worker.pid for worker in running.workers()}
        assert len(before) == 2
        with FeatureClient(running.address) as client:
            for _ in range(10):
                client.get(features=["merchant__risk:ratio"], merchant_id="a")

        def answered() -> float:
            return metrics(running.address).get(("features_http_requests_total", READ, "200"), 0)

        eventually(lambda: answered() == 10)
        time.sleep(1.2)  # workers write their counts every second
        victim = running.workers()[0]
        victim.kill()
        now = eventually(lambda: len(pids := {worker.pid for worker in running.workers()} - {victim.pid}) == 2 and pids)
        assert len(now & before) == 1
        with FeatureClient(running.address) as client:
            for _ in range(10):
                client.get(features=["merchant__risk:ratio"], merchant_id="a")
        eventually(lambda: answered() == 20)
        errors = running.stop()
    assert f"pid={victim.pid} ended with -9" in errors


def test_a_server_whose_parent_is_killed_ends(rows: OnlineRows, valkey: str) -> None:
    with served(valkey) as running:
        (worker,) = running.workers()
        running.process.kill()
        running.process.wait()
        psutil.wait_procs([worker], timeout=15)
        assert not worker.is_running()


def test_without_a_url_the_embedded_store_is_served_and_ends_with_the_server(tmp_path: Path) -> None:
    with served(None, clock=None, FEATURES_PROJECT_DIR=str(tmp_path)) as running:
        assert httpx.get(running.address + "/ready", trust_env=False).status_code == 503
        children = psutil.Process(running.process.pid).children(recursive=True)
        assert sorted(child.name() for child in children)[-1] == "valkey-server"
        errors = running.stop()
        assert [child for child in children if child.is_running()] == []
    assert "clock" not in errors


def features_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "feature_server", "serve", *arguments], capture_output=True, text=True, timeout=60
    )


def test_a_taken_port_and_a_wrong_url_are_errors() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        run = features_serve("--port", port, "--redis-url", "redis://127.0.0.1")
    assert (run.returncode, run.stdout) == (1, "")
    assert f"127.0.0.1:{port}: the port is taken" in run.stderr
    assert "--port" in run.stderr
    run = features_serve("--port", "0", "--redis-url", "127.0.0.1:6379")
    assert run.returncode == 1
    assert "expected: redis://" in run.stderr


def test_a_worker_loads_nothing_that_builds_or_trains() -> None:
    code = "import sys, feature_server.app.worker as w; print(*{n.partition('.')[0] for n in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "duckdb",
        "dbt",
        "pandas",
        "pyarrow",
        "polars",
        "airflow",
        "deltalake",
        "sqlglot",
        "typer",
        "redis",
        "httpx",
    }
    assert set(run.stdout.split()) & heavy == set()


def test_the_server_may_be_used_while_definitions_change(rows: OnlineRows, valkey: str, server: Served) -> None:
    """No request sees a row by another layout than its own, nor an error, while views are defined anew."""
    one = view("merchant__risk", {"merchant_id": "string"}, {"ratio": "float64"})
    other = view("merchant__risk", {"merchant_id": "string"}, {"reports": "int64", "ratio": "float64"})

    def read(_: int) -> set[float | None]:
        with FeatureClient(server.address, settings=AT_NOW) as client:
            found = (client.get(features=["merchant__risk:ratio"], merchant_id="a").values for _ in range(60))
            return {values["ratio"] for values in found}

    with ThreadPoolExecutor(3) as pool:
        results = pool.map(read, range(3))
        for _ in range(10):
            rows.define(one)
            rows.put("merchant__risk", "a", NOW, 0.5)
            rows.define(other)
            rows.put("merchant__risk", "a", NOW, 3, 0.5)
        assert set.union(*results) <= {0.5, None}
