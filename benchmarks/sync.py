"""Sync: the latest row of each key from the offline store to Redis, keys of ten doubles.

The limit is a buffer of MSET commands made beforehand and pushed over the same unix socket, its answers read: what the
server and the kernel allow. `write path` packs and sends rows that are in memory already. `changes` is a second sync
after 1 % of the keys got new rows. Feast materializes the same rows, over TCP, from a Parquet file.
"""

from __future__ import annotations

import importlib
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from .measure import Numbers, in_child, process_cpu_s, stopwatch

KEYS = {"tiny": 10_000, "default": 200_000, "full": 1_000_000}
TARGETS = {"rows_per_s/limit": ">= 0.6", "bytes_per_key": "<= 150"}


@contextmanager
def server(folder: str) -> Iterator[tuple[str, Any]]:
    """An embedded Valkey of its own, empty: its URL, and a connection to it."""
    import redis

    from feature_server.online.embedded import EmbeddedValkey

    importlib.import_module("feature_server.sync.run")  # not counted
    shutil.rmtree(folder, ignore_errors=True)
    with EmbeddedValkey(Path(folder)) as valkey, redis.Redis.from_url(valkey.url) as client:
        client.config_set("save", "")
        yield valkey.url, client
        client.flushall()


@contextmanager
def measured(client: Any, keys: int, rows: int | None = None) -> Iterator[Numbers]:
    """Time, CPU of this process and of the server, and the memory that `keys` new keys took."""
    pid, before = client.info("server")["process_id"], client.info("memory")["used_memory"]
    server_cpu = process_cpu_s(pid)
    seen: Numbers = {}
    with stopwatch() as watch:
        yield seen
    seen.update(watch)
    seen["server_cpu_s"] = process_cpu_s(pid) - server_cpu
    seen["rows_per_s"] = (rows or keys) / seen["wall_s"]
    seen["cpu_us_per_row"] = seen["cpu_s"] / (rows or keys) * 1e6
    if rows is None:
        seen["bytes_per_key"] = (client.info("memory")["used_memory"] - before) / keys


def run_sync(url: str, home: str) -> Any:
    from feature_server.definitions.registry import read_registry
    from feature_server.offline.store import OfflineStore
    from feature_server.online.store import OnlineStore
    from feature_server.settings import load_settings
    from feature_server.sync.run import SyncOptions, sync

    settings = load_settings({}, home=home, clock="2025-02-02T00:00:00Z")
    with OnlineStore(url) as online:
        report = sync(
            online,
            OfflineStore(settings.offline),
            read_registry(settings.registry_path),
            now_us=settings.now_us,
            options=SyncOptions(expire=False),
        )
    for error in report.failures.values():
        raise error
    return report.results[0]


def ours(home: str, keys: int, folder: str) -> Numbers:
    """The first sync of a view, from its Delta table to Redis."""
    with server(folder) as (url, client), measured(client, keys) as seen:
        result = run_sync(url, home)
    assert result.rows == keys, result
    return seen


def unchanged(home: str, keys: int, folder: str) -> Numbers:
    """A sync that finds nothing to do."""
    with server(folder) as (url, client):
        run_sync(url, home)
        with measured(client, keys, 1) as seen:
            run_sync(url, home)
    return {"wall_s": seen["wall_s"], "cpu_s": seen["cpu_s"], "peak_mb": seen["peak_mb"]}


def changes(home: str, keys: int, folder: str) -> Numbers:
    """A sync after a hundredth of the keys got a new row each."""
    import duckdb

    from feature_server.definitions.registry import read_registry
    from feature_server.publish.batch import publish_all
    from feature_server.settings import load_settings

    copy, count = Path(folder + "-home"), keys // 100
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(home, copy)
    settings = load_settings({}, home=str(copy))
    (view,) = read_registry(settings.registry_path).feature_views
    values = ", ".join(f"random() as {name}" for name in view.feature_names)
    with duckdb.connect(str(settings.warehouse)) as warehouse:
        warehouse.execute(
            "create table new_rows as select range * 100 as entity_id, timestamptz '2025-02-01 00:00:00Z' as "
            f"event_timestamp, timestamptz '2025-02-01 00:00:00Z' as created_timestamp, {values} from range({count})"
        )
        (old,) = warehouse.execute("select sql from duckdb_views() where view_name = 's'").fetchall()[0]
        warehouse.execute(old.replace("CREATE VIEW", "create or replace view").rstrip(";") + " union all from new_rows")
    with server(folder) as (url, client):
        run_sync(url, str(copy))
        publish_all([view], settings)
        with measured(client, keys, count) as seen:
            result = run_sync(url, str(copy))
    assert (result.mode, result.rows) == ("changes", count), result
    shutil.rmtree(copy)
    return seen


def rows_in_memory(keys: int) -> tuple[Any, Any]:
    """A view and its rows as an Arrow table."""
    import numpy as np
    import pyarrow as pa

    from .data import ViewSize, feature_names, feature_view

    size = ViewSize(entities=keys, history=1, doubles=True)
    view, random = feature_view("s", size, None), np.random.default_rng(1)
    times = pa.array(np.full(keys, 1_735_689_600_000_000)).cast(pa.timestamp("us", "UTC"))
    columns = {"entity_id": pa.array(np.arange(keys)), "event_timestamp": times}
    return view, pa.table(columns | {name: pa.array(random.random(keys)) for name in feature_names("s", size)})


