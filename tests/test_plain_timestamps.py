"""A source whose time columns are plain `timestamp`: they are UTC, and every command takes them as such."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from feature_server.cli.main import load_commands
from feature_server.definitions.stream import SourceColumn
from feature_server.dtypes import parse_sql_type
from tests.support.live_project import COLUMNS, NOW, SOURCE, LiveProject, make_live_view, payment, settings_of, versions

PLAIN = replace(
    SOURCE,
    columns=tuple(
        SourceColumn(name, parse_sql_type("timestamp" if text == "timestamptz" else text))
        for name, text in COLUMNS.items()
    ),
)
VIEW = make_live_view(source=PLAIN)
NEWEST = (NOW - timedelta(minutes=10)).isoformat()


def test_every_command_takes_plain_timestamps_as_utc(
    tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    project = LiveProject(tmp_path, valkey, VIEW, source=PLAIN)
    first, second = payment(1, 1, 50), payment(2, 1, 10)
    project.landed("a", [first])
    project.publish()
    settings_of(project, monkeypatch)

    def run(*words: str) -> Any:
        result = CliRunner().invoke(load_commands(), words)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout) if "--json" in words else result.stdout

    def count() -> int:
        return int(run("get", "customer__payments:n", "customer=1").split()[1])

    def newest() -> str:
        return str(run("status", "--json")["sources"][0]["newest_event"])

    run("sync")
    columns = dict(zip(COLUMNS, (*second[:4], *(time.isoformat() for time in second[4:])), strict=True))
    (tmp_path / "events.jsonl").write_bytes(msgspec.json.encode(columns))
    run("push", PLAIN.name, str(tmp_path / "events.jsonl"))
    for step in ("in the log", "landed", "built", "synced anew"):
        if step == "landed":
            assert "landed=1" in run("stream", PLAIN.name, "--once")
        elif step == "built":
            project.publish()
            run("sync")
        elif step == "synced anew":
            run("sync", "--full")
        assert (step, count()) == (step, 2)
        assert newest().replace("Z", "+00:00") == NEWEST
        assert "different=0 unexplained=0" in run("verify")
        explained = run("explain", "customer__payments:n", "customer=1", "--json")
        assert (explained["value"], explained["agree"]) == (2, True)
        run("status")
    assert project.online(VIEW) == versions(first, second)
    spine = "select 1::bigint as customer, timestamp '2024-05-01 12:00:00' as event_timestamp"
    run("train", "customer__payments:n", "--spine", spine, "--out", str(tmp_path / "out.parquet"))
