"""Live events: pushing them, through the library and over HTTP, how soon they are seen, and reading windows of them.

Events come as JSON, in batches of 1,000, and are decoded, validated, computed by the view's SQL, stored and logged. A
read is of 100 entities × 5 window features; its limit is the MGET of the same bytes, and the windows by NumPy alone.
`seen` measures from before an event is pushed until a read has seen it, while others are pushed at a steady rate.

Feast has no windows: it overwrites the latest row of each key, in a Redis of its own, and keeps nothing else.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .measure import Numbers, in_child, process_cpu_s, stopwatch
from .stream_events import BATCH, CODE, FEATURES, KEYS, READ, SOURCE, batches, filled, put_online
from .sync import server

EVENTS = {"tiny": 5_000, "default": 100_000, "full": 500_000}
SECONDS = {"tiny": 1.0, "default": 5.0, "full": 15.0}  # of a steady load
RATE = 20_500  # events a second of a steady load
FEAST_EVENTS = 20_000  # at most: the numbers are rates
ENTITIES = 100


def push(count: int, folder: str) -> Numbers:
    """Through the library."""
    from feature_server.ingest.transaction import Ingestor

    sent = batches(count)
    with server(folder) as (url, client):
        view = put_online(url)
        with Ingestor(url, lambda: time.time_ns() // 1000) as ingestor:
            ingestor.push_lines(SOURCE, sent[0][:1])
            before, pid = client.info("memory")["used_memory"], client.info("server")["process_id"]
            server_cpu = process_cpu_s(pid)
            with stopwatch() as seen:
                for lines in sent:
                    assert ingestor.push_lines(SOURCE, lines).accepted == len(lines)
            seen["server_cpu_s"] = process_cpu_s(pid) - server_cpu
        log = client.memory_usage(f"features:log:{SOURCE}", samples=0)
        taken = client.info("memory")["used_memory"] - before - log
    return {
        **seen,
        "events_per_s": count / seen["wall_s"],
        "events_per_cpu_s": count / seen["cpu_s"],
        "own_bytes_per_event": taken / count - sum(a.dtype.fixed_width for a in view.stream.arguments),
        "log_bytes_per_event": log / count,
    }


def read(count: int, folder: str, reads: int = 300) -> Numbers:
    """100 entities × 5 window features, by the client."""
    from feature_server.client.features import FeatureClient
    from feature_server.settings import load_settings

    with filled(folder, batches(count)) as (url, _, _), FeatureClient(url, settings=load_settings({})) as client:
        ids = random.Random(2).sample(range(KEYS), ENTITIES)
        return _timed(lambda: client.get_many(features=READ, customer_id=ids), reads)


def read_limit(count: int, folder: str, reads: int = 300) -> Numbers:
    """The same bytes by MGET, and the five windows by NumPy: no duplicates looked for, no Python values made."""
    import numpy as np

    from feature_server.online.readers import RedisReader

    record = np.dtype(
        [("event", "<i8"), ("nulls", "u1"), ("created", "<i8"), ("id", "<u8"), ("counts", "u1"), ("a", "<f8")]
    )
    with filled(folder, batches(count)) as (url, _, view):
        assert [argument.dtype.kind for argument in view.stream.arguments] == ["float64"]
        ids, reader = random.Random(2).sample(range(KEYS), ENTITIES), RedisReader(url)
        keys = [f"{CODE}{{{i}}}".encode() for i in ids]

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

        return _timed(once, reads)


def _timed(work: Any, times: int) -> Numbers:
    work()
    with stopwatch() as seen:
        for _ in range(times):
            work()
    return {"cpu_s": seen["cpu_s"], "wall_s": seen["wall_s"], "cpu_us_per_read": seen["cpu_s"] / times * 1e6}


def hot(count: int, folder: str, reads: int = 30) -> Numbers:
    """One key with all events."""
    from feature_server.client.features import FeatureClient
    from feature_server.settings import load_settings

    waits = []
    sent = batches(count, keys=1)
    with filled(folder, sent) as (url, _, _), FeatureClient(url, settings=load_settings({}), timeout=10) as client:
        for _ in range(reads + 1):
            begun = time.perf_counter()
            found = client.get(features=READ, customer_id=0)
            waits.append((time.perf_counter() - begun) * 1000)
        assert found.values["payments_1h"] == count
    return {"p50_ms": sorted(waits[1:])[reads // 2]}


def feast(python: Path, work: Path, count: int) -> tuple[Numbers, Numbers]:
    """Feast pushing to a Redis of its own: through its library, and over HTTP with one worker."""
    from .feast_env import FEAST_ENV, push_repository
    from .servers import feast_server, valkey

    with valkey(work / "stream-feast") as store:
        repository = push_repository(python, work, redis_port=store.port)
        request = {"repository": str(repository), "count": count}
        theirs = {"runs": 1, "timeout_s": 3600, "python": python, "env": FEAST_ENV}
        library = in_child("benchmarks.feast_calls:push", request, **theirs)  # type: ignore[arg-type]
        with feast_server(python, repository) as running:
            call = {"port": running.port, "pid": running.pid, "count": count, "push_source": "payments"}
            return library, in_child("benchmarks.stream_http:push", call, runs=1, timeout_s=3600)


def main(arguments: Sequence[str] | None = None) -> int:
    from .common import make_case, parser, write_results

    chosen = parser(__doc__ or "").parse_args(arguments)
    work, runs, count = chosen.work.resolve(), chosen.runs or 3, EVENTS[chosen.size]
    work.mkdir(parents=True, exist_ok=True)
    theirs: tuple[Numbers | None, Numbers | None] = (None, None)
    if chosen.feast_python is not None:
        theirs = feast(chosen.feast_python, work, min(count, FEAST_EVENTS))
    common = {"count": count, "folder": str(work / "stream-valkey")}
    pushed = in_child("benchmarks.stream:push", common, runs=runs)
    targets = {"events_per_s": ">= 100000", "events_per_s/feast": ">= 1", "own_bytes_per_event": "<= 40"}
    title = f"{count:,} events pushed by the library, {BATCH:,} at a time"
    cases = [make_case(title, ours=pushed, feast=theirs[0], targets=targets)]
    over: Numbers = {"folder": str(work), "redis_folder": common["folder"]}
    http = in_child("benchmarks.stream_http:ours", {**over, "count": count}, runs=runs)
    targets = {"events_per_s": ">= 20000", "events_per_s/feast": ">= 1"}
    cases.append(make_case(f"{count:,} events pushed over HTTP", ours=http, feast=theirs[1], targets=targets))
    steady = {**over, "rate": RATE, "seconds": SECONDS[chosen.size]}
    seen = in_child("benchmarks.stream_http:seen", steady, runs=runs)
    targets = {"load_events_per_s": ">= 20000", "p50_ms": "<= 5"}
    cases.append(make_case("one event pushed and read, under load", ours=seen, targets=targets))
    ours, best = (in_child(f"benchmarks.stream:{name}", common, runs=runs) for name in ("read", "read_limit"))
    title = f"{ENTITIES} entities × {len(FEATURES)} windows read, {count // KEYS} events a key"
    cases.append(make_case(title, ours=ours, limit=best, targets={"cpu_us_per_read/limit": "<= 2"}))
    many = min(count, 100_000)
    found = in_child("benchmarks.stream:hot", {**common, "count": many}, runs=runs)
    cases.append(make_case(f"a key with {many:,} events read", ours=found, targets={"p50_ms": "<= 4"}))
    write_results(Path(chosen.out), "Live events", cases)
    return 0


if __name__ == "__main__":
    sys.exit(main())
