"""What `features status` says of live events: what has not landed or been taken in, what was refused, what differs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import pytest
import redis
from msgspec.structs import replace
from typer.testing import CliRunner

from feature_server.catalog.sources import SourceStatus
from feature_server.catalog.status import Status, read_status
from feature_server.cli.main import load_commands
from feature_server.definitions.facts import FeatureView
from feature_server.history.log import land
from feature_server.ingest.transaction import Ingestor
from feature_server.ingest.worker import Worker
from feature_server.layout.keys import DEAD, EVENTS, NAMES
from feature_server.online.registry import with_views
from feature_server.online.store import OnlineStore
from feature_server.settings import load_settings
from feature_server.times import to_us
from feature_server.verify.events import verify_events
from tests.support.live_project import NOW, SOURCE, LiveProject, make_live_view, payment, settings_of
from tests.support.served import metrics, served

HOURLY = replace(make_live_view(), refresh="hourly")
DAILY = replace(HOURLY, name="customer__daily", refresh="daily")
PRODUCED = EVENTS + SOURCE.name.encode()


@pytest.fixture
def project(tmp_path: Path, valkey: str) -> LiveProject:
    project = LiveProject(tmp_path, valkey, HOURLY)
    project.landed("a", [payment(1, 1, 60)])
    project.publish()
    project.sync()
    return project


def status_of(project: LiveProject) -> Status:
    settings = load_settings(
        {}, project_dir=project.folder, redis_url=project.url, offline=project.offline.root, clock=NOW
    )
    return read_status(settings, project.registry)


def source_of(project: LiveProject, *views: FeatureView) -> SourceStatus:
    if views:
        project.define(*views)
    (source,) = status_of(project).sources
    return source


def event(number: int, **changes: object) -> dict[str, bytes]:
    columns = {"payment_id": number, "customer": 3, "merchant": "m", "amount": 5, "paid_at": NOW, "ingested_at": NOW}
    return {"event": msgspec.json.encode(columns | changes)}


def put_back(client: redis.Redis, name: bytes, ago: timedelta) -> None:
    """Make all entries of a stream as old as that."""
    seconds, _ = client.time()
    entries = client.xrange(name)
    client.delete(name)
    for number, (_, fields) in enumerate(entries):
        client.xadd(name, fields, id=f"{int((seconds - ago.total_seconds()) * 1000)}-{number}")


def test_pushed_events_wait_until_they_have_landed(project: LiveProject) -> None:
    assert source_of(project) == SourceStatus(
        source="shop.payments", views=(HOURLY.id,), newest_event=NOW - timedelta(hours=1)
    )
    project.push(payment(2, 1, 20), payment(3, 2, 10))
    project.push(payment(4, 2, 30))
    found = source_of(project)
    assert (found.pushes, found.events, found.newest_event) == (2, 3, NOW - timedelta(minutes=10))
    assert found.oldest_seconds is not None
    assert 0 <= found.oldest_seconds < 60
    assert found.last_pushed_at is not None
    assert abs(datetime.now(UTC) - found.last_pushed_at) < timedelta(minutes=1)
    with OnlineStore(project.url) as online:
        land(online, SOURCE, project.landing)
    landed = source_of(project)
    assert (landed.pushes, landed.events, landed.oldest_seconds) == (0, 0, None)
    assert (landed.newest_event, landed.last_pushed_at) == (found.newest_event, found.last_pushed_at)
    assert landed.problems == ()


@pytest.mark.parametrize(
    ("views", "allowed"),
    [((HOURLY,), timedelta(hours=2)), ((DAILY,), timedelta(days=2)), ((DAILY, HOURLY), timedelta(hours=2))],
)
def test_events_are_late_to_land_after_twice_the_time_between_refreshes(
    project: LiveProject, views: tuple[FeatureView, ...], allowed: timedelta
) -> None:
    project.push(payment(2, 1, 20))
    with redis.Redis.from_url(project.url) as client:
        put_back(client, NAMES.log(SOURCE.name), allowed - timedelta(minutes=1))
        assert source_of(project, *views).problems == ()
        put_back(client, NAMES.log(SOURCE.name), allowed + timedelta(minutes=1))
    (problem,) = source_of(project, *views).problems
    assert problem.startswith("not landed: 1 event for up to ")
    assert "run `features stream shop.payments --once`" in problem


def test_a_view_without_a_schedule_lets_events_wait(project: LiveProject) -> None:
    project.push(payment(2, 1, 20))
    with redis.Redis.from_url(project.url) as client:
        put_back(client, NAMES.log(SOURCE.name), timedelta(days=400))
    assert source_of(project, replace(HOURLY, refresh="manual")).problems == ()


def test_events_of_producers_wait_for_a_worker(project: LiveProject) -> None:
    with redis.Redis.from_url(project.url) as client:
        for number in range(3):
            client.xadd(PRODUCED, event(number))
        put_back(client, PRODUCED, timedelta(hours=3))
        assert (source_of(project).unread, source_of(project).problems) == (
            3,
            (
                "not taken in: 3 events of producers for up to 3 h, so reads do not see them; start its worker, "
                "`features stream shop.payments`",
            ),
        )
        client.xgroup_create(PRODUCED, "features", id="0")
        client.xreadgroup("features", "killed", {PRODUCED: ">"}, count=2)
        client.xdel(PRODUCED, client.xrange(PRODUCED)[-1][0])
        client.xadd(PRODUCED, event(9))
        assert source_of(project).unread == 3
    with OnlineStore(project.url) as online, Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
        worker = Worker(online, ingestor, SOURCE, project.landing, consumer="killed")
        assert worker.run(once=True).accepted == 3
    assert (source_of(project).unread, source_of(project).unread_seconds) == (0, None)


def test_refused_events_are_told_with_the_last_reason_until_they_are_dealt_with(project: LiveProject) -> None:
    with OnlineStore(project.url) as online, Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
        online.client.xadd(PRODUCED, event(7, payment_id="seven"))
        Worker(online, ingestor, SOURCE, project.landing).run(once=True)
        found = source_of(project)
        assert found.dead_letters == 1
        (problem,) = found.problems
        assert problem.startswith("dead letters: 1 event refused, the last at 20")
        assert "Expected `int`, got `str` - at `$.payment_id`; `features stream shop.payments --dead` prints" in problem
        assert not status_of(project).good


def test_refused_events_are_printed_and_dropped_by_command(
    project: LiveProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_of(project, monkeypatch)
    with OnlineStore(project.url) as online, Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
        sent = online.client.xadd(PRODUCED, event(7, payment_id="seven"))
        online.client.xadd(PRODUCED, {"other": "thing"})
        online.client.xadd(PRODUCED, {"event": event(7)["event"].replace(b'"m"', b'"M\xff1"')})
        Worker(online, ingestor, SOURCE, project.landing).run(once=True)

    def letters(*options: str) -> list[dict[str, str]]:
        result = CliRunner().invoke(load_commands(), ["stream", SOURCE.name, "--dead", *options])
        return [json.loads(line) for line in result.stdout.splitlines()]

    one, two, three = letters()
    assert (one["id"], one["reason"]) == (sent.decode(), "Expected `int`, got `str` - at `$.payment_id`")
    assert json.loads(one["event"])["payment_id"] == "seven"
    assert (two["reason"], two["event"]) == ("no field `event`", None)
    assert json.loads(three["event"].replace("\\", "\\\\"))["merchant"] == "M\\xff1"
    assert letters("--drop") == [one, two, three]
    assert letters() == []
    assert source_of(project).problems == ()
    assert CliRunner().invoke(load_commands(), ["stream", SOURCE.name, "--drop"]).exit_code == 2


def test_a_source_whose_events_cannot_land_is_told(project: LiveProject) -> None:
    table = replace(SOURCE, relation='"warehouse"."main"."payments"')
    project.registry = replace(project.registry, sources=(table,))
    (source,) = status_of(project).sources
    assert source.problems[0].startswith("cannot land: shop.payments: live events cannot be kept")


def test_the_command_shows_sources_and_the_last_verify_and_ends_with_1(
    project: LiveProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_of(project, monkeypatch)

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(load_commands(), words)
        return result.exit_code, result.stdout

    project.push(payment(2, 1, 20))
    assert run("verify")[0] == 0
    code, text = run("status", "--json")
    (view,), (source,) = json.loads(text)["views"], json.loads(text)["sources"]
    assert (view["verified_at"], view["verified_keys"], view["unexplained_keys"]) == ("2024-05-01T12:00:00Z", 1, 0)
    assert (source["events"], source["problems"]) == (1, [])
    with redis.Redis.from_url(project.url) as client:
        (key,) = client.scan_iter(match="*{1}")
        client.delete(key)
        put_back(client, NAMES.log(SOURCE.name), timedelta(hours=5))
    assert run("verify")[0] == 1
    code, text = run("status")
    assert code == 1
    lines = text.splitlines()
    assert next(line for line in lines if line.startswith("shop.payments ")).split()[:5] == [
        "shop.payments", HOURLY.id, "1", "5", "h",
    ]  # fmt: skip
    assert f"{HOURLY.id}: differs: 1 of 1 keys compared at 2024-05-01 12:00 UTC" in text
    assert "shop.payments: not landed: 1 event for up to 5 h, hourly allows 2 h" in text
    assert lines[-1] == "2024-05-01 12:00 UTC: 1 feature view, 1 with problems; 1 event source, 1 with problems"


def test_the_feature_server_tells_what_waits_in_its_metrics_and_on_its_first_page(project: LiveProject) -> None:
    with served(project.url, clock=NOW.isoformat()) as server, redis.Redis.from_url(project.url) as client:
        before = metrics(server.address)
        assert before["features_log_pushes", SOURCE.name] == 0
        assert ("features_log_oldest_age_seconds", SOURCE.name) not in before
        project.push(payment(2, 1, 20))
        project.push(payment(3, 1, 20))
        put_back(client, NAMES.log(SOURCE.name), timedelta(hours=5))
        client.xadd(PRODUCED, event(7))
        client.xadd(DEAD + SOURCE.name.encode(), {"reason": "not JSON"})
        found = metrics(server.address)
        assert found["features_log_pushes", SOURCE.name] == 2
        assert 18_000 <= found["features_log_oldest_age_seconds", SOURCE.name] < 18_060
        assert (found["features_unread_events", SOURCE.name], found["features_dead_letters", SOURCE.name]) == (1, 1)
        page = httpx.get(server.address, headers={"accept": "text/html"}, trust_env=False).text
        assert "<td>2 pushes, the first 5 h ago</td>" in page


def test_a_view_that_only_pushes_have_reached_is_not_synced_and_the_server_not_ready(
    tmp_path: Path, valkey: str
) -> None:
    project = LiveProject(tmp_path, valkey, HOURLY)
    project.landed("a", [payment(1, 1, 60)])
    project.publish()
    with OnlineStore(valkey) as online:
        online.publish(lambda now: with_views(now, project.registry, {}))
        project.push(payment(2, 1, 20))
        verified = verify_events(HOURLY, online, project.offline, now_us=to_us(NOW), project_dir=project.folder)
    (view,) = status_of(project).views
    assert view.problems == (f"never synced: run `features sync {HOURLY.id}`",)
    assert [difference.cause for difference in verified.differences] == ["never synced"]
    with served(valkey, clock=NOW.isoformat()) as server:
        ready = httpx.get(f"{server.address}/ready", trust_env=False)
        assert (ready.status_code, ready.json()["reasons"]) == (
            503, [f"feature view '{HOURLY.id}' is not synced: run `features sync {HOURLY.id}`"],
        )  # fmt: skip
        assert ("features_view_rows", HOURLY.id) not in metrics(server.address)
        assert httpx.get(f"{server.address}/feature-views/{HOURLY.id}", trust_env=False).json()["online"] is None
        project.sync()
        assert httpx.get(f"{server.address}/ready", trust_env=False).status_code == 200
        assert status_of(project).views[0].problems == ()
