"""`features serve`: Feast's protocol to the letter, errors that help, no request lost, no process left."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.support.online_rows import NOW, OnlineRows, service, view
from tests.support.served import Served, metrics
from tests.support.serving_cases import FRAUD, RISK, SECOND, TRANSACTIONS

READ = "/get-online-features"
RATIO = {"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"]}}


@pytest.fixture
def http_client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=10, trust_env=False) as client:
        yield client


def test_an_answer_has_feasts_shape(rows: OnlineRows, http_client: httpx.Client) -> None:
    rows.put("customer__transactions", 1, NOW - SECOND / 4, 2**53 + 1, float("nan"))
    rows.put("customer__transactions", 2, NOW, 4, None)
    request = {
        "features": ["customer__transactions:amount", "merchant__risk:ratio", "customer__transactions:transactions_1h"],
        "entities": {"customer_id": [1, 2, None], "merchant_id": ["a", "b", "c"]},
        "full_feature_names": True,
    }
    response = http_client.post(READ, json=request)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert b"9007199254740993" in response.content
    none = "1970-01-01T00:00:00Z"
    times = ["2026-03-01T11:59:59.750000Z", "2026-03-01T12:00:00Z", none]
    assert response.json() == {
        "metadata": {
            "feature_names": [
                "customer_id",
                "merchant_id",
                "customer__transactions__amount",
                "merchant__risk__ratio",
                "customer__transactions__transactions_1h",
            ],
            "feature_types": ["int64", "string", "float64", "float32", "int64"],
        },
        "results": [
            {
                "values": [1, 2, None],
                "statuses": ["PRESENT", "PRESENT", "NULL_VALUE"],
                "event_timestamps": [none, none, none],
            },
            {"values": ["a", "b", "c"], "statuses": ["PRESENT"] * 3, "event_timestamps": [none, none, none]},
            {
                "values": ["NaN", None, None],
                "statuses": ["PRESENT", "NULL_VALUE", "NOT_FOUND"],
                "event_timestamps": times,
            },
            {"values": [None] * 3, "statuses": ["NOT_FOUND"] * 3, "event_timestamps": [none, none, none]},
            {
                "values": [2**53 + 1, 4, None],
                "statuses": ["PRESENT", "PRESENT", "NOT_FOUND"],
                "event_timestamps": times,
            },
        ],
    }


def test_a_request_as_curl_sends_it_is_understood(rows: OnlineRows, http_client: httpx.Client) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = json.dumps({"feature_service": "fraud_v1", "entities": {"customer_id": [1], "merchant_id": ["a"]}})
    assert http_client.post(READ, content=body, headers=form).status_code == 200


BAD = [
    (b"{", 400, "$", "the body is not JSON"),
    (b"", 400, "$", "the body is not JSON"),
    (b'{"entities": {"merchant_id": ["\xff"]}, "features": []}', 400, "$", "the body is not JSON"),
    (b'{"entities": {"\xff": ["a"]}, "features": []}', 400, "$", "the body is not JSON"),
    (b'{"\xff": []}', 400, "$", "the body is not JSON"),
    (b'{"entities": {"merchant_id": ["\xed\xa0\x80"]}}', 400, "$", "the body is not JSON"),  # a surrogate as bytes
    (b'{"entities": {"merchant_id": ["\\ud800"]}}', 400, "$", "the body is not JSON"),
    (b'{"entities": {"merchant_id": [' + b"[" * 9999 + b"]" * 9999 + b"]}}", 400, "$", "the body is not JSON"),
    (b"[]", 422, "$", "Expected `object`, got `array`"),
    (b"{}", 422, "$", "missing required field `entities`"),
    (b'{"entities": {"customer_id": 1}}', 422, "$.entities[...]", "Expected `array`, got `int`"),
    (b'{"entities": {}, "feature": []}', 422, "$", "unknown field `feature`"),
    (b'{"entities": {}}', 422, "features", "no features are asked for"),
    (b'{"entities": {}, "feature_service": "fraud"}', 404, None, "unknown feature_service 'fraud'"),
    (b'{"entities": {}, "features": ["merchant__risk:ratio"]}', 422, "entities", "join key 'merchant_id' is missing"),
    (
        b'{"entities": {"merchant_id": [1]}, "features": ["merchant__risk:ratio"]}',
        422,
        "entities.merchant_id",
        "a value of join key 'merchant_id' has the wrong type",
    ),
    (b'{"entities": {"merchant_id": ["' + b"a" * (9 << 20) + b'"]}}', 413, "body", "the body is too large"),
]


@pytest.mark.parametrize(("body", "status", "where", "what"), BAD)
def test_a_bad_request_says_what_is_wrong_where_and_what_to_do(
    rows: OnlineRows, http_client: httpx.Client, body: bytes, status: int, where: str | None, what: str
) -> None:
    response = http_client.post(READ, content=body)
    error = response.json()
    assert response.status_code == status
    assert what in error["what"]
    assert error.get("where") == where
    assert {"error", "what", "expected"} <= set(error)
    assert http_client.get("/health").status_code == 200


def test_wrong_paths_and_methods_say_what_there_is(http_client: httpx.Client) -> None:
    missing = http_client.post("/get-online-feature", json={})
    assert (missing.status_code, missing.json()["where"]) == (404, "POST /get-online-feature")
    wrong = http_client.get(READ)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert "/openapi.json" in wrong.json()["remedy"]
    assert http_client.post("/health").status_code == 405


def test_the_registry_can_be_read(rows: OnlineRows, http_client: httpx.Client) -> None:
    assert [entity["name"] for entity in http_client.get("/entities").json()] == [
        "customer",
        "merchant",
        "carrier_airport",
    ]
    found = http_client.get("/feature-views/customer__transactions").json()
    assert (found["ttl"], found["feature_services"]) == ("1h", ["fraud_v1"])
    assert found["online"]["newest_event_timestamp"] == "2026-03-01T12:00:00Z"
    assert [view["id"] for view in http_client.get("/feature-views").json()] == sorted(rows.views)
    (listed,) = http_client.get("/feature-services").json()
    assert listed == http_client.get("/feature-services/fraud_v1").json()
    assert [feature["feature"] for feature in listed["features"]] == [ref.text for ref in FRAUD.features]
    missing = http_client.get("/feature-views/customer__transaction")
    assert missing.status_code == 404
    assert missing.json()["remedy"].startswith("did you mean 'customer__transactions'? Else: ")


def test_pages_are_html_for_a_browser_and_escape_what_they_show(rows: OnlineRows, http_client: httpx.Client) -> None:
    odd = view("thing__<b>odd</b>", {"thing": "string"}, {"x": "int64"})
    rows.define(TRANSACTIONS, odd, services=[service("odd_v1", "thing__<b>odd</b>:x")])
    browser = {"accept": "text/html,application/xhtml+xml"}
    pages = ["/", "/feature-views/thing__%3Cb%3Eodd%3C%2Fb%3E", "/feature-services/odd_v1", "/entities/thing"]
    for path in pages[::2]:
        response = http_client.get(path, headers=browser)
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert "thing__&lt;b&gt;odd" in response.text
        assert "<b>odd" not in response.text
    assert "FEATURES_CLOCK" in http_client.get("/", headers=browser).text
    missing = http_client.get("/feature-views/none", headers=browser)
    assert (missing.status_code, "unknown feature_view" in missing.text) == (404, True)


def test_ready_says_why_not_and_what_is_wrong_with_some_views_alone(valkey: str, http_client: httpx.Client) -> None:
    empty = http_client.get("/ready")
    assert empty.status_code == 503
    assert "features sync" in empty.json()["reasons"][0]
    rows = OnlineRows(valkey)
    offline = view("thing__offline", {"thing": "int64"}, {"x": "int64"}, online=False)
    reason = "feature view 'merchant__risk' is not synced: run `features sync merchant__risk`"
    rows.define(unsynced=[RISK, offline])
    none = http_client.get("/ready")
    assert (none.status_code, none.json()["reasons"]) == (503, [reason])
    rows.define(TRANSACTIONS, unsynced=[RISK, offline])
    some = http_client.get("/ready")
    assert (some.status_code, some.json()["reasons"], some.json()["degraded"]) == (200, [], [reason])
    rows.define(TRANSACTIONS, RISK)
    ready = http_client.get("/ready")
    assert ready.status_code == 200
    assert ready.json() == {
        "ready": True, "reasons": [], "clock": "stopped at 2026-03-01T12:00:00+00:00 by FEATURES_CLOCK",
    }  # fmt: skip
    assert http_client.get("/health").json() == {"status": "ok"}


def test_metrics_count_requests_and_values(rows: OnlineRows, server: Served, http_client: httpx.Client) -> None:
    before = metrics(server.address)
    rows.put("customer__transactions", 1, NOW, 1, None)
    rows.put("customer__transactions", 2, NOW - 7200 * SECOND, 1, 1.0)
    features = ["customer__transactions:amount", "customer__transactions:transactions_1h"]
    http_client.post(READ, json={"features": features, "entities": {"customer_id": [1, 2, 3, 1]}})
    http_client.post(READ, content=b"{")
    http_client.get("/no/such/page")
    after = metrics(server.address)

    def grown(*name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown("features_http_requests_total", READ, "200") == 1
    assert grown("features_http_requests_total", READ, "400") == 1
    assert grown("features_http_requests_total", "other", "404") == 1
    assert grown("features_read_seconds_count") == 1
    assert grown("features_entities_total") == 4
    view_id = "customer__transactions"
    statuses = ("PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE")
    assert [grown("features_values_total", status, view_id) for status in statuses] == [2, 2, 2, 2]
    assert after["features_view_newest_event_age_seconds", view_id] == 0
    assert after["features_online_store_up",] == 1
