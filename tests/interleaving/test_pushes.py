"""Reads between random pushes give what DuckDB gives for the model's SQL over the same events and an extra row."""

from __future__ import annotations

import itertools
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_server.client.features import FeatureClient
from feature_server.ingest import trim as ingest_trim
from feature_server.ingest.transaction import Ingestor
from feature_server.settings import load_settings
from feature_server.times import to_us
from tests.support.stream_views import COLUMNS, FEATURES, NOW, SQL, put_online, stream_view

SOURCE = "payments.transactions"
CUSTOMERS = 4
TTL = timedelta(minutes=30)
PLAIN = "last_merchant"
# The extra row is the one without an id: it passes the filter, and no aggregate counts it.
EXPECTED = (
    SQL.replace("count(*) over", "count(*) filter (where transaction_id is not null) over")
    .replace("where amount_eur > 0", "where amount_eur > 0 or transaction_id is null")
    .replace("    customer_id,", "    transaction_id, customer_id,", 1)
)
numbers = itertools.count()


class History:
    """The versions of all events sent so far, and the clock."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.base = next(numbers) * 1_000_000
        self.now = NOW
        self.sent: list[dict[str, Any]] = []

    def push(self) -> list[dict[str, Any]]:
        """Some events: new ones, late and out of order; corrections; and events sent before."""
        random, events = self.random, []
        for _ in range(random.randint(1, 12)):
            kind = random.random() if self.sent else 0
            if kind > 0.85:
                events.append(random.choice(self.sent))
                continue
            created = self.now + timedelta(microseconds=len(self.sent) - 1_000_000)
            late = random.choice([0, 1, 60, 299, 300, 600, 601, 3000, 3600, 7000])
            event = {
                "transaction_id": self.base + len(self.sent),
                "customer_id": self.base + random.randrange(CUSTOMERS),
                "merchant": random.choice([None, "bakery", "cafe", "Käse|{}", ""]),
                "kind": random.choice([None, "purchase", "refund"]),
                "amount_eur": random.choice(
                    [None, Decimal("0.00"), Decimal("2.50"), Decimal("19.99"), Decimal("-1.00")]
                ),
                "occurred_at": self.now.replace(microsecond=0) - timedelta(seconds=late),
                "ingested_at": created,
            }
            if kind > 0.6:
                other = random.choice(self.sent)
                event |= {"transaction_id": other["transaction_id"], "customer_id": other["customer_id"]}
            events.append(event)
            self.sent.append(event)
        random.shuffle(events)
        return events

    def in_force(self) -> list[dict[str, Any]]:
        """The latest version of each event, in the order they were created."""
        latest: dict[int, dict[str, Any]] = {}
        for event in self.sent:
            latest[event["transaction_id"]] = event
        return sorted(latest.values(), key=lambda event: event["ingested_at"])


def expected(connection: duckdb.DuckDBPyConnection, history: History, customers: list[int]) -> list[tuple[Any, ...]]:
    connection.execute("delete from events")
    extra = [dict.fromkeys(COLUMNS) | {"customer_id": customer, "occurred_at": history.now} for customer in customers]
    rows = [tuple(event.values()) for event in [*history.in_force(), *extra]]
    connection.executemany("insert into events values (?, ?, ?, ?, ?, ?, ?)", rows)
    found = connection.execute(
        f"select * from ({EXPECTED}) where transaction_id is null order by customer_id"
    ).fetchall()
    values = []
    for customer, row in zip(customers, found, strict=True):
        counted = [
            event
            for event in history.in_force()
            if event["customer_id"] == customer
            and event["occurred_at"] <= history.now
            and (event["amount_eur"] or 0) > 0
        ]
        latest = max(counted, key=lambda event: (event["occurred_at"], event["ingested_at"]), default=None)
        valid = latest is not None and latest["occurred_at"] >= history.now - TTL
        values.append((*row[4:-1], latest["merchant"] if valid and latest else None))
    return values


def close(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-9 * max(1, abs(other))
    return type(one) is type(other) and one == other


@given(st.randoms(use_true_random=False))
@settings(
    max_examples=25, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_reads_between_random_pushes_are_what_the_sql_gives(
    valkey: str, monkeypatch: pytest.MonkeyPatch, random: Random
) -> None:
    monkeypatch.setattr(ingest_trim, "TRIM_BYTES", 300)
    put_online(valkey, stream_view())
    history = History(random)
    customers = [history.base + i for i in range(CUSTOMERS + 1)]
    features = [f"customer__payments:{name}" for name in FEATURES]
    with duckdb.connect() as connection, FeatureClient(valkey, settings=load_settings({})) as client:
        connection.execute("set TimeZone = 'UTC'; set threads = 1")
        connection.execute("create table events (" + ", ".join(f"{k} {v}" for k, v in COLUMNS.items()) + ")")
        client._reader.now_us = lambda: to_us(history.now)
        ingestor = Ingestor(valkey, lambda: to_us(history.now), expire=False)
        for _ in range(random.randint(1, 8)):
            if random.random() < 0.2:
                ingestor.close()
                ingestor = Ingestor(valkey, lambda: to_us(history.now), expire=False)
            events = history.push()
            assert ingestor.push(SOURCE, events).accepted == len(events)
            for _ in range(2):
                found = client.get_many(features=features, customer_id=customers)
                for i, wanted in enumerate(expected(connection, history, customers)):
                    got = [found.values[name][i] for name in FEATURES]
                    wrong = [(name, a, b) for name, a, b in zip(FEATURES, got, wanted, strict=True) if not close(a, b)]
                    assert not wrong, (customers[i], history.now)
                history.now += timedelta(seconds=random.choice([0, 1, 60, 299, 600, 3600]))
        ingestor.close()
