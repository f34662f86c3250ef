"""A training set of a feature server is that of a local call: rows, types, record and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from feature_server import FeatureStore
from tests.support.published import Project, make_view
from tests.support.served import Served, served

T0 = datetime(2024, 3, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
ORDERS = make_view("orders", {"customer": "bigint"}, {"amount": "double", "count": "bigint"}, created=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("remote") / "project")
    project.publish(ORDERS, [(1, T0, T0, 1.0, 10), (1, T0 + HOUR, T0 + 3 * HOUR, 2.0, 20), (2, T0, None, None, 7)])
    return project


@pytest.fixture(scope="module")
def server(project: Project, valkey_server: str) -> Iterator[Served]:
    with served(valkey_server, FEATURES_PROJECT_DIR=str(project.folder)) as running:
        yield running
        errors = running.stop()
        assert "Traceback" not in errors, errors


SPINE = pa.table({"customer": [2, 1, 3, None], "event_timestamp": [T0 + HOUR] * 4})


def test_the_file_is_that_of_a_local_call(project: Project, server: Served, tmp_path: Path) -> None:
    local = project.store.get_historical_features(SPINE, ["orders:count", "orders:amount"])
    remote = FeatureStore(server.address).get_historical_features(
        SPINE, ["orders:count", "orders:amount"], notice=print
    )
    assert remote.to_arrow().equals(local.to_arrow(), check_metadata=True)
    local.write_parquet(tmp_path / "local.parquet")
    remote.write_parquet(tmp_path / "remote.parquet")
    assert (tmp_path / "remote.parquet").read_bytes() == (tmp_path / "local.parquet").read_bytes()
