"""Each feature of each key, read in some way, against what DuckDB gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

from feature_server.client.features import FeatureClient
from feature_server.layout.events import GRACE_US, retention_us
from feature_server.times import to_us
from tests.interleaving.events import CUSTOMERS, STORES, UNKNOWN, USERS, Events
from tests.interleaving.views import CUSTOMER, EVER, STORE, USER, Analyst, Model

KEYS: dict[str, list[dict[str, Any]]] = {
    CUSTOMER.name: [{"customer": str(customer)} for customer in [*CUSTOMERS, UNKNOWN["customer"]]],
    STORE.name: [
        *({"store": store, "customer": str(customer)} for store in STORES for customer in CUSTOMERS[:3]),
        {"store": UNKNOWN["store"], "customer": str(CUSTOMERS[0])},
    ],
    EVER.name: [{"customer": str(customer)} for customer in [*CUSTOMERS, UNKNOWN["customer"]]],
    USER.name: [{"user": visitor} for visitor in [*USERS, UNKNOWN["user"]]],
}  # fmt: skip


class Difference(AssertionError):
    """A read that is not what DuckDB gives."""


def asked_keys(model: Model) -> dict[str, list[Any]]:
    """The keys that are read of a model, a list for each column."""
    return {name: [key[name] for key in KEYS[model.name]] for name in model.keys}


class Comparison:
    """Compares reads with an analyst's SQL over the events accepted so far; `reads` counts the values."""

    def __init__(self, events: dict[str, Events]) -> None:
        self.events, self.reads = events, 0
        self._analyst = Analyst()
        self._wanted: dict[str, tuple[Any, list[dict[str, Any]]]] = {}

    def close(self) -> None:
        self._analyst.close()

    def compare_online(
        self, client: FeatureClient, model: Model, names: list[str], now: datetime, late: set[str]
    ) -> None:
        """Compare reads of a view that is online; those of lifetime windows of the customers `late` are left out."""
        answer = client.get_many(features=[f"{model.name}:{name}" for name in names], **asked_keys(model))
        self.compare(model, names, now, lambda name, i: (answer.values[name][i], answer.statuses[name][i]), late)

    def compare(
        self,
        model: Model,
        names: list[str],
        now: datetime,
        read: Callable[[str, int], tuple[Any, str | None]],
        late: Collection[str] = (),
    ) -> None:
        """Raise Difference unless `read` of each feature and key gives the value, and the status if it gives one."""
        wrong, wanted = [], self._expected(model, now)
        for i, (key, row) in enumerate(zip(KEYS[model.name], wanted, strict=True)):
            state = _state(model, row["latest_at"], now)
            for name in names:
                if name in model.lifetime and key["customer"] in late:
                    continue
                self.reads += 1
                value = row[name]
                if name in model.plain | model.mixed and state != {"PRESENT"}:
                    value = None
                statuses = {"NULL_VALUE" if value is None else "PRESENT"}
                if name in model.plain and state != {"PRESENT"}:
                    statuses = state
                got, status = read(name, i)
                if not same(got, value) or (status is not None and status not in statuses):
                    wrong.append(f"{model.name}:{name} {key}: {got!r} {status}, not {value!r} {sorted(statuses)}")
        if wrong:
            raise Difference("\n".join([f"at {now}", *wrong[:12]]))

    def _expected(self, model: Model, now: datetime) -> list[dict[str, Any]]:
        """What DuckDB gives for the model's largest definition, kept until an event comes or the clock moves."""
        events = self.events[model.source.name]
        state = now, events.changes, len(events.accepted)
        if self._wanted.get(model.name, (None,))[0] != state:
            self._analyst.load(model.source, events.accepted)
            keys = [tuple(key.values()) for key in KEYS[model.name]]
            self._wanted[model.name] = state, self._analyst.values(model.at(len(model.more)), keys, now)
        return self._wanted[model.name][1]


def _state(model: Model, latest_at: datetime | None, now: datetime) -> set[str]:
    """The statuses that plain columns may have: when the key may have expired, either says that it is old."""
    if latest_at is None:
        return {"NOT_FOUND"}
    age, view = to_us(now) - to_us(latest_at), model.view()
    if view.ttl_us is None or age <= view.ttl_us:
        return {"PRESENT"}
    retention = retention_us(view)
    may_be_gone = retention is not None and age > retention + GRACE_US
    return {"OUTSIDE_MAX_AGE", "NOT_FOUND"} if may_be_gone else {"OUTSIDE_MAX_AGE"}


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-6)
    if isinstance(ours, datetime) and isinstance(theirs, datetime):
        return ours == theirs
    return ours is theirs is None or (type(ours) is type(theirs) and bool(ours == theirs))
