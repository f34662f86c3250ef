"""Events pushed live: what is taken in, what is refused and why, and what a read then sees."""

from __future__ import annotations

import json
import os
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pyarrow as pa
import pytest
import redis

from feature_server.definitions.facts import FeatureView
from feature_server.errors import NotSynced, RequestError, UnknownNameError
from feature_server.ingest.link import Link
from feature_server.ingest.transaction import Ingestor
from feature_server.times import to_us
from tests.support.pushed import SOURCE, Clock, read
from tests.support.stream_views import COLUMNS, NOW, SQL, event_source, payment, put_online, stream_view


def test_a_pushed_event_is_seen_by_the_next_read(valkey: str, ingestor: Ingestor, clock: Clock) -> None:
    result = ingestor.push(SOURCE, [payment(1), payment(2, amount_eur="7.50", merchant="cafe", kind="refund")])
    assert (result.accepted, result.rejected) == (2, [])
    assert read(valkey, clock, [42]) == [
        {
            "payments_10m": (2, "PRESENT"),
            "spent_1h": (Decimal("12.50"), "PRESENT"),
            "merchants_1h": (2, "PRESENT"),
            "largest_10m": (Decimal("12.50"), "PRESENT"),
            "mean_1h": (10.0, "PRESENT"),
            "before_5m": (2, "PRESENT"),
            "peak_to_mean": (1.25, "PRESENT"),
            "first_merchant_1h": ("bakery", "PRESENT"),
            "any_refund_1h": (True, "PRESENT"),
            "median_1h": (10.0, "PRESENT"),
            "total_1h": (20.0, "PRESENT"),
            "least_10m": (7.5, "PRESENT"),
            "last_merchant": ("cafe", "PRESENT"),
        }
    ]


def test_a_window_empties_as_the_clock_goes_on_and_a_plain_column_expires(
    valkey: str, ingestor: Ingestor, clock: Clock
) -> None:
    ingestor.push(SOURCE, [payment(1)])
    wanted = ["payments_10m", "spent_1h", "last_merchant"]
    clock.now = NOW + timedelta(minutes=5)  # the window's end is included
    assert [row["payments_10m"] for row in read(valkey, clock, [42], wanted)] == [(1, "PRESENT")]
    clock.now = NOW + timedelta(minutes=5, microseconds=1)
    assert read(valkey, clock, [42], wanted) == [
        {
            "payments_10m": (0, "PRESENT"),
            "spent_1h": (Decimal("12.50"), "PRESENT"),
            "last_merchant": ("bakery", "PRESENT"),
        }
    ]
    clock.now = NOW + timedelta(hours=2)
    assert read(valkey, clock, [42], wanted) == [
        {"payments_10m": (0, "PRESENT"), "spent_1h": (None, "NULL_VALUE"), "last_merchant": (None, "OUTSIDE_MAX_AGE")}
    ]


def test_a_customer_without_events_has_empty_windows_and_no_customer_has_nothing(
    valkey: str, ingestor: Ingestor, clock: Clock
) -> None:
    ingestor.push(SOURCE, [payment(1)])
    wanted = ["payments_10m", "largest_10m", "last_merchant"]
    assert read(valkey, clock, [7, None], wanted) == [
        {"payments_10m": (0, "PRESENT"), "largest_10m": (None, "NULL_VALUE"), "last_merchant": (None, "NOT_FOUND")},
        dict.fromkeys(wanted, (None, "NOT_FOUND")),
    ]


def test_an_event_sent_twice_counts_once_and_a_correction_replaces_it(
    valkey: str, ingestor: Ingestor, clock: Clock
) -> None:
    corrected = payment(1, amount_eur="1.00", ingested_at="2026-03-01T11:58:00Z")
    ingestor.push(SOURCE, [payment(1), payment(1)])
    ingestor.push(SOURCE, [corrected])
    ingestor.push(SOURCE, [payment(1)])
    wanted = ["payments_10m", "spent_1h"]
    assert read(valkey, clock, [42], wanted) == [
        {"payments_10m": (1, "PRESENT"), "spent_1h": (Decimal("1.00"), "PRESENT")}
    ]
    cancelled = payment(1, amount_eur="0.00", ingested_at="2026-03-01T11:59:00Z")
    assert ingestor.push(SOURCE, [cancelled]).accepted == 1
    assert read(valkey, clock, [42], wanted) == [{"payments_10m": (0, "PRESENT"), "spent_1h": (None, "NULL_VALUE")}]


