"""A read of many entities answers what small ones do, and gives others their turns while it is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from feature_server.app.bodies import LARGE, scan_body
from feature_server.serving.plan import MOST_TOGETHER
from tests.support.in_process import InProcess
from tests.support.online_rows import NOW, OnlineRows, view
from tests.support.served import Served
from tests.support.serving_cases import AT_NOW, SECOND

READ = "/get-online-features"
MIXED = view(
    "customer__mixed",
    {"customer_id": "int64", "region": "string"},
    {"amount": "float64", "name": "string", "recent": "list<int64>", "price": "decimal(12,3)"},
    ttl="1h",
)
PLAIN = view("customer__plain", {"customer_id": "int64"}, {"count": "int64"})
FEATURES = [f"customer__mixed:{name}" for name in MIXED.feature_names]
COUNT = 12_000


@pytest.fixture
def mixed(valkey: str) -> OnlineRows:
    rows = OnlineRows(valkey)
    rows.define(MIXED, PLAIN)
    for i in range(0, 40, 2):
        age = SECOND * (4_000 if i % 10 == 0 else i)
        rows.put(
            "customer__mixed", (i, f'r,"{i}'), NOW - age, None if i % 6 == 0 else i / 8, "é," * i, [i] * i, Decimal(i)
        )
        rows.put("customer__plain", i, NOW - SECOND, i)
    return rows


@pytest.fixture
def http(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as client:
        yield client


def entities(count: int) -> dict[str, list[Any]]:
    keys = [i % 40 for i in range(count)]
    return {"customer_id": [None if i == 7 else i for i in keys], "region": [f'r,"{i}' for i in keys]}


def request(count: int, **more: Any) -> dict[str, Any]:
    return {"features": [*FEATURES, "customer__plain:count"], "entities": entities(count) | more}


def test_an_answer_in_parts_is_that_of_small_reads(mixed: OnlineRows, http: httpx.Client) -> None:
    small = http.post(READ, json=request(40)).json()
    body = json.dumps(request(COUNT))
    assert len(body) > LARGE
    large = http.post(READ, content=body).json()
    assert large["metadata"] == small["metadata"]
    expected = [{name: values * (COUNT // 40) for name, values in each.items()} for each in small["results"]]
    assert large["results"] == expected


def test_a_small_body_of_many_values_is_answered_in_parts_too(mixed: OnlineRows, http: httpx.Client) -> None:
    asked = {"features": ["customer__plain:count"], "entities": {"customer_id": [2] * (3 * MOST_TOGETHER)}}
    assert len(json.dumps(asked)) < LARGE
    answer = http.post(READ, json=asked).json()
    assert [each["values"] for each in answer["results"]] == [[2] * 3 * MOST_TOGETHER] * 2


BAD: dict[str, tuple[Callable[[str], str], int, str]] = {
    "a wrong key at the end": (lambda body: body.replace(', 39]', ', "39"]'), 422, "wrong type"),
    "a missing item": (lambda body: body.replace("39, 0, 1", "39, , 1"), 400, "not JSON"),
    "a comma too many": (lambda body: body.replace(', 39]', ', ]'), 400, "not JSON"),
    "lists of different lengths": (lambda body: body.replace(', 39]', ', 39, 40]'), 422, "different lengths"),
    "an unknown feature": (lambda body: body.replace("customer__plain:count", "customer__plain:cuont"), 404, "unknown"),
    "a feature that is no text": (lambda body: body.replace('"customer__plain:count"', "7"), 422, "Expected `str`"),
    "an unknown join key": (lambda body: body.replace('"region"', '"regoin"'), 422, "not a join key"),
    "an unknown field": (lambda body: body.replace('"features"', '"feature"'), 422, "unknown field"),
    "an end too early": (lambda body: body[:-1], 400, "not JSON"),
    "a list for a key's list": (lambda body: body.replace('"region": [', '"region": [[1], '), 422, "lengths"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_large_body_is_told_as_with_a_small_one(
    mixed: OnlineRows, http: httpx.Client, name: str
) -> None:
    change, status, what = BAD[name]
    answer = http.post(READ, content=change(json.dumps(request(COUNT))))
    assert (answer.status_code, what in answer.json()["what"]) == (status, True), answer.text
    assert http.post(READ, content=json.dumps(request(COUNT))).status_code == 200


def test_a_key_that_is_not_needed_is_looked_at_but_may_have_another_length(
    mixed: OnlineRows, http: httpx.Client
) -> None:
    asked = {"features": ["customer__plain:count"], "entities": {"customer_id": [2] * 50_000, "region": ["a"] * 3_000}}
    body = json.dumps(asked)
    answer = http.post(READ, content=body)
    assert answer.json()["results"][1]["values"] == [2] * 50_000
    assert http.post(READ, content=body.replace('"a"]', '"a",]')).status_code == 400


def test_a_join_key_has_256_kib(mixed: OnlineRows, http: httpx.Client) -> None:
    def asked(size: int) -> dict[str, Any]:
        keys = {"customer_id": [1, 2, 3], "region": ["a", "x" * size, "b"]}
        return {"features": [FEATURES[0]], "entities": keys}

    answer = http.post(READ, json=asked((256 << 10) - 2)).json()
    assert [each["statuses"][1] for each in answer["results"]] == ["PRESENT", "PRESENT", "NOT_FOUND"]
    refused = http.post(READ, json=asked(400 << 10))
    assert (refused.status_code, refused.json()["what"]) == (422, "a join key is too long")
    assert refused.json()["where"] == "entities.region"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b" " * (7 << 20) + b'{"features": ["customer__plain:count"]}', "large, and not"),
        (b'{"features": ["customer__plain:count"]' + b" " * (3 << 20) + b"}", "large, and not"),
        (
            b'{"entities": {"customer_id": [2]}, "features": ["customer__plain:count"' + b" " * (3 << 20) + b"]}",
            "the name of a feature is too long",
        ),
        (b'{"entities": {"customer_id": [2' + b" " * (3 << 20) + b"]}}", "a join key is too long"),
        (b'{"entities": {"customer_id": [2' + b",2" * (3 << 20), "the body is not JSON"),
    ],
)  # fmt: skip
def test_what_is_large_by_what_is_no_value_is_refused(
    mixed: OnlineRows, http: httpx.Client, body: bytes, what: str
) -> None:
    answer = http.post(READ, content=body)
    assert answer.status_code in (400, 422)
    assert what in answer.json()["what"]


def test_others_have_their_turns_between_the_parts(mixed: OnlineRows, valkey: str) -> None:
    server = InProcess(valkey, AT_NOW)
    body = json.dumps({"features": ["customer__plain:count"], "entities": {"customer_id": [2] * 200_000}}).encode()
    status, pieces = asyncio.run(server.ask(READ, body))
    assert status == 200
    assert server.turns > 200_000 // MOST_TOGETHER
    assert max(map(len, pieces)) < 1 << 20
    assert json.loads(b"".join(pieces))["results"][1]["values"] == [2] * 200_000


def test_others_have_their_turns_while_a_body_is_looked_at() -> None:
    async def look() -> int:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        task = asyncio.create_task(others())
        scan = await scan_body(b'{"a": {"b": [' + b"1," * 1_000_000 + b"1]}}")
        task.cancel()
        assert len(scan.lists[0]) == 1_000_001
        return turns

    assert asyncio.run(look()) >= 2_000_000 // (1 << 16)


@pytest.mark.parametrize("turn", [1, 5, 40, 80])
def test_definitions_that_change_meanwhile_are_never_mixed(valkey: str, turn: int) -> None:
    rows = OnlineRows(valkey)
    rows.define(PLAIN)
    rows.put("customer__plain", 2, NOW, 1)
    new = view("customer__plain", {"customer_id": "int64"}, {"count": "float64"})

    def change(turns: int) -> None:
        if turns == turn:
            rows.define(new)
            rows.put("customer__plain", 2, NOW, 2.5)

    body = json.dumps({"features": ["customer__plain:count"], "entities": {"customer_id": [2] * 100_000}}).encode()
    status, pieces = asyncio.run(InProcess(valkey, AT_NOW).ask(READ, body, change))
    answer = json.loads(b"".join(pieces))
    assert status == 200
    assert (answer["metadata"]["feature_types"][1], *set(answer["results"][1]["values"])) in [
        ("int64", 1), ("float64", 2.5), ("float64", None),
    ]  # fmt: skip
