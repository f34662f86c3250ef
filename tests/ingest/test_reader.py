"""Events and bodies that cannot be taken in: each is refused alone, with the reason, and harms no other."""

from __future__ import annotations

import json
from decimal import Decimal

import pyarrow as pa
import pytest
import redis

from feature_server.errors import RequestError
from feature_server.history.log import logged
from feature_server.ingest import transaction as ingest
from feature_server.ingest.transaction import Ingestor
from feature_server.online.store import OnlineStore
from tests.support.pushed import SOURCE, Clock, read
from tests.support.stream_views import COLUMNS, event_source, payment, put_online, stream_view

BAD = {
    "a text for a number": ({"customer_id": "42"}, "Expected `int | null`, got `str` - at `$.customer_id`"),
    "a number for a text": ({"merchant": 7}, "Expected `str | null`, got `int` - at `$.merchant`"),
    "an integer beyond its type": (
        {"transaction_id": 2**63}, "Expected `int` <= 9223372036854775807 - at `$.transaction_id`",
    ),
    "no event id": ({"transaction_id": None}, "Expected `int`, got `null` - at `$.transaction_id`"),
    "no time": ({"occurred_at": None}, "Expected `datetime`, got `null` - at `$.occurred_at`"),
    "a time that is none": ({"occurred_at": "yesterday"}, "Invalid RFC3339 encoded datetime - at `$.occurred_at`"),
    "no key": ({"customer_id": None}, "customer_id of customer__payments is null"),
    "a decimal with too many places": (
        {"amount_eur": "1.005"}, "1.005 does not fit decimal(12,2) - at `$.amount_eur`",
    ),
    "a time ahead of the clock": (
        {"occurred_at": "2026-03-01T13:00:01Z"},
        "2026-03-01 13:00:01+00:00 is more than an hour ahead of the clock - at `$.occurred_at`",
    ),
    "a creation ahead of the clock": (
        {"ingested_at": "2999-01-01T00:00:00Z"},
        "2999-01-01 00:00:00+00:00 is more than an hour ahead of the clock - at `$.ingested_at`",
    ),
    "a creation beyond the year 9999": (
        {"ingested_at": "9999-12-31T23:59:59-14:00"},
        "9999-12-31 23:59:59-14:00 is more than an hour ahead of the clock - at `$.ingested_at`",
    ),
    "a time before the year 1": (
        {"occurred_at": "0001-01-01T00:00:00+14:00"},
        "0001-01-01 00:00:00+14:00 is out of range - at `$.occurred_at`",
    ),
    "a column that there is not": ({"amout": 1}, "Object contains unknown field `amout`"),
    "another key than in this batch": (
        {"transaction_id": 1, "customer_id": 43}, "another version of the event has another key of customer__payments",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_event_is_refused_alone(valkey: str, ingestor: Ingestor, clock: Clock, name: str) -> None:
    changes, reason = BAD[name]
    events = [payment(1), payment(2, **changes), payment(3)]
    expected = (2, [(1, reason)])
    result = ingestor.push_lines(SOURCE, [json.dumps(event).encode() for event in events])
    assert (result.accepted, result.rejected) == expected
    if "amout" not in changes:
        columns = {name: [event[name] for event in events] for name in events[0]}
        result = ingestor.push_columns(SOURCE, json.dumps(columns).encode())
        assert (result.accepted, result.rejected) == expected
    assert read(valkey, clock, [42], ["payments_10m"]) == [{"payments_10m": (2, "PRESENT")}]


RAW = {
    "bytes that are not UTF-8": (
        b'"M\xff1"', "not UTF-8: 'utf-8' codec can't decode byte 0xff in position 1: invalid start byte",
    ),
    "half of a surrogate pair in UTF-8": (
        b'"\xed\xa0\x80"', "not UTF-8: 'utf-8' codec can't decode byte 0xed in position 0: invalid continuation byte",
    ),
    "a list for a text": (b'["a"]', "Expected `str | null`, got `array`"),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_bytes_that_are_no_text_are_refused_alone(valkey: str, ingestor: Ingestor, clock: Clock, name: str) -> None:
    value, reason = RAW[name]
    good = payment(1)
    bad = json.dumps(payment(2, merchant="?")).encode().replace(b'"?"', value)
    result = ingestor.push_lines(SOURCE, [json.dumps(good).encode(), bad, json.dumps(payment(3)).encode()])
    assert result.accepted == 2
    assert result.rejected[0][1].startswith(reason)
    columns = {column: [event[column] for event in (good, payment(2), payment(3))] for column in good}
    columns["merchant"][1] = "?"
    body = json.dumps(columns).encode().replace(b'"?"', value)
    assert ingestor.push_columns(SOURCE, body).rejected == [(1, reason + " - at `$.merchant`")]
    assert read(valkey, clock, [42], ["payments_10m"]) == [{"payments_10m": (2, "PRESENT")}]


def test_a_body_that_cannot_be_read_harms_no_other(ingestor: Ingestor) -> None:
    def body(number: int) -> bytes:
        return json.dumps({column: [value] for column, value in payment(number).items()}).encode()

    bad = [
        body(2).replace(b"bakery", b"\xff"),
        body(2).replace(b"merchant", b"\xff"),
        body(2).replace(b'"bakery"', b"[" * 5000),
        body(2).replace(b"bakery", b"\\ud800"),
        b"\xff", b"", b"nothing", b"[]", body(2)[:-1],
    ]  # fmt: skip
    answers = ingestor.push_together(SOURCE, [body(1), *bad, body(3)])
    assert [answer.accepted for answer in (answers[0], answers[-1]) if not isinstance(answer, RequestError)] == [1, 1]
    for answer in answers[1:-1]:
        assert isinstance(answer, RequestError) or (answer.accepted, len(answer.rejected)) == (0, 1)


def test_two_lines_that_are_one_event_together_are_none(ingestor: Ingestor) -> None:
    first, rest = json.dumps(payment(2)).encode().split(b", ", 1)
    lines = [json.dumps(payment(1)).encode() + b"," + first, rest]
    assert [index for index, _ in ingestor.push_lines(SOURCE, lines).rejected] == [0, 1]


def test_a_number_that_its_type_cannot_keep_is_refused(valkey: str, clock: Clock) -> None:
    columns = COLUMNS | {"share": "real", "seen_at": "timestamp"}
    source = event_source(columns)
    put_online(valkey, stream_view(columns=columns), source=source)
    more = {"share": 0.5, "seen_at": "0001-01-01T00:00:00"}
    events = [
        payment(1),
        payment(2, share=1e39),
        payment(3, share=-1e39),
        payment(4, seen_at="9999-12-31T23:00:00-02:00"),
    ]
    lines = [json.dumps(more | event).encode() for event in events]
    with Ingestor(valkey, clock, expire=False) as ingestor:
        assert ingestor.push_lines(SOURCE, lines).rejected == [
            (1, "1e+39 does not fit float32 - at `$.share`"),
            (2, "-1e+39 does not fit float32 - at `$.share`"),
            (3, "9999-12-31 23:00:00-02:00 is out of range - at `$.seen_at`"),
        ]


def test_the_reason_of_a_refusal_is_short_text(ingestor: Ingestor) -> None:
    events = [payment(1, merchant="\ud800"), payment(2, amount_eur=Decimal("9" * 5000))]
    (_, text), (_, number) = ingestor.push(SOURCE, events).rejected
    assert text == "\\ud800 does not fit string - at `$.merchant`"
    assert len(number) < 1100
    assert number.endswith("9 does not fit decimal(12,2) - at `$.amount_eur`")


def test_what_an_event_makes_of_the_views_query_does_not_outlive_it(ingestor: Ingestor) -> None:
    assert ingestor.push(SOURCE, [payment(1)]).accepted == 1
    queries = ingestor._sources[SOURCE].queries
    queries._duckdb.close()  # as after DuckDB's fatal errors, every query fails
    assert ingestor.push(SOURCE, [payment(2), payment(3)]).accepted == 2


def test_a_damaged_key_keeps_nobody_from_pushing(valkey: str, ingestor: Ingestor) -> None:
    ingestor.push(SOURCE, [payment(1)])
    with redis.Redis.from_url(valkey) as client:
        (key,) = client.scan_iter("*{42}")
        client.set(key, b"\xff" * 100_001)
        assert ingestor.push(SOURCE, [payment(2), payment(3, customer_id=7)]).accepted == 2
        assert client.xlen("features:log:" + SOURCE) == 2


def test_a_large_push_is_several_entries_of_the_log(
    valkey: str, ingestor: Ingestor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "MAX_ENTRY_BYTES", 1 << 18)
    with redis.Redis.from_url(valkey) as client:
        allowed = client.config_get("proto-max-bulk-len")["proto-max-bulk-len"]
        client.config_set("proto-max-bulk-len", 1 << 20)
        try:
            assert (
                ingestor.push(SOURCE, [payment(i, customer_id=i, merchant="m" * 100_000) for i in range(16)]).accepted
                == 16
            )
        finally:
            client.config_set("proto-max-bulk-len", allowed)
    with OnlineStore(valkey) as online:
        tables = list(logged(online, event_source()))
        assert [table.num_rows for table in tables] == [2] * 8
        assert pa.concat_tables(tables)["transaction_id"].to_pylist() == list(range(16))


def test_a_missing_column_and_a_line_that_is_no_json_are_refused_alone(ingestor: Ingestor) -> None:
    short = payment(1)
    del short["kind"]
    lines = [json.dumps(short).encode(), b"{", json.dumps(payment(2)).encode()]
    result = ingestor.push_lines(SOURCE, lines)
    assert result.accepted == 1
    assert result.rejected[0] == (0, "Object missing required field `kind`")
    assert result.rejected[1][0] == 1
    assert result.rejected[1][1].startswith("not JSON:")


def test_columns_of_different_lengths_and_unknown_columns_are_an_error(ingestor: Ingestor) -> None:
    columns = {name: [value] for name, value in payment(1).items()}
    with pytest.raises(RequestError, match="different lengths"):
        ingestor.push_columns(SOURCE, json.dumps(columns | {"kind": ["purchase", "refund"]}).encode())
    with pytest.raises(RequestError, match="column 'amout' is unknown"):
        ingestor.push_columns(SOURCE, json.dumps(columns | {"amout": [1]}).encode())
    del columns["kind"]
    with pytest.raises(RequestError, match="column 'kind' is missing"):
        ingestor.push_columns(SOURCE, json.dumps(columns).encode())


DIGITS = {
    "surplus zeros": ("1." + "0" * 1_000, None),
    "a scale far beyond the type's": ("1E-1193", "1E-1193 does not fit"),
    "more digits than the type keeps": ("9" * 77, "99"),
    "more places than the type keeps": ("1." + "0" * 90 + "1", "1.00"),
    "the most that it keeps": ("9" * 10 + "." + "9" * 2, None),
    "an exponent": ("12E+3", None),
    "millions of digits": ("1." + "0" * 7_000_000 + "1", "1.00"),
}


@pytest.mark.parametrize("name", DIGITS)
@pytest.mark.parametrize("number", [False, True], ids=["a string", "a number"])
def test_a_decimal_is_kept_exactly_or_refused_alone(valkey: str, ingestor: Ingestor, name: str, number: bool) -> None:
    """Arrow takes some decimals of many places for zero."""
    text, refused = DIGITS[name]
    events = [payment(1), payment(2, amount_eur="@"), payment(3)]
    lines = [json.dumps(event).replace('"@"', text if number else f'"{text}"').encode() for event in events]
    result = ingestor.push_lines(SOURCE, lines)
    assert result.accepted == 3 - bool(refused)
    if refused:
        ((index, reason),) = result.rejected
        assert (index, reason.startswith(refused), len(reason) < 200) == (1, True, True)
    with OnlineStore(valkey) as online:
        kept = pa.concat_tables(logged(online, event_source()))["amount_eur"].to_pylist()
    sent = [Decimal(text if event["amount_eur"] == "@" else event["amount_eur"]) for event in events]
    assert kept == ([sent[0], sent[2]] if refused else sent)
