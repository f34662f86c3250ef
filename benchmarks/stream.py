"""Live events: pushing them, through the library and over HTTP, and reading windows of them.

Events come as JSON, in batches of 1,000, and are decoded, validated, computed by the view's SQL, stored and logged. A
read is of 100 entities × 5 window features; its limit is the MGET of the same bytes, and the windows by NumPy alone.
`hot` reads one key with 100,000 events in its window.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .measure import Numbers, in_child, process_cpu_s, stopwatch
from .sync import server

EVENTS = {"tiny": 5_000, "default": 100_000, "full": 500_000}
BATCH, KEYS, ENTITIES = 1_000, 5_000, 100
SOURCE = "payments.transactions"
COLUMNS = {
    "transaction_id": "bigint", "customer_id": "bigint", "merchant_id": "bigint", "amount_eur": "double",
    "occurred_at": "timestamptz", "ingested_at": "timestamptz",
}  # fmt: skip
FEATURES = {
    "payments_1h": "int64", "spent_1d": "float64", "largest_1d": "float64", "smallest_1h": "float64",
    "mean_1d": "float64",
}  # fmt: skip
SQL = """
select
    customer_id, occurred_at as event_timestamp, ingested_at as created_timestamp, count(*) over h as payments_1h,
    sum(amount_eur) over d as spent_1d, max(amount_eur) over d as largest_1d, min(amount_eur) over h as smallest_1h,
    avg(amount_eur) over d as mean_1d
from events
window
    h as (partition by customer_id order by occurred_at range between interval 1 hour preceding and current row),
    d as (partition by customer_id order by occurred_at range between interval 1 day preceding and current row)
