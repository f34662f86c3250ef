"""Reading back what was pushed, by a clock that a test sets."""

from __future__ import annotations

from typing import Any

from feature_server.client.features import FeatureClient
from feature_server.settings import load_settings
from feature_server.times import to_us
from tests.support.stream_views import FEATURES, NOW

SOURCE = "payments.transactions"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return to_us(self.now)


def read(url: str, clock: Clock, customers: list[Any], features: list[str] | None = None) -> list[dict[str, Any]]:
    """A dict a customer, each feature as (value, status)."""
    settings = load_settings({"FEATURES_CLOCK": clock.now.isoformat()})
    names = [f"customer__payments:{feature}" for feature in features or FEATURES]
    with FeatureClient(url, settings=settings) as client:
        found = client.get_many(features=names, customer_id=customers)
    return [
        {name: (found.values[name][i], found.statuses[name][i]) for name in found.values} for i in range(len(customers))
    ]
