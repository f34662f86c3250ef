"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from feature_server.online.embedded import EmbeddedValkey

# Files whose tests take a minute and more: begun first, so that at the end no process waits for another's.
LONG = ("test_up_down", "test_demo", "test_benchmarks", "test_readme", "dags/test_runs", "test_many_views",
        "test_odd_projects", "dbt_project/test_incremental", "interleaving/test_steps", "publish/test_targets",
        "dags/test_schedule", "dags/test_two_projects", "dags/test_on_call",
        "catalog/test_site", "test_first_commands")  # fmt: skip


def _name(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).with_suffix("").as_posix()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(_name(item)) if _name(item) in LONG else len(LONG))


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Valkey server of this test session alone."""
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture
def valkey(valkey_server: str) -> str:
    """URL of an empty Valkey server."""
    with redis.Redis.from_url(valkey_server) as connection:
        connection.flushall()
        connection.script_flush()
        connection.config_resetstat()
    return valkey_server
