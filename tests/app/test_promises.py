"""Freshness promises in the feature server's metrics and on its pages, at the moment that they are asked for."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from feature_server.app.promised import read_pushed, standings
from feature_server.definitions.facts import Freshness
from feature_server.history.live import read_live
from feature_server.online.store import OnlineStore
from feature_server.times import to_us
from tests.support.live_project import NOW, LiveProject, make_live_view, payment
from tests.support.served import metrics, served
from tests.support.sync_project import Tables, at, make_view, run_sync

HOUR_US = 3_600_000_000
PROMISE = Freshness(warn_us=2 * HOUR_US, error_us=6 * HOUR_US)
QUIET = replace(make_view("customer__quiet"), freshness=PROMISE)
STOPPED = replace(make_view("customer__stopped"), freshness=Freshness(error_us=6 * HOUR_US))
NEVER = replace(make_view("customer__never"), freshness=Freshness(warn_us=HOUR_US))
OFFLINE = replace(make_view("customer__offline", online=False), freshness=PROMISE)
PLAIN = make_view("customer__plain")


@pytest.fixture
def tables(tmp_path: Path, valkey: str) -> Tables:
    """Newest events of one o'clock; runs that spoke of eleven and of three o'clock were good, as of synced views."""
    tables = Tables(tmp_path)
    for view in (QUIET, STOPPED, PLAIN, NEVER):
        tables.commit(view, [[(1, at(60), 5.0)]])
    good = {QUIET.id: to_us(at(11 * 60)), STOPPED.id: to_us(at(3 * 60))}
    views = (QUIET, STOPPED, NEVER, OFFLINE, PLAIN)
    run_sync(valkey, tables, *views, now=at(700), names=[QUIET.id, STOPPED.id, PLAIN.id], good_us=good.get)
    return tables


def told(address: str, *names: str) -> dict[str, tuple[float | None, ...]]:
    found = metrics(address)
    views = (QUIET.id, STOPPED.id, NEVER.id, OFFLINE.id, PLAIN.id)
    return {view: values for view in views if any(values := tuple(found.get((name, view)) for name in names))}


def test_metrics_tell_how_each_promise_stands(tables: Tables, valkey: str) -> None:
    state, age, good = (
        "features_view_freshness_state", "features_view_freshness_age_seconds", "features_view_good_run_age_seconds",
    )  # fmt: skip
    with served(valkey, clock=at(12 * 60).isoformat()) as server:
        assert told(server.address, state, age, good) == {
            QUIET.id: (0, 3600, 3600),
            STOPPED.id: (2, 9 * 3600, 9 * 3600),
            NEVER.id: (1, None, None),
        }
        found = metrics(server.address)
        limits = {key[1:]: value for key, value in found.items() if key[0] == "features_view_freshness_limit_seconds"}
        assert limits == {
            ("warn", QUIET.id): 7200, ("error", QUIET.id): 21600, ("error", STOPPED.id): 21600,
            ("warn", NEVER.id): 3600,
        }  # fmt: skip


def test_pages_tell_how_promises_stand(tables: Tables, valkey: str) -> None:
    with served(valkey, clock=at(14 * 60).isoformat()) as server:

        def get(path: str, accept: str = "*/*") -> httpx.Response:
            return httpx.get(server.address + path, headers={"accept": accept}, trust_env=False)

        known: dict[str, Any] = {view["id"]: view["freshness"] for view in get("/feature-views").json()}
        assert known[QUIET.id] == {
            "promise": "warn after 2h, error after 6h", "state": "warn", "age_seconds": 10800.0,
            "last_good_run": "2024-01-01T11:00:00Z", "warn_seconds": 7200.0, "error_seconds": 21600.0,
        }  # fmt: skip
        assert known[OFFLINE.id] == known[QUIET.id] | {"state": None, "age_seconds": None, "last_good_run": None}
        assert known[PLAIN.id] is None
        assert get(f"/feature-views/{STOPPED.id}").json()["freshness"]["state"] == "error"
        page = " ".join(get(f"/feature-views/{STOPPED.id}", "text/html").text.split())
        assert "broken</span>: known up to 11 h ago; error after 6h" in page
        assert "2024-01-01T03:00:00Z" in page
        index = " ".join(get("/", "text/html").text.split())
        assert "past its warning</span>: known up to 3 h ago; warn after 2h, error after 6h" in index
        assert "past its warning</span>: nothing is known of it; warn after 1h" in index


def test_a_run_counts_for_servers_once_it_is_synced(tables: Tables, valkey: str) -> None:
    with served(valkey, clock=at(15 * 60).isoformat()) as server:
        assert told(server.address, "features_view_good_run_age_seconds")[QUIET.id] == (4 * 3600,)
        run_sync(
            valkey, tables, QUIET, STOPPED, NEVER, OFFLINE, PLAIN,
            now=at(14 * 60), names=[QUIET.id], good_us=lambda view: to_us(at(13 * 60)),
        )  # fmt: skip
        assert told(server.address, "features_view_good_run_age_seconds")[QUIET.id] == (2 * 3600,)


def test_a_push_that_waits_is_known_at_once_but_no_run_is_good_beyond_it(tmp_path: Path, valkey: str) -> None:
    view = replace(make_live_view(), freshness=PROMISE)
    project = LiveProject(tmp_path, valkey, view)
    project.landed("a", [payment(1, 5, 600)])
    project.publish()
    project.sync(good_us=lambda view_id: to_us(NOW) - HOUR_US)

    def standing(hours: float) -> tuple[str, float | None]:
        now_us = to_us(NOW + timedelta(hours=hours))
        with OnlineStore(valkey) as store:
            online = store.registry()
            assert online is not None
            pushed = read_pushed(store, online)
            live = [replace(read_live(store, "shop.payments"), oldest_seconds=hours * 3600 if pushed else None)]
        found = standings(online, live, pushed, now_us)[view.id]
        return found.state, None if found.age_us is None else found.age_us / HOUR_US

    assert standing(1) == ("pass", 2)
    project.push(payment(2, 5, 0))
    assert standing(1) == ("pass", 1)
    assert standing(7) == ("error", 7)
