"""features explain: the value, the window's bounds, the events in it, the SQL."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from feature_server.cli.main import load_commands
from feature_server.errors import RequestError, UnknownNameError
from feature_server.online.store import OnlineStore
from feature_server.times import to_us
from feature_server.verify.explain import explain
from feature_server.verify.explanation import Explanation
from tests.support.live_project import NOW, LiveProject, make_live_view, payment

VIEW = make_live_view({"last_shop": ("merchant", "varchar")})


@pytest.fixture
def project(tmp_path: Path, valkey: str) -> LiveProject:
    project = LiveProject(tmp_path, valkey, VIEW)
    project.landed("a", [payment(1, 5, 60, "3.00"), payment(2, 5, 61, "9.00"), payment(3, 6, 1)])
    project.publish()
    project.sync()
    project.push(payment(4, 5, 2, "4.50"))
    return project


def explained(project: LiveProject, feature: str, minutes: float = 0, **key: str) -> Explanation:
    with OnlineStore(project.url) as online:
        at_us = to_us(NOW + timedelta(minutes=minutes))
        return explain(
            feature, key, online, project.offline, at_us=at_us, now_us=to_us(NOW), project_dir=project.folder
        )


def test_a_window_is_explained_by_its_bounds_and_the_events_in_it(project: LiveProject) -> None:
    found = explained(project, f"{VIEW.id}:spent", customer="5")
    (window,) = found.windows
    assert (found.value, found.warehouse, found.agree) == (Decimal("7.50"), Decimal("7.50"), True)
    assert (window.start, window.end) == (NOW - timedelta(hours=1), NOW)
    assert [event["event_id"] for event in window.shown] == [1, 4]
    assert found.newest_event == NOW - timedelta(minutes=2)
    assert explained(project, f"{VIEW.id}:spent", 1, customer="5").value == Decimal("4.50")
    assert explained(project, f"{VIEW.id}:spent", 600, customer="5").windows[0].events == 0


def test_a_plain_column_is_explained_by_the_latest_event(project: LiveProject) -> None:
    found = explained(project, f"{VIEW.id}:last_shop", customer="5")
    assert found.value == "shop 4"
    assert found.latest is not None
    assert found.latest["event_id"] == 4
    assert found.windows == ()


def test_a_wrong_key_or_feature_is_named(project: LiveProject) -> None:
    with pytest.raises(RequestError, match="customer=…"):
        explained(project, f"{VIEW.id}:spent", client="5")
    with pytest.raises(RequestError, match="send customer as an integer"):
        explained(project, f"{VIEW.id}:spent", customer="five")
    with pytest.raises(UnknownNameError, match="did you mean 'spent'"):
        explained(project, f"{VIEW.id}:spend", customer="5")


def test_the_command_prints_value_bounds_events_and_sql(project: LiveProject, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PROJECT_DIR": project.folder, "OFFLINE": project.offline.root, "REDIS_URL": project.url,
        "CLOCK": NOW.isoformat(),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"FEATURES_{name}", str(value))
    result = CliRunner().invoke(load_commands(), ["explain", f"{VIEW.id}:n", "customer=5"])
    assert result.output.splitlines()[:2] == [
        "customer__payments:n customer=5 at 2024-05-01T12:00:00+00:00: 2 (PRESENT)",
        "count(*): 2 events from 2024-05-01T11:00:00+00:00 to 2024-05-01T12:00:00+00:00, both included",
    ]
    assert "SQL: " in result.output


def test_an_earlier_instant_is_explained_from_the_known_events_alone(project: LiveProject) -> None:
    found = explained(project, f"{VIEW.id}:last_shop", -120, customer="6")
    assert (found.value, found.status, found.agree, found.latest) == (None, "NOT_FOUND", None, None)
    assert explained(project, f"{VIEW.id}:spent", -120, customer="6").status == "NULL_VALUE"
