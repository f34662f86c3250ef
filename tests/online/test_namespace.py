"""Several stores in one Redis, each with a namespace: none sees, changes or deletes a key of another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from feature_server import AsyncFeatureClient, FeatureClient
from feature_server.errors import NotSynced
from feature_server.history.log import land
from feature_server.layout.keys import EVENTS, NAMES, Names
from feature_server.online.address import parse_redis_url
from feature_server.online.store import OnlineStore
from feature_server.settings import load_settings
from tests.support.live_project import NOW, LiveProject, make_live_view, payment, settings_of
from tests.support.served import served

VIEW = make_live_view()
FEATURE = f"{VIEW.id}:n"
NAMESPACES = ("", "shop", "shop-2")
AT_NOW = load_settings({}, clock=NOW)


@pytest.fixture
def projects(tmp_path: Path, valkey: str) -> dict[str, LiveProject]:
    """Of the same names, but customer 1 has 1 payment in the first, 2 in the second, 3 in the third."""
    found = {}
    for count, namespace in enumerate(NAMESPACES, start=1):
        url = f"{valkey}{'&' if '?' in valkey else '?'}namespace={namespace}" if namespace else valkey
        project = found[namespace] = LiveProject(tmp_path / f"project{count}", url, VIEW)
        project.landed("a", [payment(n, 1, 10 + n) for n in range(count)])
        project.publish()
        project.sync()
    return found


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as connection:
        yield connection


def counts(projects: dict[str, LiveProject]) -> list[int]:
    found = []
    for project in projects.values():
        with FeatureClient(project.url, settings=AT_NOW) as reader:
            found.append(reader.get([FEATURE], customer=1)["n"])
    return found


def prefix(key: bytes) -> str:
    head, colon, _ = key.partition(b":")
    return head.decode() if colon and head.decode() in NAMESPACES else ""


def test_each_reads_pushes_and_lands_its_own(projects: dict[str, LiveProject], client: redis.Redis) -> None:
    assert counts(projects) == [1, 2, 3]
    projects["shop"].push(payment(50, 1, 1))
    assert counts(projects) == [1, 3, 3]
    assert client.xlen(b"shop:features:log:shop.payments") == 1
    with OnlineStore(projects["shop"].url) as online:
        land(online, projects["shop"].source, projects["shop"].landing)
    assert client.xlen(b"shop:features:log:shop.payments") == 0
    assert [len(list(project.landing.glob("live-*"))) for project in projects.values()] == [0, 1, 0]
    projects["shop"].publish()
    projects["shop"].sync(full=True)
    assert counts(projects) == [1, 3, 3]
    assert {prefix(key) for key in client.scan_iter()} == set(NAMESPACES)


def test_one_that_is_emptied_leaves_the_others(projects: dict[str, LiveProject], client: redis.Redis) -> None:
    for key in list(client.scan_iter()):
        if prefix(key) == "shop-2":
            client.delete(key)
    assert counts({name: projects[name] for name in ("", "shop")}) == [1, 2]
    with pytest.raises(NotSynced, match="the online store is empty"):
        counts({"shop-2": projects["shop-2"]})
    projects[""].define()
    projects[""].sync()
    assert {prefix(key) for key in client.scan_iter(match="*{*")} == {"shop"}
    assert counts({"shop": projects["shop"]}) == [2]


def test_servers_workers_and_verify_go_by_the_namespace_of_their_url(
    projects: dict[str, LiveProject], client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = projects["shop"]
    settings_of(project, monkeypatch)
    from typer.testing import CliRunner

    from feature_server.cli.main import load_commands

    client.xadd(b"shop:" + EVENTS + b"shop.payments", {"event": '{"payment_id": 7'})
    ran = CliRunner().invoke(load_commands(), ["stream", "shop.payments", "--once"])
    assert ran.exit_code == 0, ran.output
    assert client.xlen(Names("shop").dead("shop.payments")) == 1
    assert client.exists(NAMES.dead("shop.payments")) == 0
    ran = CliRunner().invoke(load_commands(), ["verify"])
    assert ran.exit_code == 0, ran.output
    assert client.exists(Names("shop").verified(VIEW.id), NAMES.verified(VIEW.id)) == 1
    with served(project.url, clock=NOW.isoformat()) as running, FeatureClient(running.address) as over_http:
        assert over_http.get([FEATURE], customer=1)["n"] == 2
        event = {"payment_id": 99, "customer": 1, "merchant": "x", "amount": "1.00"}
        pushed = over_http.push("shop.payments", [event | {"paid_at": NOW, "ingested_at": NOW}])
        assert pushed.accepted == 1, pushed
        assert over_http.get([FEATURE], customer=1)["n"] == 3
    assert counts(projects) == [1, 3, 3]

    async def awaited() -> int:
        async with AsyncFeatureClient(project.url, settings=AT_NOW) as reader:
            return (await reader.get([FEATURE], customer=1))["n"]

    assert asyncio.run(awaited()) == 3


def test_the_namespace_is_told_with_the_address() -> None:
    address = parse_redis_url("redis://cache:7000/2?namespace=shop")
    assert address.shown == "redis://cache:7000/2?namespace=shop"
    assert (address.names.namespace, address.names.code(62)) == ("shop", "shop:10")
    assert parse_redis_url("redis://cache").names.epoch == b"features:epoch"
