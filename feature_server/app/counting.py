"""The counts of all workers, added up: whichever worker answers `/metrics` tells the same."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from ..catalog.promise import Standing
from ..history.live import LiveSource
from ..online.memory import Memory
from ..online.registry import LastVerified, OnlineRegistry
from ..serving.counts import LATENCY_BUCKETS, Counts
from .promised import promised

log = logging.getLogger("feature_server")


class SharedCounts:
    """This worker's counts, and where workers leave theirs for one another: a file each, replaced every second.

    A worker that takes another's place goes on from what that one had counted.
    """

    _file: Path

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._written = True

    def share(self, folder: Path, name: str) -> None:
        """Write to, and begin from, `folder/name`."""
        self._file = folder / name
        if self._file.exists():
            self._counts.add(msgspec.msgpack.decode(self._file.read_bytes(), type=Counts))

    def write(self) -> None:
        """Where that fails, requests are answered all the same, and `/metrics` of other workers lacks the newest."""
        new = self._file.with_suffix(".new")
        try:
            new.write_bytes(msgspec.msgpack.encode(self._counts))
            os.replace(new, self._file)
        except OSError as error:
            if self._written:
                log.error(
                    "counts for /metrics cannot be written: %s; see that the disk of %s has room", error, new.parent
                )
            self._written = False
        else:
            self._written = True

    def total(self) -> Counts:
        total = Counts()
        total.add(self._counts)
        for path in self._file.parent.glob("*.counts"):
            if path != self._file:
                total.add(msgspec.msgpack.decode(path.read_bytes(), type=Counts))
        return total


class _Collected(msgspec.Struct, frozen=True):
    metrics: Sequence[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.metrics


def exposition(
    counts: Counts,
    online: OnlineRegistry | None,
    epoch: bytes | None,
    verified: Mapping[str, LastVerified],
    live: Iterable[LiveSource],
    promises: Mapping[str, Standing],
    memory: Memory,
    now_us: int,
) -> bytes:
    """Prometheus's text format."""
    told = (
        _counters(counts), _memory(memory), _online(online, epoch, now_us), _verified(verified), _live(live),
        _promises(online, promises, now_us),
    )  # fmt: skip
    return generate_latest(_Collected(list(chain.from_iterable(told))))


def _counters(counts: Counts) -> Iterator[Metric]:
    requests = CounterMetricFamily("features_http_requests", "HTTP requests answered.", labels=["route", "status"])
    for name, count in sorted(counts.requests.items()):
        requests.add_metric(name.rsplit(" ", 1), count)
    yield requests
    latency = HistogramMetricFamily("features_read_seconds", "Time from a feature read's arrival to its answer.")
    buckets = zip([*map(str, LATENCY_BUCKETS), "+Inf"], accumulate(counts.latency), strict=True)
    latency.add_metric([], list(buckets), counts.latency_seconds)
    yield latency
    values = CounterMetricFamily("features_values", "Feature values answered.", labels=["view", "status"])
    for view_id, by_status in sorted(counts.values.items()):
        for status in by_status.__struct_fields__:
            values.add_metric([view_id, status.upper()], getattr(by_status, status))
    yield values
    yield CounterMetricFamily("features_entities", "Entities asked for.", value=counts.entities)
    events = CounterMetricFamily("features_pushed_events", "Events pushed.", labels=["outcome"])
    events.add_metric(["accepted"], counts.events_accepted)
    events.add_metric(["rejected"], counts.events_rejected)
    yield events
    dropped = "Lines of the audit trail that were not written."
    yield CounterMetricFamily("features_audit_dropped", dropped, value=counts.audit_dropped)
    yield CounterMetricFamily("features_registry_reloads", "Loads of the online registry.", value=counts.reloads)


def _memory(memory: Memory) -> Iterator[Metric]:
    """What Redis told this worker last: of an online registry that was evicted, too."""
    if memory.evicted is not None:
        text = "Keys that Redis has evicted since it was started."
        yield GaugeMetricFamily("features_redis_evicted_keys", text, value=memory.evicted.keys)


