"""A home with an offline store of every kind of view, without dbt: what training sets are made from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import msgspec
import pyarrow as pa

from feature_server.definitions.facts import FeatureRef, FeatureService
from feature_server.definitions.registry import Registry, write_registry
from feature_server.history.log import landing_folder
from feature_server.offline.store import OfflineStore
from feature_server.training.store import FeatureStore
from tests.interleaving.events import write_file
from tests.interleaving.shop import Shop
from tests.interleaving.views import CLICKS, CUSTOMER, PAYMENT, PAYMENTS, STORE, Event, registry_of
from tests.support.published import Project, make_view

T0 = datetime(2024, 3, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOUR_US = 3_600_000_000
ONE, OTHER = UUID(int=7), UUID(int=1 << 127)
ORDERS = make_view("orders", {"customer": "uuid"}, {"amount": "double", "count": "bigint"}, created=True)
VISITS = make_view("visits", {"customer": "uuid", "shop": "varchar"}, {"visits": "bigint"}, ttl_us=2 * HOUR_US)
TYPES = make_view(
    "types",
    {"shop": "varchar"},
    {"vector": "float[]", "price": "decimal(20,4)", "device": "uuid", "day": "date", "at": "timestamptz",
     "local": "timestamp", "small": "utinyint", "word": "varchar", "flag": "boolean"},
)  # fmt: skip
BATCH = (ORDERS, VISITS, TYPES)
SERVICES = {
    "orders_v1": ["orders:count", "orders:amount", "visits:visits"],
    "live_v1": [f"{CUSTOMER.view().id}:n_90s", "orders:count"],
}


class OfflineHome:
    """A project in `folder`, its home; the views' tables, and the registry in force."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        duckdb.connect(str(folder / "warehouse.duckdb")).close()
        for source, events in ((PAYMENTS, _payments()), (CLICKS, [])):
            landing_folder(source, folder).mkdir(parents=True)
            write_file(source, landing_folder(source, folder) / "load.parquet", events)
        streams = registry_of((CUSTOMER, STORE))
        Shop(folder, "", streams, T0).publish()
        batch = Project(folder)
        batch.offline = OfflineStore(folder / "offline")
        batch.publish(ORDERS, [(ONE, T0, T0, 1.0, 10)])
        batch.publish(
            ORDERS, [(ONE, T0, T0, 1.5, 11), (ONE, T0 + HOUR, T0 + 3 * HOUR, 2.0, 20), (OTHER, T0, None, None, 7)]
        )
        batch.publish(VISITS, [(ONE, "a", T0, 3), (ONE, "ü|b", T0, 4), (OTHER, "a", T0 + HOUR, 5)])
        values = (
            [1.5, None],
            Decimal("12345678901234.5678"),
            OTHER,
            T0.date(),
            T0,
            T0.replace(tzinfo=None),
            255,
            "ü",
            True,
        )
        batch.publish(TYPES, [("a", T0, *values), ("ü|b", T0, *[None] * 9)])
        services = tuple(
            FeatureService(name=name, features=tuple(FeatureRef(*text.split(":"), text) for text in features))
            for name, features in SERVICES.items()
        )
        self.define(msgspec.structs.replace(
            streams, feature_views=(*streams.feature_views, *BATCH), feature_services=services
        ))  # fmt: skip

    def define(self, registry: Registry) -> None:
        self.registry = registry
        write_registry(self.folder / "registry.json", registry)

    @property
    def store(self) -> FeatureStore:
        return FeatureStore(self.folder, home=self.folder)

    @property
    def environment(self) -> dict[str, str]:
        return {"FEATURES_PROJECT_DIR": str(self.folder), "FEATURES_HOME": str(self.folder)}


def spine(rows: int = 12) -> pa.Table:
    """Keys known and unknown, null ones, and times before, at and after rows; the label is a dictionary."""
    customers = [str(ONE), str(OTHER), str(UUID(int=9)), None]
    return pa.table(
        {
            "customer": [customers[i % 4] for i in range(rows)],
            "shop": [("a", "ü|b", "nowhere")[i % 3] for i in range(rows)],
            "store": [("süd|1", "north")[i % 2] for i in range(rows)],
            "event_timestamp": pa.array([T0 + i % 13 * HOUR / 4 for i in range(rows)], pa.timestamp("us", "UTC")),
            "label": pa.array([("x", None, "y")[i % 3] for i in range(rows)]).dictionary_encode(),
        }
    )


def _payments() -> list[Event]:
    def payment(number: str, customer: UUID, amount: str, known: float = 0) -> Event:
        row: dict[str, Any] = dict.fromkeys(PAYMENT)
        return row | {
            "payment_id": number, "customer": customer, "store": "süd|1", "kind": "buy", "amount": Decimal(amount),
            "paid_at": T0, "ingested_at": T0 + timedelta(seconds=known),
        }  # fmt: skip

    return [payment("p/1", ONE, "5"), payment("p/1", ONE, "0", 3600), payment("p/2", OTHER, "7", 1800)]
