"""Random events of two sources: late, early, out of order, sent twice, corrected, with ties, nulls and refunds."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from feature_server.arrow import arrow_type
from feature_server.definitions.stream import EventSource
from tests.interleaving.views import CLICKS, COLUMNS, PAYMENTS, Event

CUSTOMERS = [UUID(int=(0xC0FFEE << 96) + i * 0x0123_4567_89AB) for i in range(6)]
DEVICES = [UUID(int=0xF << 124), UUID(int=1), UUID(int=0x8 << 124)]
STORES = ["north", "süd|1", "{x}%", ""]
USERS = [0, 1, -7, 2**62]
UNKNOWN = {"customer": UUID(int=3), "store": "nowhere", "user": 99}
MICROSECOND = timedelta(microseconds=1)
LATE = [
    *[timedelta(seconds=s) for s in (0, 0, 0, 1, 20, 30, 60, 90, 91, 120)],
    *[timedelta(minutes=m) for m in (5, 5, 30, 60, 60, 61)],
    *[timedelta(hours=h) for h in (6, 6, 12, 24, 24, 25, 72)],
    *[timedelta(days=d) for d in (7, 7, 21, 22, 40)],
]
FUTURE = [timedelta(seconds=1), timedelta(minutes=10), timedelta(hours=1)]
FORGOTTEN = timedelta(days=6)  # an older event is corrected only as far as no plain column without ttl needs another


class Events:
    """The events of one source: `accepted` ones, all versions, and `withheld` versions that come later."""

    def __init__(self, source: EventSource) -> None:
        self.source, self.columns = source, COLUMNS[source.name]
        self.accepted: list[Event] = []
        self.withheld: list[Event] = []
        self.pushed: set[Any] = set()  # ids of events of which a version was pushed
        self.made = 0
        self.changes = 0  # how often accepted events were taken out or changed
        self._created: datetime | None = None

    def batch(self, random: Random, now: datetime, size: int) -> list[Event]:
        """Events to be sent now: new ones, versions of earlier ones, and some that were sent before."""
        found: list[Event] = []
        for _ in range(size):
            kind = random.random() if self.accepted else 0.0
            if kind > 0.9:
                found.append(random.choice([*self.accepted, *found]))
            elif kind > 0.85 and self.withheld:
                found.append(self.withheld.pop(random.randrange(len(self.withheld))))
            elif kind > 0.65 and self.source is PAYMENTS:
                event = self.corrected(random, now, random.choice(self.accepted[-40:]))
                found.append(event)
                if random.random() < 0.3:
                    self.withheld.append(event)
                    found[-1] = self.corrected(random, now, event)
            else:
                found.append(self.new(random, now))
        random.shuffle(found)
        return found

    def new(self, random: Random, now: datetime) -> Event:
        self.made += 1
        at = self._time(random, now)
        if self.source is CLICKS:
            return {
                "click_id": UUID(int=random.getrandbits(128)), "user": random.choice(USERS),
                "page": random.choice([None, "/", "/a", "/ü"]), "load_ms": random.choice([None, -1, 0, 5, 250, 90_000]),
                "clicked_at": at,
            }  # fmt: skip
        event = {"payment_id": f"P-{self.made}/é", "customer": random.choice(CUSTOMERS), "store": random.choice(STORES)}
        return event | self._details(random) | {"paid_at": at, "ingested_at": self._next_created(now)}

    def corrected(self, random: Random, now: datetime, event: Event) -> Event:
        """A later version of a payment, of the same customer and store."""
        changed = event | self._details(random) | {"ingested_at": self._next_created(now)}
        if event["paid_at"] < now - FORGOTTEN:
            return changed | {"kind": "refund", "amount": Decimal("7.77")}
        if random.random() < 0.3:
            moved = event["paid_at"] + random.choice([-1, 1]) * random.choice(LATE[:11])
            changed["paid_at"] = min(moved, now)
        return changed

    def _details(self, random: Random) -> Event:
        amounts = [None, "0.00", "-3.00", "2.50", "2.50", "19.99", "1000000.01"]
        amount = random.choice([*amounts, f"{random.randrange(1, 5000) / 100:.2f}"])
        return {
            "group": random.choice([None, "bakery", "cafe", "Käse|{}", ""]),
            "kind": random.choice([None, "buy", "buy", "buy", "refund", "test"]),
            "amount": None if amount is None else Decimal(amount),
            "score": random.choice([None, 0.0, -1.5, 0.1, 2.5, random.uniform(-10, 10)]),
            "order": random.choice([None, 1, 2, 3, -2]),
            "device": random.choice([None, *DEVICES]),
            "is_online": random.choice([None, True, True, False]),
        }

    def _time(self, random: Random, now: datetime) -> datetime:
        name, kind = self.source.event_timestamp, random.random()
        if kind < 0.1 and self.accepted:
            at: datetime = random.choice(self.accepted)[name]
        elif kind < 0.15:
            at = now + random.choice(FUTURE)
        else:
            at = now - random.choice(LATE[: random.choice([3, 10, 16, len(LATE)])])
            at += random.choice([-1, 0, 0, 1 if at < now else 0]) * MICROSECOND
        return at if self.source is PAYMENTS else at.replace(tzinfo=None)

    def _next_created(self, now: datetime) -> datetime:
        """Each version is created later than the one before, so that which is the latest is never open."""
        self._created = now if self._created is None else max(now, self._created + MICROSECOND)
        return self._created


def spoiled(random: Random, event: Event, source: EventSource, now: datetime) -> Event:
    """An event that must be refused."""
    wrong: dict[str, Any] = {source.event_id: None, source.event_timestamp: now + FUTURE[-1] + MICROSECOND}
    wrong |= {"order": "three", "amount": Decimal(10) ** 11} if source is PAYMENTS else {"load_ms": 2**31}
    name = random.choice(list(wrong))
    if name == source.event_timestamp and source is CLICKS:
        wrong[name] = wrong[name].replace(tzinfo=None)
    return event | {name: wrong[name]}


def _encoder(random: Random) -> Callable[[Any], Any]:
    def encode(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat().replace("+00:00", random.choice(["Z", "+00:00"]))
        if isinstance(value, Decimal):
            return float(value) if random.random() < 0.5 and value < 10**6 else str(value)
        return str(value)

    return encode


def lines(random: Random, events: list[Event]) -> list[bytes]:
    """Each event as a JSON object, its columns in any order."""
    encode = _encoder(random)
    found = []
    for event in events:
        names = list(event)
        random.shuffle(names)
        found.append(json.dumps({name: event[name] for name in names}, default=encode).encode())
    return found


def columns(random: Random, events: list[Event], names: list[str]) -> bytes:
    """The events as one JSON object with a list for each column."""
    return json.dumps({name: [event[name] for event in events] for name in names}, default=_encoder(random)).encode()


def identity(event: Event, source: EventSource) -> tuple[str, ...]:
    """What tells one version of an event from all others."""
    return str(event[source.event_id]), str(event.get(source.created_timestamp or "", ""))


def write_file(source: EventSource, path: Path, events: list[Event]) -> None:
    """A file of events, as a batch load brings it."""
    schema = pa.schema([(column.name, arrow_type(column.dtype, uuid=pa.uuid())) for column in source.columns])
    arrays = []
    for field in schema:
        values = [event[field.name] for event in events]
        if field.type == pa.uuid():
            values = [None if value is None else value.bytes for value in values]
        arrays.append(pa.array(values, field.type))
    pq.write_table(pa.table(arrays, schema=schema), path)
