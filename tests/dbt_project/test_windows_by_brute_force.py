"""What windowed views say at any tick, against a count over the raw files in plain Python."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from tests.dbt_project.conftest import STEPS
from tests.dbt_project.world import Row, World, in_force, rows

AS_OF = datetime.fromisoformat(STEPS[-1])


def value_at(history: list[Row], tick: datetime, known: datetime) -> Row | None:
    """The row that counts at `tick`, of those created by `known`: the latest event, then the latest created."""
    seen = [row for row in history if row["event_timestamp"] <= tick and row["created_timestamp"] <= known]
    return max(seen, key=lambda row: (row["event_timestamp"], row["created_timestamp"]), default=None)


def moments(tick: timedelta, count: int) -> list[tuple[datetime, datetime]]:
    """Random (tick, known) pairs: known at once, or with all corrections up to the end."""
    start, chance = datetime(2013, 11, 18, tzinfo=UTC), random.Random(5)
    ticks = [start + chance.randrange((AS_OF - start) // tick + 1) * tick for _ in range(count)]
    return [(moment, known) for moment in ticks for known in (moment, AS_OF)]


def test_transactions_at_a_merchant_in_the_last_day(full: World, transactions: list[Row]) -> None:
    with full.connect() as connection:
        history = rows(connection, "from merchant__transactions")
    filled = 0
    for number in range(1, 13):
        merchant = f"M{number:06d}"
        of_merchant = [row for row in history if row["merchant_id"] == merchant]
        for tick, known in moments(timedelta(hours=1), 40):
            now = [
                row for row in in_force(transactions, known)
                if row["merchant_id"] == merchant and tick - timedelta(hours=24) <= row["occurred_at"] <= tick
            ]  # fmt: skip
            bought = [row for row in now if row["kind"] == "purchase"]
            mean = float(sum(row["amount_eur"] for row in bought)) / len(bought) if bought else None
            expected = {
                "transactions_24h": len(bought),
                "amount_eur_mean_24h": None if mean is None else pytest.approx(mean, rel=1e-12),
                "customers_24h": len({row["customer_id"] for row in bought}),
                "refunds_24h": len(now) - len(bought),
            }
            found = value_at(of_merchant, tick, known)
            if found is None:
                assert now == [], (merchant, tick, known)
                continue
            filled += bool(now)
            assert {name: found[name] for name in expected} == expected, (merchant, tick, known)
    assert filled > 300


def test_transactions_and_fraud_of_a_merchant_in_the_last_30_days(full: World, transactions: list[Row]) -> None:
    with full.connect() as connection:
        history = rows(connection, "from merchant__risk")
        reports = rows(connection, f"from '{full.home}/landing/fraud_reports/*.parquet'")
    filled = 0
    for number in range(1, 13):
        merchant = f"M{number:06d}"
        of_merchant = [row for row in history if row["merchant_id"] == merchant]
        for tick, known in moments(timedelta(days=1), 12):
            window = (tick - timedelta(days=30), tick)
            current = in_force(transactions, known)
            bought = sum(
                row["merchant_id"] == merchant
                and row["kind"] == "purchase"
                and window[0] <= row["occurred_at"] <= window[1]
                for row in current
            )
            landed = {row["transaction_id"] for row in current}
            frauds = 0
            for report in reports:
                if report["ingested_at"] > known or report["transaction_id"] not in landed:
                    continue
                first = min(
                    row["ingested_at"] for row in transactions if row["transaction_id"] == report["transaction_id"]
                )
                then = in_force(
                    [row for row in transactions if row["transaction_id"] == report["transaction_id"]],
                    max(first, report["ingested_at"]),
                )
                at_merchant = then[0]["merchant_id"] == merchant
                frauds += at_merchant and window[0] <= report["reported_at"] <= window[1]
            found = value_at(of_merchant, tick, known)
            if found is None:
                assert bought + frauds == 0
                continue
            filled += frauds > 0
            assert (found["transactions_30d"], found["fraud_reports_30d"]) == (bought, frauds), (merchant, tick, known)
            assert found["fraud_report_ratio_30d"] == (frauds / bought if bought else None)
    assert filled > 50
