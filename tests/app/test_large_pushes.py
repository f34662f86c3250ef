"""A push of many events is taken in as small ones are, and gives others their turns while it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from feature_server.app.push import LARGE_PUSH, MAX_REJECTED
from feature_server.ingest.reader import MOST_TOGETHER
from feature_server.settings import load_settings
from tests.support.in_process import InProcess
from tests.support.stream_views import NOW, payment, put_online, stream_view

PUSH, READ = "/push", "/get-online-features"
SOURCE, COUNT = "payments.transactions", 5_000
SETTINGS = load_settings({"FEATURES_CLOCK": NOW.isoformat()})
Change = Callable[[list[dict[str, Any]]], None]


@pytest.fixture
def server(valkey: str) -> Iterator[InProcess]:
    put_online(valkey, stream_view())
    server = InProcess(valkey, SETTINGS)
    yield server
    server.app.pushes.close()


def payments(count: int = COUNT, **changes: Any) -> list[dict[str, Any]]:
    return [payment(i, customer_id=i % 40, **changes) for i in range(count)]


def push_of(events: list[dict[str, Any]]) -> bytes:
    columns = {name: [event[name] for event in events] for name in events[0]}
    return json.dumps({"push_source_name": SOURCE, "df": columns}).encode()


def pushed(server: InProcess, body: bytes, each: Callable[[int], None] = lambda turn: None) -> tuple[int, Any]:
    status, pieces = asyncio.run(server.ask(PUSH, body, each))
    return status, json.loads(b"".join(pieces))


def counts(server: InProcess, customers: int = 40) -> list[int]:
    asked = {"features": ["customer__payments:payments_10m"], "entities": {"customer_id": list(range(customers))}}
    _, pieces = asyncio.run(server.ask(READ, json.dumps(asked).encode()))
    values: list[int] = json.loads(b"".join(pieces))["results"][1]["values"]
    return values


def logged(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.xlen(f"features:log:{SOURCE}"))


def test_a_large_push_is_one_of_all_its_events(server: InProcess, valkey: str) -> None:
    events = payments()
    assert len(push_of(events)) > LARGE_PUSH
    assert COUNT > 2 * MOST_TOGETHER
    assert pushed(server, push_of(events)) == (200, {"accepted": COUNT, "rejected": []})
    assert counts(server) == [COUNT // 40] * 40
    assert logged(valkey) == 1


def test_what_is_refused_of_a_large_push_is_told_by_its_index(server: InProcess) -> None:
    events = payments()
    events[7]["amount_eur"] = "x"
    events[3_000]["occurred_at"] = "2026-03-01T13:00:01Z"
    events[4_999]["merchant"] = 5
    answer = {
        "accepted": COUNT - 3,
        "rejected": [
            {"index": 7, "reason": "Invalid decimal string - at `$.amount_eur`"},
            {
                "index": 3_000,
                "reason": "2026-03-01 13:00:01+00:00 is more than an hour ahead of the clock - at `$.occurred_at`",
            },
            {"index": 4_999, "reason": "Expected `str | null`, got `int` - at `$.merchant`"},
        ],
    }
    assert pushed(server, push_of(events)) == (200, answer)
    assert counts(server) == [COUNT // 40 - (i in (0, 7, 39)) for i in range(40)]


def test_that_all_are_refused_is_told_in_pieces(server: InProcess) -> None:
    status, pieces = asyncio.run(server.ask(PUSH, push_of(payments(amount_eur="x"))))
    answer = json.loads(b"".join(pieces))
    assert (status, answer["accepted"]) == (422, 0)
    assert [each["index"] for each in answer["rejected"]] == list(range(COUNT))
    assert len(pieces) >= COUNT // MAX_REJECTED


def test_a_version_with_another_key_is_refused_however_far_behind_the_first(server: InProcess) -> None:
    events = payments()
    events[4_900] = payment(8, customer_id=11)
    status, answer = pushed(server, push_of(events))
    reason = "another version of the event has another key of customer__payments"
    assert (status, answer) == (200, {"accepted": COUNT - 1, "rejected": [{"index": 4_900, "reason": reason}]})
    assert counts(server)[8] == COUNT // 40
    assert counts(server)[4_900 % 40] == COUNT // 40 - 1


BAD: dict[str, Callable[[bytes], bytes]] = {
    "an item that is missing": lambda body: body.replace(b"4998, 4999]", b"4998, , 4999]"),
    "a comma too many": lambda body: body.replace(b"4998, 4999]", b"4998, 4999,]"),
    "an end too early": lambda body: body[:-1],
    "bytes that are no text": lambda body: body.replace(b'"bakery"]', b'"\xff"]'),
    "brackets without end": lambda body: body.replace(b'"bakery"]', b"[" * 9_999 + b"]"),
    "columns of different lengths": lambda body: body.replace(b"4998, 4999]", b"4998]"),
    "a column too many": lambda body: body.replace(b'"df": {', b'"df": {"merchand": [1, 2], '),
    "a column too few": lambda body: body.replace(b'"merchant": ', b'"kind": '),
    "no list": lambda body: body.replace(b'"df": {', b'"df": {"merchand": 5, '),
    "no object": lambda body: body.replace(b'"df": {', b'"df": [').replace(b"]}}", b"]]}").replace(b'": [', b'", ['),
    "another source": lambda body: body.replace(b"payments.transactions", b"payments.transaction"),
    "a field too many": lambda body: body.replace(b'{"push', b'{"more": 1, "push'),
    "events for the offline store alone": lambda body: body.replace(b'{"push', b'{"to": "offline", "push'),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_large_push_is_told_as_of_a_small_one_and_nothing_is_taken_in(
    server: InProcess, valkey: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = BAD[name](push_of(payments()))
    status, answer = pushed(server, body)
    assert status in (400, 404, 422), answer
    assert counts(server, 1) == [0]
    assert logged(valkey) == 0
    monkeypatch.setattr("feature_server.app.push.LARGE_PUSH", len(body))
    whole = pushed(server, body)
    assert (status, answer["what"], answer.get("where")) == (whole[0], whole[1]["what"], whole[1].get("where"))


def test_a_number_of_millions_of_digits_is_refused_alone(server: InProcess) -> None:
    events = payments(3)
    body = push_of(events).replace(b'"12.50"]', b"1" * 1_000_000 + b"]")
    reason = f"a value of 1,000,000 characters, of at most {LARGE_PUSH:,} - at `$.amount_eur`"
    assert pushed(server, body) == (200, {"accepted": 2, "rejected": [{"index": 2, "reason": reason}]})


def test_others_are_answered_while_a_large_push_is_looked_at(server: InProcess) -> None:
    body, answered = push_of(payments(40_000)), list[str]()

    async def one(name: str, body: bytes) -> None:
        status, _ = await server.answer(PUSH, body)
        assert status == 200
        answered.append(name)

    async def both() -> None:
        first = asyncio.create_task(one("large", body))
        await asyncio.sleep(0)
        await asyncio.gather(first, one("small", push_of([payment(10**6)])))
        server.app.redis.close()

    asyncio.run(both())
    assert answered == ["small", "large"]


@pytest.mark.parametrize("turn", [1, 3, 6])
def test_definitions_that_change_while_a_push_is_looked_at_are_those_it_is_taken_in_by(
    server: InProcess, valkey: str, turn: int
) -> None:
    counts(server)  # the definitions are loaded

    def change(turns: int) -> None:
        if turns == turn:
            other = stream_view(ttl="1h")
            put_online(valkey, other)

    assert pushed(server, push_of(payments()), change) == (200, {"accepted": COUNT, "rejected": []})
    assert counts(server) == [COUNT // 40] * 40
    assert logged(valkey) == 1


def test_what_is_pushed_meanwhile_for_the_same_keys_counts_too(server: InProcess) -> None:
    corrected = payment(3, customer_id=3, amount_eur="0.00", ingested_at="2026-03-01T11:59:00Z")  # left out by the view

    async def all_of_them() -> None:
        large = asyncio.create_task(server.answer(PUSH, push_of(payments())))
        await asyncio.sleep(0)
        again = asyncio.create_task(server.answer(PUSH, push_of(payments())))
        for events in ([corrected], [payment(COUNT + 2, customer_id=2)]):
            status, _ = await server.answer(PUSH, push_of(events))
            assert status == 200
        assert [status for status, _ in await asyncio.gather(large, again)] == [200, 200]
        server.app.redis.close()

    asyncio.run(all_of_them())
    expected = [COUNT // 40] * 40
    expected[2], expected[3] = COUNT // 40 + 1, COUNT // 40 - 1
    assert counts(server) == expected


def test_a_push_that_a_worker_has_begun_is_answered_when_the_worker_ends(server: InProcess) -> None:
    def end(turns: int) -> None:
        if turns == 3:
            server.app.draining = True

    assert pushed(server, push_of(payments()), end) == (200, {"accepted": COUNT, "rejected": []})
    assert server.headers[b"connection"] == b"close"
    assert counts(server) == [COUNT // 40] * 40
