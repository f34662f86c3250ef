"""What a process counts while it serves: plain integers, so that counting costs next to nothing.

`app.metrics` adds the counts of all workers together and writes them for Prometheus.
"""

from bisect import bisect_left
from typing import Self

import msgspec

from .statuses import ValueCounts

LATENCY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds


class Latency(msgspec.Struct):
    """A histogram over LATENCY_BUCKETS; the last of `buckets` counts what took longer than all of them."""

    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS) + 1))
    sum_seconds: float = 0.0

    def observe(self, seconds: float) -> None:
        self.buckets[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.sum_seconds += seconds


class Counts(msgspec.Struct):
    """Everything one process has counted since it started."""

    requests: dict[str, int] = {}  # `route status` → requests
    latency: Latency = msgspec.field(default_factory=Latency)  # of feature reads
    values: dict[str, ValueCounts] = {}  # by view id
    entities: int = 0  # rows asked for
    reloads: int = 0  # of the online registry
    events_accepted: int = 0  # pushed
    events_rejected: int = 0

    def count_request(self, route: str, status: int) -> None:
        name = f"{route} {status}"
        self.requests[name] = self.requests.get(name, 0) + 1

    def view(self, view_id: str) -> ValueCounts:
        found = self.values.get(view_id)
        if found is None:
            found = self.values[view_id] = ValueCounts()
        return found

    def add(self, other: Self) -> None:
        """Add what another process, or this one's predecessor, has counted."""
        for name, count in other.requests.items():
            self.requests[name] = self.requests.get(name, 0) + count
        self.latency.buckets = [a + b for a, b in zip(self.latency.buckets, other.latency.buckets, strict=True)]
        self.latency.sum_seconds += other.latency.sum_seconds
        for view_id, counts in other.values.items():
            mine = self.view(view_id)
            for field in counts.__struct_fields__:
                setattr(mine, field, getattr(mine, field) + getattr(counts, field))
        self.entities += other.entities
        self.reloads += other.reloads
        self.events_accepted += other.events_accepted
        self.events_rejected += other.events_rejected
