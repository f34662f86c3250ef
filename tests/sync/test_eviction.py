"""What becomes of views in a Redis that evicts keys: refused, noticed, and never read too low."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis

from feature_server.catalog.status import read_status
from feature_server.client.features import FeatureClient
from feature_server.errors import EvictingRedis, KeysEvicted, NotSynced, OnlineStoreUnavailable
from feature_server.history.log import land
from feature_server.ingest.transaction import Ingestor
from feature_server.layout.keys import REGISTRY
from feature_server.online.memory import EvictionWatch
from feature_server.online.registry import OnlineRegistry
from feature_server.online.store import OnlineStore
from feature_server.settings import load_settings
from feature_server.times import to_us
from tests.support.evicting import evict
from tests.support.live_project import COLUMNS, NOW, SOURCE, LiveProject, Payment, make_live_view, payment
from tests.support.own_valkey import own_valkey, url_of
from tests.support.sync_project import Tables, at, make_view, registry_of, run_sync, spend

EVER = "count(*) over (partition by customer order by paid_at range between unbounded preceding and current row)"
VIEW = make_live_view({"ever": (EVER, "bigint")})
DAY = 24 * 60
# Customer 1 has paid 109 times: 88 of them lie in the base, 21 in records, 5 of which are of the last hour.
PAYMENTS = [payment(n, 1, 30 * DAY + n) for n in range(88)]
PAYMENTS += [payment(100 + n, 1, 2 * DAY + n) for n in range(16)] + [payment(200 + n, 1, 10 + n) for n in range(5)]
PAYMENTS += [payment(300 + n, n, 10 + n) for n in range(2, 6)]
WINDOWS = ["n", "ever"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[redis.Redis]:
    with own_valkey(tmp_path / "valkey") as client:
        yield client


@pytest.fixture
def project(tmp_path: Path, server: redis.Redis) -> LiveProject:
    project = LiveProject(tmp_path, url_of(server), VIEW)
    project.landed("a", PAYMENTS)
    project.publish()
    project.sync()
    return project


def read(project: LiveProject, customer: int, *features: str) -> list[Any]:
    """Values, as a light client reads them now."""
    settings = load_settings({"FEATURES_CLOCK": NOW.isoformat()})
    with FeatureClient(project.url, settings=settings) as client:
        found = client.get(features=[f"{VIEW.id}:{name}" for name in features or WINDOWS], customer=customer)
    assert set(found.statuses.values()) == {"PRESENT"}
    return list(found.values.values())


def event(paid: Payment) -> dict[str, Any]:
    return dict(zip(COLUMNS, (*paid[:3], Decimal(paid[3]), *paid[4:]), strict=True))


def registry(project: LiveProject) -> OnlineRegistry:
    with OnlineStore(project.url) as store:
        found = store.registry()
    assert found is not None
    return found


def key(project: LiveProject, customer: int, base: str = "") -> bytes:
    return f"{registry(project).views[VIEW.id].code}{base}{{{customer}}}".encode()


def notice(project: LiveProject) -> list[str]:
    """What a server or worker reports when it looks."""
    told: list[str] = []
    with EvictionWatch(project.url, report=told.append, seconds=60) as watch:
        watch.look()
    return told


def test_a_key_that_was_evicted_is_an_error_and_no_lower_window(project: LiveProject, server: redis.Redis) -> None:
    assert read(project, 1) == [5, 109]
    evict(server, [key(project, 1)])
    (told,) = notice(project)
    assert told == f"Redis has evicted keys: doubtful until a full sync are {VIEW.id}"
    with pytest.raises(KeysEvicted) as raised:
        read(project, 1, "n")
    assert (raised.value.status, raised.value.where) == (503, VIEW.id)
    assert "`features sync --full customer__payments`" in (raised.value.remedy or "")
    assert read(project, 2, "n") == [1], "what is there is as right as before"
    project.sync(full=True)
    assert read(project, 1) == [5, 109]
    assert notice(project) == []


def test_a_base_that_was_evicted_is_an_error_and_no_lower_count(project: LiveProject, server: redis.Redis) -> None:
    evict(server, [key(project, 1, ".base")])
    notice(project)
    with pytest.raises(KeysEvicted):
        read(project, 1, "ever")
    assert read(project, 1, "n") == [5], "no window of it needs the base"
    project.sync(full=True)
    assert read(project, 1) == [5, 109]


def test_pushes_to_a_doubtful_view_do_not_make_a_key_that_was_evicted_look_whole(
    project: LiveProject, server: redis.Redis
) -> None:
    evict(server, [key(project, 1)])
    notice(project)
    project.push(payment(400, 1, 1), payment(401, 2, 1), payment(402, 77, 1))
    assert not server.exists(key(project, 1), key(project, 77))
    assert read(project, 2, "n") == [2]
    for customer in (1, 77):
        with pytest.raises(KeysEvicted):
            read(project, customer)
    project.sync(full=True)
    assert [read(project, customer) for customer in (1, 2, 77)] == [[6, 110], [2, 2], [1, 1]]


def test_a_key_begun_anew_before_its_eviction_was_noticed_is_taken_away(
    project: LiveProject, server: redis.Redis
) -> None:
    with (
        Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor,
        EvictionWatch(project.url, noticed=ingestor.refresh, seconds=60) as watch,
    ):
        watch.look()
        ingestor.push(SOURCE.name, [event(payment(399, 2, 1))])
        evict(server, [key(project, 1)])
        ingestor.push(SOURCE.name, [event(payment(400, 1, 1)), event(payment(401, 2, 1)), event(payment(402, 77, 1))])
        assert read(project, 1, "n") == [1], "nobody has looked yet"
        watch.look()
        for customer in (1, 77):
            with pytest.raises(KeysEvicted):
                read(project, customer, "n")
        assert read(project, 2, "n") == [3]
    project.sync(full=True)
    assert [read(project, customer) for customer in (1, 2, 77)] == [[6, 110], [3, 3], [1, 1]]


def test_the_next_sync_of_a_doubtful_view_is_a_full_one(project: LiveProject, server: redis.Redis) -> None:
    project.push(payment(400, 1, 1))
    evict(server, [key(project, 1)])
    project.landed("b", [payment(500, 3, 5)])
    project.publish()
    (result,) = project.sync().results
    assert (result.mode, result.doubtful) == ("full", False)
    assert [read(project, customer) for customer in (1, 3)] == [[6, 110], [2, 2]]


def test_two_that_look_at_once_raise_the_mark_once(project: LiveProject, server: redis.Redis) -> None:
    evict(server, [key(project, 1)])
    watches = [EvictionWatch(project.url, seconds=0.01) for _ in range(4)]
    for watch in watches:
        watch.look()
        watch.close()
    assert registry(project).evictions == 1


def test_an_evicting_policy_is_refused_for_stream_views(project: LiveProject, server: redis.Redis) -> None:
    server.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(EvictingRedis) as raised:
        project.sync()
    error = raised.value
    assert (error.where, error.expected, error.got) == ("maxmemory-policy", "noeviction", "allkeys-lru")
    assert "CONFIG SET maxmemory-policy noeviction" in (error.remedy or "")
    assert "FEATURES_ALLOW_EVICTION=1" in (error.remedy or "")
    assert "would read too low" in error.what
    project.sync(allow_eviction=True)


def test_nothing_is_read_while_redis_is_too_full_to_note_what_it_evicted(
    project: LiveProject, server: redis.Redis
) -> None:
    with EvictionWatch(project.url, seconds=60) as watch:
        evict(server, [key(project, 1)])
        server.config_set("maxmemory", 1)
        with pytest.raises(OnlineStoreUnavailable, match="memory is full"):
            watch.look()
        for customer in (1, 2):
            with pytest.raises(KeysEvicted, match="not noted yet"):
                read(project, customer, "n")
        server.config_set("maxmemory", 0)
        watch.look()
    assert read(project, 2, "n") == [1]
    with pytest.raises(KeysEvicted, match="have none now"):
        read(project, 1, "n")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru"])
def test_eviction_during_a_sync_is_called_that(project: LiveProject, server: redis.Redis, policy: str) -> None:
    """By volatile-lru it is the fence that goes, which else looks like another sync."""
    project.landed("many", [payment(10_000 + n, n, 30) for n in range(1000, 9000)])
    project.publish()
    server.config_set("maxmemory-policy", policy)
    server.config_set("maxmemory", server.info("memory")["used_memory"] + 300_000)
    with pytest.raises(KeysEvicted) as raised:
        project.sync(full=True, allow_eviction=True)
    error = raised.value
    assert "keys during the sync" in error.what
    assert "`features sync --full customer__payments`" in (error.remedy or "")
    assert all(text in (error.got or "") for text in ("maxmemory ", "in use ", "written by this sync "))
    server.config_set("maxmemory", 0)
    server.config_set("maxmemory-policy", "noeviction")
    notice(project)
    with pytest.raises((KeysEvicted, NotSynced)):  # the registry itself may be gone
        read(project, 5000)
    with suppress(KeysEvicted, NotSynced):
        assert read(project, 1) == [5, 109]
    project.sync(full=True)
    assert read(project, 1) == [5, 109]
    assert read(project, 5000) == [1, 1]


def test_a_code_is_not_taken_again_when_its_counter_was_evicted(tmp_path: Path, server: redis.Redis) -> None:
    tables, one, other = Tables(tmp_path / "tables"), make_view("customer__one"), make_view("customer__other")
    for view in (one, other):
        tables.commit(view, [[(1, at(0), 5.0), (2, at(0), 6.0)]])
    run_sync(url_of(server), tables, one, other, now=at(10))
    codes = {entry.code for entry in OnlineStore(url_of(server)).registry().views.values()}  # type: ignore[union-attr]
    server.delete("features:next_code", "features:codes")
    run_sync(url_of(server), tables, one, other, now=at(10), full=True, names=["customer__one"])
    with OnlineStore(url_of(server)) as store:
        found = store.registry()
    assert found is not None
    assert found.views["customer__one"].code not in codes
    assert found.views["customer__other"].code in codes


def test_a_user_who_may_not_run_info_is_warned_once(
    project: LiveProject, server: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    server.execute_command("ACL", "SETUSER", "app", "on", ">pass", "~*", "+@all", "-info", "-config")
    project.url = project.url.replace("unix://", "unix://app:pass@")
    project.sync(full=True)
    assert read(project, 1) == [5, 109]
    (line,) = [record.message for record in caplog.records if "maxmemory-policy" in record.message]
    assert "NOPERM" in line
    assert "INFO" in line
    told: list[str] = []
    with EvictionWatch(project.url, report=told.append, seconds=60) as watch:
        watch.look()
        watch.look()
    assert len(told) == 1


def status(project: LiveProject) -> list[str]:
    settings = load_settings(
        {"FEATURES_CLOCK": NOW.isoformat(), "FEATURES_REDIS_URL": project.url, "FEATURES_OFFLINE": "offline"},
        project_dir=project.folder,
    )
    found = read_status(settings, project.registry)
    assert found.online_store is None
    return [problem for view in found.views for problem in view.problems]


def test_status_says_what_was_evicted_though_nobody_has_looked(project: LiveProject, server: redis.Redis) -> None:
    assert status(project) == []
    evict(server, [key(project, 1), key(project, 2)])
    (problem,) = status(project)
    assert problem.startswith("evicted: Redis has evicted 2 keys, maybe of customer__payments: absent keys are errors")
    assert "`features sync --full customer__payments`" in problem
    server.config_set("maxmemory-policy", "volatile-ttl")
    assert [problem.partition(":")[0] for problem in status(project)] == ["evicted", "may be evicted"]
    server.config_set("maxmemory-policy", "noeviction")
    project.sync()
    assert status(project) == []


def test_a_view_of_rows_is_served_by_any_policy_and_status_tells_of_evicted_rows(
    tmp_path: Path, server: redis.Redis
) -> None:
    server.config_set("maxmemory-policy", "volatile-lru")
    url, view = url_of(server), make_view()
    tables = Tables(tmp_path / "offline")
    tables.commit(view, [[(n, at(0), float(n)) for n in range(50)]])
    run_sync(url, tables, view, now=at(10))

    def problems() -> list[str]:
        settings = load_settings(
            {"FEATURES_CLOCK": at(10).isoformat(), "FEATURES_REDIS_URL": url, "FEATURES_OFFLINE": "offline"},
            project_dir=tmp_path,
        )
        return [problem for each in read_status(settings, registry_of(view)).views for problem in each.problems]

    assert problems() == []
    evict(server, [name for name in server.scan_iter() if name.endswith((b"{7}", b"{8}"))])
    (problem,) = problems()
    assert problem.startswith("evicted: Redis has evicted 2 keys, maybe of customer__spend: absent keys read as NOT_FO")
    (result,) = run_sync(url, tables, view, now=at(20)).results
    assert (result.mode, result.doubtful) == ("changes", True)
    assert len(problems()) == 1
    server.config_set("maxmemory-policy", "noeviction")
    (result,) = run_sync(url, tables, view, now=at(30)).results
    assert (result.mode, result.doubtful) == ("full", False)
    assert len(spend(url)) == 50
    assert problems() == []


def test_a_log_that_went_before_it_had_landed_is_called_lost(project: LiveProject, server: redis.Redis) -> None:
    told: list[str] = []
    with EvictionWatch(project.url, report=told.append, seconds=60) as watch:
        watch.look()  # which tells it of the source
        project.push(payment(600, 1, 1))
        project.push(payment(601, 1, 1))
        watch.look()
        evict(server, [b"features:log:shop.payments"])
        watch.look()
        project.push(payment(602, 1, 1))
        watch.look()
    assert [line.partition(":")[0] for line in told] == ["Redis has evicted keys", "lost"]
    assert "up to 2" in told[1]
    assert registry(project).lost == {"shop.payments": 2}
    assert told[1] in sources(project)
    project.sync(full=True)
    assert sources(project) == []
    assert read(project, 1) == [6, 110], "the two are lost, and no longer counted"


def test_a_log_that_went_together_with_the_registry_is_called_lost_once_that_is_back(
    project: LiveProject, server: redis.Redis
) -> None:
    told: list[str] = []
    with EvictionWatch(project.url, report=told.append, seconds=60) as watch:
        watch.look()
        project.push(payment(600, 1, 1))
        watch.look()
        evict(server, [b"features:log:shop.payments", REGISTRY])
        for _ in range(2):
            with pytest.raises(NotSynced):
                watch.look()
        project.sync()
        watch.look()
        watch.look()
    assert [line.partition(":")[0] for line in told] == ["lost"]
    assert registry(project).lost == {"shop.payments": 1}


def test_a_log_that_went_unseen_is_called_lost_by_what_it_left(project: LiveProject, server: redis.Redis) -> None:
    project.push(payment(600, 1, 1))
    with OnlineStore(project.url) as store:
        land(store, project.source, project.landing)
    project.push(payment(601, 1, 1))
    evict(server, [b"features:log:shop.payments"])
    (problem,) = sources(project)
    assert problem.startswith("lost: features:log:shop.payments")
    assert "how many cannot be told" in problem


def sources(project: LiveProject) -> list[str]:
    settings = load_settings(
        {"FEATURES_CLOCK": NOW.isoformat(), "FEATURES_REDIS_URL": project.url, "FEATURES_OFFLINE": "offline"},
        project_dir=project.folder,
    )
    return [problem for source in read_status(settings, project.registry).sources for problem in source.problems]
