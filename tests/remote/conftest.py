"""One home with every kind of view, a feature server of two workers over it, and keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from feature_server.remote.jobs import Job
from tests.support.keys import Keys
from tests.support.offline_home import OfflineHome
from tests.support.served import Served, served


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> OfflineHome:
    return OfflineHome(tmp_path_factory.mktemp("remote") / "home")


@pytest.fixture(scope="module")
def server(home: OfflineHome, valkey_server: str) -> Iterator[Served]:
    with redis.Redis.from_url(valkey_server) as connection:
        connection.flushall()
    with served(valkey_server, "--workers", "2", **home.environment) as running:
        yield running
        errors = running.stop()
        assert "Traceback" not in errors, errors


@pytest.fixture(autouse=True)
def no_jobs(home: OfflineHome) -> Iterator[None]:
    """What a test leaves behind is not another's."""
    yield
    for folder in (home.folder / "training").glob("[!.]*"):
        Job(folder).cancel()


@pytest.fixture
def keys(valkey_server: str) -> Iterator[Keys]:
    """Keys of access until the test ends; then there are none again."""
    yield Keys(valkey_server)
    with redis.Redis.from_url(valkey_server) as connection:
        connection.flushall()
