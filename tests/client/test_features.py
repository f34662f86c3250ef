"""FeatureClient and AsyncFeatureClient give the same answers and errors, from Redis and from a feature server."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_server import AsyncFeatureClient, FeatureClient
from feature_server.client.http import decode_response, error_of
from feature_server.client.push import decode_push
from feature_server.definitions.facts import NO_JOIN_KEYS
from feature_server.definitions.registry import Registry
from feature_server.errors import FeatureStoreError, NotSynced, OnlineStoreError, OnlineStoreUnavailable, RequestError
from feature_server.online.embedded import EmbeddedValkey
from feature_server.settings import load_settings
from tests.support.online_rows import NOW, OnlineRows, service, view
from tests.support.served import served
from tests.support.serving_cases import (
    AT_NOW,
    BAD_REQUESTS,
    DELAYS,
    FRAUD,
    NEW,
    OF_A_CLIENT,
    OLD,
    PROFILE,
    RISK,
    TRANSACTIONS,
    same,
    tables,
)

EVERYTHING = view(
    "thing__everything",
    {"thing": "uint64"},
    {
        "integer": "int64", "unsigned": "uint64", "single": "float32", "double": "float64", "flag": "bool",
        "text": "string", "day": "date", "naive": "timestamp", "aware": "timestamptz", "id": "uuid",
        "price": "decimal(9,2)", "embedding": "list<float32>",
    },
)  # fmt: skip
VALUES = [
    2**53 + 1, 2**64 - 1, 0.1, float("-inf"), False, 'a "quoted" ü', date(2026, 2, 28),
    datetime(2026, 1, 1, 1, 2, 3, 4), datetime(2026, 1, 1, tzinfo=UTC), UUID(int=7), Decimal("-0.50"),
    [1.5, None, float("inf")],
]  # fmt: skip


@pytest.fixture(scope="module")
def server(valkey_server: str) -> Iterator[str]:
    """The address of a feature server on the test session's Valkey."""
    with served(valkey_server) as running:
        yield running.address


@pytest.fixture
def rows(valkey: str) -> OnlineRows:
    rows = OnlineRows(valkey)
    rows.define(TRANSACTIONS, PROFILE, RISK, DELAYS, OLD, NEW, EVERYTHING, services=[FRAUD])
    return rows


Get = Callable[..., Any]


@pytest.fixture(params=["redis", "http", "async redis", "async http"])
def get_many(request: pytest.FixtureRequest, valkey: str, server: str) -> Iterator[Get]:
    """`get_many` of each kind of client."""
    url = valkey if "redis" in request.param else server
    if "async" not in request.param:
        with FeatureClient(url, settings=AT_NOW) as client:
            yield client.get_many
        return

    with asyncio.Runner() as runner:
        awaited = AsyncFeatureClient(url, settings=AT_NOW)
        yield lambda *args, **kwargs: runner.run(awaited.get_many(*args, **kwargs))
        runner.run(awaited.aclose())


def test_every_type_is_the_same_python_value_from_redis_and_over_http(rows: OnlineRows, get_many: Get) -> None:
    rows.put("thing__everything", 2**64 - 1, NOW - timedelta(microseconds=1), *VALUES)
    rows.put("thing__everything", 1, NOW, *[None] * len(VALUES))
    features = [f"thing__everything:{name}" for name in EVERYTHING.feature_names]
    found = get_many(features=features, thing=[2**64 - 1, 1, 2])
    assert found.entities == {"thing": [2**64 - 1, 1, 2]}
    expected = [*VALUES]
    expected[2] = float(np.float32(0.1))
    for name, value in zip(EVERYTHING.feature_names, expected, strict=True):
        assert same(found.values[name], [value, None, None]), name
        assert found.statuses[name] == ["PRESENT", "NULL_VALUE", "NOT_FOUND"]
        assert found.event_timestamps[name] == [NOW - timedelta(microseconds=1), NOW, None]
    assert [str(dtype) for dtype in found.types.values()] == ["uint64", *(str(f.dtype) for f in EVERYTHING.features)]


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [case[1:] for case in [*BAD_REQUESTS[:-1], *OF_A_CLIENT] if case[0] != "both"],
)
def test_a_bad_request_raises_the_same_error_from_redis_and_over_http(
    rows: OnlineRows, get_many: Get, arguments: dict[str, Any], kind: type[FeatureStoreError], said: str
) -> None:
    asked = dict(arguments)
    features = asked.pop("service", None) or asked.pop("features")
    with pytest.raises(kind) as caught:
        get_many(features, **asked)
    assert said in str(caught.value)


