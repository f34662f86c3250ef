"""A sync killed at any moment and run again ends in the same state as one clean run."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from feature_server.definitions.facts import FeatureView
from feature_server.layout.keys import CODES, LOCK, REGISTRY, ROWS
from feature_server.sync import writer as online_commands
from tests.support.sync_crash import small_transactions, sync_until_killed
from tests.support.sync_project import Row, Tables, expected_rows, make_view, online_rows, run_sync

NOW = datetime.now(UTC).replace(microsecond=0)
PLAIN = make_view("customer__plain")
WIDER = make_view("customer__plain", features={"spend": "float64", "note": "string"})
EXPIRING = make_view("customer__expiring", {"name": "string"}, {"visits": "int32"}, ttl="30d")


@pytest.fixture(autouse=True)
def _cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROWS_PER_COMMAND", "ROWS_PER_TRANSACTION", "EXPIRING_ROWS_PER_TRANSACTION"):
        monkeypatch.setattr(online_commands, name, getattr(online_commands, name))
    small_transactions()


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def plain_rows(keys: range, days: float, spend: float) -> list[Row]:
    return [(key, ago(days), spend + key) for key in keys]


def expiring_rows(keys: range, days: float, visits: int) -> list[Row]:
    return [(f"name {key}", ago(days), visits) for key in keys]


def state(url: str) -> dict[str, Any]:
    """Everything in Redis but what only says how often it was tried: codes by the view they are of."""
    with redis.Redis.from_url(url) as client:
        registry = msgspec.json.decode(client.get(REGISTRY))
        views = {view.pop("code"): view for view in registry["views"].values()}
        names = {code.encode(): view["definition"]["name"].encode() for code, view in views.items()}
        rows = {}
        for key in client.scan_iter(count=1000):
            code, brace, rest = key.partition(b"{")
            if brace:
                rows[names[code] + brace + rest] = (client.get(key), client.pexpiretime(key))
        return {
            "registry": registry,
            "rows": rows,
            "codes": {names[code]: msgspec.json.decode(value) for code, value in client.hgetall(CODES).items()},
            "counts": {names[code]: int(value) for code, value in client.hgetall(ROWS).items()},
            "locks that stay": [key for key in client.scan_iter(match=LOCK + b"*", count=1000) if client.ttl(key) < 0],
        }


def keys_of(url: str) -> dict[bytes, tuple[bytes, int]]:
    with redis.Redis.from_url(url) as client:
        return {key: (client.dump(key), max(client.pexpiretime(key), 0)) for key in client.scan_iter(count=1000)}


def restore(url: str, kept: dict[bytes, tuple[bytes, int]]) -> None:
    with redis.Redis.from_url(url) as client, client.pipeline(transaction=False) as pipeline:
        pipeline.flushall()
        for key, (value, expiry) in kept.items():
            pipeline.restore(key, expiry, value, absttl=True)
        pipeline.execute()


def kill_points(url: str, run: Callable[[int], bool], *, step: int) -> Iterator[int]:
    """Each number of messages after which a run was killed, the store as it was before put back each time."""
    before, messages = keys_of(url), 1
    while not run(messages):
        yield messages
        restore(url, before)
        messages += step
    assert messages > 10, "killed at too few moments"


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """Two views with one version each."""
    tables = Tables(tmp_path / "offline")
    tables.commit(PLAIN, [plain_rows(range(5, 25), 9, 1.0), plain_rows(range(8, 20), 5, 2.0)])
    tables.commit(EXPIRING, [expiring_rows(range(12), 9, 1)])
    return tables


def change(tables: Tables) -> None:
    """New rows, corrected rows, late rows, keys that vanish, keys that are new."""
    old = tables.store.table(PLAIN.id).files()
    removed = [file for file in old if file.rows == 20]
    tables.commit(PLAIN, [plain_rows(range(7, 27), 9, 30.0), plain_rows(range(10, 14), 1, 4.0)], removed)
    tables.commit(EXPIRING, [expiring_rows(range(6, 18), 2, 5)])


@pytest.mark.parametrize("case", ["changes", "definition", "removed", "full"])
def test_a_sync_killed_between_any_two_messages_and_run_again_ends_the_same(
    valkey: str, tables: Tables, case: str
) -> None:
    run_sync(valkey, tables, PLAIN, EXPIRING, now=ago(0.5), expire=True)
    views: tuple[FeatureView, ...] = (PLAIN, EXPIRING)
    options: dict[str, Any] = {"now": NOW, "expire": True, "full": case == "full"}
    if case == "changes":
        change(tables)
    elif case == "definition":
        tables.commit(WIDER, [[(key, ago(3), 1.5, f"note {key}") for key in range(4, 22)]])
        views = (WIDER, EXPIRING)
    elif case == "removed":
        views = (EXPIRING,)
    before = keys_of(valkey)
    run_sync(valkey, tables, *views, **options)
    clean = state(valkey)
    restore(valkey, before)
    for _ in kill_points(
        valkey,
        lambda messages: sync_until_killed(valkey, tables, *views, messages=messages, **options),
        step=1 if case == "changes" else 3,
    ):
        run_sync(valkey, tables, *views, **options)
        assert state(valkey) == clean
    assert state(valkey) == clean


def test_a_change_taken_back_after_a_killed_sync_leaves_nothing_of_it_online(valkey: str, tables: Tables) -> None:
    run_sync(valkey, tables, PLAIN, now=NOW)
    before = tables.store.table(PLAIN.id).files()
    tables.commit(PLAIN, [plain_rows(range(10, 40), 1, 50.0)])
    wrong = [file for file in tables.store.table(PLAIN.id).files() if file not in before]
    for messages in (15, 13, 17):  # before the rows, before the watermark, before its EXEC
        assert not sync_until_killed(valkey, tables, PLAIN, messages=messages, now=NOW)
    tables.commit(PLAIN, [plain_rows(range(3), 1, 9.0)], wrong)
    run_sync(valkey, tables, PLAIN, now=NOW)
    assert online_rows(valkey, PLAIN) == expected_rows(PLAIN, tables.rows(PLAIN), NOW)


COMMAND = """
import sys
from datetime import datetime
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.support.sync_project import *
from tests.support.sync_crash import small_transactions
small_transactions()
print("ready", flush=True)
run_sync(sys.argv[2], Tables(Path(sys.argv[3])), make_view("customer__plain"), now=datetime.fromisoformat(sys.argv[4]))
"""


def test_a_sync_killed_at_random_times_and_run_again_ends_the_same(valkey: str, tables: Tables) -> None:
    run_sync(valkey, tables, PLAIN, now=ago(0.5))
    tables.commit(PLAIN, [plain_rows(range(3000), days, days) for days in (4, 3, 2, 1)])
    arguments = [str(Path(__file__).parents[2]), valkey, str(tables.store.root), NOW.isoformat()]
    for seed in range(4):
        process = subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(random.Random(seed).uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run_sync(valkey, tables, PLAIN, now=NOW)
    assert online_rows(valkey, PLAIN) == expected_rows(PLAIN, tables.rows(PLAIN), NOW)
    with redis.Redis.from_url(valkey) as client:
        assert client.hlen(CODES) == 1
