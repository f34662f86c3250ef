"""What a read answers: values, statuses and event timestamps, from rows laid out by docs/redis_layout.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_server import FeatureClient
from feature_server.definitions.facts import JoinKey
from feature_server.dtypes import parse_dtype
from feature_server.errors import FeatureStoreError, NotSynced, OnlineStoreUnavailable, RequestError
from feature_server.layout.keys import EPOCH, REGISTRY, key_encoder, row_key, row_keys, text_encoder
from feature_server.online import registry
from feature_server.online.readers import RedisReader
from feature_server.protocol import GetOnlineFeatures
from feature_server.serving.drive import read_features
from feature_server.serving.reader import FeatureReader
from feature_server.serving.rows import to_datetimes
from feature_server.times import to_us
from tests.support.online_rows import NOW, OnlineRows, view
from tests.support.serving_cases import (
    AT_NOW,
    BAD_REQUESTS,
    DELAYS,
    FRAUD,
    MICROSECOND,
    NEW,
    OLD,
    PROFILE,
    RISK,
    SECOND,
    TRANSACTIONS,
    same,
    tables,
)


@pytest.fixture
def rows(valkey: str) -> OnlineRows:
    rows = OnlineRows(valkey)
    rows.define(TRANSACTIONS, PROFILE, RISK, DELAYS, OLD, NEW, services=[FRAUD])
    return rows


@pytest.fixture
def client(valkey: str) -> Iterator[FeatureClient]:
    with FeatureClient(valkey, settings=AT_NOW) as client:
        yield client


def test_a_value_comes_with_its_status_and_event_timestamp(rows: OnlineRows, client: FeatureClient) -> None:
    rows.put("customer__transactions", 42, NOW - 5 * SECOND, 2**53 + 1, None)
    found = client.get(
        features=["customer__transactions:transactions_1h", "customer__transactions:amount"], customer_id=42
    )
    assert found.entity == {"customer_id": 42}
    assert found.values == {"transactions_1h": 9007199254740993, "amount": None}
    assert found.statuses == {"transactions_1h": "PRESENT", "amount": "NULL_VALUE"}
    assert found.event_timestamps == {"transactions_1h": NOW - 5 * SECOND, "amount": NOW - 5 * SECOND}


def test_features_come_in_the_order_of_the_service_for_entities_of_several_kinds(
    rows: OnlineRows, client: FeatureClient
) -> None:
    rows.put("customer__transactions", 1, NOW, 3, 9.5)
    rows.put("customer__transactions", 2, NOW, 4, 8.5)
    rows.put("merchant__risk", "m|1", NOW, 0.5)
    found = client.get_many("fraud_v1", customer_id=[1, 2, 1], merchant_id=["m|1", "m|1", "m2"])
    assert list(found.values.items()) == [
        ("ratio", [0.5, 0.5, None]),
        ("amount", [9.5, 8.5, 9.5]),
        ("transactions_1h", [3, 4, 3]),
    ]
    assert found.statuses["ratio"] == ["PRESENT", "PRESENT", "NOT_FOUND"]
    assert found.event_timestamps["ratio"] == [NOW, NOW, None]


@pytest.mark.parametrize(
    ("age", "status"),
    [
        (timedelta(0), "PRESENT"),
        (timedelta(hours=1), "PRESENT"),
        (timedelta(hours=1) + MICROSECOND, "OUTSIDE_MAX_AGE"),
        (-MICROSECOND, "NOT_FOUND"),
    ],
)
def test_a_value_counts_from_its_event_until_its_ttl_both_included(
    rows: OnlineRows, client: FeatureClient, age: timedelta, status: str
) -> None:
    rows.put("customer__transactions", 42, NOW - age, 7, 1.0)
    found = client.get(features=["customer__transactions:transactions_1h"], customer_id=42)
    assert found.statuses == {"transactions_1h": status}
    assert found.values == {"transactions_1h": 7 if status == "PRESENT" else None}
    expected = None if status == "NOT_FOUND" else NOW - age
    assert found.event_timestamps == {"transactions_1h": expected}


def test_every_status_can_occur_in_one_column(rows: OnlineRows, client: FeatureClient) -> None:
    rows.put("customer__transactions", 1, NOW, 1, None)
    rows.put("customer__transactions", 2, NOW, 2, 2.0)
    rows.put("customer__transactions", 3, NOW - timedelta(days=1), 3, 3.0)
    rows.put("customer__transactions", 4, NOW + SECOND, 4, 4.0)
    found = client.get_many(features=["customer__transactions:amount"], customer_id=[1, 2, 3, 4, 5, None])
    assert found.values["amount"] == [None, 2.0, None, None, None, None]
    assert found.statuses["amount"] == [
        "NULL_VALUE", "PRESENT", "OUTSIDE_MAX_AGE", "NOT_FOUND", "NOT_FOUND", "NOT_FOUND",
    ]  # fmt: skip


def test_a_view_without_ttl_never_expires(rows: OnlineRows, client: FeatureClient) -> None:
    rows.put("customer__profile", 1, datetime(1969, 12, 31, tzinfo=UTC), "DE", "Köln", 40)
    found = client.get(features=["customer__profile:city", "customer__profile:age"], customer_id=1)
    assert found.values == {"city": "Köln", "age": 40}
    assert found.event_timestamps["age"] == datetime(1969, 12, 31, tzinfo=UTC)


def test_an_entity_of_two_keys_needs_both(rows: OnlineRows, client: FeatureClient) -> None:
    rows.put("carrier_airport__delays", ("UA", "JFK"), NOW, 0.25)
    found = client.get_many(
        features=["carrier_airport__delays:late_share"], airport=["JFK", "JFK", None], carrier=["UA", "DL", "UA"]
    )
    assert found.values["late_share"] == [0.25, None, None]


def test_the_plain_name_of_a_view_means_its_latest_version(rows: OnlineRows, client: FeatureClient) -> None:
    rows.put("customer__purchases@v1", 1, NOW, 3)
    rows.put("customer__purchases@v2", 1, NOW, 3.5)
    found = client.get(
        features=["customer__purchases@v1:purchases_30d", "customer__purchases:purchases_30d"],
        full_feature_names=True,
        customer_id=1,
    )
    assert found.values == {"customer__purchases@v1__purchases_30d": 3, "customer__purchases__purchases_30d": 3.5}


def test_entities_may_be_asked_for_twice_or_not_at_all(rows: OnlineRows, client: FeatureClient) -> None:
    rows.put("merchant__risk", "", NOW, 0.5)
    features = ["merchant__risk:ratio"]
    assert client.get_many(features=features, merchant_id=["", "", "x"]).values["ratio"] == [0.5, 0.5, None]
    assert client.get_many(features=features, merchant_id=[]).values == {"ratio": []}


def test_a_join_key_that_is_not_needed_is_left_alone(rows: OnlineRows, client: FeatureClient) -> None:
    found = client.get(features=["merchant__risk:ratio"], merchant_id="a", customer_id=3)
    assert found.entity == {"merchant_id": "a"}


@pytest.mark.parametrize(("arguments", "kind", "said"), [case[1:] for case in BAD_REQUESTS if case[0] != "both"])
def test_a_request_that_cannot_be_answered_says_what_to_do(
    rows: OnlineRows, client: FeatureClient, arguments: dict[str, Any], kind: type[FeatureStoreError], said: str
) -> None:
    asked = dict(arguments)
    features = asked.pop("service", None) or asked.pop("features")
    with pytest.raises(kind) as caught:
        client.get_many(features, **asked)
    assert said in str(caught.value)


def test_a_definition_change_is_seen_at_once_and_never_read_by_the_old_layout(
    rows: OnlineRows, client: FeatureClient
) -> None:
    rows.put("merchant__risk", "a", NOW, 0.5)
    features = ["merchant__risk:ratio"]
    assert client.get(features=features, merchant_id="a").values == {"ratio": 0.5}
    changed = view("merchant__risk", {"merchant_id": "string"}, {"reports": "int64", "ratio": "string"})
    rows.define(TRANSACTIONS, changed)
    assert client.get(features=features, merchant_id="a").statuses == {"ratio": "NOT_FOUND"}
    rows.put("merchant__risk", "a", NOW, 3, "high")
    assert client.get(features=features, merchant_id="a").values == {"ratio": "high"}
    assert client.get(features=["merchant__risk:reports"], merchant_id="a").values == {"reports": 3}


def test_a_view_that_is_not_synced_says_so_and_is_served_once_it_is(rows: OnlineRows, client: FeatureClient) -> None:
    features = ["merchant__risk:ratio"]
    rows.define(TRANSACTIONS, unsynced=[RISK])
    with pytest.raises(NotSynced, match="features sync merchant__risk"):
        client.get(features=features, merchant_id="a")
    rows.define(TRANSACTIONS, RISK)
    rows.put("merchant__risk", "a", NOW, 0.5)
    assert client.get(features=features, merchant_id="a").values == {"ratio": 0.5}


def test_an_empty_store_says_so_and_is_served_once_it_is_filled(valkey: str, client: FeatureClient) -> None:
    with pytest.raises(NotSynced, match="features sync"):
        client.get("fraud_v1", customer_id=1, merchant_id="a")
    OnlineRows(valkey).define(TRANSACTIONS, RISK, services=[FRAUD])
    assert client.get("fraud_v1", customer_id=1, merchant_id="a").statuses["ratio"] == "NOT_FOUND"


def test_a_row_of_another_layout_is_an_error_and_not_a_value(rows: OnlineRows, client: FeatureClient) -> None:
    rows.put("merchant__risk", "a", NOW, 0.5)
    (key,) = rows.redis.keys(f"{rows.codes['merchant__risk']}{{*")
    rows.redis.append(key, b"\0")
    with pytest.raises(FeatureStoreError, match="features sync merchant__risk --full"):
        client.get(features=["merchant__risk:ratio"], merchant_id="a")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), chosen=st.data())
def test_every_value_of_every_type_comes_back_exactly(
    valkey: str, client: FeatureClient, table: tuple[list[str], list[list[Any]]], chosen: st.DataObject
) -> None:
    types, stored = table
    rows = OnlineRows(valkey)
    names = [f"f{i}" for i in range(len(types))]
    rows.define(view("thing__values", {"thing": "int64"}, dict(zip(names, types, strict=True))))
    for i, values in enumerate(stored):
        rows.put("thing__values", i, NOW - i * SECOND, *values)
    wanted = chosen.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    found = client.get_many(features=[f"thing__values:{name}" for name in wanted], thing=list(range(len(stored))))
    assert list(found.values) == wanted
    for name in wanted:
        position = names.index(name)
        expected = [values[position] for values in stored]
        assert same(found.values[name], expected), (name, types[position])
        assert found.statuses[name] == ["NULL_VALUE" if value is None else "PRESENT" for value in expected]
        assert found.event_timestamps[name] == [NOW - i * SECOND for i in range(len(stored))]


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the text of the error it raises."""
    try:
        return call()
    except RequestError as error:
        return str(error)


