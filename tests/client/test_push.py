"""FeatureClient.push and AsyncFeatureClient.push: events in, over HTTP and straight into Redis, told one by one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import redis

from feature_server import AsyncFeatureClient, FeatureClient
from feature_server.client.push import PushResult
from feature_server.errors import FeatureStoreError, OnlineStoreUnavailable, RequestError, UnknownNameError
from feature_server.online.embedded import EmbeddedValkey
from feature_server.protocol import RejectedEvent
from feature_server.settings import load_settings
from tests.support.served import eventually, served
from tests.support.stream_views import NOW, payment, put_online, stream_view

SOURCE = "payments.transactions"
AT_NOW = load_settings({"FEATURES_CLOCK": NOW.isoformat()})
Push = Callable[..., PushResult]


@pytest.fixture(scope="module")
def server(valkey_server: str) -> Iterator[str]:
    with redis.Redis.from_url(valkey_server) as connection:
        connection.flushall()
    put_online(valkey_server, stream_view())
    with served(valkey_server) as running:
        yield running.address


@pytest.fixture(params=["http", "redis", "async http", "async redis"])
def push(request: pytest.FixtureRequest, server: str, valkey_server: str) -> Push:
    """`push` of each kind of client."""
    kind = request.param
    url = server if kind.endswith("http") else valkey_server

    def sync(*arguments: Any, **options: Any) -> PushResult:
        with FeatureClient(url, settings=AT_NOW) as client:
            return client.push(*arguments, **options)

    def on_a_loop(*arguments: Any, **options: Any) -> PushResult:
        async def run() -> PushResult:
            async with AsyncFeatureClient(url, settings=AT_NOW) as client:
                return await client.push(*arguments, **options)

        return asyncio.run(run())

    return on_a_loop if kind.startswith("async") else sync


def payments_of(server: str, customer: int) -> int:
    with FeatureClient(server) as client:
        found: int = client.get(features=["customer__payments:payments_10m"], customer_id=customer)["payments_10m"]
    return found


_numbers = iter(range(10_000, 10_000_000, 10_000))


def fresh() -> int:
    """A customer, and the first of ids for its payments, that no other test has."""
    return next(_numbers)


def test_events_are_read_when_push_returns_and_count_once_when_pushed_again(push: Push, server: str) -> None:
    customer = fresh()
    events = [payment(customer + i, customer_id=customer) for i in range(1200)]
    for _ in range(2):
        assert push(SOURCE, events) == PushResult(accepted=1200, rejected=())
    assert payments_of(server, customer) == 1200


class Broken:
    nanosecond = 0

    def to_pydatetime(self) -> None:
        raise KeyError("no time")


def test_each_event_that_does_not_fit_is_told_by_its_place(push: Push, server: str) -> None:
    customer = fresh()
    events = [payment(customer + i, customer_id=customer) for i in range(1100)]
    events[5]["kind"] = 3
    events[700]["amount_eur"] = "x"
    del events[900]["merchant"]
    events[1000]["amout"] = 1
    events[1050]["amount_eur"] = float("nan")
    events[1060]["merchant"] = Broken()
    assert push(SOURCE, events) == PushResult(
        accepted=1094,
        rejected=(
            RejectedEvent(5, "Expected `str | null`, got `int` - at `$.kind`"),
            RejectedEvent(700, "Invalid decimal string - at `$.amount_eur`"),
            RejectedEvent(900, "column 'merchant' is missing"),
            RejectedEvent(1000, "column 'amout' is unknown"),
            RejectedEvent(1050, "JSON has no NaN and no infinity; a missing value is None - at `$.amount_eur`"),
            RejectedEvent(1060, "'no time' - at `$.merchant`"),
        ),
    )
    assert payments_of(server, customer) == 1094


HALF = "a\ud800"


def test_half_a_surrogate_pair_is_refused_wherever_it_stands(push: Push) -> None:
    customer = fresh()
    good = payment(customer, customer_id=customer)
    found = push(SOURCE, [good, good | {"merchant": HALF}, good | {HALF: 1}])
    assert found.accepted == 1
    assert [one.index for one in found.rejected] == [1, 2]
    assert all("surrogates not allowed" in one.reason for one in found.rejected)
    with pytest.raises(FeatureStoreError) as caught:
        push(HALF, [good])
    str(caught.value).encode()


def test_a_lazy_frame_is_pushed_and_columns_of_one_name_are_not(push: Push) -> None:
    event = payment(number := fresh(), customer_id=number)
    assert push(SOURCE, pl.DataFrame([event]).lazy()) == PushResult(accepted=1, rejected=())
    table = pa.table({name: pa.array([value]) for name, value in event.items()})
    twice = table.append_column("merchant", table.column("merchant"))
    for frame in (twice, pd.DataFrame([[1, 2]], columns=["a", "a"]), pd.DataFrame([[1, 2]], columns=[1, "1"])):
        with pytest.raises(RequestError, match="two columns have one name"):
            push(SOURCE, frame)
    with pytest.raises(RequestError, match="got: Series"):
        push(SOURCE, pd.Series([1]))


@pytest.mark.parametrize(
    "make",
    [
        pd.DataFrame,
        pl.DataFrame,
        lambda columns: pa.table({name: pa.array(values) for name, values in columns.items()}),
        lambda columns: [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    ],
    ids=["pandas", "polars", "Arrow", "dicts of NumPy's"],
)
def test_events_may_be_a_data_frame(server: str, make: Callable[[dict[str, Any]], Any]) -> None:
    customer = fresh()
    at = datetime(2026, 3, 1, 11, 58, 0, 250_000, tzinfo=UTC)
    events = make(
        {
            "transaction_id": np.arange(customer, customer + 3),
            "customer_id": np.full(3, customer),
            "merchant": ["bakery", None, "baker"],
            "kind": ["purchase"] * 3,
            "amount_eur": [Decimal("1.50")] * 3,
            "occurred_at": [at, at, at - timedelta(hours=3)],
            "ingested_at": [at] * 3,
        }
    )
    with FeatureClient(server) as client:
        assert client.push(SOURCE, events) == PushResult(accepted=3, rejected=())
        features = ["customer__payments:payments_10m", "customer__payments:spent_1h"]
        found = client.get(features=features, customer_id=customer)
    assert found.values == {"payments_10m": 2, "spent_1h": Decimal("3.00")}
    assert found.event_timestamps["spent_1h"] == at


def test_what_pandas_holds_to_be_missing_is_null_and_nanoseconds_are_refused(server: str) -> None:
    customer = fresh()
    events = pd.DataFrame([payment(customer, customer_id=customer), payment(customer + 1, customer_id=customer)])
    events["merchant"] = [np.nan, "bakery"]
    events["occurred_at"] = pd.to_datetime(["2026-03-01T11:58:00Z", "2026-03-01T11:58:00.000000001Z"], format="ISO8601")
    with FeatureClient(server) as client:
        result = client.push(SOURCE, events)
        assert result.accepted == 1
        assert result.rejected[0].reason.startswith(
            "a Timestamp cannot be sent: Timestamp('2026-03-01 11:58:00.0000000"
        )
        with pytest.raises(RequestError, match="column 'merchant' is missing"):
            client.push(SOURCE, events.drop(columns="merchant"))


LATE = 253_402_300_800_000_000  # the first microsecond of the year 10000


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda events: pl.DataFrame(events).lazy().select("absent"), "ColumnNotFoundError: .*absent"),
        (
            lambda events: pl.DataFrame({"occurred_at": pl.Series([LATE], dtype=pl.Datetime("us"))}),
            "events.occurred_at: ",
        ),
        (lambda events: pa.table({"occurred_at": pa.array([LATE], pa.timestamp("us"))}), "events.occurred_at: "),
        (lambda events: pa.table({"a": pa.array([1], pa.timestamp("us", "No/Where"))}), "got: UnknownTimeZoneError"),
        (lambda events: [event | {1: 2} for event in events], r"events\[0\]: the name of a column is no text"),
    ],
    ids=["a lazy frame", "polars' year 10000", "Arrow's", "a zone that is none", "a name that is a number"],
)
def test_what_a_library_cannot_say_is_told(push: Push, make: Callable[[list[Any]], Any], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        push(SOURCE, make([payment(1)]))


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
def test_a_nanosecond_is_refused_with_its_event_whatever_the_library(push: Push, library: str) -> None:
    table = pa.Table.from_pylist([payment(customer := fresh(), customer_id=customer)] * 2)
    at = 1_772_366_280_000_000_000
    times = pa.array([at, at + 1], pa.timestamp("ns", "UTC"))
    table = table.set_column(table.column_names.index("occurred_at"), "occurred_at", times)
    frame: Any = {"pandas": table.to_pandas, "polars": lambda: pl.from_arrow(table), "arrow": lambda: table}[library]()
    found = push(SOURCE, frame)
    assert (found.accepted, [one.index for one in found.rejected]) == (1, [1])
    assert "000001" in found.rejected[0].reason


class OwnFrame(pd.DataFrame):
    pass


def test_a_reader_of_batches_and_a_frame_of_ones_own_class_are_pushed_and_bytes_are_not(push: Push) -> None:
    events = [payment(customer := fresh(), customer_id=customer)]
    once = PushResult(accepted=1, rejected=())
    assert push(SOURCE, pa.Table.from_pylist(events).to_reader()) == once
    assert push(SOURCE, OwnFrame(events)) == once
    found = push(SOURCE, [events[0] | {"merchant": b"bakery"}])
    assert found.accepted == 0
    assert "JSON has no bytes; give text or a number - at `$.merchant`" in found.rejected[0].reason


WRONG: list[tuple[Any, type[Exception], str]] = [
    ((SOURCE, payment(1)), RequestError, r"push one event as \[event\]"),
    ((SOURCE, "events.jsonl"), RequestError, "events are not a list"),
    ((SOURCE, [1]), RequestError, r"events\[0\]: an event is not a mapping"),
    (("payments.transaction", [payment(1)]), UnknownNameError, "did you mean 'payments.transactions'"),
]


@pytest.mark.parametrize(("arguments", "kind", "told"), WRONG)
def test_a_wrong_call_is_told_what_is_wrong(push: Push, arguments: Any, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told):
        push(*arguments)


def test_no_events_are_none_taken_in(push: Push) -> None:
    assert push(SOURCE, []) == PushResult(accepted=0, rejected=())


def test_large_events_are_sent_in_smaller_batches(server: str) -> None:
    customer = fresh()
    merchant = "m" * 20_000
    events = [payment(customer + i, customer_id=customer, merchant=merchant) for i in range(500)]
    with FeatureClient(server) as client:
        assert client.push(SOURCE, events).accepted == 500
    assert payments_of(server, customer) == 500


def test_a_batch_is_sent_again_until_redis_is_back(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as store, served(store.url) as running:
        put_online(store.url, stream_view())
        with FeatureClient(running.address) as client:
            assert client.push(SOURCE, [payment(1)]).accepted == 1
            with redis.Redis.from_url(store.url) as connection:
                os.kill(connection.info("server")["process_id"], signal.SIGKILL)
            eventually(lambda: not _answers(store.url))
            with pytest.raises(OnlineStoreUnavailable, match=r"push the same events again: 0 were taken in, and one"):
                client.push(SOURCE, [payment(2)], retry_seconds=0)
            found: list[PushResult] = []
            waiting = threading.Thread(target=lambda: found.append(client.push(SOURCE, [payment(2)], retry_seconds=60)))
            waiting.start()
            with EmbeddedValkey(tmp_path):
                waiting.join()
        assert found == [PushResult(accepted=1, rejected=())]


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as connection:
            return bool(connection.ping())
    except redis.ConnectionError:
        return False


def test_an_answer_that_is_lost_is_asked_for_again_and_nothing_counts_twice() -> None:
    asked: list[dict[str, Any]] = []

    class Flaky(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            if len(asked) == 1:
                return  # the connection closes without an answer
            status = 503 if len(asked) == 2 else 200
            answer = (
                {"accepted": 2, "rejected": []} if status == 200 else {"error": "OnlineStoreUnavailable", "what": "x"}
            )
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Flaky) as flaky:
        threading.Thread(target=flaky.serve_forever, daemon=True).start()
        with FeatureClient(f"http://127.0.0.1:{flaky.server_port}") as client:
            assert client.push(SOURCE, [payment(1), payment(2)]).accepted == 2
        flaky.shutdown()
    assert len(asked) == 3
    assert asked[0] == asked[1] == asked[2]


def test_without_the_full_install_a_push_to_redis_names_the_server(valkey_server: str, tmp_path: Path) -> None:
    for library in ("duckdb", "pyarrow", "pandas", "numpy"):
        (tmp_path / f"{library}.py").write_text(f"raise ImportError('No module named {library}')")
    code = (
        "from feature_server import FeatureClient\n"
        f"with FeatureClient({valkey_server!r}) as client: client.push({SOURCE!r}, [{payment(1)!r}])"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "RequestError: " in run.stderr
    assert 'push through the server: FeatureClient("http://…").push(…)' in run.stderr


def test_the_light_install_pushes_through_a_server(server: str, tmp_path: Path) -> None:
    for library in ("duckdb", "pyarrow", "pandas", "numpy", "orjson"):
        (tmp_path / f"{library}.py").write_text(f"raise ImportError('No module named {library}')")
    code = (
        "from feature_server import FeatureClient\n"
        f"with FeatureClient({server!r}) as client: print(client.push({SOURCE!r}, [{payment(fresh())!r}]))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout == "PushResult(accepted=1, rejected=())\n", run.stderr
