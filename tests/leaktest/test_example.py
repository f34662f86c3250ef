"""The example at five pairs of instants: no view of it leaks, and what has no landing time is not called clean."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from examples import flights, payments
from feature_server.leaktest.run import LeakTest, leaktest
from feature_server.settings import load_settings

ROOT = Path(__file__).parents[2]
NO_LANDING = ["airport__weather", "plane__registration"]
pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten days of flights and five weeks of payments, with late and corrected rows."""
    home = tmp_path_factory.mktemp("example")
    flights.main(
        ["--out", str(home / "landing"), "--data", str(ROOT / "data" / "nycflights13"),
         "--since", "2013-12-18T00:00:00Z", "--until", "2013-12-28T00:00:00Z"]
    )  # fmt: skip
    for event, feed in (("departure_id", "departures"), ("arrival_id", "arrivals")):
        late(home / "landing" / feed, event)
    payments.main(
        ["--out", str(home / "landing"), "--customers", "100", "--merchants", "12", "--transactions", "6000",
         "--days", "40", "--until", "2013-12-28T00:00:00Z"]
    )  # fmt: skip
    return home


def late(folder: Path, event: str) -> None:
    """One event in 97 lands five hours late, as when a link is down; the feed itself has none."""
    with duckdb.connect() as connection:
        for path in folder.glob("*.parquet"):
            landed = f"ingested_at + to_hours(case when {event} % 97 = 0 then 5 else 0 end) as ingested_at"
            connection.execute(f"create or replace table landed as select * replace ({landed}) from '{path}'")
            connection.execute(f"copy landed to '{path}' (format parquet)")


@pytest.fixture(scope="module")
def found(home: Path) -> LeakTest:
    return leaktest(load_settings(project_dir=ROOT, home=home), later="2013-12-27T12:00:00Z", pairs=5)


def test_no_view_of_the_example_leaks_at_five_pairs_of_instants(found: LeakTest) -> None:
    verdicts = {view.view: view.verdict for view in found.views}
    assert verdicts == {name: "untestable" if name in NO_LANDING else "clean" for name in verdicts}
    assert len(verdicts) == 13
    assert {view.view: len(view.pairs) for view in found.views} == dict.fromkeys(verdicts, 5)
    assert [view.view for view in found.views if sum(pair.found.rows for pair in view.pairs) < 100] == []


def test_the_commands_of_the_page_run_on_the_example(home: Path) -> None:
    page = (ROOT / "docs" / "leaktest.md").read_text()
    commands = [line for line in re.findall(r"^features (leaktest.*)$", page, re.MULTILINE) if "--known-at" not in line]
    assert len(commands) == 2
    for command in commands:
        run = subprocess.run(
            [sys.executable, "-m", "feature_server", *command.split()],
            cwd=ROOT, env={**os.environ, "FEATURES_HOME": str(home)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        told = (0, "2 clean") if "--pairs" in command else (4, "11 clean, 2 untestable")
        assert (run.returncode, run.stdout.splitlines()[-1]) == told, run.stderr


def test_nothing_but_what_landed_stands_in_the_folder_of_the_example(found: LeakTest, home: Path) -> None:
    assert [path.name for path in home.iterdir() if path.name != "dbt_targets.json"] == ["landing"]
