"""One feature server for a module of tests, and rows that it serves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.online_rows import OnlineRows
from tests.support.raw_http import store_ratio
from tests.support.served import Served, served
from tests.support.serving_cases import DELAYS, FRAUD, PROFILE, RISK, TRANSACTIONS


@pytest.fixture(scope="module")
def server(valkey_server: str) -> Iterator[Served]:
    """Serves what `raw_http.RATIO` asks for, until a test stores something else."""
    store_ratio(valkey_server)
    with served(valkey_server) as running:
        yield running
        assert "Traceback" not in running.stop()


@pytest.fixture
def rows(valkey: str) -> OnlineRows:
    rows = OnlineRows(valkey)
    rows.define(TRANSACTIONS, PROFILE, RISK, DELAYS, services=[FRAUD])
    return rows