def test_an_empty_store_is_the_same_error_from_redis_and_over_http(valkey: str, get_many: Get) -> None:
    with pytest.raises(NotSynced, match="features sync"):
        get_many("fraud_v1", customer_id=[1], merchant_id=["a"])


def test_what_else_a_client_is_given_by_name_is_refused_as_a_join_key() -> None:
    for client in (FeatureClient, AsyncFeatureClient):
        for method in (client.get, client.get_many):
            named = [one for one in inspect.signature(method).parameters.values() if one.kind is not one.VAR_KEYWORD]
            assert tuple(one.name for one in named) == NO_JOIN_KEYS


def test_columns_may_be_arrays_and_series(rows: OnlineRows, get_many: Get) -> None:
    rows.put("customer__transactions", 2, NOW, 5, 0.5)
    for column in (np.array([1, 2]), pd.Series([1, 2]), (1, 2), [np.int64(1), np.int32(2)]):
        found = get_many(features=["customer__transactions:transactions_1h"], customer_id=column)
        assert found.values == {"transactions_1h": [None, 5]}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), count=st.integers(1, 40))
def test_http_says_what_redis_says(
    valkey: str, server: str, table: tuple[list[str], list[list[Any]]], count: int
) -> None:
    types, stored = table
    rows = OnlineRows(valkey)
    names = [f"f{i}" for i in range(len(types))]
    rows.define(view("thing__values", {"thing": "int64"}, dict(zip(names, types, strict=True))))
    for i, values in enumerate(stored):
        rows.put("thing__values", i, NOW - i * timedelta(microseconds=999_999), *values)
    features = [f"thing__values:{name}" for name in names]
    things = [i % (len(stored) + count % 2) for i in range(count)]
    with FeatureClient(valkey, settings=AT_NOW) as direct, FeatureClient(server) as remote:
        expected, found = (client.get_many(features=features, thing=things) for client in (direct, remote))
    assert found.statuses == expected.statuses
    assert found.event_timestamps == expected.event_timestamps
    for name in names:
        assert same(found.values[name], expected.values[name]), name


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(), st.floats(width=32), st.booleans())),
    odd=st.sampled_from(["nothing", "null", "expired", "missing", "future"]),
)
def test_many_rows_of_numbers_are_written_as_few_are(
    valkey: str, server: str, numbers: list[tuple[int, float, float, bool]], odd: str
) -> None:
    rows = OnlineRows(valkey)
    types = {"i": "int64", "d": "float64", "s": "float32", "b": "bool", "unasked": "uint16"}
    rows.define(view("thing__numbers", {"thing": "int64"}, types, ttl="1h"))
    numbers = [(1, 0.5, 0.25, True)] * 10 + numbers
    for i, values in enumerate(numbers):
        age = i * timedelta(microseconds=1)
        if i == 3 and odd == "expired":
            age = timedelta(hours=2)
        if i == 3 and odd == "future":
            age = -timedelta(hours=2)
        if i == 3 and odd == "missing":
            continue
        rows.put("thing__numbers", i, NOW - age, *values, None if i == 3 and odd == "null" else 1)
    features = [f"thing__numbers:{name}" for name in "sdbi"] + ["thing__numbers:unasked"] * (odd == "null")
    with FeatureClient(server) as client:
        together = client.get_many(features=features, thing=list(range(len(numbers))))
        alone = [client.get(features=features, thing=i) for i in range(len(numbers))]
    for row, one in zip(together, alone, strict=True):
        assert all(same(row.values[name], one.values[name]) for name in one.values)
        assert row.statuses == one.statuses
        assert row.event_timestamps == one.event_timestamps


