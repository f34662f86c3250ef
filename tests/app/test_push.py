"""`POST /push` and `features push`: events from outside, read back at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from typer.testing import CliRunner

from feature_server.cli.main import load_commands
from tests.support.served import served
from tests.support.stream_views import NOW, payment, put_online, stream_view

SOURCE = "payments.transactions"
READ = {"features": ["customer__payments:payments_10m"], "entities": {"customer_id": [42]}}


@pytest.fixture(scope="module")
def http(valkey_server: str) -> Iterator[httpx.Client]:
    with redis.Redis.from_url(valkey_server) as connection:
        connection.flushall()
    put_online(valkey_server, stream_view())
    with served(valkey_server) as server, httpx.Client(base_url=server.address, timeout=60) as client:
        yield client


def body(*events: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Feast's request for some events."""
    return {"push_source_name": SOURCE, "df": {name: [e[name] for e in events] for name in events[0]}} | more


def count(http: httpx.Client, customer: int) -> int:
    answer = http.post("/get-online-features", json=READ | {"entities": {"customer_id": [customer]}}).json()
    value: int = answer["results"][1]["values"][0]
    return value


def test_a_push_is_answered_when_a_read_sees_it(http: httpx.Client) -> None:
    events = [payment(100, customer_id=100), payment(101, customer_id=100, amount_eur="x")]
    answer = http.post("/push", json=body(*events, to="online_and_offline", allow_registry_cache=True))
    assert (answer.status_code, answer.json()) == (
        200, {"accepted": 1, "rejected": [{"index": 1, "reason": "Invalid decimal string - at `$.amount_eur`"}]},
    )  # fmt: skip
    assert count(http, 100) == 1


def test_pushes_at_the_same_time_are_all_taken_in_once(http: httpx.Client) -> None:
    requests = [body(*(payment(200 + (10 * i + j) % 100, customer_id=200) for j in range(20))) for i in range(30)]
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda request: http.post("/push", json=request), requests))
    assert [answer.json() for answer in answers] == [{"accepted": 20, "rejected": []}] * 30
    assert count(http, 200) == 100


def test_a_wrong_push_is_told_what_is_wrong_and_harms_no_other(http: httpx.Client) -> None:
    good = body(payment(300, customer_id=300))
    wrong: list[tuple[Any, int, str]] = [
        ({"df": good["df"]}, 422, "Object missing required field `push_source_name`"),
        (good | {"push_source_name": "payments.transaction"}, 404, "unknown event source 'payments.transaction'"),
        (good | {"to": "offline"}, 422, "events cannot be pushed to the offline store alone"),
        (good | {"df": {"customer_id": [1]}}, 422, "column 'transaction_id' is missing"),
        (good | {"df": [1]}, 422, "df is not a list of values for each column"),
    ]
    with ThreadPoolExecutor(6) as threads:
        requests = [good, *(request for request, _, _ in wrong)]
        first, *answers = threads.map(lambda request: http.post("/push", json=request), requests)
    assert first.json() == {"accepted": 1, "rejected": []}
    for answer, (_, status, what) in zip(answers, wrong, strict=True):
        assert (answer.status_code, answer.json()["what"]) == (status, what)
    says_json = {"content-type": "application/json"}
    malformed = (
        json.dumps(good).encode().replace(b'"purchase"', b'"\xff"'),
        b"{",
        b'{"\xff": 1}',
        b'{"df": ' + b"[" * 9999,
    )
    for content in malformed:
        answer = http.post("/push", content=content, headers=says_json)
        assert (answer.status_code, answer.json()["what"]) == (400, "the body is not JSON")
    assert http.get("/push").status_code == 405
    refused = http.post("/push", json=body(payment(301, customer_id=None)))
    assert refused.status_code == 422
    assert refused.json()["accepted"] == 0


def test_pushes_that_cannot_be_read_harm_none_that_is_taken_in_with_them(http: httpx.Client) -> None:
    def push(number: int) -> httpx.Response:
        content = json.dumps(body(payment(1000 + number, customer_id=1000))).encode()
        if number % 3 == 0:
            content = content.replace(b"bakery", b"\xff")
        elif number % 3 == 1:
            content = content.replace(b"2026-03-01T11:55:01Z", b"9999-12-31T23:59:59-14:00")
        return http.post("/push", content=content, headers={"content-type": "application/json"})

    with ThreadPoolExecutor(16) as threads:
        answers = [answer.status_code for answer in threads.map(push, range(150))]
    assert answers == [(400, 422, 200)[number % 3] for number in range(150)]
    assert count(http, 1000) == 50


def test_pushed_events_are_counted_for_prometheus_and_described(http: httpx.Client) -> None:
    http.post("/push", json=body(payment(400, customer_id=400)))
    assert 'features_pushed_events_total{outcome="accepted"}' in http.get("/metrics").text
    assert "/push" in http.get("/openapi.json").json()["paths"]


def run(tmp_path: Path, url: str, *arguments: str) -> Any:
    environment = {
        "FEATURES_REDIS_URL": url, "FEATURES_CLOCK": NOW.isoformat(), "FEATURES_PROJECT_DIR": str(tmp_path),
    }  # fmt: skip
    return CliRunner().invoke(load_commands(), ["push", *arguments], env=environment)


def test_features_push_takes_a_file_and_names_what_it_refuses(valkey: str, tmp_path: Path) -> None:
    put_online(valkey, stream_view())
    file = tmp_path / "events.jsonl"
    events = [payment(i) for i in range(2500)]
    events[1700]["kind"] = 3
    file.write_text("\n".join(map(json.dumps, events)) + "\n\n")
    result = run(tmp_path, valkey, SOURCE, str(file))
    assert result.exit_code == 1
    assert "refused event 1700: Expected `str | null`, got `int` - at `$.kind`" in result.output
    assert "pushed payments.transactions accepted=2499 rejected=1" in result.output
    file.write_text(json.dumps(payment(1)))
    done = run(tmp_path, valkey, SOURCE, str(file), "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"source": SOURCE, "accepted": 1, "rejected": []}
