"""Freshness promises: what is compared, and which broken link is named."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from feature_server.catalog.alerts import news, note_told
from feature_server.catalog.freshness import Chain, judge
from feature_server.catalog.promise import stands, state_of
from feature_server.catalog.status import ViewStatus, read_status
from feature_server.dbt.stale import sources_file, stale_sources
from feature_server.definitions.facts import Freshness
from feature_server.errors import OfflineStoreError, WarehouseError
from feature_server.project.target import Answer, Asked, Target, remember
from feature_server.publish.noted import GoodRun, Noted, note_failed, note_published, read_noted
from feature_server.settings import Settings, load_settings
from feature_server.times import to_us
from tests.support.sync_project import Tables, at, make_view, registry_of, run_sync

HOUR_US = 3_600_000_000
PROMISE = Freshness(warn_us=2 * HOUR_US, error_us=6 * HOUR_US)
VIEW = replace(
    make_view("customer__spend", refresh="hourly", online=False), unique_id="model.p.spend", freshness=PROMISE
)
ONLINE = replace(VIEW, online=True)
NOON = to_us(at(12 * 60))


def settings_at(folder: Path, moment: datetime, url: str | None = None) -> Settings:
    return load_settings({}, project_dir=folder, redis_url=url, clock=moment)


def hour(number: float) -> int:
    return to_us(at(number * 60))


def cause_of(folder: Path, **links: object) -> tuple[str, str | None]:
    """State and cause at noon of a view whose newest event is of one o'clock at night."""
    chain = Chain(**({"now_us": NOON, "newest_us": hour(1), "noted": Noted()} | links))  # type: ignore[arg-type]
    kept = judge(VIEW, PROMISE, chain, settings_at(folder, at(720)))
    return kept.state, kept.cause


