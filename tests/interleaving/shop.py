"""What is done to a feature store in a folder and a Redis: in this process, or in one that is killed half way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pyarrow as pa
from redis.connection import AbstractConnection

from feature_server.arrow import arrow_type
from feature_server.definitions.facts import FeatureView
from feature_server.definitions.registry import Registry
from feature_server.definitions.stream import EventSource
from feature_server.history.log import Landed, land, landing_folder
from feature_server.ingest import trim as ingest_trim
from feature_server.ingest.link import Link
from feature_server.ingest.transaction import Ingestor
from feature_server.ingest.worker import Streamed, Worker
from feature_server.offline.store import OfflineStore
from feature_server.online.store import OnlineStore
from feature_server.publish.run import publish
from feature_server.sync.run import SyncOptions, sync
from feature_server.times import to_us
from feature_server.verify.events import verify_events
from feature_server.warehouse.relations import open_warehouse
from tests.support.published import training_store
from tests.support.sync_crash import _context, _start_server, small_transactions

TRIM_BYTES = 300


@dataclass(frozen=True)
class Shop:
    """A project with a registry in `folder`, online in the Redis at `url`, at an instant."""

    folder: Path
    url: str
    registry: Registry
    now: datetime

    def now_us(self) -> int:
        return to_us(self.now)

    @property
    def offline(self) -> OfflineStore:
        return OfflineStore(self.folder / "offline")

    def publish(self) -> None:
        with open_warehouse(
            self.folder / "warehouse.duckdb", sources=self.registry.sources, project_dir=self.folder
        ) as warehouse:
            for view in self.registry.feature_views:
                publish(view, warehouse, self.offline)

    def sync(self, *, full: bool = False, only: str | None = None) -> list[str]:
        options = SyncOptions(full=full, project_dir=self.folder)
        views = None if only is None else [only]
        with OnlineStore(self.url) as online:
            report = sync(online, self.offline, self.registry, views=views, now_us=self.now_us, options=options)
        for error in report.failures.values():
            raise error
        return [f"{result.view}: {result.mode} {result.rows}" for result in report.results]

    def verify(self) -> list[str]:
        """What `features verify` finds unexplained of views that are online."""
        unexplained = []
        with OnlineStore(self.url) as online:
            registry = online.registry()
            for view in self.registry.feature_views if registry is not None else ():
                if registry is not None and view.id in registry.views and registry.views[view.id].table_id:
                    found = verify_events(
                        view, online, self.offline, now_us=self.now_us(), project_dir=self.folder, sample=0
                    )
                    unexplained += [str(difference) for difference in found.differences if found.unexplained]
        return unexplained

    def train(self, view: FeatureView, keys: dict[str, list[Any]], **options: Any) -> list[dict[str, Any]]:
        """The features of each key at this instant, as a training set has them."""
        spine = pa.table(
            {key.name: pa.array(keys[key.name], arrow_type(key.dtype)) for key in view.join_keys}
            | {"event_timestamp": pa.array([self.now] * len(next(iter(keys.values()))), pa.timestamp("us", "UTC"))}
        )
        features = [f"{view.id}:{feature.name}" for feature in view.features]
        found = training_store(self.folder, self.registry).get_historical_features(spine, features, **options)
        uuids = {feature.name for feature in view.features if feature.dtype.kind == "uuid"}
        return [
            {name: UUID(value) if name in uuids and value is not None else value for name, value in row.items()}
            for row in found.to_arrow().to_pylist()
        ]

    def land(self, source: EventSource, max_entries: int) -> Landed:
        with OnlineStore(self.url) as online:
            return land(online, source, landing_folder(source, self.folder), max_entries=max_entries)

    def ingestor(self) -> Ingestor:
        return Ingestor(self.url, self.now_us)

    def push(self, source: EventSource, lines: list[bytes]) -> list[int]:
        """Push JSON objects; the places of those refused."""
        with self.ingestor() as ingestor:
            return [place for place, _ in ingestor.push_lines(source.name, lines).rejected]

    def work(self, source: EventSource) -> Streamed:
        """What `features stream --once` does."""
        with OnlineStore(self.url) as online, self.ingestor() as ingestor:
            worker = Worker(online, ingestor, source, landing_folder(source, self.folder), consumer="worker")
            return worker.run(once=True)


def small_steps() -> None:
    """Trim keys early, and cut syncs into many transactions."""
    small_transactions()
    ingest_trim.TRIM_BYTES = TRIM_BYTES


def run_until_killed(work: Callable[..., Any], *arguments: Any, step: int) -> bool:
    """Run in another process, which kills itself before its nth message to Redis or file made; whether it ended."""
    _start_server()
    process = _context.Process(target=_run, args=(work, arguments, step))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode == 0


@contextmanager
def paused(work: Callable[..., Any], *arguments: Any, step: int) -> Iterator[None]:
    """Run in another process, which stands still before its nth message while the block runs, if it gets that far."""
    _start_server()
    process = _context.Process(target=_run, args=(work, arguments, step, signal.SIGSTOP))
    process.start()
    other = psutil.Process(process.pid)
    while process.is_alive() and other.status() != psutil.STATUS_STOPPED:
        time.sleep(0.005)
    yield
    while process.is_alive():
        other.send_signal(signal.SIGCONT)
        process.join(timeout=0.1)
    assert process.exitcode == 0, process.exitcode


def _run(
    work: Callable[..., Any], arguments: tuple[Any, ...], step: int, signal_number: signal.Signals = signal.SIGKILL
) -> None:
    small_steps()
    done = 0

    def counted(function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done == step:
                os.kill(os.getpid(), signal_number)
            return function(*args, **kwargs)

        return run

    for owner, name in (
        (AbstractConnection, "send_packed_command"), (Link, "_exchange"), (Path, "rename"), (os, "fsync")
    ):  # fmt: skip
        setattr(owner, name, counted(getattr(owner, name)))
    work(*arguments)
