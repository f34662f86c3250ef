"""What the server failed with is in its log, and not in an answer: no socket, address or file of its machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest
import redis

from feature_server.online.embedded import EmbeddedValkey
from tests.support.live_project import NOW as LIVE_NOW
from tests.support.live_project import LiveProject, make_live_view, payment
from tests.support.online_rows import NOW, OnlineRows, service, view
from tests.support.served import Served, served
from tests.support.serving_cases import RISK

READ = "/get-online-features"
RATIO = {"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"]}}
PUSH = {"push_source_name": "shop.payments", "df": {"payment_id": [1]}}
PAGES = ("/", "/ready", "/metrics", "/entities", "/entities/merchant", "/feature-views", "/feature-services",
         "/feature-views/x", "/feature-services/x", "/explain?feature=merchant__risk:ratio&merchant_id=a")  # fmt: skip


def answers(server: Served) -> dict[str, tuple[int, str]]:
    """Of every path, as JSON and as a page."""
    with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as client:
        found = {READ: client.post(READ, json=RATIO), "/push": client.post("/push", json=PUSH)}
        for page in PAGES:
            found[page] = client.get(page)
            found[f"{page} as a page"] = client.get(page, headers={"accept": "text/html"})
    return {path: (answer.status_code, answer.text) for path, answer in found.items()}


def test_a_redis_that_is_gone_is_not_located(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path / "valkey") as store, served(store.url, FEATURES_HOME=str(tmp_path)) as running:
        os.kill(redis.Redis.from_url(store.url).info("server")["process_id"], signal.SIGKILL)
        found = answers(running)
        said = running.stop()
    assert {path: status for path, (status, _) in found.items() if status != 503} == dict.fromkeys(
        ("/metrics", "/metrics as a page"), 200
    )
    assert [path for path, (_, text) in found.items() if str(tmp_path) in text or "Errno" in text] == []
    assert all("Redis does not answer" in text for path, (_, text) in found.items() if "metrics" not in path)
    assert all("remedy" in text for path, (_, text) in found.items() if "metrics" not in path)
    for routes in ((READ, "/push"), ("/ready",)):  # one line for each error, whatever it answered
        told = [f"{route} answered 503: " for route in routes]
        located = [line for line in said.splitlines() if str(tmp_path) in line]
        assert [line for line in located if any(text in line for text in told)] != []


def test_files_of_a_damaged_table_are_named_in_the_log_alone(tmp_path: Path, valkey: str) -> None:
    project = LiveProject(tmp_path, valkey, make_live_view())
    project.landed("a", [payment(1, 5, 30)])
    project.publish()
    project.sync()
    log = next(project.offline.root.glob("*/_delta_log"))
    next(log.glob("*.json")).write_text("{")
    folders = {"FEATURES_PROJECT_DIR": str(project.folder), "FEATURES_OFFLINE": str(project.offline.root)}
    with served(valkey, clock=LIVE_NOW.isoformat(), **folders) as running:
        url = f"{running.address}/explain?feature=customer__payments:n&customer=5"
        found = [httpx.get(url, headers={"accept": kind}, trust_env=False) for kind in ("*/*", "text/html")]
        said = running.stop()
    assert [answer.status_code for answer in found] == [501, 501]
    assert [answer.text for answer in found if str(tmp_path) in answer.text] == []
    assert found[0].json()["remedy"].startswith("restore it, or move … away and run `features publish")
    assert f"move {log.parent} away" in said


def test_a_path_does_not_control_the_log() -> None:
    with served("redis://127.0.0.1:1") as running:
        answer = httpx.get(f"{running.address}/entities/a%1b%5b31m%c2%9b%e2%80%a8b", trust_env=False)
        said = running.stop()
    assert answer.status_code == 503
    assert "/entities/a\\x1b[31m\\x9b\\u2028b answered 503: " in said


@pytest.fixture
def rows(valkey: str) -> OnlineRows:
    rows = OnlineRows(valkey)
    rows.define(RISK)
    rows.put("merchant__risk", "a", NOW, 0.5)
    return rows


def test_an_address_of_redis_is_not_told() -> None:
    with served("redis://127.0.0.1:1/7") as running:
        found = answers(running)
        said = running.stop()
    assert [path for path, (_, text) in found.items() if "127.0.0.1:1" in text.replace(running.address, "")] == []
    assert "redis://127.0.0.1:1/7" in said


def test_a_view_that_is_not_synced_is_named(rows: OnlineRows, valkey: str) -> None:
    rows.define(unsynced=[RISK])
    with served(valkey) as running:
        status, text = answers(running)[READ]
    assert (status, "merchant__risk" in text, "features sync" in text) == (503, True, True)


def test_a_name_with_a_slash_has_a_page(rows: OnlineRows, valkey: str) -> None:
    odd = view("a/b", {"merchant_id": "string"}, {"ratio": "float32"})
    rows.define(odd, services=[service("risk/v1", "a/b:ratio")])
    with served(valkey) as running, httpx.Client(base_url=running.address, timeout=60, trust_env=False) as client:
        for path, name in (("/feature-services/risk/v1", "risk/v1"), ("/feature-services/risk%2Fv1", "risk/v1"),
                           ("/feature-views/a/b", "a/b"), ("/entities/a/b", "a/b")):  # fmt: skip
            assert client.get(path).json()["name"] == name
            page = client.get(path, headers={"accept": "text/html"})
            assert (page.status_code, name in page.text) == (200, True)
        start = client.get("/", headers={"accept": "text/html"}).text
        assert 'href="/feature-services/risk/v1"' in start
        assert client.get("/entities/", follow_redirects=True).json() == client.get("/entities").json()
