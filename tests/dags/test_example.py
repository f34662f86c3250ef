"""The example's own hourly refresh, run by Airflow itself, with one bad row in the weather of New York's airports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from feature_server import FeatureClient
from feature_server.offline.store import OfflineStore
from feature_server.online.embedded import EmbeddedValkey
from feature_server.settings import load_settings
from tests.support.changed_project import change
from tests.support.example import copy_example

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
BAD, DOWNSTREAM = "airport__weather", "airport__frost"
BOUND = (BAD, "carrier__delays", "carrier_airport__delays")
FRESH = ("airport__departures", "customer__transactions", "merchant__transactions", "plane__previous_leg")
SEVEN, ELEVEN = (datetime(2013, 12, 30, hour, tzinfo=UTC) for hour in (19, 23))
FROST_SQL = """
select airport, event_timestamp, temperature_fahrenheit <= 32 as is_frost from {{ ref('airport__weather') }}
"""
FROST = """
models:
  - name: airport__frost
    description: Whether it freezes at an airport. One row per airport and hour.
    config:
      group: flight_operations
      materialized: table
      meta: {feature_view: {entities: [airport], refresh: hourly}}
    columns:
      - {name: airport, data_type: varchar, description: FAA code of the airport.}
      - {name: event_timestamp, data_type: timestamptz, description: "End of the hour of the observation, UTC."}
      - {name: is_frost, data_type: boolean, description: Whether it was 32 degrees Fahrenheit or less.}
"""


@dataclass(frozen=True)
class Example:
    """The example project in a folder of its own, with a view made from the weather, and a service that binds views."""

    folder: Path
    redis_url: str

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def project(self) -> Path:
        return self.folder / "project"

    def write(self) -> None:
        copy_example(self.project)
        shutil.copytree(ROOT / "data" / "nycflights13", self.project / "data" / "nycflights13")
        binds = ("        feature_service:\n", "        feature_service:\n          consistent: run\n")
        change(self.project, [("models/services/flight_delay_v1.yml", *binds)])
        (self.project / f"models/features/airport/{DOWNSTREAM}.sql").write_text(FROST_SQL)
        (self.project / f"models/features/airport/{DOWNSTREAM}.yml").write_text(FROST)

    def run(self, clock: datetime, *arguments: str, good: bool | None = True) -> str:
        """A module of this repository's, at an instant."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("FEATURES_", "AIRFLOW"))}
        environment = own | {
            "FEATURES_PROJECT_DIR": str(self.project),
            "FEATURES_HOME": str(self.home),
            "FEATURES_TARGET_PATH": str(self.home / "target"),
            "FEATURES_REDIS_URL": self.redis_url,
            "FEATURES_CLOCK": clock.isoformat(),
        }
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert good is None or (done.returncode == 0) == good, done.stdout[-5000:] + done.stderr[-2000:]
        return done.stdout

    def refresh(self, clock: datetime, *cadences: str, good: bool | None = True) -> dict[str, Any]:
        """What `scripts.refresh` says, with the state of each task of the first cadence."""
        told = self.run(clock, "scripts.refresh", *cadences, "--at", clock.isoformat(), "--json", good=good)
        found: dict[str, Any] = json.loads(told)
        return found | {"states": {task["task"]: task["state"] for task in found["runs"][0]["tasks"]}}

    def status(self, clock: datetime, *, good: bool) -> dict[str, Any]:
        told = self.run(clock, "feature_server", "status", "--json", good=good)
        return {view["view"]: view for view in json.loads(told)["views"]}

    def versions(self) -> dict[str, int]:
        store = OfflineStore(self.home / "offline")
        return {view: store.table(view).version for view in (*BOUND, DOWNSTREAM, *FRESH)}

    def bound(self) -> list[tuple[Any, ...]]:
        """What a model reads of the views that the service binds: each value with its event timestamp."""
        features = [
            f"{BAD}:temperature_fahrenheit", "carrier__delays:late_share_24h", "carrier_airport__delays:late_share_6h",
        ]  # fmt: skip
        settings = load_settings({}, project_dir=self.project, clock=ELEVEN)
        with FeatureClient(self.redis_url, settings=settings) as client:
            row = client.get(features, carrier="UA", airport="EWR")
        return [(row.values[name], row.event_timestamps[name]) for name in row.values]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    """Refreshed at seven in the evening."""
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        example = Example(tmp_path_factory.mktemp("example"), server.url)
        example.write()
        for feed in ("payments", "flights"):
            example.run(SEVEN, f"examples.{feed}", "--out", str(example.home / "landing"))
        example.run(SEVEN, "feature_server", "apply")
        example.refresh(SEVEN, "hourly", "daily")
        yield example


def test_a_bad_view_keeps_its_own_and_what_it_is_bound_to_and_leaves_all_others_fresh(example: Example) -> None:
    before, served = example.versions(), example.bound()
    weather = example.project / "data" / "nycflights13" / "weather.parquet"
    hot = "case when origin = 'EWR' and time_hour = timestamptz '2013-12-30 21:00Z' then 500 else temp end as temp"
    duckdb.sql(f"copy (select * replace ({hot}) from '{weather}') to '{weather}.bad' (format parquet)")
    Path(f"{weather}.bad").replace(weather)
    told = example.refresh(ELEVEN, "hourly", good=False)
    states = told["states"]
    assert {name for name, state in states.items() if state == "failed"} == {f"dbt.{BAD}"}
    assert {name for name, state in states.items() if state == "skipped"} == {f"dbt.{DOWNSTREAM}"}
    assert {name for name, state in states.items() if state == "upstream_failed"} == {"good"}
    assert any("in_range_airport__weather_temperature_fahrenheit" in reason for reason in told["reasons"])

    after = example.versions()
    assert {view for view in before if after[view] == before[view]} == {*BOUND, DOWNSTREAM}
    assert example.bound() == served
    status = example.status(ELEVEN, good=True)
    for view in FRESH:
        assert status[view]["synced_version"] == after[view], view
        assert datetime.fromisoformat(status[view]["newest_event"]) > SEVEN, view
    promise = status[BAD]["freshness"]
    assert (promise["state"], promise["cause"], promise["age_seconds"]) == ("warn", "build failed", 4 * 3600)
    assert "in_range_airport__weather_temperature_fahrenheit" in promise["why"]


def test_a_source_that_stops_is_told_once_by_the_runs_themselves(example: Example) -> None:
    """After the test above, with the weather's file as it was: it ends on the 30th, and so do its rows."""
    weather = "data/nycflights13/weather.parquet"
    shutil.copy(ROOT / weather, example.project / weather)
    loaded = "        config: {loaded_at_field: time_hour, freshness: {error_after: {count: 3, period: hour}}}\n"
    sources, named = "models/staging/flights/_flights__sources.yml", "      - name: weather\n"
    change(example.project, [(sources, named, f"{named}{loaded}")])
    alerts = []
    for hours in (0, 9):
        clock = ELEVEN + timedelta(hours=hours)
        first = example.refresh(clock, "freshness", good=None)
        example.refresh(clock, "hourly", good=True)
        again = example.refresh(clock, "freshness", good=None)
        alerts += [reason for told in (first, again) for reason in told["reasons"] if reason.startswith(BAD)]
    assert len(alerts) == 1, alerts
    assert "no data: source flights.weather was last loaded at" in alerts[0]
    state = example.status(clock, good=False)[BAD]
    assert (state["freshness"]["state"], state["freshness"]["cause"]) == ("error", "no data")
