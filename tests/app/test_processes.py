"""The processes of `features serve`: Redis gone and back, SIGTERM, killed workers, nothing lost and nothing left."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

from feature_server import FeatureClient
from feature_server.online.embedded import EmbeddedValkey
from tests.support.online_rows import NOW, OnlineRows, view
from tests.support.processes import valkey_servers
from tests.support.served import Served, eventually, metrics, served
from tests.support.serving_cases import AT_NOW, RISK

READ = "/get-online-features"
RATIO = {"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"]}}


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
            except (ConnectionRefusedError, ConnectionResetError):  # reset: the listener was closed meanwhile
                return answered
            before = answered
            while connection.sock is not None:
                try:
                    connection.request("POST", READ, body)
                    response = connection.getresponse()
                except ConnectionResetError:
                    assert answered == before  # the listener was closed before a worker took the connection
                    return answered
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
    (tmp_path / "dbt_project.yml").touch()
    with served(None, clock=None, FEATURES_PROJECT_DIR=str(tmp_path)) as running:
        assert httpx.get(running.address + "/ready", trust_env=False).status_code == 503
        children = psutil.Process(running.process.pid).children(recursive=True)
        (valkey,) = valkey_servers(tmp_path / ".features" / "valkey")
        errors = running.stop()
        assert [process for process in (*children, valkey) if process.is_running()] == []
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


def test_what_a_killed_supervisor_left_is_removed_by_the_next_one_and_nothing_else(tmp_path: Path, valkey: str) -> None:
    def age(folder: Path) -> None:
        os.utime(folder, (0, 0))

    def folders() -> set[Path]:
        return set(tmp_path.glob("features-serve-*"))

    foreign = tmp_path / "features-serve-of-somebody"
    foreign.mkdir()
    with served(valkey, TMPDIR=str(tmp_path)) as running:
        (left,) = folders() - {foreign}
        workers = running.workers()
        running.process.kill()
        psutil.wait_procs(workers, timeout=60)
    with served(valkey, TMPDIR=str(tmp_path)) as living:
        assert left in folders(), "its workers may still be writing to it"
        for folder in folders():
            age(folder)
        (own,) = folders() - {foreign, left}
        with served(valkey, TMPDIR=str(tmp_path)) as other:
            assert left not in folders()
            assert {own, foreign} < folders()
            other.stop()
        living.stop()
    assert folders() == {foreign}
