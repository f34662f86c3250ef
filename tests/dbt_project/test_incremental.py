"""Building step by step gives what building at once gives, and a build knows nothing of what comes later."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import duckdb
import pytest

from tests.dbt_project.conftest import STEPS
from tests.dbt_project.world import STREAM_VIEWS, VIEWS, World, view_rows

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize("view", VIEWS)
def test_incremental_builds_give_what_a_full_build_gives(steps: list[World], full: World, view: str) -> None:
    with steps[-1].connect() as incremental, full.connect() as rebuilt:
        expected = view_rows(rebuilt, view)
        assert len(expected) > 30
        assert view_rows(incremental, view) == expected


def test_the_steps_held_late_and_corrected_rows(steps: list[World]) -> None:
    with steps[-1].connect() as connection:
        late, corrected = connection.sql(
            f"select count(*) filter (known_at > '{STEPS[0]}' and known_at > occurred_at + interval '3 hours'),"
            f" count(*) filter (superseded_at > '{STEPS[0]}') from stg_payments__transactions"
        ).fetchall()[0]
        rewritten = connection.sql(
            "select count(*) from merchant__transactions"
            f" where created_timestamp > '{STEPS[2]}' and event_timestamp < '{STEPS[2]}'"
        ).fetchall()[0][0]
    assert late > 5
    assert corrected >= 3
    assert rewritten > 10


@pytest.mark.parametrize("view", VIEWS)
def test_a_row_once_written_stays_as_it_is(steps: list[World], view: str) -> None:
    for before, after, as_of in zip(steps, steps[1:], STEPS, strict=False):
        with before.connect() as old, after.connect() as new:
            known = f"(from {view} where {VIEWS[view]} <= '{as_of}')"
            assert view_rows(new, known) == view_rows(old, view)


@pytest.mark.parametrize("view", VIEWS)
def test_the_build_log_names_the_first_event_time_that_changed(steps: list[World], view: str) -> None:
    for number, world in enumerate(steps):
        with world.connect() as connection:
            logged = connection.sql(
                f"select as_of, changed_from from feature_builds where model = '{view}' order by as_of"
            ).fetchall()
            assert len(logged) == number + 1
            as_of, changed_from = logged[-1]
            assert as_of == datetime.fromisoformat(STEPS[number])
            if number == 0 or view == "plane__registration":
                assert changed_from is None
                continue
            added = connection.sql(
                f"select min(event_timestamp) from {view} where {VIEWS[view]} > '{STEPS[number - 1]}'"
            ).fetchall()[0][0]
            assert changed_from == (added or as_of)


@pytest.mark.parametrize("view", STREAM_VIEWS)
def test_every_build_makes_a_stream_view_anew(steps: list[World], full: World, view: str) -> None:
    with steps[-1].connect() as stepwise, full.connect() as rebuilt:
        expected = view_rows(rebuilt, view)
        assert len(expected) > 30
        assert view_rows(stepwise, view) == expected
        logged = stepwise.sql(f"select changed_from from feature_builds where model = '{view}'").fetchall()
    assert logged == [(None,)] * len(STEPS)


def test_labels_are_files(full: World) -> None:
    for name in ("flight_delay_labels", "fraud_labels"):
        table = duckdb.sql(f"from '{full.home}/labels/{name}.parquet'").to_arrow_table()
        assert table.num_rows > 1000
        assert table.schema.field("event_timestamp").type.tz is not None


def forget_the_future(home: Path, as_of: str) -> None:
    """Remove what landed after `as_of`, and weather that was observed after it."""
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    for path in (home / "landing").glob("*/*.parquet"):
        connection.execute(f"create or replace table landed as from '{path}' where ingested_at <= '{as_of}'")
        connection.execute(f"copy landed to '{path}' (format parquet)")
    weather = home / "flights" / "weather.parquet"
    connection.execute(
        f"create table weather as from '{weather}' where time_hour + interval '1 hour' <= '{as_of}'::timestamptz"
    )
    connection.execute(f"copy weather to '{weather}' (format parquet)")


def test_a_build_reads_nothing_from_after_its_instant(full: World, steps: list[World], world: World) -> None:
    as_of = STEPS[1]
    forget_the_future(world.home, as_of)
    world.run(as_of=as_of)
    with world.connect() as cut, full.connect() as everything:
        for view, known_at in VIEWS.items():
            known = f"(from {view} where {known_at} <= '{as_of}')"
            assert view_rows(cut, view) == view_rows(everything, known), view
    with world.connect() as cut, steps[1].connect() as everything:
        for view in STREAM_VIEWS:
            assert view_rows(cut, view) == view_rows(everything, view), view


def test_a_clock_set_back_and_rewritten_history_rebuild_from_nothing(
    full: World, steps: list[World], tmp_path: Path
) -> None:
    world = World(tmp_path / "world")
    shutil.copytree(full.home, world.home)
    only = ("--select", "+customer__visits", "+merchant__transactions")
    latest = "select model, changed_from from feature_builds order by rowid desc limit 2"
    world.run(*only, as_of=STEPS[2])
    with world.connect() as connection, steps[2].connect() as expected:
        assert sorted(connection.sql(latest).fetchall()) == [
            ("customer__visits", None),
            ("merchant__transactions", None),
        ]
        for view in ("customer__visits", "merchant__transactions"):
            assert view_rows(connection, view) == view_rows(expected, view)

    (world.home / "landing" / "visits" / "2013-12-10.parquet").unlink()
    output = world.run(*only, as_of=STEPS[2])
    assert "rows of stg_payments__visits have changed since the last run" in output
    with world.connect() as connection:
        assert dict(connection.sql(latest).fetchall()) == {
            "merchant__transactions": datetime.fromisoformat(STEPS[2]),
            "customer__visits": None,
        }
        ghosts = connection.sql(
            "select count(*) from customer__visits where created_timestamp::date = '2013-12-10'"
            " and created_timestamp > event_timestamp"
        ).fetchall()
        assert ghosts == [(0,)]
