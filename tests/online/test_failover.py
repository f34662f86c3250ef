"""After a failover the same name leads to another server: what holds a connection to the old one goes there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import httpx
import pytest

from feature_server import AsyncFeatureClient, FeatureClient
from feature_server.catalog.status import read_status
from feature_server.definitions.registry import write_registry
from feature_server.errors import OnlineStoreUnavailable
from feature_server.ingest.transaction import Ingestor
from feature_server.ingest.worker import Worker
from feature_server.layout.keys import EVENTS
from feature_server.online.store import OnlineStore
from feature_server.settings import load_settings
from feature_server.sync.run import SyncOptions, sync
from feature_server.times import to_us
from tests.support.failover import Pair, valkey_pair
from tests.support.live_project import NOW, SOURCE, LiveProject, make_live_view, payment
from tests.support.payments import event
from tests.support.served import eventually, served

VIEW = make_live_view()
FEATURE = "customer__payments:n"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with valkey_pair(tmp_path / "pair") as pair:
        yield pair


@pytest.fixture
def project(tmp_path: Path, pair: Pair) -> LiveProject:
    """A project whose view is synced to the primary."""
    project = LiveProject(tmp_path, pair.url, VIEW)
    project.landed("a", [payment(1, 1, 60)])
    project.publish()
    project.sync()
    return project


def lose_primary(pair: Pair) -> None:
    """Have the first answer MASTERDOWN to the connections that it has, and the second be the primary."""
    pair.replicate()
    pair.second.execute_command("REPLICAOF", "NO", "ONE")
    pair.first.config_set("replica-serve-stale-data", "no")
    pair.first.execute_command("REPLICAOF", "127.0.0.1", "1")
    pair.switch.targets = [pair.ports[1]]


def test_reads_go_to_the_new_primary_when_the_old_one_has_lost_its_own(project: LiveProject, pair: Pair) -> None:
    settings = load_settings({"FEATURES_CLOCK": NOW.isoformat()})

    async def read_before_and_after() -> list[object]:
        async with AsyncFeatureClient(pair.url, settings=settings) as client:
            found = [(await client.get(features=[FEATURE], customer=1)).values["n"]]
            lose_primary(pair)
            several = [client.get(features=[FEATURE], customer=1) for _ in range(5)]
            return found + [vector.values["n"] for vector in await asyncio.gather(*several)]

    with FeatureClient(pair.url, settings=settings) as client:
        assert client.get(features=[FEATURE], customer=1).values == {"n": 1}
        assert asyncio.run(read_before_and_after()) == [1] * 6
        assert client.get(features=[FEATURE], customer=1).values == {"n": 1}


def test_a_server_that_has_nowhere_else_to_go_is_asked_anew_but_not_at_every_read(
    project: LiveProject, pair: Pair
) -> None:
    async def read() -> None:
        async with AsyncFeatureClient(pair.url) as client:
            await client.get(features=[FEATURE], customer=1)
            lose_primary(pair)
            pair.switch.targets = [pair.ports[0]]
            made = pair.switch.made
            for _ in range(50):
                with pytest.raises(OnlineStoreUnavailable, match="this replica has lost its primary"):
                    await client.get(features=[FEATURE], customer=1)
            assert pair.switch.made - made < 10
            pair.switch.targets = [pair.ports[1]]
            await asyncio.sleep(0.6)
            await client.get(features=[FEATURE], customer=1)

    asyncio.run(read())


def test_a_push_over_an_open_connection_to_a_demoted_primary_is_taken_in_by_the_new_one(
    project: LiveProject, pair: Pair
) -> None:
    with Ingestor(pair.url, lambda: to_us(NOW), expire=False) as ingestor:
        assert ingestor.push_lines(SOURCE.name, [event(7)["event"]]).accepted == 1
        pair.fail_over()
        assert ingestor.push_lines(SOURCE.name, [event(8)["event"]]).accepted == 1
        pair.first.execute_command("REPLICAOF", "NO", "ONE")
        pair.first.flushall()
        assert pair.second.xlen(b"features:log:" + SOURCE.name.encode()) == 2


def test_pushes_over_http_go_on_and_say_503_while_there_is_no_primary(project: LiveProject, pair: Pair) -> None:
    columns = {"payment_id": [8], "customer": [3], "merchant": ["m"], "amount": ["5"]}
    body = {
        "push_source_name": SOURCE.name,
        "df": columns | {key: [NOW.isoformat()] for key in ("paid_at", "ingested_at")},
    }
    with (
        served(pair.url, clock=NOW.isoformat()) as server,
        httpx.Client(base_url=server.address, trust_env=False, timeout=60) as http,
    ):
        assert http.post("/push", json=body).status_code == 200
        pair.replicate()
        pair.first.execute_command("REPLICAOF", "127.0.0.1", str(pair.ports[1]))  # and nobody is primary
        answer = http.post("/push", json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["what"] == "this Redis is a replica, which takes no writes"
        pair.promote()
        assert http.post("/push", json=body).json() == {"accepted": 1, "rejected": []}


def test_a_sync_over_an_open_connection_goes_to_the_new_primary(project: LiveProject, pair: Pair) -> None:
    with OnlineStore(pair.url) as online:
        assert online.registry() is not None
        project.landed("b", [payment(2, 2, 30)])
        project.publish()
        pair.fail_over()
        options = SyncOptions(expire=False, project_dir=project.folder, lease_seconds=1)
        report = sync(online, project.offline, project.registry, now_us=lambda: to_us(NOW), options=options)
        assert report.failures == {}
        assert report.results[0].rows == 1


@pytest.mark.parametrize("how", ["demoted", "closed"])
def test_the_worker_takes_in_and_lands_over_a_failover(project: LiveProject, pair: Pair, how: str) -> None:
    name, said, ended = EVENTS + SOURCE.name.encode(), list[str](), list[bool]()
    with OnlineStore(pair.url) as online, Ingestor(pair.url, lambda: to_us(NOW), expire=False) as ingestor:
        worker = Worker(online, ingestor, SOURCE, project.landing)
        arguments = {"stopped": lambda: bool(ended), "report": said.append, "retry_seconds": 0.1, "land_seconds": 0.2}
        thread = Thread(target=worker.run, kwargs=arguments)
        thread.start()
        try:
            pair.first.xadd(name, event(7))
            eventually(lambda: worker.done.landed == 1)
            pair.fail_over()
            if how == "closed":
                pair.switch.cut()
            pair.second.xadd(name, event(8))
            eventually(lambda: worker.done.landed == 2)
        finally:
            ended.append(True)
            thread.join()
        assert worker.done.accepted == 2
        pair.second.xadd(name, event(9))
        assert Worker(online, ingestor, SOURCE, project.landing).run(once=True).landed == 1


def test_status_asks_again_where_the_first_server_it_reaches_has_lost_its_primary(
    project: LiveProject, pair: Pair, tmp_path: Path
) -> None:
    environ = {"FEATURES_HOME": str(tmp_path), "FEATURES_REDIS_URL": pair.url, "FEATURES_CLOCK": NOW.isoformat()}
    settings = load_settings(environ)
    write_registry(settings.registry_path, project.registry)
    lose_primary(pair)
    pair.switch.targets = [pair.ports[0], pair.ports[1]]
    found = read_status(settings, project.registry)
    assert (found.online_store, found.views[0].online_rows) == (None, 1)
