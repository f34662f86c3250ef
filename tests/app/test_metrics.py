"""What `features verify` finds, as the feature server's /metrics tell it."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from feature_server.cli.main import load_commands
from feature_server.definitions.registry import write_registry
from tests.support.live_project import NOW, LiveProject, make_live_view, payment
from tests.support.served import metrics, served

VIEW = make_live_view()


@pytest.fixture
def project(tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch) -> LiveProject:
    project = LiveProject(tmp_path, valkey, VIEW)
    write_registry(tmp_path / "home" / "registry.json", project.registry)
    for name, value in {
        "PROJECT_DIR": tmp_path, "HOME": tmp_path / "home", "OFFLINE": project.offline.root, "REDIS_URL": valkey,
        "CLOCK": NOW.isoformat(),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"FEATURES_{name}", str(value))
    return project


def verify() -> int:
    return CliRunner().invoke(load_commands(), ["verify"]).exit_code


def test_the_last_result_of_each_view_is_in_the_metrics(project: LiveProject, valkey: str) -> None:
    project.landed("a", [payment(1, 5, 10), payment(2, 6, 20), payment(3, 7, 30)])
    project.publish()
    project.sync()

    def told(address: str) -> list[float | None]:
        """Keys, those explained, those not, the instant in minutes before NOW."""
        found = metrics(address)
        differing = [found.get(("features_verified_differing_keys", text, VIEW.id)) for text in ("true", "false")]
        at = found.get(("features_verified_timestamp_seconds", VIEW.id))
        return [
            found.get(("features_verified_keys", VIEW.id)), *differing, at and (NOW.timestamp() - at) / 60,
        ]  # fmt: skip

    with served(valkey, clock=NOW.isoformat()) as server, redis.Redis.from_url(valkey) as client:
        assert told(server.address) == [None, None, None, None]
        assert verify() == 0
        assert told(server.address) == [3, 0, 0, 0]
        project.landed("late", [payment(4, 5, 15)])
        project.publish()
        assert verify() == 0
        assert told(server.address) == [3, 1, 0, 0]
        (key,) = client.scan_iter(match="*{6}")
        client.delete(key)
        assert verify() == 1
        assert told(server.address) == [3, 1, 1, 0]
        project.sync(full=True)
        assert verify() == 0
        assert told(server.address) == [3, 0, 0, 0]
        project.define()
        project.sync()
        assert client.exists(f"features:verified:{VIEW.id}") == 0
        assert told(server.address) == [None, None, None, None]
