"""Syncs of one view at the same time: one after the other, and a paused one never writes over a newer one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import redis

from feature_server.errors import OnlineStoreError, OnlineStoreRefused, SyncConflict
from feature_server.layout.keys import FENCE, LOCK
from feature_server.layout.records import KeyEvents
from feature_server.online.store import Fence, OnlineStore
from feature_server.sync.lock import LEASE_SECONDS, fenced
from feature_server.sync.run import SyncResult
from feature_server.sync.writer import FencedWriter, append_commands, delete_key_commands
from tests.support.container import container_command
from tests.support.sync_crash import start_sync
from tests.support.sync_project import Tables, at, expected_rows, make_view, online_rows, run_sync, sync_one

VIEW = make_view()
LOCK_NAME = LOCK + VIEW.id.encode()


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    tables = Tables(tmp_path / "offline")
    tables.commit(VIEW, [[(key, at(1), 1.0) for key in range(40)]])
    return tables


def wait_until_stopped(process_id: int) -> None:
    while (status := psutil.Process(process_id).status()) != psutil.STATUS_STOPPED:
        assert status != psutil.STATUS_ZOMBIE, "it ended before it came to the message to stop at"
        time.sleep(0.005)


def test_a_second_sync_waits_for_the_first_and_finds_nothing_left_to_do(valkey: str, tables: Tables) -> None:
    results: list[SyncResult] = []
    with OnlineStore(valkey) as store, fenced(store, VIEW.id):
        others = [
            threading.Thread(target=lambda: results.append(sync_one(valkey, tables, VIEW, now=at(10))))
            for _ in range(2)
        ]
        for other in others:
            other.start()
        time.sleep(0.3)
        assert results == []
    for other in others:
        other.join()
    assert sorted(result.rows for result in results) == [0, 40]


def test_a_sync_that_waited_long_enough_says_who_is_in_its_way(valkey: str, tables: Tables) -> None:
    with OnlineStore(valkey) as store, fenced(store, VIEW.id), pytest.raises(SyncConflict) as caught:
        sync_one(valkey, tables, VIEW, now=at(10), wait_seconds=0.2)
    assert caught.value.what == "another sync of 'customer__spend' is running"
    assert f"process {os.getpid()} on" in str(caught.value.got)


def test_a_lease_is_renewed_for_as_long_as_its_sync_runs(valkey: str) -> None:
    with OnlineStore(valkey) as store, redis.Redis.from_url(valkey) as client:
        with fenced(store, VIEW.id, lease_seconds=0.3):
            time.sleep(0.9)
            assert client.exists(LOCK_NAME)
        assert client.exists(LOCK_NAME, FENCE + VIEW.id.encode()) == 0


def test_renewing_the_lease_does_not_disturb_the_rows_being_written(valkey: str) -> None:
    with (
        OnlineStore(valkey) as store,
        fenced(store, VIEW.id, lease_seconds=0.06) as fence,
        FencedWriter(store, fence, "1") as writer,
    ):
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            writer.put(delete_key_commands([b"1{1}"], count_existing=True))


@pytest.mark.parametrize("after", [0, 3])
def test_a_transaction_that_fails_ends_the_sync_whether_it_is_the_last_or_not(valkey: str, after: int) -> None:
    def write(store: OnlineStore, fence: Fence) -> None:
        with FencedWriter(store, fence, "1") as writer:
            for entity in range(1, 2 + after):
                events = KeyEvents(entity=b"%d" % entity, records=b"x", count=1, newest_us=0)
                writer.put(append_commands("1", [events], None))

    with OnlineStore(valkey) as store, fenced(store, VIEW.id) as fence:
        store.client.rpush("1{1}", "of another program")
        with pytest.raises(OnlineStoreRefused, match="holds what another program wrote"):
            write(store, fence)


HOLD = """
import os, sys
from feature_server.online.store import OnlineStore
from feature_server.sync.lock import fenced
with OnlineStore(sys.argv[1]) as store, fenced(store, sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
    os._exit(9)
"""


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in a container of the same name"])
def test_the_lock_of_a_killed_process_is_taken_over_at_once_where_its_end_can_be_known(
    valkey: str, tables: Tables, elsewhere: bool
) -> None:
    command = [*(container_command() if elsewhere else []), sys.executable, "-c", HOLD, valkey, VIEW.id]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(SyncConflict):
            sync_one(valkey, tables, VIEW, now=at(10), wait_seconds=0.2)
        process.communicate()
    if elsewhere:
        with pytest.raises(SyncConflict):
            sync_one(valkey, tables, VIEW, now=at(10), wait_seconds=0.2)
        with redis.Redis.from_url(valkey) as client:
            assert 0 < client.pttl(LOCK_NAME) <= LEASE_SECONDS * 1000
    else:
        assert sync_one(valkey, tables, VIEW, now=at(10), wait_seconds=0).rows == 40


def test_a_lock_that_does_not_say_its_process_is_waited_for(valkey: str, tables: Tables) -> None:
    before = {"token": "t", "host": socket.gethostname(), "process": 2**22, "since": "2026-01-01T00:00:00Z"}
    with redis.Redis.from_url(valkey) as client:
        client.set(LOCK_NAME, json.dumps(before), px=400)
        with pytest.raises(SyncConflict, match="process 4194304 on"):
            sync_one(valkey, tables, VIEW, now=at(10), wait_seconds=0.1)
        assert sync_one(valkey, tables, VIEW, now=at(10), wait_seconds=5).rows == 40


def test_a_lock_that_no_sync_has_set_is_named(valkey: str, tables: Tables) -> None:
    with redis.Redis.from_url(valkey) as client:
        client.set(LOCK_NAME, b"\xffmine")
    with pytest.raises(OnlineStoreError, match="features:lock:customer__spend: a lock is none that a sync has set"):
        sync_one(valkey, tables, VIEW, now=at(10), wait_seconds=0)


@pytest.mark.parametrize("pause", [9, 12, 15])
def test_a_sync_paused_past_its_lease_never_writes_again(valkey: str, tables: Tables, pause: int) -> None:
    stale = start_sync(valkey, tables, VIEW, now=at(10), pause=pause, lease_seconds=0.4)
    try:
        wait_until_stopped(stale.pid)
        tables.commit(VIEW, [[(key, at(2), 2.0) for key in range(20, 60)]])
        sync_one(valkey, tables, VIEW, now=at(11))
        expected = expected_rows(VIEW, tables.rows(VIEW), at(11))
        assert online_rows(valkey, VIEW) == expected
        os.kill(stale.pid, signal.SIGCONT)
        stale.join()
        assert stale.exitcode == 3
        assert online_rows(valkey, VIEW) == expected
    finally:
        stale.kill()


def test_many_syncs_at_once_while_the_history_grows_end_at_its_latest_version(valkey: str, tables: Tables) -> None:
    running = []
    for version in range(4):
        tables.commit(VIEW, [[(key, at(2 + version), 10.0 * version + key) for key in range(version * 5, 50)]])
        running += [start_sync(valkey, tables, VIEW, now=at(10 + version)) for _ in range(2)]
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * len(running)
    run_sync(valkey, tables, VIEW, now=at(20))
    assert online_rows(valkey, VIEW) == expected_rows(VIEW, tables.rows(VIEW), at(20))
    with redis.Redis.from_url(valkey) as client:
        assert client.exists(LOCK_NAME, FENCE + VIEW.id.encode()) == 0
