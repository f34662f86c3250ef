"""What publishing notes of the runs of a view that promises freshness."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from feature_server.catalog.freshness import Chain, judge
from feature_server.definitions.facts import FeatureView, Freshness
from feature_server.publish.batch import publish_all
from feature_server.publish.noted import GoodRun, Noted, read_noted
from feature_server.settings import Settings, load_settings
from feature_server.times import to_us
from tests.support.relations import BUILD_LOG, Relations, view_of

PLAIN = view_of("spend", {"customer_id": "bigint"}, {"spend_eur": "double"})
VIEW = replace(PLAIN, freshness=Freshness(error_us=3_600_000_000))
NINE, TEN = (datetime(2024, 1, 1, hour, tzinfo=UTC) for hour in (9, 10))


def publish(folder: Path, view: FeatureView, clock: datetime) -> Settings:
    settings = load_settings({}, project_dir=folder, warehouse=folder / "warehouse.duckdb", clock=clock)
    publish_all([view], settings)
    return settings


def test_a_good_run_speaks_of_the_instant_its_build_spoke_of(tmp_path: Path) -> None:
    relations = Relations(tmp_path)
    relations.execute(
        BUILD_LOG,
        "create table spend as select 1::bigint as customer_id, timestamptz '2024-01-01 03:00Z' as event_timestamp, "
        "2.5::double as spend_eur",
        "insert into feature_builds values ('spend', now(), '2024-01-01 09:00:00.25+01', null, 'first')",
    )
    settings = publish(tmp_path, VIEW, TEN)
    first = GoodRun(to_us(NINE) - 3_600_000_000 + 250_000, to_us(TEN))
    assert read_noted("spend", settings) == Noted(first)
    relations.execute(
        "create table failed_tests as select 'spend' as model, 'positive' as test",
        "insert into feature_builds values ('spend', now(), '2024-01-01 10:00Z', null, 'second')",
    )
    publish(tmp_path, VIEW, TEN)
    found = read_noted("spend", settings)
    assert (found.good, found.cause) == (first, "build failed")
    assert "a test of it failed" in found.said


def test_a_view_that_was_left_out_of_a_run_had_no_good_one_and_is_told_why(tmp_path: Path) -> None:
    settings = load_settings({}, project_dir=tmp_path, warehouse=tmp_path / "warehouse.duckdb", clock=TEN)
    publish_all([], settings, left_out=[VIEW])
    assert (read_noted("spend", settings).cause, read_noted("spend", settings).good) == ("build failed", None)
    publish_all([], settings, held=[VIEW])
    assert read_noted("spend", settings).cause == "not applied"


def test_without_a_build_log_no_run_is_known_to_be_good(tmp_path: Path) -> None:
    Relations(tmp_path).execute(
        "create table spend as select 1::bigint as customer_id, timestamptz '2024-01-01' as event_timestamp, "
        "2.5::double as spend_eur"
    )
    settings = publish(tmp_path, VIEW, TEN)
    found = read_noted("spend", settings)
    assert (found.good, found.cause) == (None, None)
    newest = to_us(TEN) - 10 * 3_600_000_000
    chain = Chain(now_us=to_us(TEN), newest_us=newest, noted=found)
    assert VIEW.freshness
    kept = judge(VIEW, VIEW.freshness, chain, settings)
    assert (kept.state, kept.cause) == ("error", "no data")
    assert "no build log that says of when its rows speak" in kept.why


def test_a_view_without_a_promise_leaves_no_note(tmp_path: Path) -> None:
    Relations(tmp_path).execute(
        "create table spend as select 1::bigint as customer_id, timestamptz '2024-01-01' as event_timestamp, "
        "2.5::double as spend_eur"
    )
    assert not (publish(tmp_path, PLAIN, TEN).home / "runs").exists()
