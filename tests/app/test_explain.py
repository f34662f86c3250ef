"""`GET /explain`: a feature's value, its windows and events over HTTP, and the page that a browser gets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from typer.testing import CliRunner

from feature_server.cli.main import load_commands
from tests.support.live_project import NOW, LiveProject, make_live_view, payment
from tests.support.served import metrics, served

VIEW = make_live_view()
SPENT = {"feature": f"{VIEW.id}:spent", "customer": "5"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, valkey_server: str) -> LiveProject:
    with redis.Redis.from_url(valkey_server) as connection:
        connection.flushall()
    project = LiveProject(tmp_path_factory.mktemp("explained"), valkey_server, VIEW)
    project.landed("a", [payment(1, 5, 60, "3.00"), payment(2, 5, 61, "9.00")])
    project.landed("b", [payment(100 + i, 7, i, "1.00") for i in range(25)])
    project.publish()
    project.sync()
    project.push(payment(4, 5, 2, "4.50"))
    return project


@pytest.fixture(scope="module")
def environment(project: LiveProject) -> dict[str, str]:
    folder, offline = str(project.folder), str(project.offline.root)
    return {"clock": NOW.isoformat(), "FEATURES_PROJECT_DIR": folder, "FEATURES_OFFLINE": offline}


@pytest.fixture(scope="module")
def http(project: LiveProject, environment: dict[str, str]) -> Iterator[httpx.Client]:
    with (
        served(project.url, **environment) as server,
        httpx.Client(base_url=server.address, timeout=60, trust_env=False) as client,
    ):
        yield client


def test_a_value_is_explained_as_the_command_explains_it(
    http: httpx.Client, environment: dict[str, str], project: LiveProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = http.get("/explain", params=SPENT)
    found = answer.json()
    assert answer.status_code == 200
    assert (found["value"], found["status"], found["warehouse"], found["agree"]) == ("7.50", "PRESENT", "7.50", True)
    (window,) = found["windows"]
    assert (window["start"], window["end"]) == ("2024-05-01T11:00:00Z", "2024-05-01T12:00:00Z")
    assert (window["events"], [event["event_id"] for event in window["shown"]]) == (2, [1, 4])
    assert found["newest_event"] == "2024-05-01T11:58:00Z"
    monkeypatch.setenv("FEATURES_REDIS_URL", project.url)
    monkeypatch.setenv("FEATURES_CLOCK", environment["clock"])
    monkeypatch.setenv("FEATURES_PROJECT_DIR", environment["FEATURES_PROJECT_DIR"])
    monkeypatch.setenv("FEATURES_OFFLINE", environment["FEATURES_OFFLINE"])
    command = CliRunner().invoke(load_commands(), ["explain", SPENT["feature"], "customer=5", "--json"])
    assert json.loads(command.stdout) == found


def test_of_many_events_the_last_are_shown_and_all_counted(http: httpx.Client) -> None:
    (window,) = http.get("/explain", params=SPENT | {"customer": "7"}).json()["windows"]
    assert window["events"] == 25
    assert [event["event_id"] for event in window["shown"]] == [100 + i for i in reversed(range(20))]


def test_an_earlier_instant_is_explained_from_the_warehouse(http: httpx.Client) -> None:
    answer = http.get("/explain", params=SPENT | {"at": "2024-05-01T10:59:30Z"})
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert (found["value"], found["status"], found["agree"]) == ("9.00", "PRESENT", None)
    assert [event["event_id"] for event in found["windows"][0]["shown"]] == [2]
    assert http.get("/explain", params=SPENT | {"at": "2024-05-01T12:59:00+02:00"}).json() == found | {
        "at": "2024-05-01T10:59:00Z",
        "windows": [found["windows"][0] | {"start": "2024-05-01T09:59:00Z", "end": "2024-05-01T10:59:00Z"}],
    }


WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"customer": "5"}, 422, "the feature is missing"),
    ({"feature": "spent", "customer": "5"}, 422, "not a feature reference"),
    (SPENT | {"feature": f"{VIEW.id}:spend"}, 404, "did you mean 'spent'?"),
    (SPENT | {"feature": "customer__payment:spent"}, 404, f"did you mean '{VIEW.id}'?"),
    ({"feature": SPENT["feature"], "client": "5"}, 422, "customer=…"),
    (SPENT | {"customer": "five"}, 422, "send customer as an integer"),
    (SPENT | {"customer": ["5", "6"]}, 422, "'customer' is given twice"),
    (SPENT | {"at": "yesterday"}, 422, "2013-12-31T23:00:00Z"),
    (SPENT | {"at": "0001-01-01T00:00:00Z"}, 422, "the windows begin before the year 1"),
]


@pytest.mark.parametrize(("parameters", "status", "told"), WRONG)
def test_a_wrong_question_is_told_what_is_wrong(
    http: httpx.Client, parameters: dict[str, Any], status: int, told: str
) -> None:
    answer = http.get("/explain", params=parameters)
    assert answer.status_code == status
    assert told in " ".join(answer.json().values())


def test_a_browser_gets_a_form_on_the_views_page_and_a_page_as_answer(http: httpx.Client) -> None:
    accept = {"accept": "text/html"}
    page = http.get(f"/feature-views/{VIEW.id}", headers=accept).text
    assert '<form action="/explain">' in page
    assert '<input name="customer" required>' in page
    answer = http.get("/explain", params=SPENT | {"at": ""}, headers=accept)
    assert answer.headers["content-type"].startswith("text/html")
    assert "<b>7.50</b>" in answer.text
    assert "2 events from 2024-05-01T11:00:00+00:00 to 2024-05-01T12:00:00+00:00, both included" in answer.text
    assert http.get(f"/feature-views/{VIEW.id}").json()["stream"] == "shop.payments"


def test_a_server_without_the_offline_store_says_so_and_serves_on(
    project: LiveProject, environment: dict[str, str], tmp_path: Path
) -> None:
    with served(project.url, **environment | {"FEATURES_OFFLINE": str(tmp_path / "none")}) as server:
        answer = httpx.get(f"{server.address}/explain", params=SPENT, trust_env=False)
        assert answer.status_code == 501
        assert answer.json()["what"] == "the view's history is not in this offline store"
        assert "FEATURES_OFFLINE" in answer.json()["remedy"]
        assert metrics(server.address)["features_http_requests_total", "/explain", "501"] == 1


def test_a_server_without_duckdb_says_what_to_install(
    project: LiveProject, environment: dict[str, str], tmp_path: Path
) -> None:
    for library in ("duckdb", "pyarrow"):
        (tmp_path / f"{library}.py").write_text(f"raise ImportError('No module named {library}')")
    with served(project.url, **environment | {"PYTHONPATH": str(tmp_path)}) as server:
        explained = httpx.get(f"{server.address}/explain", params=SPENT, trust_env=False)
        pushed = httpx.post(
            f"{server.address}/push", json={"push_source_name": "shop.payments", "df": {}}, trust_env=False
        )
        for answer in (explained, pushed):
            assert (answer.status_code, answer.json()["expected"]) == (501, "feature-warehouse[warehouse]")
