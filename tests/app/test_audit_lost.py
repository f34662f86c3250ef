"""The audit trail where something goes wrong: full disks, held locks, rotation by workers, ends of all kinds."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.support.audit_lines import lines, told
from tests.support.online_rows import NOW
from tests.support.raw_http import store_ratio
from tests.support.served import Served, eventually, metrics, served
from tests.support.stream_views import payment, put_online, stream_view

READ = "/get-online-features"
RATIO = {"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"]}}
EVENT = {"push_source_name": "payments.transactions", "df": {k: [v] for k, v in payment(1, customer_id=1).items()}}
DROPPED = ("features_audit_dropped_total",)


@pytest.fixture
def store(valkey: str) -> str:
    store_ratio(valkey)
    return valkey


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trail.jsonl"


def reads(server: Served, count: int, body: dict[str, Any] = RATIO) -> list[int]:
    with httpx.Client(base_url=server.address, trust_env=False, timeout=30) as client:
        return [client.post(READ, json=body).status_code for _ in range(count)]


def fill_disk(server: Served, left: int | None) -> None:
    """Let no file of the workers grow beyond so many bytes, as a full disk does; None: there is room again."""
    for worker in server.workers():
        _, most = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (most if left is None else left, most))


def test_workers_that_rotate_one_file_lose_and_tear_no_line(store: str, path: Path) -> None:
    limits = {"FEATURES_AUDIT_BYTES": "8192", "FEATURES_AUDIT_FILES": "900"}
    with served(store, "--workers", "3", FEATURES_AUDIT=str(path), **limits) as server:
        bodies = [RATIO | {"entities": {"merchant_id": ["a"] * (1 + i)}} for i in range(12)]
        with ThreadPoolExecutor(12) as threads:
            found = list(threads.map(lambda body: reads(server, 100, body), bodies))
        assert {status for statuses in found for status in statuses} == {200}
        eventually(lambda: len(lines(path)) == 1200)
        server.workers()[0].kill()
        assert eventually(lambda: len(server.workers()) == 3)
        assert reads(server, 20) == [200] * 20
        eventually(lambda: len(lines(path)) == 1220)
        assert metrics(server.address)[DROPPED] == 0
    assert Counter(line["entities"] for line in lines(path)) == Counter({1: 120} | dict.fromkeys(range(2, 13), 100))
    aside = list(path.parent.glob("trail.jsonl.*"))
    assert len(aside) > 10


def test_no_more_files_are_kept_than_said(store: str, path: Path) -> None:
    limits = {"FEATURES_AUDIT_BYTES": "4096", "FEATURES_AUDIT_FILES": "2"}
    with served(store, FEATURES_AUDIT=str(path), **limits) as server:
        for _ in range(8):
            reads(server, 15)
            time.sleep(0.15)
    assert {file.name for file in path.parent.glob("trail*")} == {"trail.jsonl", "trail.jsonl.1", "trail.jsonl.2"}
    assert lines(path)


def test_another_program_may_rotate_the_file(store: str, path: Path) -> None:
    with served(store, FEATURES_AUDIT=str(path)) as server:
        reads(server, 1)
        told(path, 1)
        path.rename(path.with_name("trail.jsonl.1"))
        reads(server, 1)
        told(path, 2)
        path.unlink()
        reads(server, 1)
        assert eventually(path.exists)


def test_a_full_disk_holds_up_no_read_and_what_it_lost_is_counted(store: str, path: Path) -> None:
    with served(store, FEATURES_AUDIT=str(path)) as server:
        assert reads(server, 3) == [200] * 3
        told(path, 3)
        fill_disk(server, path.stat().st_size + 100)  # less than a line
        assert reads(server, 20) == [200] * 20
        assert eventually(lambda: metrics(server.address)[DROPPED] == 20)
        assert httpx.get(f"{server.address}/ready", trust_env=False).is_success
        assert len(lines(path)) == 3  # whole ones
        fill_disk(server, None)
        (lost,) = eventually(lambda: lines(path)[3:])
        assert (lost["event"], lost["outcome"], lost["lost"]) == ("audit", "failed", 20)
        reads(server, 1)
        assert [line["event"] for line in told(path, 5)] == ["read"] * 3 + ["audit", "read"]
        log = server.log()
    assert log.count("audit lines are lost") == 1
    assert "audit lines are written again: 20 were lost" in log


def test_strict_answers_nothing_of_which_there_is_no_line(store: str, path: Path) -> None:
    with served(store, FEATURES_AUDIT=str(path), FEATURES_AUDIT_STRICT="1") as server:
        assert reads(server, 5) == [200] * 5
        assert len(lines(path)) == 5  # there before the answers
        fill_disk(server, path.stat().st_size + 100)
        assert reads(server, 5) == [503] * 5
        refused = httpx.post(server.address + READ, json=RATIO, trust_env=False).json()
        assert refused["error"] == "AuditUnavailable"
        assert "has room" in refused["remedy"]
        assert str(path) not in json.dumps(refused)
        ready = httpx.get(f"{server.address}/ready", trust_env=False)
        assert (ready.status_code, "audit trail" in ready.text) == (503, True)
        assert httpx.get(f"{server.address}/health", trust_env=False).is_success
        assert metrics(server.address)[DROPPED] == 6
        fill_disk(server, None)
        assert eventually(lambda: httpx.get(f"{server.address}/ready", trust_env=False).is_success)
        assert reads(server, 2) == [200] * 2
        assert [line["event"] for line in lines(path)] == ["read"] * 5 + ["audit"] + ["read"] * 2


def test_strict_takes_in_no_event_of_which_there_is_no_line(valkey: str, path: Path) -> None:
    put_online(valkey, stream_view())
    log = lambda: redis.Redis.from_url(valkey).xlen("features:log:payments.transactions")  # noqa: E731
    with served(valkey, FEATURES_AUDIT=str(path), FEATURES_AUDIT_STRICT="1") as server:
        push = lambda: httpx.post(f"{server.address}/push", json=EVENT, trust_env=False).status_code  # noqa: E731
        assert push() == 200
        assert [line["outcome"] for line in told(path, 2)] == ["begun", "allowed"]
        assert log() == 1
        fill_disk(server, path.stat().st_size + 100)
        assert push() == 503
        assert log() == 1


def test_a_line_that_was_cut_off_is_ended(store: str, path: Path) -> None:
    path.write_bytes(b'{"event":"cut')
    with served(store, FEATURES_AUDIT=str(path)) as server:
        reads(server, 1)
        eventually(lambda: path.read_bytes().count(b"\n") == 2)
    cut, line = path.read_bytes().splitlines()
    assert (cut, json.loads(line)["event"]) == (b'{"event":"cut', "read")


def test_a_writer_that_is_held_up_holds_up_no_read(store: str, path: Path) -> None:
    with served(store, FEATURES_AUDIT=str(path)) as server:
        reads(server, 1)
        told(path, 1)
        with path.with_name(f".{path.name}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            begun = time.monotonic()
            assert reads(server, 50) == [200] * 50
            assert time.monotonic() - begun < 5
            assert len(lines(path)) == 1
        told(path, 51)


def test_a_server_that_is_ended_writes_what_waits(store: str, path: Path) -> None:
    with served(store, FEATURES_AUDIT=str(path)) as server:
        assert reads(server, 30) == [200] * 30
        server.stop()
    assert len(lines(path)) == 30


def test_a_writer_that_is_stuck_ends_with_its_server_and_tells_what_is_lost(store: str, path: Path) -> None:
    with served(store, FEATURES_AUDIT=str(path)) as server:
        reads(server, 1)
        told(path, 1)
        with path.with_name(f".{path.name}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            reads(server, 7)
            time.sleep(0.5)
            assert "7 audit lines are lost" in server.stop()


def test_on_standard_output_lines_are_alone(store: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "feature_server", "serve", "--port", "0", "--workers", "2"]
    given = {
        "FEATURES_REDIS_URL": store, "FEATURES_AUDIT": "stdout", "FEATURES_CLOCK": NOW.isoformat(),
        "FEATURES_PROJECT_DIR": str(tmp_path),
    }  # fmt: skip
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FEATURES_")} | given
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = next(line for line in process.stderr if "http://" in line).split("http://")[1].split()[0]
        ask = lambda _: httpx.post(f"http://{address}{READ}", json=RATIO, trust_env=False).status_code  # noqa: E731
        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(ask, range(200))) == {200}
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert [json.loads(line)["event"] for line in said.splitlines()] == ["read"] * 200


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"FEATURES_AUDIT": "/proc/none/trail.jsonl"}, "FEATURES_AUDIT=/proc/none/trail.jsonl"),
        ({"FEATURES_AUDIT": "stdout", "FEATURES_AUDIT_KEYS": "env:NONE"}, "openssl rand -hex 32"),
        ({"FEATURES_AUDIT": "stdout", "FEATURES_AUDIT_KEYS": "nowhere"}, "No such file"),
        ({"FEATURES_AUDIT_BYTES": "1"}, "FEATURES_AUDIT_BYTES"),
        ({"FEATURES_AUDIT_STRICT": "perhaps"}, "FEATURES_AUDIT_STRICT"),
    ],
)
def test_a_trail_that_cannot_be_is_told_at_the_start(store: str, given: dict[str, str], words: str) -> None:
    with pytest.raises(AssertionError, match=words), served(store, **given):
        pass
