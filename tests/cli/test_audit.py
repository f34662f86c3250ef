"""What commands tell the audit trail: before they change definitions or keys, and where that then fails."""

from __future__ import annotations

import getpass
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from feature_server.access.file import read_keys
from feature_server.definitions.registry import Registry, write_registry
from feature_server.settings import load_settings
from tests.support.ran import Ran, Typing
from tests.support.sync_project import make_view

SPEND = make_view(features={"spend": "float64"})
CREATE = ("keys", "create", "--owner", "Fraud model", "--scope", "read:*", "--json")


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "trail.jsonl"
    monkeypatch.setenv("FEATURES_AUDIT", str(path))
    return path


@pytest.fixture
def features(
    trail: Path, valkey: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    monkeypatch.chdir(trail.parent)
    monkeypatch.setenv("FEATURES_HOME", str(trail.parent / "home"))
    monkeypatch.setenv("FEATURES_REDIS_URL", valkey)
    write_registry(load_settings().registry_path, Registry(project="test", feature_views=(SPEND,)))
    return Typing(monkeypatch, capsys)


def lines(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    who = {"who": getpass.getuser(), "from": socket.gethostname()}
    assert all(who.items() <= line.items() for line in found)
    return [{name: value for name, value in line.items() if name not in (*who, "at")} for line in found]


def test_each_change_of_keys_is_a_line(features: Callable[..., Ran], trail: Path) -> None:
    first = json.loads(features(*CREATE).out)
    second = json.loads(features("keys", "rotate", first["id"], "--json").out)
    assert features("keys", "revoke", first["id"]).code == 0
    assert features("keys", "list").code == 0
    assert features("keys", "revoke", "00000000").code == 1
    assert features("keys", "rotate", first["id"]).code == 1
    assert features("keys", "reset", "--yes").code == 0
    key = {"outcome": "allowed", "owner": "Fraud model"}
    assert lines(trail) == [
        {"event": "key.create", "changed": [first["id"]], "scopes": ["read:*"]} | key,
        {"event": "key.rotate", "changed": [first["id"], second["id"]], "scopes": ["read:*"]} | key,
        {"event": "key.revoke", "changed": [first["id"]]} | key,
        {"event": "key.reset", "outcome": "allowed", "changed": [first["id"], second["id"]]},
    ]
    assert not [made["key"][12:] for made in (first, second) if made["key"][12:] in trail.read_text()]


def typed(*command: str, most_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, none of whose files may grow beyond so many bytes, as on a full disk."""
    limit = None if most_bytes is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    run = [sys.executable, "-m", "feature_server", *command]
    return subprocess.run(run, capture_output=True, text=True, check=False, preexec_fn=limit)


def test_what_fails_after_its_line_has_another(features: Callable[..., Ran], trail: Path) -> None:
    path = trail.parent / "home" / "keys.json"
    for _ in range(4):
        features(*CREATE)
    before = path.read_bytes()
    trail.unlink()
    assert typed(*CREATE, most_bytes=800).returncode == 1  # the list of keys is longer than that
    assert path.read_bytes() == before
    first, second = lines(trail)
    assert (first["outcome"], second["outcome"], second["error"]) == ("allowed", "failed", "InternalError")
    assert first["changed"] == second["changed"]


def test_strict_changes_nothing_of_which_there_is_no_line(
    features: Callable[..., Ran], trail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURES_AUDIT", str(trail.parent / "a file" / "trail.jsonl"))
    (trail.parent / "a file").touch()
    ran = typed(*CREATE)
    assert (ran.returncode, "an audit line is lost" in ran.stderr) == (0, True)
    path = trail.parent / "home" / "keys.json"
    before = path.read_bytes()
    monkeypatch.setenv("FEATURES_AUDIT_STRICT", "1")
    for command in (CREATE, ("keys", "revoke", json.loads(ran.stdout)["id"]), ("keys", "reset", "--yes")):
        refused = features(*command)
        assert (refused.code, "FEATURES_AUDIT_STRICT" in refused.err) == (1, True)
        assert path.read_bytes() == before
    ring = read_keys(path)
    assert ring is not None
    assert [key.revoked_us for key in ring] == [None]


def test_where_servers_lines_are_on_standard_output_those_of_commands_are_on_standard_error(
    features: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURES_AUDIT", "stdout")
    ran = typed("keys", "create", "--owner", "me", "--scope", "admin")
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("{")]
    assert (ran.returncode, ran.stdout[:3], json.loads(line)["event"]) == (0, "fw_", "key.create")
