"""A small world to run the dbt project in: some days of flights, some weeks of payments, a warehouse of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

ROOT = Path(__file__).parents[2]
FLIGHTS = ROOT / "data" / "nycflights13"
VIEWS = {
    "airport__weather": "event_timestamp",
    "carrier__delays": "created_timestamp",
    "carrier_airport__delays": "created_timestamp",
    "plane__registration": "event_timestamp",
    "customer__profile": "created_timestamp",
    "customer__purchases_v1": "created_timestamp",
    "customer__purchases_v2": "created_timestamp",
    "customer__visits": "created_timestamp",
    "merchant__risk": "created_timestamp",
    "merchant__transactions": "created_timestamp",
}
"""The relation of each feature view that builds append to, and the column that says when a row was known."""
STREAM_VIEWS = ("airport__departures", "customer__transactions", "plane__previous_leg")
"""The relations of stream views, which every build makes anew from the events."""

Row = dict[str, Any]


@dataclass(frozen=True)
class World:
    """`home` has landing/ and flights/, and after a build warehouse.duckdb; `root` is the dbt project's folder."""

    home: Path
    root: Path = ROOT

    @property
    def warehouse(self) -> Path:
        return self.home / "warehouse.duckdb"

    def dbt(self, *arguments: str, as_of: str) -> subprocess.CompletedProcess[str]:
        variables = json.dumps({"as_of": as_of, "flights_data": str(self.home / "flights")})
        return self._command("dbt", "--no-use-colors", *arguments, "--vars", variables)

    def features(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._command("features", *arguments)

    def _command(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "DBT_PROFILES_DIR": "profiles",
            "DBT_TARGET_PATH": str(self.home / "target"),
            "DBT_LOG_PATH": str(self.home / "logs"),
            "FEATURES_HOME": str(self.home),
            "FEATURES_TARGET_PATH": str(self.home / "target"),
            "FEATURES_WAREHOUSE": str(self.warehouse),
        }
        command = [Path(sys.executable).with_name(name), *arguments]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)

    def run(self, *arguments: str, as_of: str) -> str:
        done = self.dbt("run", *arguments, as_of=as_of)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def connect(self) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(str(self.warehouse), read_only=True)
        connection.execute("set timezone = 'UTC'")
        return connection


def make_flights(directory: Path, first: str, last: str) -> None:
    """Write the weather from one UTC day to another, and the tables of planes, airports and airlines whole."""
    directory.mkdir(parents=True)
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    for name in ("weather", "planes", "airports", "airlines"):
        source = FLIGHTS / f"{name}.parquet"
        days = f"where time_hour >= '{first}' and time_hour < '{last}'" if name == "weather" else ""
        connection.execute(f"copy (from '{source}' {days}) to '{directory / source.name}' (format parquet)")


def delay_some(folder: Path, event_id: str) -> None:
    """Let one event in 97 land five hours late, as when a link is down; the feed itself has none."""
    connection = duckdb.connect()
    for path in folder.glob("*.parquet"):
        late = f"ingested_at + to_hours(case when {event_id} % 97 = 0 then 5 else 0 end) as ingested_at"
        connection.execute(f"create or replace table landed as select * replace ({late}) from '{path}'")
        connection.execute(f"copy landed to '{path}' (format parquet)")


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[Row]:
    relation = connection.sql(query)
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def in_force(transactions: list[Row], known: datetime) -> list[Row]:
    """The latest version of each transaction that had landed by `known`."""
    versions: dict[int, Row] = {}
    for row in sorted(transactions, key=lambda row: row["ingested_at"]):
        if row["ingested_at"] <= known:
            versions[row["transaction_id"]] = row
    return list(versions.values())


def view_rows(connection: duckdb.DuckDBPyConnection, view: str) -> list[tuple[object, ...]]:
    return connection.sql(f"select * from {view} order by all").fetchall()