def test_get_gives_one_entity_and_get_many_a_table_of_them(rows: OnlineRows, valkey: str) -> None:
    rows.put("customer__transactions", 1, NOW, 3, 9.5)
    rows.put("merchant__risk", "a", NOW, 0.5)
    with FeatureClient(valkey, settings=AT_NOW) as client:
        one = client.get("fraud_v1", customer_id=1, merchant_id="a")
        many = client.get_many("fraud_v1", customer_id=[1, 2], merchant_id=["a", "a"])
    assert one["amount"] == 9.5
    assert one.to_dict() == {
        "merchant_id": "a", "customer_id": 1, "ratio": 0.5, "amount": 9.5, "transactions_1h": 3,
    }  # fmt: skip
    assert len(many) == 2
    assert many["amount"] == [9.5, None]
    assert [row.values["transactions_1h"] for row in many] == [3, None]
    assert many.row(0) == one
    assert many.to_dict()["customer_id"] == [1, 2]


def test_a_data_frame_keeps_integers_exact_beside_nulls(rows: OnlineRows, valkey: str) -> None:
    rows.put("thing__everything", 1, NOW, *VALUES)
    features = [f"thing__everything:{name}" for name in EVERYTHING.feature_names]
    with FeatureClient(valkey, settings=AT_NOW) as client:
        frame = client.get_many(features=features, thing=[1, 2]).to_pandas()
    assert list(frame.columns) == ["thing", *EVERYTHING.feature_names]
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {
        "thing": "UInt64", "integer": "Int64", "unsigned": "UInt64", "single": "Float32", "double": "Float64",
        "flag": "boolean", "text": "str", "day": "date32[day][pyarrow]", "naive": "datetime64[us]",
        "aware": "datetime64[us, UTC]", "id": "str", "price": str(frame["price"].dtype),
        "embedding": "list<item: float>[pyarrow]",
    }  # fmt: skip
    assert frame["integer"].tolist() == [2**53 + 1, pd.NA]
    assert frame["aware"][0] == pd.Timestamp("2026-01-01", tz="UTC")


def test_a_misused_argument_says_which_one(rows: OnlineRows, valkey: str) -> None:
    with FeatureClient(valkey, settings=AT_NOW) as client:
        with pytest.raises(RequestError, match="'merchant__risk:ratio' is not the name of a feature service"):
            client.get("merchant__risk:ratio", merchant_id="a")
        with pytest.raises(FeatureStoreError, match="use get\\(\\)"):
            client.get_many(features=["merchant__risk:ratio"], merchant_id=1)


@pytest.mark.parametrize("over", ["redis", "http"])
def test_a_service_or_a_list_of_references_stands_first_as_in_the_store(
    rows: OnlineRows, valkey: str, server: str, over: str
) -> None:
    rows.put("merchant__risk", "a", NOW, 0.5)
    wrong: list[Any] = ["merchant__risk:ratio", [], [7], "no_such_service"]
    known = Registry(project="test", feature_views=(RISK,), feature_services=(FRAUD,))

    async def read_async() -> object:
        async with AsyncFeatureClient(valkey if over == "redis" else server, settings=AT_NOW) as client:
            return (await client.get(["merchant__risk:ratio"], merchant_id="a")).values

    with FeatureClient(valkey if over == "redis" else server, settings=AT_NOW) as client:
        assert client.get(["merchant__risk:ratio"], merchant_id="a").values == {"ratio": 0.5}
        assert asyncio.run(read_async()) == {"ratio": 0.5}
        for features in wrong:
            with pytest.raises(FeatureStoreError) as expected:
                known.resolve(features)
            with pytest.raises(type(expected.value)) as got:
                client.get(features, merchant_id="a")
            assert got.value.what == expected.value.what


@pytest.mark.parametrize("scheme", ["redis", "http"])
def test_what_does_not_answer_in_time_is_unavailable(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with FeatureClient(url, timeout=0.2) as client, pytest.raises(OnlineStoreUnavailable, match=url):
            client.get("fraud_v1", customer_id=1)

        async def read() -> None:
            async with AsyncFeatureClient(url, timeout=0.2) as client:
                await client.get("fraud_v1", customer_id=1)

        with pytest.raises(OnlineStoreUnavailable, match=url):
            asyncio.run(read())


def test_nobody_listening_is_unavailable_and_no_feature_server_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url in (f"redis://127.0.0.1:{port}", f"http://127.0.0.1:{port}", f"unix:///nowhere/{port}"):
        with FeatureClient(url) as client, pytest.raises(OnlineStoreUnavailable, match="remedy: start"):
            client.get("fraud_v1", customer_id=1)

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")

    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=answer, args=(other,))
        thread.start()
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        with FeatureClient(url) as client, pytest.raises(OnlineStoreError, match="feature server"):
            client.get("fraud_v1", customer_id=1)
        thread.join()


