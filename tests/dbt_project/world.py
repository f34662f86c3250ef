"""A small world to run the dbt project in: some days of flights, some weeks of payments, a warehouse of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import duckdb

ROOT = Path(__file__).parents[2]
FLIGHTS = ROOT / "data" / "nycflights13"
VIEWS = {
    "airport__departures": "event_timestamp",
    "airport__weather": "event_timestamp",
    "carrier__delays": "event_timestamp",
    "carrier_airport__delays": "event_timestamp",
    "plane__previous_leg": "event_timestamp",
    "plane__registration": "event_timestamp",
    "customer__profile": "created_timestamp",
    "customer__purchases_v1": "created_timestamp",
    "customer__purchases_v2": "created_timestamp",
    "customer__transactions": "created_timestamp",
    "customer__visits": "created_timestamp",
    "merchant__risk": "created_timestamp",
    "merchant__transactions": "created_timestamp",
}
"""Each feature view's relation, and the column that says when a row was known."""


@dataclass(frozen=True)
class World:
    """`home` has landing/ and flights/, and after a build warehouse.duckdb."""

    home: Path

    @property
    def warehouse(self) -> Path:
        return self.home / "warehouse.duckdb"

    def dbt(self, *arguments: str, as_of: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "DBT_PROFILES_DIR": "profiles",
            "DBT_TARGET_PATH": str(self.home / "target"),
            "DBT_LOG_PATH": str(self.home / "logs"),
            "FEATURES_HOME": str(self.home),
            "FEATURES_WAREHOUSE": str(self.warehouse),
        }
        variables = json.dumps({"as_of": as_of, "flights_data": str(self.home / "flights")})
        return subprocess.run(
            [Path(sys.executable).with_name("dbt"), "--no-use-colors", *arguments, "--vars", variables],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def run(self, *arguments: str, as_of: str) -> str:
        done = self.dbt("run", *arguments, as_of=as_of)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def connect(self) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(str(self.warehouse), read_only=True)
        connection.execute("set timezone = 'UTC'")
        return connection


def make_flights(directory: Path, first: str, last: str) -> None:
    """Write the flights and the weather from one UTC day to another, and the other tables whole."""
    directory.mkdir(parents=True)
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    for source in FLIGHTS.glob("*.parquet"):
        days = f"where time_hour >= '{first}' and time_hour < '{last}'" if source.stem in ("flights", "weather") else ""
        connection.execute(f"copy (from '{source}' {days}) to '{directory / source.name}' (format parquet)")


def view_rows(connection: duckdb.DuckDBPyConnection, view: str) -> list[tuple[object, ...]]:
    return connection.sql(f"select * from {view} order by all").fetchall()