def good(number: float) -> GoodRun:
    """A run that spoke of this hour and was published five minutes later."""
    return GoodRun(hour(number), hour(number) + HOUR_US // 12)


def leave(folder: Path, name: str, results: list[dict[str, object]], which: str = "build") -> None:
    (folder / "target").mkdir(exist_ok=True)
    (folder / "target" / name).write_text(json.dumps({"results": results, "args": {"which": which}}))


def leave_manifest(folder: Path) -> None:
    def node(unique_id: str, *above: str) -> dict[str, object]:
        kind, package, name = unique_id.split(".")
        return {
            "unique_id": unique_id, "resource_type": kind, "name": name, "package_name": package,
            "original_file_path": "x.sql", "depends_on": {"nodes": above, "macros": []},
        }  # fmt: skip

    nodes = (
        node("model.p.spend", "model.p.stg"), node("model.p.stg", "source.p.shop.sales"),
        node("test.p.positive", "model.p.spend"),
    )  # fmt: skip
    metadata = {"dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v12.json"}
    leave(folder, "run_results.json", [])
    written = {"metadata": metadata, "nodes": {each["unique_id"]: each for each in nodes}}
    (folder / "target" / "manifest.json").write_text(json.dumps(written))


def test_a_quiet_night_is_no_lateness_while_runs_are_good(tmp_path: Path) -> None:
    assert cause_of(tmp_path, noted=Noted(good(11))) == ("pass", None)


def test_an_event_is_as_good_as_a_run_but_not_one_of_the_future(tmp_path: Path) -> None:
    assert cause_of(tmp_path, newest_us=hour(11.5)) == ("pass", None)
    assert cause_of(tmp_path, newest_us=hour(13))[0] == "error"


@pytest.mark.parametrize(("hours", "state"), [(2, "pass"), (2.01, "warn"), (6, "warn"), (6.01, "error")])
def test_a_limit_itself_is_kept(tmp_path: Path, hours: float, state: str) -> None:
    assert cause_of(tmp_path, newest_us=hour(12 - hours))[0] == state


def test_of_what_nothing_is_known_the_worst_is_said(tmp_path: Path) -> None:
    assert cause_of(tmp_path, newest_us=None) == ("error", "build failed")
    assert state_of(Freshness(warn_us=1), None) == "warn"


@pytest.mark.parametrize("cause", ["not applied", "no data", "build failed", "not published"])
def test_what_the_last_run_came_to_is_the_cause(tmp_path: Path, cause: str) -> None:
    assert cause_of(tmp_path, noted=Noted(good(1), cause, "so it was")) == ("error", cause)  # type: ignore[arg-type]


def test_a_source_that_dbt_finds_stale_comes_before_a_red_build(tmp_path: Path) -> None:
    leave(tmp_path, "run_results.json", [{"unique_id": "model.p.spend", "status": "error", "message": "no"}])
    assert cause_of(tmp_path) == ("error", "build failed")
    assert cause_of(tmp_path, stale="source shop.sales") == ("error", "no data")


def test_a_red_test_of_the_view_is_a_failed_build(tmp_path: Path) -> None:
    leave_manifest(tmp_path)
    made = {"unique_id": "model.p.spend", "status": "success", "relation_name": "spend"}
    leave(tmp_path, "run_results.json", [made, {"unique_id": "test.p.positive", "status": "fail"}])
    chain = Chain(now_us=NOON, newest_us=hour(1), noted=Noted())
    kept = judge(VIEW, PROMISE, chain, settings_at(tmp_path, at(720)))
    assert (kept.cause, "positive failed" in kept.why) == ("build failed", True)


def test_a_view_that_was_built_since_is_not_published(tmp_path: Path) -> None:
    began = [{"started_at": at(11 * 60).isoformat()}]
    made = {"unique_id": "model.p.spend", "status": "success", "relation_name": "spend", "timing": began}
    leave(tmp_path, "run_results.json", [made])
    assert cause_of(tmp_path, noted=Noted(good(1))) == ("error", "not published")


def test_a_run_counts_once_it_is_synced(tmp_path: Path) -> None:
    noted = Noted(good(11))
    assert cause_of(tmp_path, noted=noted, online=True, synced_run_us=hour(11)) == ("pass", None)
    assert cause_of(tmp_path, noted=noted, online=True, synced_run_us=hour(9)) == ("warn", "not synced")
    assert cause_of(tmp_path, noted=noted, online=True, synced_run_us=hour(1)) == ("error", "not synced")
    assert cause_of(tmp_path, noted=noted, online=True, synced_run_us=None) == ("error", "not synced")


@given(*[st.none() | st.integers(-3, 15)] * 3)
def test_what_is_known_is_the_latest_of_what_readers_can_know(
    run: int | None, newest: int | None, waiting: int | None
) -> None:
    standing = stands(
        PROMISE, now_us=NOON, newest_us=None if newest is None else hour(newest),
        run_us=None if run is None else hour(run), waiting_us=None if waiting is None else hour(waiting),
    )  # fmt: skip
    told = [] if run is None else [run if waiting is None else min(run, waiting)]
    told += [] if newest is None or newest > 12 else [newest]
    assert standing.age_us == (max(12 - max(told), 0) * HOUR_US if told else None)


def test_runs_are_noted_until_the_source_stops(tmp_path: Path) -> None:
    settings = settings_at(tmp_path, at(60))
    note_published(VIEW, settings, as_of_us=hour(1), stale=None)
    note_published(VIEW, settings_at(tmp_path, at(90)), as_of_us=hour(1), stale=None)
    assert read_noted(VIEW.id, settings) == Noted(GoodRun(hour(1), hour(1)))
    note_published(VIEW, settings_at(tmp_path, at(120)), as_of_us=hour(2), stale="source shop.sales is old")
    assert read_noted(VIEW.id, settings) == Noted(GoodRun(hour(1), hour(1)), "no data", "source shop.sales is old")


def test_why_a_run_was_not_published_is_noted(tmp_path: Path) -> None:
    settings = settings_at(tmp_path, at(60))
    note_failed(VIEW, settings, WarehouseError("tests failed", where="customer__spend"))
    assert read_noted(VIEW.id, settings).cause == "build failed"
    note_failed(VIEW, settings, OfflineStoreError("no room"))
    assert read_noted(VIEW.id, settings).cause == "not published"


def test_a_broken_promise_is_news_once_a_cause_and_again_when_it_is_kept(tmp_path: Path) -> None:
    settings = settings_at(tmp_path, at(720))

    def told(newest: float, *, reached: bool = True, **links: object) -> str | None:
        chain = Chain(**({"now_us": NOON, "newest_us": hour(newest), "noted": Noted()} | links))  # type: ignore[arg-type]
        found = news("v", judge(VIEW, PROMISE, chain, settings), settings)
        if found is None:
            return None
        if reached:
            note_told("v", found.cause, settings)
        return found.cause or "kept"

    assert [told(1), told(2), told(1, stale="x"), told(0, stale="x"), told(8), told(12), told(12), told(1)] == [
        "build failed", None, "no data", None, "kept", None, None, "build failed",
    ]  # fmt: skip
    assert [told(12, reached=False), told(12), told(12)] == ["kept", "kept", None]
    assert [told(1), told(8), told(1)] == ["build failed", "kept", "build failed"]  # it warned in between


def status_of(tables: Tables, moment: datetime) -> ViewStatus:
    settings = settings_at(tables.store.root.parents[1], moment)
    (state,) = read_status(settings, registry_of(VIEW)).views
    return state


def test_status_names_a_stopped_source_and_says_nothing_of_a_quiet_night(tmp_path: Path) -> None:
    tables = Tables(tmp_path / ".features" / "offline")
    tables.commit(VIEW, [[(1, at(60), 5.0)]])
    note_published(VIEW, settings_at(tmp_path, at(11 * 60)), as_of_us=hour(11), stale=None)
    quiet = status_of(tables, at(12 * 60))
    assert (quiet.problems, quiet.freshness and quiet.freshness.age_seconds) == ((), 3600.0)
    leave_manifest(tmp_path)
    stopped = {"unique_id": "source.p.shop.sales", "status": "error", "max_loaded_at": "2024-01-01T11:00:00Z"}
    leave(tmp_path, "sources.json", [stopped])
    note_published(VIEW, settings_at(tmp_path, at(18 * 60)), as_of_us=hour(18), stale="source shop.sales is old")
    assert status_of(tables, at(17 * 60)).problems == ()
    assert status_of(tables, at(18 * 60)).problems == (
        "late: what is known of it is 7 h old, promised is at most 6 h; no data: source shop.sales was last loaded at "
        "2024-01-01 11:00 UTC; look at what loads it, then `dbt source freshness`",
    )


def test_a_promise_takes_the_place_of_twice_the_cadence(tmp_path: Path) -> None:
    tables = Tables(tmp_path / ".features" / "offline")
    tables.commit(VIEW, [[(1, at(60), 5.0)]])
    later = tables.store.table(VIEW.id).published_at_us
    moment = at(0) + timedelta(microseconds=later - to_us(at(0))) + timedelta(hours=5)
    note_published(VIEW, settings_at(tmp_path, moment), as_of_us=later, stale=None)
    found = status_of(tables, moment)
    assert (found.problems, found.freshness and found.freshness.state) == ((), "warn")


def test_an_online_view_that_is_not_synced_again_is_told(tmp_path: Path, valkey: str) -> None:
    tables = Tables(tmp_path / ".features" / "offline")
    tables.commit(ONLINE, [[(1, at(60), 5.0)]])
    note_published(ONLINE, settings_at(tmp_path, at(60)), as_of_us=hour(1), stale=None)
    run_sync(valkey, tables, ONLINE, now=at(61))
    note_published(ONLINE, settings_at(tmp_path, at(11 * 60)), as_of_us=hour(11), stale=None)
    (state,) = read_status(settings_at(tmp_path, at(12 * 60), valkey), registry_of(ONLINE)).views
    assert state.freshness is not None
    assert (state.freshness.state, state.freshness.cause) == ("error", "not synced")


def test_what_dbt_found_of_another_targets_sources_is_not_taken(tmp_path: Path) -> None:
    """The newer of the two files counts, and dbt's own for the project's own target alone; a warning is late too."""

    def found(moment: datetime, minutes: int, status: str, target: str, *, kept: bool) -> bool:
        (tmp_path / "dbt_project.yml").write_text("name: shop\n")
        environ = {"DBT_TARGET": target}
        where = Target(profile="shop", name=target, kind="duckdb", path="a.duckdb", own_profile="shop", default="dev")
        remember(Asked(tmp_path, environ, tmp_path / ".features"), Answer(where, {}))
        settings = load_settings(environ, project_dir=tmp_path, clock=moment)
        place = sources_file(settings) if kept else tmp_path / "target" / "sources.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        checked = {"unique_id": "source.p.shop.sales", "status": status, "max_loaded_at": at(0).isoformat()}
        place.write_text(json.dumps({"results": [checked], "metadata": {"generated_at": at(minutes).isoformat()}}))
        return "customer__spend" in stale_sources([VIEW], settings)

    leave_manifest(tmp_path)
    assert found(at(60), 10, "warn", "dev", kept=False)
    assert not found(at(60), 20, "pass", "dev", kept=True)
    assert found(at(60), 30, "error", "dev", kept=False)
    assert not found(at(60), 5, "pass", "prod", kept=True)
    assert found(at(60), 6, "error", "prod", kept=True)
    assert not found(at(60), 40, "pass", "dev", kept=True)
    unknown = load_settings({"DBT_TARGET": "other", "FEATURES_HOME": "new"}, project_dir=tmp_path, clock=at(60))
    assert stale_sources([VIEW], unknown) == {}, "nobody has asked dbt yet which target that is"
