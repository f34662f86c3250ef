"""Lifetime windows, part base and part events since, read as SQL over all events gives them, whatever happens."""

from __future__ import annotations

import itertools
from datetime import timedelta
from math import isnan
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_server.client.features import FeatureClient
from feature_server.history.log import land
from feature_server.ingest import trim as ingest_trim
from feature_server.online.store import OnlineStore
from feature_server.settings import load_settings
from feature_server.times import to_us
from tests.support.lifetime_view import VIEW, expected
from tests.support.live_project import NOW, SOURCE, LiveProject, Payment

CUSTOMERS = 4
LATE = timedelta(days=6, hours=20)  # a pushed event not older than that is counted at once
FEATURES = [f"{VIEW.id}:{name}" for name in VIEW.feature_names]
numbers = itertools.count(1)


class World:
    """A project, the payments of all time, and the clock."""

    def __init__(self, project: LiveProject, random: Random) -> None:
        self.project, self.random, self.now = project, random, NOW
        self.versions: list[Payment] = []

    def payment(self, age: timedelta, of: Payment | None = None) -> Payment:
        """A new payment, or a correction of one."""
        random = self.random
        shop = random.choice([None, "shop 1", "shop 2", "shop 3", "Käse|{}", ""])
        amount = random.choice(["-1.00", "2.50", "19.99", "20.00", "20.00", "350.00"])
        number, customer = (next(numbers), random.randrange(CUSTOMERS)) if of is None else of[:2]
        known = self.now + timedelta(microseconds=len(self.versions) - 1_000_000)
        found = number, customer, shop, amount, self.now.replace(microsecond=0) - age, known
        self.versions.append(found)
        return found

    def recent(self) -> list[Payment]:
        """The payments that may be corrected by a push: no version of them is long past."""
        old = {version[0] for version in self.versions if version[4] < self.now - LATE}
        return [version for version in self.versions if version[0] not in old]

    def some_age(self, most: timedelta) -> timedelta:
        ages = [0, 1, 60, 3599, 3600, 7200, 86_399, 86_400, 3 * 86_400, 6 * 86_400, 30 * 86_400, 400 * 86_400]
        return timedelta(seconds=self.random.choice([age for age in ages if timedelta(seconds=age) <= most]))

    def push(self) -> None:
        payments = []
        for _ in range(self.random.randint(1, 6)):
            kind, recent = self.random.random(), self.recent()
            if kind > 0.9 and self.versions:
                payments.append(self.random.choice(self.versions))
            elif kind > 0.6 and recent:
                payments.append(self.payment(self.some_age(LATE), of=self.random.choice(recent)))
            else:
                payments.append(self.payment(self.some_age(LATE)))
        self.random.shuffle(payments)
        self.project.push(*payments, now=self.now)

    def load(self) -> None:
        """Payments of any age, corrections of any, that the warehouse brings and a sync puts online."""
        old = self.versions.copy()
        payments = [self.payment(self.some_age(timedelta(days=500))) for _ in range(self.random.randint(0, 5))]
        for _ in range(self.random.randint(0, 3) if old else 0):
            payments.append(self.payment(self.some_age(timedelta(days=500)), of=self.random.choice(old)))
        if self.random.random() < 0.3:
            self.project.push(*payments, now=self.now)
            self.land()
        else:
            self.project.landed(f"batch {next(numbers)}", payments)
        self.project.publish()
        self.sync()

    def sync(self) -> None:
        if self.random.random() < 0.5:
            self.project.publish()
        self.project.sync(now=self.now, full=self.random.random() < 0.1)

    def land(self) -> None:
        with OnlineStore(self.project.url) as online:
            land(online, SOURCE, self.project.landing)

    def wait(self) -> None:
        self.now += timedelta(seconds=self.random.choice([0, 1, 3600, 86_400, 3 * 86_400, 8 * 86_400, 20 * 86_400]))

    def check(self, client: FeatureClient) -> None:
        customers = list(range(CUSTOMERS + 1))
        found = client.get_many(features=FEATURES, customer=customers)
        for i, wanted in enumerate(expected(self.versions, customers, self.now)):
            got = {name: found.values[name][i] for name in VIEW.feature_names}
            wrong = [(name, got[name], value) for name, value in wanted.items() if not close(got[name], value)]
            assert not wrong, (customers[i], self.now)


def close(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-9 * max(1, abs(other)) or (isnan(one) and isnan(other))
    return type(one) is type(other) and one == other


@pytest.fixture
def folders(tmp_path: Path) -> Any:
    return (tmp_path / str(n) for n in itertools.count())


@given(st.randoms(use_true_random=False))
@settings(
    max_examples=6, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_reads_between_pushes_syncs_and_days_are_what_sql_gives_over_all_events(
    valkey: str, folders: Any, monkeypatch: pytest.MonkeyPatch, random: Random
) -> None:
    monkeypatch.setattr(ingest_trim, "TRIM_BYTES", 300)
    with redis.Redis.from_url(valkey) as connection:
        connection.flushall()
    folder = next(folders)
    folder.mkdir()
    world = World(LiveProject(folder, valkey, VIEW), random)
    with FeatureClient(valkey, settings=load_settings({})) as client:
        client._reader.now_us = lambda: to_us(world.now)
        world.project.landed("first", [world.payment(timedelta(days=40))])
        world.project.publish()
        world.project.sync(now=world.now)
        for _ in range(random.randint(5, 14)):
            random.choice([world.push, world.push, world.load, world.sync, world.land, world.wait, world.wait])()
            world.check(client)
