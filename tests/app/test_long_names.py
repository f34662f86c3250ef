"""What is wrong with a name or a value of millions of characters is told in a few."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

from feature_server import errors
from feature_server.protocol import MAX_FIELD, told_outside
from tests.support.served import served
from tests.support.stream_views import payment, put_online, stream_view

LONG = "m" * 7_000_000
FEATURE = "customer__payments:payments_10m"
READ = "/get-online-features"
KEY = {"customer_id": [42]}
MOST = 4_000  # bytes of an answer


@pytest.fixture(scope="module")
def http(valkey_server: str) -> Iterator[httpx.Client]:
    with redis.Redis.from_url(valkey_server) as connection:
        connection.flushall()
    put_online(valkey_server, stream_view())
    with served(valkey_server) as server, httpx.Client(base_url=server.address, timeout=60, trust_env=False) as client:
        yield client


def pushed(**changes: Any) -> dict[str, Any]:
    event = payment(1) | changes
    return {"push_source_name": "payments.transactions", "df": {name: [value] for name, value in event.items()}}


LESS = "m" * 200_000
WRONG: dict[str, tuple[str, dict[str, Any], int]] = {
    "a service": (READ, {"feature_service": LONG, "entities": KEY}, 422),
    "a shorter service": (READ, {"feature_service": LESS, "entities": KEY}, 404),
    "a shorter feature": (READ, {"features": [f"customer__payments:{LESS}"], "entities": KEY}, 404),
    "a shorter view": (READ, {"features": [f"{LESS}:payments_10m"], "entities": KEY}, 404),
    "a shorter source": ("/push", pushed() | {"push_source_name": LESS}, 404),
    "a service and features": (READ, {"feature_service": LONG, "features": [FEATURE], "entities": KEY}, 422),
    "a feature": (READ, {"features": [f"customer__payments:{LONG}"], "entities": KEY}, 422),
    "a view": (READ, {"features": [f"{LONG}:payments_10m"], "entities": KEY}, 422),
    "no reference": (READ, {"features": [LONG], "entities": KEY}, 422),
    "a join key": (READ, {"features": [FEATURE], "entities": {LONG: [42]}}, 422),
    "many join keys": (READ, {"features": [FEATURE], "entities": {f"key{i}": [] for i in range(1_000)}}, 422),
    "a value": (READ, {"features": [FEATURE], "entities": {"customer_id": [LONG]}}, 422),
    "a field": (READ, {"features": [FEATURE], "entities": KEY, LONG: 1}, 422),
    "a source": ("/push", pushed() | {"push_source_name": LONG}, 422),
    "where to": ("/push", pushed() | {"to": LONG}, 422),
    "a column": ("/push", pushed(**{LONG: 1}), 422),
    "a decimal": ("/push", pushed(amount_eur="1." + "0" * 7_000_000 + "1"), 422),
    "a number": ("/push", pushed(transaction_id=LONG), 422),
    "a time": ("/push", pushed(occurred_at=LONG), 422),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_long_name_is_told_in_a_few_bytes(http: httpx.Client, name: str) -> None:
    path, body, status = WRONG[name]
    answer = http.post(path, json=body)
    assert (answer.status_code, len(answer.content) < MOST) == (status, True), answer.text[:1_000]
    assert http.get("/health").status_code == 200


URLS = {
    "a path": "/" + LONG[:30_000],
    "a feature": "/explain?feature=" + LONG[:30_000],
    "a time": "/explain?feature=a:b&at=" + LONG[:30_000],
    "a view": "/feature-views/" + LONG[:30_000],
    "a parameter twice": f"/explain?{LONG[:20_000]}=1&{LONG[:20_000]}=2",
}


@pytest.mark.parametrize("name", URLS)
def test_a_long_url_is_not_told_in_full(http: httpx.Client, name: str) -> None:
    for kind in ("*/*", "text/html"):
        answer = http.get(URLS[name], headers={"accept": kind})
        assert 400 <= answer.status_code < 500
        assert len(answer.content) < MOST


def test_whatever_an_error_holds_each_field_is_told_in_few_characters() -> None:
    error = errors.RequestError(LONG, where=LONG, expected=LONG, got=LONG, remedy=LONG)
    assert 0 < max(map(len, told_outside(error).values())) <= MAX_FIELD


def test_names_are_compared_with_short_ones_alone() -> None:
    assert errors.nearest_name("transaction_1h", ["transactions_1h"]) == "transactions_1h"
    assert errors.nearest_name("m" * 101, ["m" * 101]) is None


def test_any_value_is_shown_in_a_hundred_characters() -> None:
    nested = {1: {2: {3: {4: 5}}}}
    for value in (LONG, LONG.encode(), [LONG] * 50, {LONG: LONG}, list(range(10**6)), 10**5_000, (10**400,), nested):
        assert 1 < len(errors.shown(value)) <= errors.MAX_SHOWN


def test_a_short_value_is_shown_as_it_is() -> None:
    for value in ("it's", 2**63, -1.5, [1, "a"], None, {"a": 1}):
        assert errors.shown(value) == repr(value)