def test_python_values_are_taken_as_they_are(valkey: str, ingestor: Ingestor, clock: Clock) -> None:
    event = payment(1) | {
        "amount_eur": Decimal("3.25"),
        "occurred_at": datetime(2026, 3, 1, 12, 57, tzinfo=UTC) - timedelta(hours=1),
    }
    assert ingestor.push(SOURCE, [event]).accepted == 1
    assert read(valkey, clock, [42], ["spent_1h"]) == [{"spent_1h": (Decimal("3.25"), "PRESENT")}]


def test_an_unknown_source_and_an_empty_store_are_errors(valkey: str, ingestor: Ingestor, clock: Clock) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'payments\.transactions'"):
        ingestor.push("payments.transaction", [payment(1)])
    redis.Redis.from_url(valkey).flushall()
    with Ingestor(valkey, clock) as another, pytest.raises(NotSynced):
        another.push(SOURCE, [payment(1)])


def test_an_event_the_sql_fails_on_is_refused_alone(valkey: str, clock: Clock) -> None:
    sql = """
        select customer_id, occurred_at as event_timestamp, ingested_at as created_timestamp,
        sum(merchant::integer) over (
            partition by customer_id order by occurred_at range between interval 1 hour preceding and current row
        )::bigint as total
        from events
    """
    put_online(valkey, stream_view(sql, {"total": "int64"}))
    with Ingestor(valkey, clock, expire=False) as ingestor:
        events = [payment(i, merchant=merchant) for i, merchant in enumerate(["1", "x", "3", "4"])]
        result = ingestor.push(SOURCE, events)
    assert result.accepted == 3
    assert result.rejected[0][0] == 1
    assert "Could not convert string 'x'" in result.rejected[0][1]
    assert read(valkey, clock, [42], ["total"]) == [{"total": (8, "PRESENT")}]


def test_accepted_events_are_in_the_log_as_they_were_sent(valkey: str, ingestor: Ingestor) -> None:
    ingestor.push(SOURCE, [payment(1), payment(2, customer_id="x")])
    ((_, fields),) = redis.Redis.from_url(valkey).xrange(f"features:log:{SOURCE}")
    logged = pa.ipc.open_stream(fields[b"events"]).read_all()
    assert logged.column_names == list(COLUMNS)
    assert logged.num_rows == 1
    assert logged["amount_eur"].to_pylist() == [Decimal("12.50")]
    assert logged["occurred_at"].to_pylist() == [datetime(2026, 3, 1, 11, 55, tzinfo=UTC)]


def test_a_change_of_the_definitions_is_seen_by_the_next_push(valkey: str, ingestor: Ingestor, clock: Clock) -> None:
    ingestor.push(SOURCE, [payment(1)])
    more = stream_view(SQL_MORE, {"payments_10m": "int64", "largest_ever_1d": "decimal(12,2)"})
    put_online(valkey, more)
    with redis.Redis.from_url(valkey) as connection:
        connection.delete("features:log:payments.transactions")
    assert ingestor.push(SOURCE, [payment(2)]).accepted == 1
    assert read(valkey, clock, [42], ["payments_10m"]) == [{"payments_10m": (2, "PRESENT")}]


def test_a_source_whose_columns_change_takes_events_with_the_new_ones(
    valkey: str, view: FeatureView, ingestor: Ingestor, clock: Clock
) -> None:
    ingestor.push(SOURCE, [payment(1)])
    with pytest.raises(RequestError, match="column 'country' is unknown"):
        ingestor.push_columns(SOURCE, json.dumps({"country": ["AT"]}).encode())
    columns = {"country": "varchar", **COLUMNS, "amount_eur": "double"}
    put_online(valkey, view, source=event_source(columns))
    sent = {name: [value] for name, value in payment(2, country="AT", amount_eur=7.5).items()}
    assert ingestor.push_columns(SOURCE, json.dumps(sent).encode()).accepted == 1
    assert ingestor.push(SOURCE, [payment(3, amount_eur=1.0)]).rejected == [
        (0, "Object missing required field `country`")
    ]
    assert read(valkey, clock, [42], ["payments_10m", "total_1h"]) == [
        {"payments_10m": (2, "PRESENT"), "total_1h": (20.0, "PRESENT")}
    ]


