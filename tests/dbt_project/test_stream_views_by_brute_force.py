"""What stream views say, in dbt's rows and in training sets, against a count over the landed events in plain Python."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from feature_server import FeatureStore
from tests.dbt_project.conftest import STEPS
from tests.dbt_project.world import Row, World, in_force, rows

AS_OF = datetime.fromisoformat(STEPS[-1])
Key = int | str
HOUR, DAY, INSTANT = timedelta(hours=1), timedelta(hours=24), timedelta(microseconds=1)


def test_transactions_of_a_customer(full: World, store: FeatureStore, transactions: list[Row]) -> None:
    of_customer: dict[int, list[Row]] = {customer: [] for customer in range(1, 51)}
    for row in transactions:
        of_customer[row["customer_id"]].append(row)

    def expected(customer: int, at: datetime, known: datetime) -> Row:
        past = [row for row in in_force(of_customer[customer], known) if row["occurred_at"] <= at]
        past.sort(key=lambda row: (row["occurred_at"], row["ingested_at"]))
        bought = [row for row in past if row["kind"] == "purchase"]
        of_day = [row for row in bought if row["occurred_at"] >= at - DAY]
        return {
            "transactions_1h": sum(row["occurred_at"] >= at - HOUR for row in bought),
            "transactions_24h": len(of_day),
            "amount_eur_sum_24h": sum((row["amount_eur"] for row in of_day), Decimal("0.00")),
            "amount_eur_max_24h": max((row["amount_eur"] for row in of_day), default=None),
            "refunds_24h": sum(row["kind"] == "refund" and row["occurred_at"] >= at - DAY for row in past),
            "merchants_24h": len({row["merchant_id"] for row in of_day}),
            "transactions_lifetime": len(bought),
            "last_merchant_id": past[-1]["merchant_id"] if past else None,
        }

    with full.connect() as connection:
        built = rows(connection, "from customer__transactions")
    assert len(built) == len(in_force(transactions, AS_OF))
    for row in built:
        found = expected(row["customer_id"], row["event_timestamp"], AS_OF)
        assert {name: row[name] for name in found} == found, row
        assert row["created_timestamp"] <= AS_OF

    near = [(row["customer_id"], row["occurred_at"], row["ingested_at"]) for row in transactions[::7]]
    spine = moments(list(of_customer), datetime(2013, 11, 18, tzinfo=UTC), 1500) + edges(near, HOUR, DAY)
    check(store, "customer__transactions", "customer_id", spine, expected)


def moments(keys: list[Key], start: datetime, count: int) -> list[tuple[Key, datetime]]:
    """Random keys, each at a random instant up to the build."""
    chance, span = random.Random(5), (AS_OF - start) // INSTANT
    return [(chance.choice(keys), start + chance.randint(0, span) * INSTANT) for _ in range(count)]


def edges(events: list[tuple[Key, datetime, datetime]], *windows: timedelta) -> list[tuple[Key, datetime]]:
    """Instants at which an event enters a window, becomes known, or leaves one, and those beside them."""
    found = [
        (key, moment + beside)
        for key, occurred, known in events
        for moment in (occurred, known, *(occurred + window for window in windows))
        for beside in (-INSTANT, timedelta(0), INSTANT)
    ]
    return [(key, moment) for key, moment in found if moment <= AS_OF]


def check(
    store: FeatureStore,
    view: str,
    join_key: str,
    spine: list[tuple[Key, datetime]],
    expected: Callable[[Any, datetime, datetime], Row],
) -> None:
    """Training values at each (key, time) of the spine, of all that the build knew and of what was known by then."""
    table = pa.table({
        join_key: [key for key, _ in spine],
        "event_timestamp": pa.array([moment for _, moment in spine], pa.timestamp("us", "UTC")),
    })  # fmt: skip
    for as_known in (False, True):
        training = store.get_historical_features(table, every_feature(store, view), as_known=as_known)
        found = training.to_arrow().to_pylist()
        assert len(found) == len(spine)
        for (key, moment), row in zip(spine, found, strict=True):
            wanted = expected(key, moment, moment if as_known else AS_OF)
            assert {name: row[name] for name in wanted} == wanted, (key, moment, as_known)


def every_feature(store: FeatureStore, view: str) -> list[str]:
    return [f"{view}:{name}" for name in store.registry.feature_view(view).feature_names]
