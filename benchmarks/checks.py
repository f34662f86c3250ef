"""What checking what is stored costs: the same work with a check and with it taken out, in turns in one process.

Training looks whether the files of its index are still those that were written. A read looks whether each row is as
long as it says, and whether each key has the base that its events speak of. A push to a stream view in a Redis that has
evicted keys looks whether each key is there. The look for evictions, once a second, stands for itself.
"""

from __future__ import annotations

import random
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

from .measure import Numbers, in_child
from .stream_events import BATCH, KEYS, READ, SOURCE, SQL, batches, put_online
from .sync import server

ROWS = {"tiny": 20_000, "default": 1_000_000, "full": 10_000_000}
EVENTS = {"tiny": 5_000, "default": 50_000, "full": 200_000}
ENTITIES = 100
TARGETS = {"cpu_us/limit": "<= 1.05"}
ROUNDS = {"tiny": 3, "default": 41, "full": 41}


def in_turns(checked: Callable[[], Any], plain: Callable[[], Any], rounds: int, calls: int = 1) -> Numbers:
    """CPU of a call of each, in microseconds: the median of `rounds`, each of `calls` of the one and of the other."""
    works = {"cpu_us": checked, "plain_us": plain}
    seen: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            begun = _cpu_us()
            for _ in range(calls):
                work()
            seen[name].append((_cpu_us() - begun) / calls)
    return {name: statistics.median(times[1:]) for name, times in seen.items()}


def _cpu_us() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e6


def training(home: str, spine: str, features: list[str], rounds: int) -> Numbers:
    """A training set, its index made."""
    from feature_server.index import seal
    from feature_server.training.store import FeatureStore

    store = FeatureStore(home=home)

    def checked() -> Any:
        return store.get_historical_features(spine, features).to_arrow()

    def plain() -> Any:
        with patch.object(seal, "_check", lambda folder, found, names: None):
            return checked()

    return in_turns(checked, plain, rounds)


def rows(home: str, folder: str, features: list[str], known: int, rounds: int) -> Numbers:
    """Rows with a string, by the client."""
    from feature_server import FeatureClient
    from feature_server.serving.rows import ViewReader

    from .read import fill

    wanted = {"features": features, "entity_id": random.Random(3).sample(range(known), ENTITIES)}
    prepare = ViewReader._prepare

    def unchecked(reader: ViewReader) -> None:
        prepare(reader)
        reader._ends = range(0)

    with server(folder) as (url, _), FeatureClient(url) as checked, FeatureClient(url) as plain:
        fill(url, home)
        with patch.object(ViewReader, "_prepare", unchecked):
            plain.get_many(**wanted)
        return in_turns(lambda: checked.get_many(**wanted), lambda: plain.get_many(**wanted), rounds, calls=20)


@contextmanager
def _lifetimes(folder: str, count: int) -> Iterator[tuple[str, Any]]:
    """A server with windows over all events of each key, and who pushes to it."""
    from feature_server.ingest.transaction import Ingestor

    with server(folder) as (url, _):
        put_online(url, SQL.replace("interval 1 day preceding", "unbounded preceding"))
        with Ingestor(url, lambda: time.time_ns() // 1000) as ingestor:
            for lines in batches(count):
                assert ingestor.push_lines(SOURCE, lines).accepted == len(lines)
            yield url, ingestor


def lifetimes(folder: str, count: int, rounds: int) -> Numbers:
    """Five windows, three of them over all events of a key, by the client."""
    from feature_server import FeatureClient
    from feature_server.serving.stream import StreamViewReader

    wanted = {"features": READ, "customer_id": random.Random(2).sample(range(KEYS), ENTITIES)}
    with _lifetimes(folder, count) as (url, _), FeatureClient(url) as client:

        def checked() -> Any:
            return client.get_many(**wanted)

        def plain() -> Any:
            with patch.object(StreamViewReader, "_check_bases", lambda reader, decoded, bases: None):
                return client.get_many(**wanted)

        return in_turns(checked, plain, rounds, calls=20)


def pushes(folder: str, count: int, rounds: int) -> Numbers:
    """A batch of events pushed by the library: once keys were evicted, and before."""
    from feature_server.ingest.transaction import Ingestor
    from feature_server.online.store import OnlineStore

    lines = batches(BATCH)[0]
    with _lifetimes(folder, count) as (url, ingestor), OnlineStore(url) as store:
        ingestor.push_lines(SOURCE, lines)
        seen: dict[str, list[float]] = {"cpu_us": [], "plain_us": []}
        for number in range(rounds + 1):
            for name, evictions in (("plain_us", 0), ("cpu_us", 1)):
                store.publish(lambda now, n=evictions: msgspec.structs.replace(now, evictions=n))  # type: ignore[misc]
                with Ingestor(url, lambda: time.time_ns() // 1000) as fresh:
                    fresh.push_lines(SOURCE, lines)
                    begun = _cpu_us()
                    assert fresh.push_lines(SOURCE, lines).accepted == len(lines)
                    if number:
                        seen[name].append(_cpu_us() - begun)
    return {name: statistics.median(times) for name, times in seen.items()}


def watch(folder: str, rounds: int) -> Numbers:
    """One look whether keys were evicted."""
    from feature_server.online.memory import EvictionWatch

    with server(folder) as (url, _):
        put_online(url)
        with EvictionWatch(url, seconds=3600) as eviction:
            found = in_turns(eviction.look, lambda: None, rounds, calls=20)
    return {"cpu_us": found["cpu_us"]}


def main(arguments: Sequence[str] | None = None) -> int:
    from .common import make_case, parser, write_results
    from .data import ViewSize, feature_names, published, spine_file

    chosen = parser(__doc__ or "").parse_args(arguments)
    work, size, rounds = chosen.work.resolve(), chosen.size, ROUNDS[chosen.size]
    count = ROWS[size]
    view = ViewSize(entities=count // 10)
    names = feature_names("a", view)
    features = [f"a:{name}" for name in names]
    spine = str(spine_file(work, count // 10, view))
    home = str(published(work, ["a"], view).home)
    folder = str(work / "checks-valkey")
    sizes = {"folder": folder, "count": EVENTS[size], "rounds": rounds}
    calls: dict[str, tuple[str, Numbers]] = {
        f"training set, {count // 10:,} × {count:,} rows: its index": (
            "training", {"home": home, "spine": spine, "features": features, "rounds": rounds},
        ),
        f"{ENTITIES} × {len(features)} read: the length of rows": (
            "rows", {"home": home, "folder": folder, "features": features, "known": view.entities, "rounds": rounds},
        ),
        f"{ENTITIES} × {len(READ)} windows read: bases": ("lifetimes", sizes),
        f"{BATCH:,} events pushed after evictions: keys": ("pushes", sizes),
    }  # fmt: skip
    cases = []
    for title, (name, call) in calls.items():
        found = in_child(f"benchmarks.checks:{name}", call, runs=chosen.runs or 3)
        ours, limit = {"cpu_us": found["cpu_us"]}, {"cpu_us": found["plain_us"]}
        cases.append(make_case(title, ours=ours, limit=limit, targets=TARGETS))
    look = in_child("benchmarks.checks:watch", {"folder": folder, "rounds": rounds}, runs=chosen.runs or 3)
    cases.append(make_case("one look for evictions", ours=look, targets={"cpu_us": "<= 1000"}))
    shutil.rmtree(folder, ignore_errors=True)
    write_results(Path(chosen.out), "What checks cost", cases)
    return 0


if __name__ == "__main__":
    sys.exit(main())
