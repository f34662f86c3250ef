"""Training of stream views whose event ids are strings and whose join keys are UUIDs and strings."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb

from feature_server.history.log import landing_folder
from tests.interleaving.events import write_file
from tests.interleaving.shop import Shop
from tests.interleaving.views import CLICKS, CUSTOMER, PAYMENT, PAYMENTS, STORE, Event, registry_of

START = datetime(2031, 3, 1, tzinfo=UTC)
ONE, OTHER = UUID(int=7), UUID(int=1 << 127)


def payment(number: str, customer: UUID, *, amount: str = "5", known: float = 0) -> Event:
    row: Event = dict.fromkeys(PAYMENT)
    return row | {
        "payment_id": number, "customer": customer, "store": "süd|1", "kind": "buy", "amount": Decimal(amount),
        "paid_at": START, "ingested_at": START + timedelta(seconds=known),
    }  # fmt: skip


def test_each_version_of_an_event_counts_from_when_it_was_known(tmp_path: Path) -> None:
    duckdb.connect(str(tmp_path / "warehouse.duckdb")).close()
    for source, events in (
        (PAYMENTS, [payment("p/1", ONE), payment("p/1", ONE, amount="0", known=60), payment("p/2", OTHER, known=30)]),
        (CLICKS, []),
    ):
        landing_folder(source, tmp_path).mkdir(parents=True)
        write_file(source, landing_folder(source, tmp_path) / "load.parquet", events)
    shop = Shop(tmp_path, "", registry_of((CUSTOMER, STORE)), START)
    shop.publish()

    def counts(seconds: float, **options: Any) -> list[int]:
        keys = {"customer": [str(ONE), str(OTHER), str(UUID(int=8))]}
        rows = replace(shop, now=START + timedelta(seconds=seconds)).train(CUSTOMER.view(), keys, **options)
        return [row["n_90s"] for row in rows]

    assert [counts(at, as_known=True) for at in (-1, 0, 30, 60, 91)] == [
        [0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0],
    ]  # fmt: skip
    assert counts(0) == [0, 1, 0]
    keys = {"store": ["süd|1", "süd", "süd|1"], "customer": [str(OTHER), str(OTHER), str(UUID(int=8))]}
    assert [row["last_amount"] for row in shop.train(STORE.view(), keys)] == [Decimal("5.00"), None, None]
