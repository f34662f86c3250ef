"""A key's events say whether it has a base: where Redis has lost either of the two, its windows are an error."""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis

from feature_server import AsyncFeatureClient
from feature_server.arrow import arrow_type
from feature_server.client.features import FeatureClient
from feature_server.errors import DamagedValue
from feature_server.history.log import land
from feature_server.layout.decode import EventDecoder
from feature_server.layout.events import HAS_BASE
from feature_server.layout.records import EventPacker, KeyEvents, Records
from feature_server.online.store import OnlineStore
from feature_server.settings import load_settings
from feature_server.times import to_us
from feature_server.verify.events import verify_events
from feature_server.verify.explain import explain
from feature_server.verify.rows import DAMAGED
from tests.support.live_project import NOW, SOURCE, LiveProject, make_live_view, payment
from tests.support.stored_formats import DAY, OVER, SHOPS

COUNTED = make_live_view({"payments": (f"count(*) {OVER}", "bigint")})
LANDED = [payment(10 + i, i % 3, (9 + i) * DAY) for i in range(9)]
LANDED += [payment(100 + i, i % 4, i * 60) for i in range(12)]
VIEWS = [COUNTED, SHOPS]  # records of one width, and of several


@pytest.fixture(params=VIEWS, ids=lambda view: view.id)
def project(request: pytest.FixtureRequest, tmp_path: Path, valkey: str) -> LiveProject:
    """Customers 0 to 2 have a base, 3 has none."""
    project = LiveProject(tmp_path, valkey, request.param)
    project.landed("a", LANDED)
    project.publish()
    project.sync()
    return project


def names(project: LiveProject, customer: int) -> tuple[str, str]:
    """The keys of a customer's events and of its base."""
    with OnlineStore(project.url) as online:
        registry = online.registry()
        assert registry is not None
        (entry,) = registry.views.values()
    assert entry.format == 2
    return f"{entry.code}{{{customer}}}", f"{entry.code}.base{{{customer}}}"


def flags(project: LiveProject) -> dict[int, tuple[bool, bool]]:
    """Whether each customer's events say that there is a base, and whether there is one."""
    (view,), found = project.registry.feature_views, {}
    with redis.Redis.from_url(project.url) as client:
        for customer in range(12):
            stored, base = client.mget(names(project, customer))
            if stored is not None or base is not None:
                says = EventDecoder(view).decode([stored]).of_keys()[0] & HAS_BASE
                found[customer] = bool(says), base is not None
    return found


def read(project: LiveProject, *customers: int) -> Any:
    (view,) = project.registry.feature_views
    with FeatureClient(project.url, settings=load_settings({"FEATURES_CLOCK": NOW.isoformat()})) as client:
        return client.get_many(features=[f"{view.id}:payments"], customer=[*customers]).values["payments"]


def read_async(project: LiveProject, *customers: int) -> Any:
    (view,) = project.registry.feature_views

    async def ask() -> Any:
        async with AsyncFeatureClient(project.url, settings=load_settings({"FEATURES_CLOCK": NOW.isoformat()})) as one:
            return await one.get_many(features=[f"{view.id}:payments"], customer=[*customers])

    return asyncio.run(ask()).values["payments"]


def delete(project: LiveProject, name: str) -> None:
    with redis.Redis.from_url(project.url) as client:
        assert client.delete(name) == 1


def assert_lost(project: LiveProject, customer: int, lost: str) -> None:
    (view,) = project.registry.feature_views
    for ask in (read, read_async):
        with pytest.raises(DamagedValue, match=f"Redis has lost the {lost} of a key") as raised:
            ask(project, 0, customer, 3)
        assert raised.value.where == f"{view.id} of customer={customer}"
        assert f"features sync {view.id} --full" in str(raised.value.remedy)
        assert len(ask(project, 0, 3)) == 2
    with OnlineStore(project.url) as online:
        options: dict[str, Any] = {"now_us": to_us(NOW), "project_dir": project.folder}
        found = verify_events(view, online, project.offline, **options).differences
        assert {(difference.key, difference.cause) for difference in found} == {(f"customer={customer}", DAMAGED)}
        with pytest.raises(DamagedValue, match=f"customer={customer}: Redis has lost the {lost}"):
            explain(f"{view.id}:payments", {"customer": customer}, online, project.offline, at_us=to_us(NOW), **options)
    project.sync(full=True)
    assert read(project, 0, customer, 3)


def test_a_base_that_is_gone_is_an_error(project: LiveProject) -> None:
    assert flags(project) == {0: (True, True), 1: (True, True), 2: (True, True), 3: (False, False)}
    delete(project, names(project, 1)[1])
    assert_lost(project, 1, "base")


