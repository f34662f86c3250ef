"""What `features status` calls late, expired, behind or missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from feature_server.catalog.lateness import span
from feature_server.catalog.status import Status, ViewStatus, read_status
from feature_server.definitions.facts import FeatureView
from feature_server.settings import Settings, load_settings
from feature_server.times import EPOCH
from tests.support.sync_project import Tables, at, make_view, registry_of, run_sync

HOURLY = make_view("customer__spend", refresh="hourly")
OFFLINE_ONLY = make_view("customer__visits", refresh="hourly", online=False)
NOW = at(60)
ROWS = [(1, at(0), 5.0), (1, at(30), 7.0), (2, at(10), 1.0)]


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / ".features" / "offline")


def settings_of(tables: Tables, url: str | None, now: datetime) -> Settings:
    return load_settings({}, project_dir=tables.store.root.parents[1], redis_url=url, clock=now)


def status_of(tables: Tables, url: str | None, *views: FeatureView, now: datetime = NOW) -> Status:
    return read_status(settings_of(tables, url, now), registry_of(*views))


def problems(status: Status) -> dict[str, list[str]]:
    return {view.view: [problem.partition(":")[0] for problem in view.problems] for view in status.views}


def published_at(tables: Tables, view: FeatureView) -> datetime:
    return EPOCH + timedelta(microseconds=tables.store.table(view.id).published_at_us)


def test_a_view_that_is_published_and_synced_is_good(tables: Tables, valkey: str) -> None:
    tables.commit(HOURLY, [ROWS])
    run_sync(valkey, tables, HOURLY, now=at(40))
    published = published_at(tables, HOURLY)
    assert status_of(tables, valkey, HOURLY, now=at(60)) == Status(
        at=at(60),
        views=(
            ViewStatus(
                view="customer__spend",
                entities=("customer",),
                refresh="hourly",
                rows=3,
                published_version=0,
                published_at=published,
                newest_event=at(30),
                age_seconds=1800.0,
                refreshed_at=published,
                online=True,
                online_rows=2,
                online_newest_event=at(30),
                synced_version=0,
                synced_at=at(40),
            ),
        ),
    )


def test_a_view_without_a_table_was_never_published(tables: Tables, valkey: str) -> None:
    status = status_of(tables, valkey, HOURLY)
    assert status.views[0].problems == ("never published: run `features publish customer__spend`",)
    assert not status.good


def test_an_online_view_that_is_not_in_redis_was_never_synced(tables: Tables, valkey: str) -> None:
    tables.commit(HOURLY, [ROWS])
    tables.commit(OFFLINE_ONLY, [ROWS])
    status = status_of(tables, valkey, HOURLY, OFFLINE_ONLY)
    assert problems(status) == {"customer__spend": ["never synced"], "customer__visits": []}


def test_a_newer_version_offline_means_online_is_behind(tables: Tables, valkey: str) -> None:
    tables.commit(HOURLY, [ROWS])
    run_sync(valkey, tables, HOURLY, now=at(40))
    tables.commit(HOURLY, [[(3, at(50), 2.0)]])
    assert status_of(tables, valkey, HOURLY).views[0].problems == (
        "behind: version 0 is online, 1 is published; run `features sync customer__spend`",
    )


def test_another_definition_is_told_offline_and_online(tables: Tables, valkey: str) -> None:
    tables.commit(HOURLY, [ROWS])
    run_sync(valkey, tables, HOURLY, now=at(40))
    changed = replace(HOURLY, fingerprint="another")
    assert problems(status_of(tables, valkey, changed)) == {
        "customer__spend": ["published for an earlier definition", "online with an earlier definition"]
    }


def test_a_view_taken_offline_is_told_until_the_next_sync(tables: Tables, valkey: str) -> None:
    tables.commit(HOURLY, [ROWS])
    run_sync(valkey, tables, HOURLY, now=at(40))
    assert problems(status_of(tables, valkey, replace(HOURLY, online=False))) == {"customer__spend": ["still online"]}


@pytest.mark.parametrize(
    ("refresh", "allowed"),
    [("hourly", timedelta(hours=2)), ("daily", timedelta(days=2)), ("weekly", timedelta(weeks=2))],
)
def test_a_view_is_late_after_twice_the_time_between_its_refreshes(
    tables: Tables, refresh: str, allowed: timedelta
) -> None:
    view = replace(OFFLINE_ONLY, refresh=refresh)
    tables.commit(view, [ROWS])
    limit = published_at(tables, view) + allowed
    assert problems(status_of(tables, None, view, now=limit)) == {view.id: []}
    assert problems(status_of(tables, None, view, now=limit + timedelta(seconds=1))) == {view.id: ["late"]}


def test_a_manual_view_is_never_late(tables: Tables) -> None:
    view = replace(OFFLINE_ONLY, refresh="manual")
    tables.commit(view, [ROWS])
    assert status_of(tables, None, view, now=published_at(tables, view) + timedelta(days=4000)).good


def test_a_sync_that_found_no_change_counts_as_a_refresh(tables: Tables, valkey: str) -> None:
    tables.commit(HOURLY, [ROWS])
    later = published_at(tables, HOURLY) + timedelta(days=3)
    run_sync(valkey, tables, HOURLY, now=later - timedelta(hours=1))
    assert status_of(tables, valkey, HOURLY, now=later).good


def test_a_view_is_expired_when_its_newest_event_is_older_than_its_ttl(tables: Tables) -> None:
    view = replace(make_view("v", ttl="1h", online=False), refresh="manual")
    tables.commit(view, [ROWS])
    assert status_of(tables, None, view, now=at(90)).good
    assert status_of(tables, None, view, now=at(90) + timedelta(minutes=1)).views[0].problems == (
        "expired: its newest event is 1 h 1 min old, the ttl is 1h; look at its sources",
    )


def test_when_redis_is_gone_status_says_so_and_still_shows_the_offline_store(tables: Tables, tmp_path: Path) -> None:
    tables.commit(HOURLY, [ROWS])
    status = status_of(tables, f"unix://{tmp_path}/nobody.sock", HOURLY)
    assert not status.good
    assert "remedy" in (status.online_store or "")
    assert status.views[0].rows == 3
    assert status.views[0].problems == ()


def test_status_starts_no_server_where_nothing_was_ever_synced(tables: Tables) -> None:
    tables.commit(HOURLY, [ROWS])
    assert problems(status_of(tables, None, HOURLY)) == {"customer__spend": ["never synced"]}
    assert not (tables.store.root.parent / "valkey").exists()


def run_status(tables: Tables, url: str, now: datetime, *words: str) -> subprocess.CompletedProcess[str]:
    home = tables.store.root.parent
    where = {"FEATURES_PROJECT_DIR": str(home), "FEATURES_HOME": str(home)}
    where |= {"FEATURES_REDIS_URL": url, "FEATURES_CLOCK": now.isoformat()}
    command = [sys.executable, "-m", "feature_server", "status", *words]
    return subprocess.run(command, env=os.environ | where, capture_output=True, text=True, check=False)


def test_the_command_ends_with_1_when_anything_is_wrong_and_0_when_nothing_is(tables: Tables, valkey: str) -> None:
    tables.commit(HOURLY, [ROWS])
    (tables.store.root.parent / "registry.json").write_bytes(registry_of(HOURLY).to_json())
    wrong = run_status(tables, valkey, at(60))
    assert wrong.returncode == 1
    heading, row, _, problem, summary = wrong.stdout.splitlines()
    assert heading.split()[:4] == ["view", "entity", "refresh", "rows"]
    assert row.split()[:5] == ["customer__spend", "customer", "hourly", "3", "v0"]
    assert row.endswith("never synced")
    assert problem == "customer__spend: never synced: run `features sync customer__spend`"
    assert summary == "2024-01-01 01:00 UTC: 1 feature view, 1 with problems"
    run_sync(valkey, tables, HOURLY, now=at(60))
    good = run_status(tables, valkey, at(60), "--json")
    assert good.returncode == 0, good.stderr
    (view,) = json.loads(good.stdout)["views"]
    assert (view["view"], view["synced_version"], view["problems"]) == ("customer__spend", 0, [])


def test_without_a_registry_the_command_says_what_to_do(tables: Tables, valkey: str) -> None:
    tables.store.root.mkdir(parents=True)
    run = run_status(tables, valkey, datetime(2024, 1, 1, tzinfo=UTC))
    assert run.returncode == 1
    assert "no registry has been applied" in run.stderr
    assert "remedy: run `features apply`" in run.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (7260, "2 h 1 min"),
        (86_400, "1 d"),
        (93_600, "1 d 2 h"),
        (400_000, "4 d"),
    ],
)
def test_lengths_of_time_are_told_in_two_units(seconds: float, text: str) -> None:
    assert span(seconds) == text