KEY_VALUES = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.text(max_size=5) | st.floats() | st.dates()


@given(
    dtype=st.sampled_from(["int8", "int64", "uint64", "string", "date", "uuid", "bool"]),
    values=st.lists(KEY_VALUES | st.text("%|{}a", max_size=4), min_size=1, max_size=4),
)
def test_a_column_of_keys_is_named_as_each_key_alone_would_be(dtype: str, values: list[Any]) -> None:
    key = JoinKey("id", parse_dtype(dtype))

    def one_by_one() -> list[bytes]:
        texts = [key_encoder(key)(value) for value in values]
        return [b"c{}" if text is None else row_key(b"c", [text]) for text in texts]

    def all_at_once() -> list[bytes]:
        return row_keys(b"c", [text_encoder(key)(values)])

    assert outcome(all_at_once) == outcome(one_by_one)


@given(st.lists(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999), max_size=5))
def test_times_are_exact_to_the_microsecond(microseconds: list[int]) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert to_datetimes(microseconds) == [epoch + timedelta(microseconds=us) for us in microseconds]


def test_types_that_are_no_numbers_may_be_keys(valkey: str, client: FeatureClient) -> None:
    rows = OnlineRows(valkey)
    keys = {"day": "date", "session": "uuid", "flag": "bool"}
    rows.define(view("thing__values", keys, {"x": "int64"}))
    session = UUID(int=5)
    rows.put("thing__values", (date(2026, 1, 2), session, True), NOW, 9)
    features = ["thing__values:x"]
    assert client.get(features=features, day=date(2026, 1, 2), session=session, flag=True).values == {"x": 9}
    assert client.get(features=features, day="2026-01-02", session=str(session), flag=True).values == {"x": 9}


