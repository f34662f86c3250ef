"""What was sent of card payments, and what a read may say of them: plain Python, and no code of the product."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from threading import Lock
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CUSTOMERS = tuple(range(1, 21))
TEN_MINUTES, HOUR = 600_000_000, 3_600_000_000
LATE_SECONDS = (0, 0, 0, 1, 5, 60, 580, 3500, 4000, 90_000)
Payment = dict[str, Any]


@dataclass
class Version:
    """One version of a payment: `sent` and `acked` are of the monotonic clock, None before they have happened."""

    number: int
    customer: int
    merchant: str
    amount: Decimal
    at_us: int
    created_us: int
    sent: float | None = None
    acked: float | None = None

    def payment(self) -> Payment:
        """The columns of the source, as JSON has them."""
        return {
            "transaction_id": self.number, "customer_id": self.customer, "merchant": self.merchant,
            "amount_eur": str(self.amount), "occurred_at": iso(self.at_us), "ingested_at": iso(self.created_us),
        }  # fmt: skip


@dataclass(frozen=True)
class Moment:
    """A read began and ended then: by the monotonic clock, and in microseconds since 1970."""

    begun: float
    ended: float
    begun_us: int
    ended_us: int

    @classmethod
    def at(cls, at_us: int) -> Moment:
        """An instant in the past, seen by somebody who knows all that has been acknowledged since."""
        return cls(time.monotonic(), time.monotonic(), at_us, at_us)


def iso(at_us: int) -> str:
    return (EPOCH + timedelta(microseconds=at_us)).isoformat()


def now_us() -> int:
    return time.time_ns() // 1000


class Ledger:
    """All payments, by customer; a payment's versions in the order they were created."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.payments: dict[int, dict[int, list[Version]]] = {customer: {} for customer in CUSTOMERS}
        self.count = 0
        self._last_us = 0

    def batch(self, random: Random, size: int) -> list[Version]:
        """New payments, some late, and corrections of earlier ones."""
        with self.lock:
            return [self._version(random) for _ in range(size)]

    def _version(self, random: Random) -> Version:
        self._last_us = created_us = max(now_us(), self._last_us + 1)
        customer, amount = random.choice(CUSTOMERS), Decimal(random.randrange(1, 100_000)) / 100
        merchant, known = f"shop {random.randrange(50)}", self.payments[customer]
        if known and random.random() < 0.15:
            old = known[random.choice(list(known)[-30:])]
            version = Version(old[0].number, customer, merchant, amount, old[0].at_us, created_us)
            old.append(version)
            return version
        self.count += 1
        at_us = created_us - random.choice(LATE_SECONDS) * 1_000_000
        known[self.count] = [version] = [Version(self.count, customer, merchant, amount, at_us, created_us)]
        return version

    def versions(self) -> list[Version]:
        with self.lock:
            return [v for payments in self.payments.values() for versions in payments.values() for v in versions]

    def possible(self, customer: int, moment: Moment) -> dict[str, Any]:
        """Least and most of each number, and what the latest may be.

        What was acknowledged before the read began must be in it; what was sent before it ended may be.
        """
        with self.lock:
            found = [_effective(versions, moment) for versions in self.payments[customer].values()]
        known = [(must, versions) for must, versions in found if versions and versions[0].at_us <= moment.ended_us]
        bounds: dict[str, tuple[int, int]] = {}
        spent: dict[str, tuple[Decimal | int, Decimal | int]] = {}
        for width, count, total in ((TEN_MINUTES, "payments_10m", ""), (HOUR, "", "spent_1h"),
                                    (moment.begun_us, "payments_lifetime", "spent_lifetime")):  # fmt: skip
            may = [(must, v) for must, v in known if v[0].at_us >= moment.begun_us - width]
            sure = [v for must, v in may if must and moment.ended_us - width <= v[0].at_us <= moment.begun_us]
            bounds[count] = len(sure), len(may)
            most = sum(max(one.amount for one in v) for _, v in may)
            spent[total] = sum(min(one.amount for one in v) for v in sure), most
        latest = max((v[0].at_us for must, v in known if must and v[0].at_us <= moment.begun_us), default=0)
        last = [one for _, v in known if v[0].at_us >= latest for one in v]
        none = set() if latest else {None}
        sets = {"last_merchant": {v.merchant for v in last} | none, "last_amount": {v.amount for v in last} | none}
        return {name: allowed for name, allowed in (bounds | spent | sets).items() if name}

    def wrong(self, customer: int, values: dict[str, Any], moment: Moment) -> list[str]:
        """What no order of things explains among values that were read, each with what it may have been."""
        possible, found = self.possible(customer, moment), []
        for name, value in values.items():
            allowed = possible[name]
            if isinstance(allowed, set):
                good, told = value in allowed, " or ".join(map(str, sorted(allowed, key=str)))
            else:
                low, high = allowed
                good, told = low <= (value or 0) <= high, f"{low} to {high}" if low != high else str(low)
            if not good:
                found.append(f"customer {customer} {name} is {value}, expected {told}")
        return found


def _effective(versions: list[Version], moment: Moment) -> tuple[bool, list[Version]]:
    """Whether a payment must be known, and the versions of it that may count."""
    sent = [v for v in versions if v.sent is not None and v.sent <= moment.ended]
    acked = [v.created_us for v in sent if v.acked is not None and v.acked <= moment.begun]
    return bool(acked), [v for v in sent if v.created_us >= max(acked, default=0)]


def as_columns(versions: list[Version]) -> dict[str, list[Any]]:
    rows = [version.payment() for version in versions]
    return {name: [row[name] for row in rows] for name in rows[0]}


def as_json(version: Version) -> bytes:
    return json.dumps(version.payment()).encode()
