"""Jobs: in line, cancelled, killed, left by servers that end; results fetched in pieces, over links that break."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import psutil
import pyarrow as pa
import pytest

from feature_server import FeatureStore
from feature_server.client import jobs as client_jobs
from feature_server.errors import OnlineStoreUnavailable
from tests.support.offline_home import OfflineHome, spine
from tests.support.served import Served, eventually, served
from tests.support.trained import Trainer, stream_of

SPINE, LONG = stream_of(spine()), stream_of(spine(3_000_000), compression="zstd")
ASKED = {"features": ["orders:count", "visits:visits", "types:word", "types:vector"]}


def folders(home: OfflineHome) -> list[Path]:
    return sorted(path for path in (home.folder / "training").iterdir() if path.is_dir())


def processes(job: str) -> list[psutil.Process]:
    def is_of(process: psutil.Process) -> bool:
        try:
            return any(job in part for part in process.cmdline())
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if is_of(process)]


@pytest.mark.heavy
def test_a_job_says_how_far_it_is_and_its_process_is_nice(server: Served, home: OfflineHome) -> None:
    trainer = Trainer(server.address)
    job = trainer.begin(LONG, ASKED)
    (process,) = eventually(lambda: processes(job))
    eventually(lambda: process.nice() == 10)
    found = []
    while not found or found[-1]["state"] in ("waiting", "running"):
        found.append(trainer.state(job, 10))
    assert found[-1]["state"] == "done", found[-1]
    assert {"running", "done"} <= {told["state"] for told in found}
    assert any(told.get("all_rows") == 3_000_000 for told in found)
    assert len({told.get("rows", 0) for told in found}) > 2, "it is told before the end"
    assert any(told.get("views") for told in found)
    files = list((home.folder / "training" / job).iterdir())
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.name for path in files} == {"lock", "result.parquet", "state.json", "taken_in.json"}
    assert (home.folder / "training" / job).stat().st_mode & 0o777 == 0o700
    trainer.drop(job)
    assert folders(home) == []


def test_jobs_wait_in_line_and_are_cancelled_there_and_at_work(server: Served, home: OfflineHome) -> None:
    trainer = Trainer(server.address)
    first, *others = [trainer.begin(LONG, ASKED) for _ in range(3)]
    eventually(lambda: trainer.state(first)["state"] == "running")
    eventually(lambda: [trainer.state(job).get("ahead") for job in others] == [1, 2])
    trainer.drop(others[0])
    eventually(lambda: trainer.state(others[1]).get("ahead") == 1)
    trainer.drop(first)
    assert trainer.http.get(f"/train/{first}").status_code == 404
    eventually(lambda: trainer.state(others[1])["state"] in ("running", "done"))
    trainer.drop(others[1])
    eventually(lambda: folders(home) == [])
    assert eventually(lambda: not any(map(processes, (first, *others))))


def test_a_killed_job_says_so_and_lets_the_next_one_in(server: Served, home: OfflineHome) -> None:
    trainer = Trainer(server.address)
    first, other = trainer.begin(LONG, ASKED), trainer.begin(SPINE)
    eventually(lambda: trainer.state(first)["state"] == "running")
    (process,) = processes(first)
    process.kill()
    told = trainer.ended(first)
    assert "the process that made the training set has ended" in told["error"]["what"]
    assert {path.name for path in (home.folder / "training" / first).iterdir()} == {
        "lock",
        "state.json",
        "taken_in.json",
    }
    assert trainer.ended(other)["state"] == "done"
    assert trainer.http.get(f"/train/{first}/result").status_code == 422
    for job in (first, other):
        trainer.drop(job)


def test_a_key_has_so_many_jobs_and_no_more(server: Served) -> None:
    trainer = Trainer(server.address)
    jobs = [trainer.begin(SPINE) for _ in range(8)]
    refused = trainer.post(SPINE)
    assert (refused.status_code, refused.json()["error"]) == (429, "TooManyJobs")
    for job in jobs:
        trainer.drop(job)


@pytest.mark.heavy
def test_a_job_outlives_the_server_that_took_it_in(home: OfflineHome, valkey_server: str) -> None:
    with served(valkey_server, **home.environment) as one:
        job = Trainer(one.address).begin(LONG, ASKED)
        (worker,) = one.workers()
        worker.kill()
        eventually(lambda: [other for other in one.workers() if other.pid != worker.pid])
        assert eventually(lambda: Trainer(one.address).state(job)["state"] == "running")
        one.stop()
    with served(valkey_server, "--workers", "2", **home.environment) as other:
        trainer = Trainer(other.address)
        assert trainer.ended(job)["state"] == "done"
        trainer.drop(job)


def test_a_result_is_fetched_in_pieces(server: Served) -> None:
    trainer = Trainer(server.address)
    job = trainer.made(SPINE)
    told = trainer.state(job)["result"]
    where = f"/train/{job}/result"
    whole = trainer.http.get(where)
    assert hashlib.sha256(whole.content).hexdigest() == told["sha256"]
    assert (len(whole.content), whole.headers["etag"]) == (told["bytes"], f'"{told["sha256"]}"')
    assert whole.headers["cache-control"] == "no-store"
    part = trainer.http.get(where, headers={"range": "bytes=100-199", "if-range": whole.headers["etag"]})
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{told['bytes']}"
    other = trainer.http.get(where, headers={"range": "bytes=100-199", "if-range": '"x"'})
    assert (other.status_code, other.content) == (200, whole.content)
    assert trainer.http.get(where, headers={"range": "bytes=99999999-"}).status_code == 416
    trainer.drop(job)


def test_results_go_when_nobody_comes_for_them(home: OfflineHome, valkey_server: str) -> None:
    with served(valkey_server, **home.environment, FEATURES_TRAIN_KEEP_SECONDS="1") as running:
        trainer = Trainer(running.address)
        job = trainer.made(SPINE)
        time.sleep(1.1)
        other = trainer.begin(SPINE)
        assert trainer.http.get(f"/train/{job}").status_code == 404
        trainer.ended(other)
        assert trainer.http.get(f"/train/{other}/result").status_code == 200
        fetched = home.folder / "training" / other / "fetched"
        eventually(fetched.exists)
        os.utime(fetched, (0, 0))
        time.sleep(0.1)
    with served(valkey_server, **home.environment):  # which looks when it starts
        eventually(lambda: folders(home) == [])


@contextmanager
def breaking(server: Served, *, after: list[int]) -> Iterator[str]:
    """An address that leads to a server; of an answer with a result it gives so many bytes, and breaks."""
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(client: socket.socket) -> None:
        upstream = socket.create_connection(("127.0.0.1", server.port))

        def up() -> None:
            while data := client.recv(1 << 16):
                upstream.sendall(data)

        threading.Thread(target=partial(_quietly, up), daemon=True).start()
        passed, limit = 0, None
        while data := upstream.recv(1 << 14):
            if b"accept-ranges" in data and after:
                passed, limit = 0, after.pop(0)
            passed += len(data)
            if limit is not None and passed > limit:
                break
            client.sendall(data)
        for each in (client, upstream):
            each.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=partial(_quietly, partial(carry, client)), daemon=True).start()

    threading.Thread(target=partial(_quietly, accept), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def _quietly(work: Callable[[], None]) -> None:
    with suppress(OSError):
        work()


def test_a_broken_connection_is_gone_on_from(
    home: OfflineHome, server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_jobs, "PAUSE_SECONDS", 0.01)
    noise = pa.array([f"{i * 7919 % 1000003:x}" for i in range(300_000)])
    rows, told, cuts = spine(300_000).append_column("noise", noise), list[str](), [200_000, 0, 0, 300_000, 100_000]
    with breaking(server, after=cuts) as address:
        made = FeatureStore(address).get_historical_features(rows, "orders_v1", notice=told.append)
    assert cuts == []
    made.write_parquet(tmp_path / "remote")
    home.store.get_historical_features(rows, "orders_v1").write_parquet(tmp_path / "local")
    assert (tmp_path / "remote").read_bytes() == (tmp_path / "local").read_bytes()
    fetched = [text for text in told if text.startswith("fetched")]
    assert len(fetched) == 4, "each break that came after some bytes goes on from there"
    assert fetched[0].startswith("fetched 0 of")
    assert not any(text.startswith("fetched 0 of") for text in fetched[1:])


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(OnlineStoreUnavailable, match="features serve"):
        FeatureStore(f"http://127.0.0.1:{port}").get_historical_features(spine(), "orders_v1")
    assert time.monotonic() < started + 5


def test_whoever_gives_up_leaves_no_job(server: Served, home: OfflineHome) -> None:
    def stop(text: str) -> None:
        if "rows" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureStore(server.address).get_historical_features(spine(1_000_000), "orders_v1", notice=stop)
    eventually(lambda: folders(home) == [])


def test_reads_go_on_while_a_training_set_is_made(server: Served) -> None:
    def slowest(seconds: float) -> float:
        until, found = time.monotonic() + seconds, []
        with httpx.Client(base_url=server.address, trust_env=False) as client:
            while time.monotonic() < until:
                started = time.perf_counter()
                assert client.get("/health").status_code == 200
                found.append(time.perf_counter() - started)
        return sorted(found)[int(len(found) * 0.99)]

    trainer = Trainer(server.address)
    job = trainer.begin(LONG, ASKED)
    eventually(lambda: trainer.state(job)["state"] == "running")
    during = slowest(2)
    trainer.drop(job)
    assert during < 0.25