class Restless(RedisReader):
    """A connection on which the online registry changes before each of so many reads of rows."""

    changes = 0

    def mget(self, keys: Sequence[bytes | str]) -> list[bytes | None]:
        if self.changes and REGISTRY not in keys:
            self.changes -= 1
            with redis.Redis.from_url(self.url) as server:
                server.incr(EPOCH)
        return super().mget(keys)


def read_restlessly(url: str, changes: int) -> FeatureReader:
    connection, reader = Restless(url), FeatureReader(lambda: to_us(NOW))
    request = GetOnlineFeatures(entities={"customer_id": [42]}, features=["customer__transactions:transactions_1h"])
    connection.changes = changes
    try:
        answer = read_features(reader, connection, reader.read(request))
        assert answer.column(answer.plan.columns[0])[0] == [7]
    finally:
        connection.close()
    return reader


def test_a_read_waits_while_definitions_change_again_and_again(
    rows: OnlineRows, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.put("customer__transactions", 42, NOW, 7, None)
    assert read_restlessly(valkey, 30).counts.reloads == 31
    monkeypatch.setattr(registry, "PATIENCE_SECONDS", 0.0)
    assert read_restlessly(valkey, 3).counts.reloads == 4
    with pytest.raises(OnlineStoreUnavailable, match="keeps changing"):
        read_restlessly(valkey, 1_000)