"""
READ = [f"customer__payments:{name}" for name in FEATURES]


def put_online(url: str) -> Any:
    """The view, its definitions published."""
    import duckdb

    from feature_server.definitions import Entity, Feature, FeatureView, JoinKey
    from feature_server.dtypes import parse_dtype, parse_sql_type
    from feature_server.online import OnlineStore
    from feature_server.online_registry import OnlineRegistry, OnlineView
    from feature_server.registry import Registry
    from feature_server.stream_plan import EventSource, SourceColumn
    from feature_server.windows import CompiledModel, compile_stream_view

    source = EventSource(
        name=SOURCE,
        columns=tuple(SourceColumn(name, parse_sql_type(kind)) for name, kind in COLUMNS.items()),
        event_id="transaction_id",
        event_timestamp="occurred_at",
        created_timestamp="ingested_at",
    )
    model = CompiledModel(
        sql=SQL,
        join_keys=("customer_id",),
        event_timestamp="event_timestamp",
        created_timestamp="created_timestamp",
        features=tuple(FEATURES),
    )
    with duckdb.connect() as connection:
        connection.execute("create table events (" + ", ".join(f"{k} {v}" for k, v in COLUMNS.items()) + ")")

        def describe(query: str) -> dict[str, str]:
            return {row[0]: row[1] for row in connection.sql(f"describe {query}").fetchall()}

        plan = compile_stream_view(model, source, lambda table: "events", describe)
    view = FeatureView(
        name="customer__payments",
        entities=("customer",),
        join_keys=(JoinKey("customer_id", parse_dtype("int64")),),
        created_timestamp="created_timestamp",
        stream=plan,
        features=tuple(Feature(name=name, dtype=parse_dtype(kind)) for name, kind in FEATURES.items()),
    )
    entity = Entity(name="customer", join_keys=view.join_keys)
    registry = Registry(project="bench", entities=(entity,), sources=(source,), feature_views=(view,))
    entry = OnlineView(code="e", definition=view, table_version=0, synced_at_us=0, rows=0, table_id="empty")
    with OnlineStore(url) as store:
        store.publish(lambda now: OnlineRegistry(registry=registry, views={view.id: entry}))
    return view


def events(count: int, keys: int = KEYS) -> list[dict[str, Any]]:
    """Payments of the last 50 minutes, in the order of their time."""
    chosen, begin, step = random.Random(1), time.time() - 3000, 2900 / count
    return [
        {
            "transaction_id": i, "customer_id": chosen.randrange(keys), "merchant_id": chosen.randrange(200),
            "amount_eur": chosen.randrange(1, 99_999) / 100,
            "occurred_at": datetime.fromtimestamp(begin + i * step, UTC).isoformat(),
            "ingested_at": datetime.fromtimestamp(begin + i * step + 1, UTC).isoformat(),
        }
        for i in range(count)
    ]  # fmt: skip


def batches(count: int) -> list[list[bytes]]:
    import msgspec

    lines = [msgspec.json.encode(event) for event in events(count)]
    return [lines[start : start + BATCH] for start in range(0, count, BATCH)]


@contextmanager
def filled(folder: str, sent: Sequence[list[bytes]]) -> Iterator[tuple[str, Any, Any]]:
    """A server that has taken the events in: its URL, a connection, the view."""
    from feature_server.ingest import Ingestor

    with server(folder) as (url, client):
        view = put_online(url)
        with Ingestor(url, lambda: time.time_ns() // 1000) as ingestor:
            for lines in sent:
                assert ingestor.push_lines(SOURCE, lines).accepted == len(lines)
        yield url, client, view


def push(count: int, folder: str) -> Numbers:
    """Through the library."""
    from feature_server.ingest import Ingestor

    sent = batches(count)
    with server(folder) as (url, client):
        put_online(url)
        with Ingestor(url, lambda: time.time_ns() // 1000) as ingestor:
            ingestor.push_lines(SOURCE, sent[0][:1])
            before, pid = client.info("memory")["used_memory"], client.info("server")["process_id"]
            server_cpu = process_cpu_s(pid)
            with stopwatch() as seen:
                for lines in sent:
                    assert ingestor.push_lines(SOURCE, lines).accepted == len(lines)
        log = client.memory_usage(f"features:log:{SOURCE}", samples=0)
        seen["server_cpu_s"] = process_cpu_s(pid) - server_cpu
        seen["events_per_s"] = count / seen["wall_s"]
        seen["events_per_cpu_s"] = count / seen["cpu_s"]
        # 16 bytes are the two arguments, 50 or so a key its name and place in Redis' table
        seen["bytes_per_event"] = (client.info("memory")["used_memory"] - before - log) / count
    return seen


def push_http(count: int, folder: str, redis_folder: str) -> Numbers:
    """Over HTTP, one worker, four connections."""
    import re
    import subprocess
    from concurrent.futures import ThreadPoolExecutor

    import httpx
    import msgspec

    sent = events(count)
    bodies = []
    for start in range(0, count, BATCH):
        part = sent[start : start + BATCH]
        columns = {name: [event[name] for event in part] for name in COLUMNS}
        bodies.append(msgspec.json.encode({"push_source_name": SOURCE, "df": columns}))
    with server(redis_folder) as (url, _):
        put_online(url)
        command = [sys.executable, "-m", "feature_server", "serve", "--port", "0", "--redis-url", url]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
        try:
            assert child.stdout is not None
            address = re.search(r"http://\S+", child.stdout.readline())
            assert address
            with httpx.Client(base_url=address[0], timeout=60) as http:
                post = {"headers": {"content-type": "application/json"}}
                http.post("/push", content=bodies[0], **post)  # type: ignore[arg-type]
                with stopwatch() as seen, ThreadPoolExecutor(4) as threads:
                    answers = list(threads.map(lambda body: http.post("/push", content=body, **post), bodies))  # type: ignore[arg-type]
            assert all(answer.json()["accepted"] for answer in answers)
        finally:
            child.terminate()
            child.wait(60)
    seen["events_per_s"] = count / seen["wall_s"]
    return seen


def read(count: int, folder: str, reads: int = 300) -> Numbers:
    """100 entities × 5 window features, by the client."""
    from feature_server.client import FeatureClient
    from feature_server.settings import load_settings

    with filled(folder, batches(count)) as (url, _, _), FeatureClient(url, settings=load_settings({})) as client:
        ids = random.Random(2).sample(range(KEYS), ENTITIES)
        client.get_many(features=READ, customer_id=ids)
        with stopwatch() as seen:
            for _ in range(reads):
                client.get_many(features=READ, customer_id=ids)
    return {"cpu_s": seen["cpu_s"], "wall_s": seen["wall_s"], "cpu_us_per_read": seen["cpu_s"] / reads * 1e6}


def hot(count: int, folder: str, reads: int = 30) -> Numbers:
    """One key with all events."""
    import msgspec

    from feature_server.client import FeatureClient
    from feature_server.settings import load_settings

    lines = [msgspec.json.encode(event) for event in events(count, keys=1)]
    sent = [lines[start : start + BATCH] for start in range(0, count, BATCH)]
    waits = []
    with filled(folder, sent) as (url, _, _), FeatureClient(url, settings=load_settings({}), timeout=10) as client:
        for _ in range(reads + 1):
            begun = time.perf_counter()
            found = client.get(features=READ, customer_id=0)
            waits.append((time.perf_counter() - begun) * 1000)
        assert found.values["payments_1h"] == count
    return {"p50_ms": sorted(waits[1:])[reads // 2]}


def read_limit(count: int, folder: str, reads: int = 300) -> Numbers:
    """The same bytes by MGET, and the five windows by NumPy: no duplicates looked for, no Python values made."""
    import numpy as np

    from feature_server.reading import RedisReader

    record = np.dtype(
        [("event", "<i8"), ("nulls", "u1"), ("created", "<i8"), ("id", "<u8"), ("counts", "u1"), ("a", "<f8")]
    )
    with filled(folder, batches(count)) as (url, _, view):
        assert [argument.dtype.kind for argument in view.stream.arguments] == ["float64"]
        ids, reader = random.Random(2).sample(range(KEYS), ENTITIES), RedisReader(url)
        keys = [b"1{%d}" % i for i in ids]

        def once() -> None:
            rows = [row or b"" for row in reader.mget(keys)]
            table = np.frombuffer(b"".join(rows), record)
            starts = np.cumsum([0, *(len(row) // record.itemsize for row in rows[:-1])])
            now, amounts, times = time.time_ns() // 1000, np.ascontiguousarray(table["a"]), table["event"]
            hour, day = times >= now - 3_600_000_000, times >= now - 86_400_000_000
            np.add.reduceat(hour.astype(np.int64), starts)
            total = np.add.reduceat(np.where(day, amounts, 0), starts)
            np.maximum.reduceat(np.where(day, amounts, -np.inf), starts)
            np.minimum.reduceat(np.where(hour, amounts, np.inf), starts)
            total / np.add.reduceat(day.astype(np.int64), starts)

        once()
        with stopwatch() as seen:
            for _ in range(reads):
                once()
    return {"cpu_s": seen["cpu_s"], "wall_s": seen["wall_s"], "cpu_us_per_read": seen["cpu_s"] / reads * 1e6}


def main(arguments: Sequence[str] | None = None) -> int:
    from .common import make_case, parser, write_results

    chosen = parser(__doc__ or "").parse_args(arguments)
    work, runs, count = chosen.work.resolve(), chosen.runs or 3, EVENTS[chosen.size]
    work.mkdir(parents=True, exist_ok=True)
    common = {"count": count, "folder": str(work / "stream-valkey")}
    pushed = in_child("benchmarks.stream:push", common, runs=runs)
    targets = {"events_per_s": ">= 100000", "bytes_per_event": "<= 56"}
    cases = [make_case(f"{count:,} events pushed by the library", ours=pushed, targets=targets)]
    over = {"count": count, "folder": str(work), "redis_folder": common["folder"]}
    http = in_child("benchmarks.stream:push_http", over, runs=runs)
    cases.append(make_case(f"{count:,} events pushed over HTTP", ours=http, targets={"events_per_s": ">= 20000"}))
    ours, best = (in_child(f"benchmarks.stream:{name}", common, runs=runs) for name in ("read", "read_limit"))
    title = f"{ENTITIES} entities × {len(FEATURES)} windows read, {count // KEYS} events a key"
    cases.append(make_case(title, ours=ours, limit=best, targets={"cpu_us_per_read/limit": "<= 2"}))
    many = min(count, 100_000)
    found = in_child("benchmarks.stream:hot", common | {"count": many}, runs=runs)
    cases.append(make_case(f"a key with {many:,} events read", ours=found, targets={"p50_ms": "<= 10"}))
    write_results(Path(chosen.out), "Live events", cases)
    return 0


if __name__ == "__main__":
    sys.exit(main())