def test_a_connection_that_the_server_closed_is_made_again(rows: OnlineRows, valkey: str) -> None:
    with served(valkey) as first:
        client = FeatureClient(first.address)
        assert client.get(features=["merchant__risk:ratio"], merchant_id="a").statuses == {"ratio": "NOT_FOUND"}
    with served(valkey, "--port", str(first.port)), client:
        assert client.get(features=["merchant__risk:ratio"], merchant_id="a").statuses == {"ratio": "NOT_FOUND"}


def test_without_a_url_the_embedded_store_is_read(tmp_path: Path) -> None:
    here = load_settings({"FEATURES_CLOCK": NOW.isoformat()}, project_dir=tmp_path)
    with EmbeddedValkey(here.home / "valkey") as store:
        rows = OnlineRows(store.url)
        rows.define(RISK, services=[service("risk_v1", "merchant__risk:ratio")])
        rows.put("merchant__risk", "a", NOW, 0.5)
        with FeatureClient(settings=here) as client:
            assert client.url == store.url
            assert client.get("risk_v1", merchant_id="a").values == {"ratio": 0.5}


def test_threads_share_a_client(rows: OnlineRows, valkey: str) -> None:
    for i in range(4):
        rows.put("customer__transactions", i, NOW, i, 0.0)
    with FeatureClient(valkey, settings=AT_NOW) as client, ThreadPoolExecutor(4) as pool:

        def read(i: int) -> bool:
            found = (client.get(features=["customer__transactions:transactions_1h"], customer_id=i) for _ in range(100))
            return all(vector.values == {"transactions_1h": i} for vector in found)

        results = pool.map(read, range(4))
        for _ in range(10):
            rows.define(*rows.views.values(), services=[FRAUD])
            time.sleep(0.01)
        assert list(results) == [True] * 4


def test_a_client_goes_on_where_its_first_event_loop_has_ended(rows: OnlineRows, valkey: str, server: str) -> None:
    rows.put("merchant__risk", "a", NOW, 0.5)
    for url in (valkey, server):
        client = AsyncFeatureClient(url, settings=AT_NOW)
        for _ in range(2):
            found = asyncio.run(client.get(features=["merchant__risk:ratio"], merchant_id="a"))
            assert found.values == {"ratio": 0.5}
        asyncio.run(client.aclose())


def test_a_forked_child_reads_over_a_connection_of_its_own(rows: OnlineRows, valkey: str, server: str) -> None:
    port = int(server.rpartition(":")[2])
    with FeatureClient(server, settings=AT_NOW) as client:

        def connected_from() -> set[int]:
            client.get(features=["merchant__risk:ratio"], merchant_id="a")
            mine = psutil.Process().net_connections("tcp")
            return {each.laddr.port for each in mine if each.raddr and each.raddr.port == port}

        of_parent = connected_from()
        if (child := os.fork()) == 0:
            try:
                os._exit(0 if connected_from() - of_parent else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0


def test_reading_loads_no_heavy_library(rows: OnlineRows, valkey: str, server: str) -> None:
    code = f"""
import sys
from feature_server import FeatureClient
for url in {[valkey, server]!r}:
    with FeatureClient(url) as client:
        client.get(features=["merchant__risk:ratio"], merchant_id="a")
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    heavy = {"duckdb", "dbt", "pandas", "numpy", "pyarrow", "starlette", "uvicorn", "orjson", "redis", "airflow"}
    assert set(run.stdout.split()) & heavy == set()


@pytest.mark.parametrize(
    "body",
    [b'{"error": "\xff", "what": "\xff"}', b'{"error": "difflib", "what": "x"}', b'{"error": "Problem", "what": "x"}',
     b'{"error": "DefinitionError", "what": "x"}', b'{"error": "Exception", "what": 3}', b"[" * 100_000],
)  # fmt: skip
def test_whatever_another_server_answers_is_an_error_of_ours(body: bytes) -> None:
    assert isinstance(error_of(502, body, "http://h"), OnlineStoreUnavailable)
    assert isinstance(decode_push(502, body, "http://h"), OnlineStoreUnavailable)
    with pytest.raises(OnlineStoreError, match="the server's answer cannot be read"):
        decode_response(body, {}, "http://h")
    assert isinstance(decode_push(200, body, "http://h"), OnlineStoreError)
