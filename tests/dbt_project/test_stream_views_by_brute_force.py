"""What stream views say, in dbt's rows and in training sets, against a count over the landed events in plain Python."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from feature_server import FeatureStore
from tests.dbt_project.conftest import STEPS
from tests.dbt_project.world import Row, World, in_force, rows

AS_OF = datetime.fromisoformat(STEPS[-1])
Key = int | str
START = datetime(2013, 12, 18, tzinfo=UTC)
LEG = (
    "previous_departure_delay_minutes", "previous_arrival_delay_minutes", "previous_minutes_gained",
    "previous_gate_to_gate_minutes", "previous_destination_airport",
)  # fmt: skip
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


def test_departures_of_an_airport(full: World, store: FeatureStore) -> None:
    of_airport = landed(full, "departures", "airport")
    times = {airport: [row["occurred_at"] for row in events] for airport, events in of_airport.items()}

    def expected(airport: str, at: datetime, known: datetime) -> Row:
        window = slice(bisect_left(times[airport], at - 3 * HOUR), bisect_right(times[airport], at))
        events = [row for row in of_airport[airport][window] if row["ingested_at"] <= known]
        now = [(row["occurred_at"], row["departure_delay_minutes"]) for row in events]
        left = [delay for _, delay in now if delay is not None]
        return {
            "departures_1h": sum(delay is not None and when >= at - HOUR for when, delay in now),
            "departures_3h": len(left),
            "departure_delay_minutes_mean_3h": pytest.approx(sum(left) / len(left), rel=1e-12) if left else None,
            "departure_delay_minutes_max_3h": max(left, default=None),
            "late_share_3h": pytest.approx(sum(delay > 15 for delay in left) / len(left)) if left else None,
            "cancellations_3h": len(now) - len(left),
        }

    with full.connect() as connection:
        built = rows(connection, "from airport__departures")
    assert len(built) == sum(map(len, of_airport.values()))
    for row in built[::7]:
        found = expected(row["airport"], row["event_timestamp"], AS_OF)
        assert {name: row[name] for name in found} == found, row

    late = [row for events in of_airport.values() for row in events if row["ingested_at"] > row["occurred_at"]]
    near = [(row["airport"], row["occurred_at"], row["ingested_at"]) for row in late]
    spine = moments(list(of_airport), START, 300) + edges(near, HOUR, 3 * HOUR)
    check(store, "airport__departures", "airport", spine, expected)


def test_previous_leg_of_a_plane(full: World, store: FeatureStore) -> None:
    of_plane = landed(full, "arrivals", "tail_number")

    def expected(plane: str, at: datetime, known: datetime) -> Row:
        legs = [
            row for row in of_plane[plane]
            if at - 2 * DAY <= row["occurred_at"] <= at and row["ingested_at"] <= known
        ]  # fmt: skip
        if not legs:
            return dict.fromkeys(LEG)
        leg = max(legs, key=lambda row: row["occurred_at"])
        left, arrived = leg["departure_delay_minutes"], leg["arrival_delay_minutes"]
        gained = None if arrived is None else left - arrived
        minutes = (leg["occurred_at"] - leg["departed_at"]) // timedelta(minutes=1)
        values = (left, arrived, gained, minutes, leg["destination_airport"])
        return dict(zip(LEG, values, strict=True))

    with full.connect() as connection:
        built = rows(connection, "from plane__previous_leg")
    assert len(built) == sum(map(len, of_plane.values()))
    for row in built:
        found = expected(row["tail_number"], row["event_timestamp"], AS_OF)
        assert {name: row[name] for name in found} == found, row

    late = [row for legs in of_plane.values() for row in legs if row["ingested_at"] > row["occurred_at"]]
    near = [(row["tail_number"], row["occurred_at"], row["ingested_at"]) for row in late]
    spine = moments(list(of_plane), START, 1000) + edges(near, 2 * DAY)
    check(store, "plane__previous_leg", "tail_number", spine, expected)


def landed(full: World, feed: str, key: str) -> dict[Key, list[Row]]:
    """The events of a feed that the build knew, by key, in the order they happened."""
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        known = f"from '{full.home}/landing/{feed}/*.parquet' where ingested_at <= '{AS_OF}'"
        found = rows(connection, f"{known} order by occurred_at")
    by_key: dict[Key, list[Row]] = {}
    for row in found:
        by_key.setdefault(row[key], []).append(row)
    return by_key


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
