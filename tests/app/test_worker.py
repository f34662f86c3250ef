"""What a worker lacks is told: files it may open, a folder for its counts; it goes on, and so do its connections."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from feature_server.app.bodies import MAX_HELD_BYTES
from feature_server.slices import MAX_REST_BYTES
from tests.support.live_project import LiveProject, make_live_view, payment
from tests.support.raw_http import RATIO, VALUE, Client, request, still_answers, store_ratio, value
from tests.support.served import Served, eventually, metrics, served

FILES = 150


def test_more_connections_than_files_are_answered_503_and_the_others_stay(valkey: str) -> None:
    store_ratio(valkey)
    with served(valkey, files=FILES) as running, ExitStack() as held:
        (worker,) = running.workers()
        clients = [held.enter_context(Client(running)) for _ in range(2 * FILES)]
        answers = []
        for client in clients:
            with suppress(OSError):
                client.send(request())
            with suppress(OSError, ValueError, IndexError, TypeError):  # one of many at once is closed without a word
                answers.append(value(client.answer()))
        good = answers.count(VALUE)
        assert good > FILES / 4
        refused = [(status, body["error"]) for status, body in answers if status != 200]
        assert set(refused) == {(503, "TooManyConnections")}
        for client in clients[:good]:
            client.send(request())
            assert value(client.answer()) == VALUE
        held.close()
        eventually(lambda: still_answers(running))
        assert metrics(running.address)["features_http_requests_total", "other", "503"] >= len(refused)
        assert running.workers() == [worker]
        said = running.stop()
    assert "Traceback" not in said


def test_a_folder_for_counts_that_cannot_be_written_costs_no_request(valkey: str, tmp_path: Path) -> None:
    store_ratio(valkey)
    with served(valkey, TMPDIR=str(tmp_path)) as running:
        (worker,) = running.workers()
        (folder,) = tmp_path.glob("features-serve-*")
        eventually(lambda: list(folder.glob("*.counts")))
        shutil.rmtree(folder)
        eventually(lambda: "counts for /metrics cannot be written" in running.log())
        assert still_answers(running)
        folder.mkdir()
        eventually(lambda: list(folder.glob("*.counts")))
        shutil.rmtree(folder)
        eventually(lambda: running.log().count("counts for /metrics cannot be written") == 2)
        assert running.workers() == [worker]
        said = running.stop()
    assert "Traceback" not in said


def test_large_bodies_of_many_clients_take_no_more_memory_than_there_is_for_them(valkey: str) -> None:
    store_ratio(valkey)
    size = MAX_REST_BYTES - len(RATIO)  # as many blanks as a body may have
    large = request(RATIO + b" " * (size - len(RATIO)))
    room = MAX_HELD_BYTES // size
    with served(valkey) as running, ExitStack() as held:
        (worker,) = running.workers()
        before = worker.memory_info().rss
        for _ in range(room):
            held.enter_context(Client(running)).send(large[:-1])

        def answered() -> tuple[int, Any]:
            with Client(running) as late:
                with suppress(OSError):
                    late.send(large)
                return value(late.answer())

        def refused() -> tuple[int, Any] | None:
            with suppress(OSError):  # one of those held may have been overtaken, and refused itself
                held.enter_context(Client(running)).send(large[:-1])
            answer = answered()
            return None if answer == VALUE else answer

        status, error = eventually(refused)
        assert (status, error["error"]) == (503, "TooManyBodies")
        assert still_answers(running)
        assert worker.memory_info().rss - before < 2 * MAX_HELD_BYTES
        held.close()
        eventually(lambda: answered() == VALUE)
        assert running.workers() == [worker]
        assert "Traceback" not in running.stop()


def test_a_worker_that_cannot_be_started_again_is_tried_again_and_the_others_go_on(
    valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_ratio(valkey)
    venv, python = tmp_path / "venv", tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", venv)
    (venv / "lib").symlink_to(Path(sys.prefix) / "lib")
    python.symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(sys, "executable", str(python))
    with served(valkey, "--workers", "2") as running:
        killed, other = running.workers()
        python.unlink()
        killed.kill()
        eventually(lambda: "cannot be started again now" in running.log())
        assert still_answers(running)
        python.symlink_to(Path(sys.prefix) / "bin" / "python")
        eventually(lambda: len(running.workers()) == 2)
        assert other in running.workers()
        assert "Traceback" not in running.stop()


def test_a_worker_has_loaded_what_takes_pushes_in_before_it_is_ready_where_there_are_stream_views(
    valkey: str, tmp_path: Path
) -> None:
    def loaded(running: Served) -> bool:
        (worker,) = running.workers()
        return any("duckdb" in area.path for area in worker.memory_maps())

    store_ratio(valkey)
    with served(valkey) as running:
        assert still_answers(running)
        assert not loaded(running)
    project = LiveProject(tmp_path, valkey, make_live_view())
    project.landed("a", [payment(1, 1, 10)])
    project.publish()
    project.sync()
    with served(valkey) as running:
        assert loaded(running)
        said = running.stop()
    assert "leaked" not in said
