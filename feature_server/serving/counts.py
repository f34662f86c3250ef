"""What a process counts while it serves: plain integers, so that counting costs next to nothing.

`app.metrics` adds the counts of all workers together and writes them for Prometheus.
"""

from bisect import bisect_left
from typing import Self

import msgspec

from .statuses import ValueCounts

LATENCY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds


class Counts(msgspec.Struct):
    """Everything one process has counted since it started.

    `latency` is a histogram of feature reads over LATENCY_BUCKETS; its last number is of what took longer than all.
    """

    requests: dict[str, int] = {}  # `route status` → requests
    latency: list[int] = msgspec.field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS) + 1))
    latency_seconds: float = 0.0  # of all feature reads together
    values: dict[str, ValueCounts] = {}  # by view id
    entities: int = 0  # rows asked for
    reloads: int = 0  # of the online registry
    events_accepted: int = 0  # pushed
    events_rejected: int = 0
    audit_dropped: int = 0  # lines of the audit trail

    def count_request(self, route: str, status: int) -> None:
        name = f"{route} {status}"
        self.requests[name] = self.requests.get(name, 0) + 1

    def observe(self, seconds: float) -> None:
        """Count how long a feature read took."""
        self.latency[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.latency_seconds += seconds

    def view(self, view_id: str) -> ValueCounts:
        return self.values.setdefault(view_id, ValueCounts())

    def add(self, other: Self) -> None:
        """Add what another process, or this one's predecessor, has counted."""
        for name, count in other.requests.items():
            self.requests[name] = self.requests.get(name, 0) + count
        self.latency = [a + b for a, b in zip(self.latency, other.latency, strict=True)]
        self.latency_seconds += other.latency_seconds
        for view_id, counts in other.values.items():
            mine = self.view(view_id)
            for field in counts.__struct_fields__:
                setattr(mine, field, getattr(mine, field) + getattr(counts, field))
        self.entities += other.entities
        self.reloads += other.reloads
        self.events_accepted += other.events_accepted
        self.events_rejected += other.events_rejected
        self.audit_dropped += other.audit_dropped