SQL_MORE = """
    select customer_id, occurred_at as event_timestamp, ingested_at as created_timestamp,
    count(*) over (
        partition by customer_id order by occurred_at range between interval 10 minutes preceding and current row
    ) as payments_10m,
    max(amount_eur) over (
        partition by customer_id order by occurred_at range between interval 1 day preceding and current row
    ) as largest_ever_1d
    from events where amount_eur > 0
"""


def test_a_key_expires_by_itself_once_every_window_has_passed(valkey: str) -> None:
    view = stream_view(ttl="1h")
    put_online(valkey, view)
    now = datetime.now(UTC)
    times = {"occurred_at": (now - timedelta(seconds=1)).isoformat(), "ingested_at": now.isoformat()}
    with Ingestor(valkey, lambda: to_us(now)) as ingestor:
        ingestor.push(SOURCE, [payment(1, **times)])
    connection = redis.Redis.from_url(valkey)
    (key,) = [key for key in connection.scan_iter() if key.endswith(b"{42}")]
    hours = connection.pexpiretime(key) / 3_600_000 - now.timestamp() / 3600
    assert 2.9 < hours < 3.1  # the longest window, an hour of grace, and the hour that an event may be ahead


def test_a_hot_key_is_cut_down_to_what_its_windows_need(valkey: str, ingestor: Ingestor, clock: Clock) -> None:
    start = NOW - timedelta(hours=40)
    connection = redis.Redis.from_url(valkey)
    largest = 0
    for hour in range(41):
        clock.now = start + timedelta(hours=hour)
        time = (clock.now - timedelta(seconds=1)).isoformat()
        events = [payment(hour * 300 + i, occurred_at=time, ingested_at=time, amount_eur=i + 1) for i in range(300)]
        ingestor.push(SOURCE, events + events)
        largest = max(largest, *(connection.strlen(key) for key in connection.scan_iter() if key.endswith(b"{42}")))
    assert largest < 2 * (128 << 10)
    assert read(valkey, clock, [42], ["payments_10m", "spent_1h", "last_merchant"]) == [
        {
            "payments_10m": (300, "PRESENT"),
            "spent_1h": (Decimal(sum(range(1, 301))), "PRESENT"),
            "last_merchant": ("bakery", "PRESENT"),
        }
    ]


def test_events_with_text_ids_are_told_apart(valkey: str, clock: Clock) -> None:
    columns = COLUMNS | {"transaction_id": "varchar"}
    put_online(valkey, stream_view(columns=columns), source=event_source(columns))
    with Ingestor(valkey, clock, expire=False) as ingestor:
        ingestor.push(SOURCE, [payment(1) | {"transaction_id": name} for name in ("a", "b", "a")])
    assert read(valkey, clock, [42], ["payments_10m"]) == [{"payments_10m": (2, "PRESENT")}]


def test_the_answer_to_a_push_can_be_written_as_json(ingestor: Ingestor) -> None:
    result = ingestor.push(SOURCE, [payment(1), payment(2, merchant=1)])
    assert msgspec.json.decode(msgspec.json.encode(result)) == {
        "accepted": 1, "rejected": [[1, "Expected `str | null`, got `int` - at `$.merchant`"]],
    }  # fmt: skip


def test_a_forked_child_pushes_over_a_connection_of_its_own(valkey: str) -> None:
    with closing(Link(valkey)) as link:
        of_parent = link.ask(b"CLIENT", b"ID")
        if (child := os.fork()) == 0:
            try:
                os._exit(0 if link.ask(b"CLIENT", b"ID") != of_parent else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert link.ask(b"CLIENT", b"ID") == of_parent


def test_behind_an_event_that_the_view_leaves_out_the_version_that_moved_is_refused(valkey: str, clock: Clock) -> None:
    put_online(valkey, stream_view(SQL.replace("amount_eur > 0", "customer_id is not null")))
    events = [payment(1, customer_id=None), payment(2, customer_id=1), payment(2, customer_id=7)]
    with Ingestor(valkey, clock, expire=False) as ingestor:
        result = ingestor.push(SOURCE, events)
    reason = "another version of the event has another key of customer__payments"
    assert (result.accepted, result.rejected) == (2, [(2, reason)])
