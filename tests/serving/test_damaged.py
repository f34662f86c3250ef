"""What Redis holds of a key was cut, or is another program's: an error that names the key, and never a value."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import redis

from feature_server import AsyncFeatureClient, FeatureClient
from feature_server.app.json import JsonWriter
from feature_server.errors import DamagedValue, OnlineStoreError
from feature_server.layout.keys import EPOCH, REGISTRY
from feature_server.online.readers import RedisReader
from feature_server.protocol import GetOnlineFeatures
from feature_server.serving.drive import read_features
from feature_server.serving.reader import FeatureReader
from feature_server.times import to_us
from tests.support.online_rows import NOW, OnlineRows, view
from tests.support.served import metrics, served
from tests.support.serving_cases import AT_NOW

FIXED = view("customer__fixed", {"customer_id": "int64"}, {"n": "int64", "amount": "float64"})
MIXED = view(
    "customer__mixed", {"customer_id": "int64"},
    {"name": "string", "n": "int64", "scores": "list<float64>", "city": "string"},
)  # fmt: skip
WAYS = ("client", "async client", "server")


@pytest.fixture
def rows(valkey: str) -> Iterator[OnlineRows]:
    rows = OnlineRows(valkey)
    rows.define(FIXED, MIXED)
    for customer in range(12):
        rows.put(FIXED.id, customer, NOW, customer, 0.5)
        rows.put(MIXED.id, customer, NOW, "name", customer, [0.5, None], "city")
    yield rows
    rows.redis.close()


def change(rows: OnlineRows, of: Any, customer: int, by: Callable[[bytes], bytes]) -> None:
    key = f"{rows.codes[of.id]}{{{customer}}}"
    rows.redis.set(key, by(rows.redis.get(key)))


def read(url: str, way: str, of: Any, customers: list[int]) -> Any:
    features = [f"{of.id}:{name}" for name in of.feature_names]
    if way == "client":
        with FeatureClient(url, settings=AT_NOW) as client:
            return client.get_many(features=features, customer_id=customers)
    if way == "async client":

        async def ask() -> Any:
            async with AsyncFeatureClient(url, settings=AT_NOW) as client:
                return await client.get_many(features=features, customer_id=customers)

        return asyncio.run(ask())
    reader, connection = FeatureReader(lambda: to_us(NOW)), RedisReader(url)
    request = GetOnlineFeatures(features=features, entities={"customer_id": customers})
    answer = read_features(reader, connection, reader.read(request))
    return JsonWriter(answer.plan).write(answer)


def assert_damaged(url: str, of: Any, customer: int) -> None:
    """Every way of reading names the key, alone and among others; the others are read."""
    for way in WAYS:
        for customers in ([customer], list(range(12))):
            with pytest.raises(DamagedValue, match=f"of customer_id={customer}:") as raised:
                read(url, way, of, customers)
            assert of.id in str(raised.value.where)
            assert raised.value.remedy == f"run `features sync {of.id} --full`"
        assert read(url, way, of, [other for other in range(12) if other != customer])


@pytest.mark.parametrize("of", [FIXED, MIXED], ids=lambda of: of.id)
@pytest.mark.parametrize("less", [1, 2, 4, 20, 1000])
def test_a_row_that_was_cut_is_an_error_of_its_key(rows: OnlineRows, valkey: str, of: Any, less: int) -> None:
    change(rows, of, 7, lambda row: row[:-less])
    assert_damaged(valkey, of, 7)


@pytest.mark.parametrize("of", [FIXED, MIXED], ids=lambda of: of.id)
def test_a_row_that_is_too_long_is_an_error_of_its_key(rows: OnlineRows, valkey: str, of: Any) -> None:
    change(rows, of, 7, lambda row: row + b"\0")
    assert_damaged(valkey, of, 7)


def test_rows_too_short_and_too_long_by_as_much_are_not_taken_for_whole(rows: OnlineRows, valkey: str) -> None:
    change(rows, FIXED, 7, lambda row: row[:-8])
    change(rows, FIXED, 8, lambda row: row + bytes(8))
    for way in WAYS:
        with pytest.raises(DamagedValue, match="customer_id=7:"):
            read(valkey, way, FIXED, list(range(12)))


def replaced(row: bytes, old: bytes, new: bytes) -> bytes:
    assert row.count(old) == 1
    return row.replace(old, new)


@pytest.mark.parametrize(
    "by",
    [
        lambda row: replaced(row, b"name", b"nam\xff"),
        lambda row: replaced(row, b"\1\2\0\0\0", b"\1\3\0\0\0"),
        lambda row: replaced(row, b"\1\2\0\0\0", b"\2\2\0\0\0"),
        lambda row: replaced(row, b"\1\2\0\0\0", b"\0\2\0\0\0"),
        lambda row: replaced(row, b"\4\0\0\0", b"\x40\0\0\0"),
        lambda row: b"\0\0\0\0\0\0\0\x80" + row[8:],
    ],
    ids=["no UTF-8", "another count", "no list", "items of another width", "ends that fall", "before the year 1"],
)
def test_bytes_that_stand_for_no_value_are_an_error_of_their_key(
    rows: OnlineRows, valkey: str, by: Callable[[bytes], bytes]
) -> None:
    change(rows, MIXED, 7, by)
    assert_damaged(valkey, MIXED, 7)


def ask(address: str, of: Any, customers: list[int]) -> httpx.Response:
    features = [f"{of.id}:{name}" for name in of.feature_names]
    body = {"features": features, "entities": {"customer_id": customers}}
    return httpx.post(f"{address}/get-online-features", json=body, trust_env=False)


def test_the_server_says_so_and_answers_other_requests(rows: OnlineRows, valkey: str) -> None:
    change(rows, MIXED, 7, lambda row: row[:-2])
    with served(valkey) as server:
        answer = ask(server.address, MIXED, [3, 7])
        assert (answer.status_code, answer.json()["error"]) == (500, "DamagedValue")
        assert answer.json()["where"] == "customer__mixed of customer_id=7"
        assert ask(server.address, MIXED, [3, 8]).status_code == 200
        errors = server.stop()
    assert "Traceback" not in errors
    assert errors.count("answered 500") == 1


def broken(rows: OnlineRows, key: bytes, kind: str) -> None:
    rows.redis.delete(key)
    if kind == "no number":
        rows.redis.set(key, "abc")
    elif kind == "a hash":
        rows.redis.hset(key, "a", "b")


@pytest.mark.parametrize(
    ("key", "kind"), [(EPOCH, "no number"), (EPOCH, "a hash"), (REGISTRY, "no number"), (REGISTRY, "a hash")]
)
def test_what_a_sync_did_not_write_is_an_error_of_its_own(rows: OnlineRows, valkey: str, key: bytes, kind: str) -> None:
    with served(valkey) as server:
        assert ask(server.address, FIXED, [1]).status_code == 200
        broken(rows, key, kind)
        if key == REGISTRY:
            rows.redis.incr(EPOCH)
        answer = ask(server.address, FIXED, [1])
        assert (answer.status_code, answer.json()["error"]) == (500, "OnlineStoreError")
        assert "where" not in answer.json()  # that is for the log
        assert metrics(server.address)["features_online_store_up",] == 0
        assert httpx.get(f"{server.address}/ready", trust_env=False).status_code == 503
        told = server.stop()
        assert key.decode() in told
        assert "Traceback" not in told
    for way in WAYS:
        with pytest.raises(OnlineStoreError, match=key.decode()):
            read(valkey, way, FIXED, [1])


def test_an_empty_redis_is_empty_and_nothing_else(rows: OnlineRows, valkey: str) -> None:
    redis.Redis.from_url(valkey).flushall()
    with pytest.raises(OnlineStoreError, match="the online store is empty"):
        read(valkey, "client", FIXED, [1])