def _online(online: OnlineRegistry | None, epoch: bytes | None, now_us: int) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "features_online_store_up", "1 if the online registry could be read for this answer.", value=online is not None
    )
    if online is None or epoch is None:
        return
    noticed = "How often it was noticed that Redis had evicted keys."
    yield GaugeMetricFamily("features_evictions_noticed", noticed, value=online.evictions)
    doubtful = {view_id: online.is_doubtful(view_id) for view_id in sorted(online.views)}
    yield _gauge("features_view_doubtful", "1 if keys were evicted since its last full sync.", doubtful, float)
    lost = "Pushes that the log held when it was last seen, before it went and they had landed."
    yield _gauge("features_log_lost_pushes", lost, dict(sorted(online.lost.items())), float, label="source")
    yield GaugeMetricFamily("features_registry_epoch", "Version of the online registry.", value=int(epoch))
    views = {view_id: view for view_id in sorted(online.views) if (view := online.synced(view_id))}
    yield _gauge("features_view_rows", "Rows online, as the last sync counted them.", views, attrgetter("rows"))
    yield _gauge(
        "features_view_newest_event_age_seconds", "Age of the newest event online.", views,
        lambda view: None if view.newest_event_us is None else (now_us - view.newest_event_us) / 1e6,
    )  # fmt: skip
    yield _gauge(
        "features_view_synced_timestamp_seconds", "Time of the last sync.", views, lambda view: view.synced_at_us / 1e6
    )


def _verified(verified: Mapping[str, LastVerified]) -> Iterator[Metric]:
    """What `features verify` last found; a view that was never verified has no sample."""
    views = dict(sorted(verified.items()))
    yield _gauge("features_verified_keys", "Keys that the last verify compared.", views, attrgetter("keys"))
    differing = GaugeMetricFamily(
        "features_verified_differing_keys",
        "Keys whose values differed from the offline store; explained: by a sync that was still to come.",
        labels=["view", "explained"],
    )
    for view_id, last in views.items():
        differing.add_metric([view_id, "true"], last.different - last.unexplained)
        differing.add_metric([view_id, "false"], last.unexplained)
    yield differing
    at = "The instant the last verify compared."
    yield _gauge("features_verified_timestamp_seconds", at, views, lambda last: last.instant_us / 1e6)


def _live(live: Iterable[LiveSource]) -> Iterator[Metric]:
    """What waits of each event source; an age has no sample where nothing waits."""
    sources = {source.source: source for source in live}
    for name, description, field in (
        ("features_log_pushes", "Pushes that have not landed in files.", "pushes"),
        ("features_log_oldest_age_seconds", "Age of the first push that has not landed.", "oldest_seconds"),
        ("features_last_push_timestamp_seconds", "Time of the last push.", "last_push_seconds"),
        ("features_unread_events", "Events of producers that no worker has taken in.", "unread"),
        ("features_unread_oldest_age_seconds", "Age of the first of them.", "unread_seconds"),
        ("features_dead_letters", "Events of producers that were refused.", "dead_letters"),
    ):
        yield _gauge(name, description, sources, attrgetter(field), label="source")


def _promises(online: OnlineRegistry | None, standings: Mapping[str, Standing], now_us: int) -> Iterator[Metric]:
    """How freshness promises stand; a view without one, or that is not online, has no sample."""
    states = {"pass": 0, "warn": 1, "error": 2}
    yield _gauge(
        "features_view_freshness_state", "0 if the view keeps its freshness promise, 1 past warn, 2 past error.",
        standings, lambda standing: states[standing.state],
    )  # fmt: skip
    yield _gauge(
        "features_view_freshness_age_seconds", "Age of what is known of the view, which its promise limits.",
        standings, lambda standing: None if standing.age_us is None else standing.age_us / 1e6,
    )  # fmt: skip
    yield _gauge(
        "features_view_good_run_age_seconds", "Age of the instant up to which the runs of the view are good.",
        standings, lambda standing: None if standing.good_us is None else (now_us - standing.good_us) / 1e6,
    )  # fmt: skip
    limits = GaugeMetricFamily(
        "features_view_freshness_limit_seconds", "What the view promises of its age.", labels=["view", "limit"]
    )
    for view in () if online is None else promised(online):
        if view.freshness:
            for limit, us in (("warn", view.freshness.warn_us), ("error", view.freshness.error_us)):
                if us is not None:
                    limits.add_metric([view.id, limit], us / 1e6)
    yield limits


def _gauge(
    name: str, description: str, found: Mapping[str, Any], value: Callable[[Any], float | None], *, label: str = "view"
) -> Metric:
    """A number of each of the views or sources found, by name; no sample where it is None."""
    metric = GaugeMetricFamily(name, description, labels=[label])
    for key, each in found.items():
        if (number := value(each)) is not None:
            metric.add_metric([key], number)
    return metric
