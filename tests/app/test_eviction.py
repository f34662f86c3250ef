"""A feature server over a Redis that evicts keys: within a second it says so, and reads nothing too low."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import redis

from feature_server.catalog.status import read_status
from feature_server.client.features import FeatureClient
from feature_server.errors import EvictingRedis, KeysEvicted
from feature_server.layout.keys import EPOCH, REGISTRY
from feature_server.online.memory import LOOK_SECONDS
from feature_server.online.store import OnlineStore
from feature_server.settings import load_settings
from tests.support.evicting import evict
from tests.support.live_project import COLUMNS, NOW, SOURCE, LiveProject, make_live_view, payment, settings_of
from tests.support.own_valkey import own_valkey, url_of
from tests.support.served import Served, eventually, metrics, served

VIEW = make_live_view()
FEATURE = f"{VIEW.id}:n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[redis.Redis]:
    with own_valkey(tmp_path / "valkey") as client:
        yield client


@pytest.fixture
def project(tmp_path: Path, server: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> LiveProject:
    project = LiveProject(tmp_path, url_of(server), VIEW)
    project.landed("a", [payment(n, 1, 10 + n) for n in range(5)] + [payment(9, 2, 10)])
    project.publish()
    settings_of(project, monkeypatch)
    return project


def key(project: LiveProject, customer: int) -> bytes:
    with OnlineStore(project.url) as store:
        found = store.registry()
    assert found is not None
    return f"{found.views[VIEW.id].code}{{{customer}}}".encode()


def allowing(project: LiveProject) -> AbstractContextManager[Served]:
    """A server that refuses no policy: having keys evicted needs another one for a moment, which a look may see."""
    return served(project.url, clock=NOW.isoformat(), FEATURES_ALLOW_EVICTION="1")


def ready(running: Served) -> httpx.Response:
    return httpx.get(f"{running.address}/ready", trust_env=False)


def told(running: Served) -> tuple[float | None, float | None]:
    found = metrics(running.address)
    return found.get(("features_evictions_noticed",)), found.get(("features_view_doubtful", VIEW.id))


def test_a_server_says_within_a_second_that_keys_were_evicted(project: LiveProject, server: redis.Redis) -> None:
    project.sync()
    with allowing(project) as running, FeatureClient(running.address) as client:
        assert client.get(features=[FEATURE], customer=1)["n"] == 5
        assert told(running) == (0, 0)
        evict(server, [key(project, 1)])
        eventually(lambda: told(running) == (1, 1), seconds=10)
        with pytest.raises(KeysEvicted) as raised:
            client.get(features=[FEATURE], customer=1)
        assert raised.value.where == VIEW.id
        assert client.get(features=[FEATURE], customer=2)["n"] == 1
        answer = ready(running)
        assert (answer.status_code, answer.json()["ready"]) == (200, True)
        (doubt,) = answer.json()["degraded"]
        assert "`features sync --full customer__payments`" in doubt
        page = httpx.get(running.address, headers={"accept": "text/html"}, trust_env=False).text
        assert "Redis has evicted keys since the last full sync of customer__payments" in page
        project.sync(full=True)
        assert client.get(features=[FEATURE], customer=1)["n"] == 5
        assert told(running) == (1, 0)
        assert ready(running).status_code == 200
        log = running.stop()
    assert log.count("Redis has evicted keys: doubtful until a full sync are customer__payments") == 1


def test_serve_and_stream_refuse_a_redis_that_may_evict(project: LiveProject, server: redis.Redis) -> None:
    project.sync()
    project.push(payment(100, 1, 1))
    server.config_set("maxmemory-policy", "allkeys-lru")
    for command in (["serve", "--port", "0"], ["stream", project.source.name, "--once"], ["sync"]):
        ended = subprocess.run([sys.executable, "-m", "feature_server", *command], capture_output=True, text=True)
        assert ended.returncode == 1, command
        assert "maxmemory-policy: this Redis may evict keys" in ended.stderr, command
        assert "Traceback" not in ended.stderr
    assert server.xlen("features:log:shop.payments") == 0, "stream has landed what was there"
    assert len(list(project.landing.glob("live-*.parquet"))) == 1
    with served(project.url, clock=NOW.isoformat(), FEATURES_ALLOW_EVICTION="1") as running:
        with FeatureClient(running.address) as client:
            assert client.get(features=[FEATURE], customer=1)["n"] == 6
        time.sleep(2 * LOOK_SECONDS)
        assert "maxmemory-policy is allkeys-lru" in running.stop()


def test_a_running_server_refuses_the_first_stream_view_in_a_redis_that_may_evict(
    project: LiveProject, server: redis.Redis
) -> None:
    server.config_set("maxmemory-policy", "allkeys-lru")
    with served(project.url, clock=NOW.isoformat()) as running, FeatureClient(running.address) as client:
        project.sync(allow_eviction=True)

        def refused() -> EvictingRedis | None:
            try:
                client.get(features=[FEATURE], customer=1)
            except EvictingRedis as error:
                return error
            return None

        assert eventually(refused).status == 503
        assert ready(running).status_code == 503
        server.config_set("maxmemory-policy", "noeviction")
        eventually(lambda: refused() is None)
        server.config_set("maxmemory-policy", "volatile-ttl")
        assert client.get(features=[FEATURE], customer=1)["n"] == 5


def status_of_push(running: Served, number: int, customer: int) -> tuple[int, str]:
    at = (NOW - timedelta(minutes=1)).isoformat()
    event = dict(zip(COLUMNS, (number, customer, "shop", "1.00", at, at), strict=True))
    body = {"push_source_name": SOURCE.name, "df": {name: [value] for name, value in event.items()}}
    answer = httpx.post(f"{running.address}/push", json=body, timeout=60, trust_env=False)
    return answer.status_code, answer.json().get("error", "")


@pytest.mark.parametrize("lost", [[REGISTRY], [REGISTRY, EPOCH]])
def test_a_registry_that_was_evicted_is_called_that_and_nothing_is_read_by_it(
    project: LiveProject, server: redis.Redis, lost: list[bytes]
) -> None:
    project.sync()
    with allowing(project) as running, FeatureClient(running.address) as client:
        assert client.get(features=[FEATURE], customer=1)["n"] == 5
        assert status_of_push(running, 100, 2) == (200, "")
        evict(server, [key(project, 1), *lost])
        assert status_of_push(running, 101, 3) in ((200, ""), (503, "KeysEvicted")), "nobody may have looked yet"

        def refused() -> bool:
            try:
                client.get(features=[FEATURE], customer=1)
            except KeysEvicted as error:
                return "the online registry is gone" in error.what and error.where == "features:registry"
            return False

        eventually(refused)
        with pytest.raises(KeysEvicted), FeatureClient(project.url) as light:
            light.get(features=[FEATURE], customer=1)
        assert status_of_push(running, 102, 3) == (503, "KeysEvicted")
        answer = ready(running)
        (reason,) = answer.json()["reasons"]
        assert (answer.status_code, "Redis has evicted keys" in reason) == (503, True)
        assert metrics(running.address)["features_online_store_up",] == 0
        told = ("features_redis_evicted_keys",)  # once the worker that answers has asked Redis
        eventually(lambda: metrics(running.address).get(told) == 1 + len(lost))
        status = read_status(load_settings(), project.registry)
        assert (status.good, "Redis has evicted keys" in (status.online_store or "")) == (False, True)
        landing = [sys.executable, "-m", "feature_server", "stream", SOURCE.name, "--once"]
        server.xadd(f"features:events:{SOURCE.name}", {"event": b"{}"})
        ended = subprocess.run(landing, capture_output=True, text=True)
        assert (ended.returncode, "the online registry is gone" in ended.stdout + ended.stderr) == (0, True)
        assert server.xlen(f"features:log:{SOURCE.name}") == 0, "what was pushed has landed"
        project.sync()
        assert client.get(features=[FEATURE], customer=2)["n"] == 2
        assert client.get(features=[FEATURE], customer=1)["n"] == 5
        assert ready(running).status_code == 200
        assert "Traceback" not in running.stop()


def test_an_epoch_that_was_evicted_is_written_anew_by_a_server(project: LiveProject, server: redis.Redis) -> None:
    project.sync()
    with allowing(project) as running, FeatureClient(running.address) as client:
        assert client.get(features=[FEATURE], customer=1)["n"] == 5
        evict(server, [EPOCH])
        eventually(lambda: server.exists(EPOCH))
        assert client.get(features=[FEATURE], customer=1)["n"] == 5
        assert told(running) == (1, 1)