def batches(keys: int, expire: bool) -> Iterator[Any]:
    """Transactions as `sync` makes them, out of rows in memory."""
    import numpy as np

    from feature_server.layout.rows import RowPacker
    from feature_server.sync.writer import write_commands

    view, rows = rows_in_memory(keys)
    packer = RowPacker(view)
    for start in range(0, keys, 40_000):
        part = rows.slice(start, 40_000)
        expire_ms = np.full(part.num_rows, int(time.time() + 86_400) * 1000) if expire else None
        entities, packed = packer.entities(part), packer.pack(part)
        yield from write_commands("1", entities, packed, expire_ms=expire_ms, count_existing=False)


def write_path(keys: int, folder: str, expire: bool = False) -> Numbers:
    """Packing and sending alone."""
    from feature_server.online.store import OnlineStore
    from feature_server.sync.lock import fenced
    from feature_server.sync.writer import FencedWriter

    rows_in_memory(10)
    with server(folder) as (url, client), OnlineStore(url) as store, fenced(store, "s") as fence:
        work = batches(keys, expire)
        first = next(work)
        with measured(client, keys) as seen, FencedWriter(store, fence, "1") as writer:
            writer.put(chain([first], work))
        assert client.dbsize() >= keys
    return seen


def limit(keys: int, folder: str) -> Numbers:
    """Commands made beforehand, pushed as fast as the socket takes them while another thread reads the answers."""
    commands = [transaction.commands for transaction in batches(keys, expire=False)]
    answers = b"+OK\r\n" * sum(len(parts) // 2 for parts in commands)
    buffer = b"".join(bytes(part) for parts in commands for part in parts)
    with server(folder) as (url, client), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(url.removeprefix("unix://"))

        def drain() -> None:
            missing = len(answers)
            while missing:
                missing -= len(connection.recv(1 << 20))

        reader = threading.Thread(target=drain)
        with measured(client, keys) as seen:
            reader.start()
            connection.sendall(buffer)
            reader.join()
        assert client.dbsize() == keys
    return seen


def readers_wait(keys: int, folder: str) -> Numbers:
    """How long a reader of one key waits while a sync writes: milliseconds."""
    from feature_server.online.store import OnlineStore
    from feature_server.sync.lock import fenced
    from feature_server.sync.writer import FencedWriter

    waits: list[float] = []
    with server(folder) as (url, client), OnlineStore(url) as store, fenced(store, "s") as fence:
        transactions = list(batches(keys, expire=False))
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                begun = time.perf_counter()
                client.get("1{5}")
                waits.append((time.perf_counter() - begun) * 1e3)
                time.sleep(0.0005)

        reader = threading.Thread(target=read)
        reader.start()
        with FencedWriter(store, fence, "1") as writer:
            writer.put(transactions)
        done.set()
        reader.join()
    waits.sort()
    return {"reads": len(waits), "p50_ms": waits[len(waits) // 2], "p99_ms": waits[int(len(waits) * 0.99)]}


def main(arguments: Sequence[str] | None = None) -> int:
    from .common import make_case, parser, write_results
    from .data import ViewSize, published
    from .feast_env import FEAST_ENV, feast_repository
    from .servers import valkey

    options = parser(__doc__ or "")
    options.add_argument("--keys", type=int, default=None, help="keys of the view")
    chosen = options.parse_args(arguments)
    work, runs = chosen.work.resolve(), chosen.runs or 3
    keys = chosen.keys or KEYS[chosen.size]
    common = {"keys": keys, "folder": str(work / "sync-valkey")}
    best = in_child("benchmarks.sync:limit", common, runs=runs)
    cases = []
    for history in (1, 3):
        size = ViewSize(entities=keys, history=history, doubles=True)
        request = {**common, "home": str(published(work, ["s"], size, ttl_days=None).home)}
        feast = None
        if chosen.feast_python is not None:
            with valkey(work / "sync-feast") as feast_server:
                repository = feast_repository(
                    chosen.feast_python, work, ["s"], size, redis_port=feast_server.port, ttl_days=365
                )
                call = {"repository": str(repository), "view": "s", "start": "2024-12-31", "end": "2025-02-02"}
                feast = in_child(
                    "benchmarks.feast_calls:materialize", call, runs=1, python=chosen.feast_python, env=FEAST_ENV,
                    timeout_s=3600,
                )  # fmt: skip
                feast["rows_per_s"] = keys / feast["wall_s"]
        title = f"{keys:,} keys × 10 doubles, {history} row{'s' if history > 1 else ''} each"
        targets = (TARGETS if history == 1 else {}) | {"cpu_s/feast": "<= 0.5"}
        whole = in_child("benchmarks.sync:ours", request, runs=runs)
        cases.append(make_case(title, ours=whole, limit=best, feast=feast, targets=targets))
        cases.append(
            make_case(f"{title}: nothing new", ours=in_child("benchmarks.sync:unchanged", request), targets={})
        )
        changed = in_child("benchmarks.sync:changes", request, runs=runs)
        cases.append(make_case(f"{title}: 1 % new", ours=changed, targets={}))
    written = in_child("benchmarks.sync:write_path", common, runs=runs)
    cases.append(make_case(f"{keys:,} keys: write path", ours=written, limit=best, targets=TARGETS))
    expiring = in_child("benchmarks.sync:write_path", {**common, "expire": True}, runs=runs)
    cases.append(make_case(f"{keys:,} keys: write path, with expiry", ours=expiring, limit=best, targets={}))
    waits = in_child("benchmarks.sync:readers_wait", common, runs=runs)
    cases.append(make_case(f"{keys:,} keys: a reader's wait meanwhile", ours=waits, targets={}))
    write_results(Path(chosen.out), "Sync", cases)
    return 0


if __name__ == "__main__":
    sys.exit(main())
