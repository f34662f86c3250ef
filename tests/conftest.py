"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from feature_server.embedded import EmbeddedValkey


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
