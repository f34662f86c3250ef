"""One small world, built step by step and once from nothing, for the tests of this directory."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest

from examples import flights, payments
from feature_server import FeatureStore
from tests.dbt_project.world import FLIGHTS, ROOT, Row, World, delay_some, make_flights, rows

STEPS = (
    "2013-12-20T00:00:00Z",
    "2013-12-20T07:30:00Z",
    "2013-12-23T13:00:00Z",
    "2013-12-26T00:00:00Z",
)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flights of ten days and payments of five weeks, up to 2013-12-28."""
    home = tmp_path_factory.mktemp("sources")
    make_flights(home / "flights", "2013-12-18", "2013-12-28")
    flights.main(
        ["--out", str(home / "landing"), "--data", str(FLIGHTS), "--since", "2013-12-18T00:00:00Z",
         "--until", "2013-12-28T00:00:00Z"]
    )  # fmt: skip
    delay_some(home / "landing" / "departures", "departure_id")
    delay_some(home / "landing" / "arrivals", "arrival_id")
    payments.main(
        ["--out", str(home / "landing"), "--customers", "50", "--merchants", "12", "--transactions", "4000",
         "--days", "40", "--until", "2013-12-28T00:00:00Z"]
    )  # fmt: skip
    return home


@pytest.fixture
def world(sources: Path, tmp_path: Path) -> World:
    """An unbuilt world with its own copy of the sources."""
    shutil.copytree(sources, tmp_path / "world")
    return World(tmp_path / "world")


@pytest.fixture(scope="session")
def steps(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> list[World]:
    """The warehouse as it was after each incremental build."""
    home = tmp_path_factory.mktemp("steps") / "world"
    shutil.copytree(sources, home)
    built = []
    for number, as_of in enumerate(STEPS):
        World(home).run(as_of=as_of)
        copy = World(home.with_name(f"step{number}"))
        copy.home.mkdir()
        shutil.copy(World(home).warehouse, copy.warehouse)
        built.append(copy)
    return built


@pytest.fixture(scope="session")
def full(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same world built once, for the last step's instant, and published."""
    home = tmp_path_factory.mktemp("full") / "world"
    shutil.copytree(sources, home)
    world = World(home)
    world.run("--full-refresh", as_of=STEPS[-1])
    for arguments in (("apply", "--no-parse"), ("publish",)):
        done = world.features(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    return world


@pytest.fixture(scope="session")
def store(full: World) -> FeatureStore:
    """The offline store that `full` was published to."""
    return FeatureStore(ROOT, home=full.home, warehouse=full.warehouse)


@pytest.fixture(scope="session")
def transactions(sources: Path) -> list[Row]:
    """Every version of every transaction that landed."""
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        return rows(connection, f"from '{sources}/landing/transactions/*.parquet'")
