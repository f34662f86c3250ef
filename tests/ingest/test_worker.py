"""The log of pushed events lands in files exactly once, and the worker takes in what producers send."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import duckdb
import msgspec
import pytest
import redis

from feature_server.errors import CannotLand, OnlineStoreError, UnknownNameError
from feature_server.history import log as online_log
from feature_server.history.log import land, landing_folder
from feature_server.ingest.transaction import Ingestor
from feature_server.ingest.worker import Worker
from feature_server.layout import portions
from feature_server.layout.keys import DEAD, EVENTS, NAMES
from feature_server.online.embedded import EmbeddedValkey
from feature_server.online.registry import OnlineRegistry
from feature_server.online.store import OnlineStore
from feature_server.times import to_us
from tests.support.container import container_command
from tests.support.live_project import NOW, SOURCE, LiveProject, make_live_view, payment, versions
from tests.support.payments import event
from tests.support.served import eventually

VIEW = make_live_view()


@pytest.fixture
def project(tmp_path: Path, valkey: str) -> LiveProject:
    project = LiveProject(tmp_path, valkey, VIEW)
    project.landed("a", [payment(1, 1, 60)])
    project.publish()
    project.sync()
    return project


def landed_ids(project: LiveProject) -> list[int]:
    sql = f"select payment_id from read_parquet('{project.landing}/live-*.parquet') order by all"
    return [number for (number,) in duckdb.sql(sql).fetchall()] if any(project.landing.glob("live-*")) else []


def land_until_killed(url: str, folder: Path, step: int, entries: int) -> bool:
    """Land in a process that kills itself before its nth message or file operation; True when it ended by itself."""
    process = multiprocessing.get_context("fork").Process(target=_land, args=(url, folder, step, entries))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def _land(url: str, folder: Path, step: int, entries: int) -> None:
    done = 0

    def counted(work: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return work(*args, **kwargs)

        return run

    redis.connection.AbstractConnection.send_packed_command = counted(  # type: ignore[method-assign]
        redis.connection.AbstractConnection.send_packed_command
    )
    Path.rename, os.fsync = counted(Path.rename), counted(os.fsync)  # type: ignore[method-assign]
    with OnlineStore(url) as online:
        land(online, SOURCE, folder, max_entries=entries)


def test_pushed_events_land_once_whenever_landing_is_killed(project: LiveProject) -> None:
    expected: list[int] = []
    step = 1
    while True:
        for _ in range(2):
            expected.append(100 + len(expected))
            project.push(payment(expected[-1], 2, 10))
        if land_until_killed(project.url, project.landing, step, entries=1):
            break
        step += 2
    assert step > 10, "killed at too few moments"
    with OnlineStore(project.url) as online:
        land(online, SOURCE, project.landing)
        assert online.client.xlen(NAMES.log(SOURCE.name)) == 0
    assert landed_ids(project) == expected


def test_entries_that_come_back_with_an_older_snapshot_of_redis_do_not_land_again(project: LiveProject) -> None:
    project.push(payment(100, 2, 10))
    key = NAMES.log(SOURCE.name)
    with OnlineStore(project.url) as online:
        before = online.client.dump(key)
        land(online, SOURCE, project.landing)
        online.client.restore(key, 0, before, replace=True)
        project.push(payment(101, 2, 9))
        land(online, SOURCE, project.landing)
    assert landed_ids(project) == [100, 101]


def test_landed_events_are_in_the_next_build_and_sync_finds_nothing_new(project: LiveProject) -> None:
    live = payment(100, 2, 10)
    project.push(live)
    with OnlineStore(project.url) as online:
        land(online, SOURCE, project.landing)
    project.publish()
    assert project.offline.table(VIEW.id).rows == 2
    (result,) = project.sync().results
    assert (result.rows, result.deleted) == (0, 0)
    assert project.online(VIEW) == versions(payment(1, 1, 60), live)


def test_the_worker_takes_in_good_events_and_keeps_bad_ones_with_the_reason(project: LiveProject) -> None:
    good = {"payment_id": 7, "customer": 3, "merchant": "m", "amount": 5, "paid_at": NOW, "ingested_at": NOW}
    with redis.Redis.from_url(project.url) as client:
        client.xadd(EVENTS + SOURCE.name.encode(), {"event": msgspec.json.encode(good)})
        client.xadd(EVENTS + SOURCE.name.encode(), {"event": msgspec.json.encode(good | {"payment_id": "seven"})})
        client.xadd(EVENTS + SOURCE.name.encode(), {"other": "thing"})
        with OnlineStore(project.url) as online, Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
            done = Worker(online, ingestor, SOURCE, project.landing).run(once=True)
        letters = [fields for _, fields in client.xrange(DEAD + SOURCE.name.encode())]
        assert client.xpending(EVENTS + SOURCE.name.encode(), "features")["pending"] == 0
    assert (done.accepted, done.rejected, done.landed) == (1, 2, 1)
    assert letters[0][b"reason"] == b"Expected `int`, got `str` - at `$.payment_id`"
    assert letters[1][b"reason"] == b"no field `event`"
    assert project.online(VIEW)["3"] == {(7, to_us(NOW))}
    assert landed_ids(project) == [7]


POISON = {
    b'"merchant":"M\xff1"': b"not UTF-8: 'utf-8' codec can't decode byte 0xff in position 1: invalid start byte",
    b'"paid_at":"0001-01-01T00:00:00+14:00"': b"0001-01-01 00:00:00+14:00 is out of range - at `$.paid_at`",
    b'"ingested_at":"9999-12-31T23:59:59-14:00"': (
        b"9999-12-31 23:59:59-14:00 is more than an hour ahead of the clock - at `$.ingested_at`"
    ),
}


def poisoned(change: bytes) -> bytes:
    """Payment 8 with one column as `change` has it."""
    column = json.loads(change.partition(b":")[0])
    kept = {name: value for name, value in msgspec.json.decode(event(8)["event"]).items() if name != column}
    return msgspec.json.encode(kept)[:-1] + b"," + change + b"}"


@pytest.mark.parametrize("change", POISON)
def test_an_event_that_stopped_a_worker_is_a_dead_letter_at_its_next_start(project: LiveProject, change: bytes) -> None:
    name = EVENTS + SOURCE.name.encode()
    with OnlineStore(project.url) as online, Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
        worker = Worker(online, ingestor, SOURCE, project.landing)
        for fields in (event(7), {"event": poisoned(change)}, event(9)):
            online.client.xadd(name, fields)
        online.client.xgroup_create(name, "features", id="0")
        online.client.xreadgroup("features", worker.consumer, {name: ">"})
        online.client.xadd(name, event(10))
        done = worker.run(once=True)
        assert (done.accepted, done.rejected, done.landed) == (3, 1, 3)
        assert online.client.xpending(name, "features")["pending"] == 0
        (letter,) = [fields for _, fields in online.client.xrange(DEAD + SOURCE.name.encode())]
        assert (letter[b"event"], letter[b"reason"]) == (poisoned(change), POISON[change])
    assert landed_ids(project) == [7, 9, 10]


def test_events_read_by_a_worker_that_was_killed_are_taken_in_by_the_next(project: LiveProject) -> None:
    event = {"payment_id": 7, "customer": 3, "merchant": "m", "amount": 5, "paid_at": NOW, "ingested_at": NOW}
    with OnlineStore(project.url) as online, Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
        worker = Worker(online, ingestor, SOURCE, project.landing)
        name = EVENTS + SOURCE.name.encode()
        online.client.xadd(name, {"event": msgspec.json.encode(event)})
        online.client.xgroup_create(name, "features", id="0")
        online.client.xreadgroup("features", worker.consumer, {name: ">"})
        assert worker.run(once=True).accepted == 1


READ_AND_DIE = """
import os, sys
from pathlib import Path
from feature_server.ingest.transaction import Ingestor
from feature_server.ingest.worker import Worker
from feature_server.online.store import OnlineStore
from tests.support.live_project import SOURCE
with OnlineStore(sys.argv[1]) as online, Ingestor(sys.argv[1], lambda: 0) as ingestor:
    worker = Worker(online, ingestor, SOURCE, Path(sys.argv[2]))
    worker._join()
    worker._read(">")
    print(worker.consumer, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in a container of the same name"])
def test_two_workers_of_one_host_name_keep_what_each_has_read_until_one_is_known_to_have_ended(
    project: LiveProject, elsewhere: bool
) -> None:
    name = EVENTS + SOURCE.name.encode()
    command = [*(container_command() if elsewhere else []), sys.executable, "-c", READ_AND_DIE]
    with (
        OnlineStore(project.url) as online,
        Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor,
    ):
        online.client.xadd(name, event(7))
        with subprocess.Popen(
            [*command, project.url, str(project.landing)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            consumer = other.stdout.readline().strip()
            assert Worker(online, ingestor, SOURCE, project.landing).run(once=True).accepted == 0
            other.kill()
        accepted = Worker(online, ingestor, SOURCE, project.landing).run(once=True).accepted
        consumers = [found["name"].decode() for found in online.client.xinfo_consumers(name, "features")]
    assert (accepted, consumers) == ((0, [consumer]) if elsewhere else (1, []))


def test_a_run_before_a_build_ends_though_producers_do_not(project: LiveProject) -> None:
    name, added = EVENTS + SOURCE.name.encode(), 0
    with OnlineStore(project.url) as online:

        def now_us() -> int:
            nonlocal added
            added += 1
            online.client.xadd(name, event(10_000 + added))
            return to_us(NOW)

        with Ingestor(project.url, now_us, expire=False) as ingestor:
            worker = Worker(online, ingestor, SOURCE, project.landing)
            for number in range(1500):
                online.client.xadd(name, event(number))
            done = worker.run(once=True)
        assert 1500 <= done.accepted < 1500 + added
        assert online.client.xinfo_groups(name)[0]["lag"] > 0


def test_events_of_a_source_that_is_not_online_yet_wait_in_the_stream(tmp_path: Path, valkey: str) -> None:
    project, said = LiveProject(tmp_path, valkey, VIEW), list[str]()
    with OnlineStore(valkey) as online, Ingestor(valkey, lambda: to_us(NOW), expire=False) as ingestor:
        online.client.xadd(EVENTS + SOURCE.name.encode(), event(7))
        worker = Worker(online, ingestor, SOURCE, project.landing)
        assert worker.run(once=True, report=said.append).accepted == 0
        assert said == [
            "shop.payments is not online yet, its events wait in features:events:shop.payments: run `features sync`"
        ]
        project.landed("a", [payment(1, 1, 60)])
        project.publish()
        project.sync()
        assert worker.run(once=True).accepted == 1
    assert project.online(VIEW)["3"] == {(7, to_us(NOW))}


def test_a_source_that_comes_online_while_an_ingestor_lives_is_known_to_it(tmp_path: Path, valkey: str) -> None:
    registry = LiveProject(tmp_path, valkey).registry
    with OnlineStore(valkey) as online, Ingestor(valkey, lambda: to_us(NOW), expire=False) as ingestor:
        online.publish(lambda now: OnlineRegistry(registry=msgspec.structs.replace(registry, sources=())))
        with pytest.raises(UnknownNameError):
            ingestor.push_lines(SOURCE.name, [event(7)["event"]])
        online.publish(lambda now: OnlineRegistry(registry=registry))
        assert ingestor.push_lines(SOURCE.name, [event(7)["event"]]).accepted == 1


def test_the_worker_goes_on_when_redis_is_back(tmp_path: Path) -> None:
    said, ended = list[str](), list[bool]()
    with EmbeddedValkey(tmp_path / "valkey") as store:
        project = LiveProject(tmp_path, store.url, VIEW)
        project.landed("a", [payment(1, 1, 60)])
        project.publish()
        project.sync()
        with OnlineStore(store.url) as online, Ingestor(store.url, lambda: to_us(NOW), expire=False) as ingestor:
            worker = Worker(online, ingestor, SOURCE, project.landing)
            thread = Thread(target=worker.run, kwargs={"stopped": lambda: bool(ended), "report": said.append})
            thread.start()
            try:
                with redis.Redis.from_url(store.url) as client:
                    os.kill(client.info("server")["process_id"], signal.SIGKILL)
                eventually(lambda: said)
                with EmbeddedValkey(tmp_path / "valkey"), redis.Redis.from_url(store.url) as client:
                    client.xadd(EVENTS + SOURCE.name.encode(), event(7))
                    eventually(lambda: worker.done.accepted == 1)
                    ended.append(True)
                    thread.join()
            finally:
                ended.append(True)
                thread.join()
    assert len(said) == 2
    assert said[0].startswith("waiting for Redis: Redis does not answer")
    assert said[1] == "landed shop.payments events=1 files=1"


def test_a_source_that_is_not_read_from_a_pattern_of_files_cannot_keep_live_events(tmp_path: Path) -> None:
    table = msgspec.structs.replace(SOURCE, relation='"warehouse"."main"."payments"')
    with pytest.raises(OnlineStoreError, match="external_location"):
        landing_folder(table, tmp_path)
    assert landing_folder(SOURCE, tmp_path) == tmp_path / "landing" / "payments"


def test_the_producers_stream_keeps_what_is_not_taken_in_or_what_another_group_reads(project: LiveProject) -> None:
    name = EVENTS + SOURCE.name.encode()
    with OnlineStore(project.url) as online, Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
        worker = Worker(online, ingestor, SOURCE, project.landing)
        ids = [online.client.xadd(name, event(number)) for number in range(5)]
        online.client.xgroup_create(name, "features", id="0")
        online.client.xreadgroup("features", "slow", {name: ">"}, count=2)
        assert worker.run(once=True).accepted == 3
        assert [found for found, _ in online.client.xrange(name)] == ids
        online.client.xack(name, "features", ids[0])
        worker.run(once=True)
        assert [found for found, _ in online.client.xrange(name)] == ids[1:]
        assert Worker(online, ingestor, SOURCE, project.landing, consumer="slow").run(once=True).accepted == 1
        assert online.client.xlen(name) == 0
        online.client.xgroup_create(name, "audit", id="$")
        online.client.xadd(name, event(9))
        assert worker.run(once=True).accepted == 4
        assert online.client.xlen(name) == 1
        assert {group["name"]: group["lag"] for group in online.client.xinfo_groups(name)} == {
            b"audit": 1,
            b"features": 0,
        }


def test_a_clock_far_ahead_is_refused_as_a_dead_letter(project: LiveProject) -> None:
    late = NOW + timedelta(hours=2)
    event = {"payment_id": 7, "customer": 3, "merchant": "m", "amount": 5, "paid_at": late, "ingested_at": late}
    with OnlineStore(project.url) as online, Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
        online.client.xadd(EVENTS + SOURCE.name.encode(), {"event": msgspec.json.encode(event)})
        assert Worker(online, ingestor, SOURCE, project.landing).run(once=True).rejected == 1


@pytest.mark.parametrize("what", ["full", "a file in the folder's place"])
def test_a_landing_folder_that_cannot_be_written_stops_no_worker(
    project: LiveProject, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder, said, ended = project.folder / "live" / "deep", list[str](), list[bool]()

    def full(path: Path, write: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if what == "full":
        monkeypatch.setattr(online_log, "write_whole", full)
    else:
        folder.parent.write_text("")
    with OnlineStore(project.url) as online, Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
        worker = Worker(online, ingestor, SOURCE, folder)
        online.client.xadd(EVENTS + SOURCE.name.encode(), event(100))
        with pytest.raises(CannotLand, match="live events cannot be written to files"):
            worker.run(once=True)
        arguments = {"stopped": lambda: bool(ended), "report": said.append, "land_seconds": 0.05}
        thread = Thread(target=worker.run, kwargs=arguments)
        thread.start()
        try:
            eventually(lambda: said)
            online.client.xadd(EVENTS + SOURCE.name.encode(), event(101))
            eventually(lambda: worker.done.accepted == 2)
            monkeypatch.undo()
            if folder.parent.is_file():
                folder.parent.unlink()
            eventually(lambda: worker.done.landed == 2)
        finally:
            ended.append(True)
            thread.join()
    assert said[0].startswith("not landed: live events cannot be written to files in ")
    assert len(list(folder.glob("live-*.parquet"))) == worker.done.files


def test_large_events_are_pushed_a_few_at_a_time(project: LiveProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "PORTION_BYTES", 1 << 20)
    large = msgspec.json.decode(event(0)["event"]) | {"merchant": "m" * 300_000}
    with (
        EmbeddedValkey(project.folder / "small") as valkey,
        OnlineStore(valkey.url) as online,
        Ingestor(valkey.url, lambda: to_us(NOW), expire=False) as ingestor,
    ):
        project.url = valkey.url
        project.sync()
        online.client.config_set("client-query-buffer-limit", "8mb")
        for number in range(40):
            online.client.xadd(
                EVENTS + SOURCE.name.encode(), {"event": msgspec.json.encode(large | {"payment_id": number})}
            )
        done = Worker(online, ingestor, SOURCE, project.landing).run(once=True)
    assert (done.accepted, done.rejected, done.landed) == (40, 0, 40)