def test_events_that_are_gone_are_an_error(project: LiveProject) -> None:
    delete(project, names(project, 1)[0])
    assert_lost(project, 1, "events")


def test_events_that_are_gone_are_an_error_after_a_push_too(project: LiveProject) -> None:
    delete(project, names(project, 1)[0])
    project.push(payment(500, 1, 1))
    with pytest.raises(DamagedValue, match="lost the events"):
        read(project, 1)


def test_whatever_is_pushed_landed_and_synced_a_key_with_a_base_says_so_and_no_other(project: LiveProject) -> None:
    chance, number = random.Random(7), 1000
    for step in range(6):
        now = NOW
        for _ in range(6):
            number += 1
            again = chance.random() < 0.5
            event = (
                chance.choice([*LANDED]) if again else payment(number, chance.randrange(6), chance.randrange(20 * DAY))
            )
            amount = chance.choice(["5.00", "-1.00"])
            project.push((event[0], event[1], event[2], amount, event[4], now))
        if step % 2:
            with OnlineStore(project.url) as online:
                land(online, SOURCE, project.landing)
            project.publish()
        if step == 3:
            project.landed("b", [payment(2000 + i, 7 + i, (8 + i) * DAY) for i in range(4)])
            project.publish()
        project.sync()
        assert all(says == there for says, there in flags(project).values()), flags(project)
        read(project, *range(12))


def pack(view: Any, *events: Any) -> bytes:
    """The records of one key's events, given as numbers of minutes."""
    times = pa.array([to_us(NOW) + of * 60_000_000 for _, of in events], pa.int64()).cast(pa.timestamp("us", "UTC"))
    columns: dict[str, Any] = {
        "customer": pa.array([1] * len(events)), "event_timestamp": times, "created_timestamp": times,
        "event_id": pa.array([number for number, _ in events]), "counts": pa.array([True] * len(events)),
    }  # fmt: skip
    for argument in view.stream.arguments:
        kind = argument.dtype.kind
        value = {"string": "shop", "bool": True, "decimal": Decimal("1.00")}.get(kind, 1)
        columns[argument.name] = pa.array([value] * len(events), arrow_type(argument.dtype))
    return EventPacker(view).pack(pa.table(columns)).records[0]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.id)
def test_what_is_cut_down_still_says_what_the_whole_said(view: Any) -> None:
    records = Records(view)
    first, *others = records.split(pack(view, (1, 0), (1, 5), (2, 6)))
    flagged = records.flagged(first, HAS_BASE)
    trimmed = EventDecoder(view).trimmed(b"".join([flagged, *others]), None)
    assert len(records.split(trimmed)) == 2
    assert EventDecoder(view).decode([trimmed, None, others[0]]).of_keys().tolist() == [3, 0, 1]
    assert records.facts(records.split(trimmed)[0]) == records.facts(others[0])


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.id)
def test_records_that_differ_in_what_they_say_of_the_key_are_the_same_version(view: Any) -> None:
    records = Records(view)
    whole = pack(view, (1, 0), (2, 5))
    flagged = b"".join(records.flagged(record, HAS_BASE) for record in records.split(whole))
    wanted = KeyEvents(entity=b"1", records=whole, count=2, newest_us=0)
    merged = records.merge(flagged, wanted, None)
    assert (merged.value, merged.added, merged.removed) == (flagged, 0, 0)


def test_a_key_that_another_program_wrote_is_named_by_sync_verify_and_explain(project: LiveProject) -> None:
    (view,) = project.registry.feature_views
    name, _ = names(project, 3)
    with redis.Redis.from_url(project.url) as client:
        client.delete(name)
        client.hset(name, "a", "b")
    with OnlineStore(project.url) as online:
        options: dict[str, Any] = {"now_us": to_us(NOW), "project_dir": project.folder}
        found = verify_events(view, online, project.offline, **options).differences
        assert [(of.key, of.online, of.cause) for of in found] == [("customer=3", "a hash", DAMAGED)]
        with pytest.raises(DamagedValue, match="another program wrote"):
            explain(f"{view.id}:n", {"customer": 3}, online, project.offline, at_us=to_us(NOW), **options)
    project.landed("b", [payment(900, 3, 1)])
    project.publish()
    with pytest.raises(DamagedValue) as raised:
        project.sync()
    assert (raised.value.where, raised.value.got) == (name, "a hash")
    project.sync(full=True)
    assert read(project, 3) == [4]
