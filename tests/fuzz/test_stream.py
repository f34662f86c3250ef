"""Thousands of hostile events between good ones: each bad one is refused with a reason, the others land and read."""

from __future__ import annotations

import json
import logging
import os
import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import msgspec
import pytest
import redis
from msgspec.structs import replace

from feature_server.client.features import FeatureClient
from feature_server.definitions.stream import SourceColumn
from feature_server.dtypes import parse_sql_type
from feature_server.errors import RequestError
from feature_server.ingest.transaction import Ingestor
from feature_server.ingest.worker import Worker, dead_letters
from feature_server.layout.keys import EVENTS, NAMES
from feature_server.online.store import OnlineStore
from feature_server.settings import load_settings
from feature_server.times import to_us
from tests.support.live_project import COLUMNS, NOW, SOURCE, make_live_view
from tests.support.stream_views import put_online

MORE = {
    "share": "real", "weight": "double", "flag": "boolean", "day": "date", "seen_at": "timestamp", "tag": "uuid",
    "small": "utinyint", "large": "ubigint", "items": "bigint[]",
}  # fmt: skip
WIDE = replace(
    SOURCE, columns=tuple(SourceColumn(name, parse_sql_type(text)) for name, text in (COLUMNS | MORE).items())
)
VIEW = make_live_view(
    {
        "last_merchant": ("upper(merchant)", "varchar"), "last_tag": ("tag", "uuid"), "last_day": ("day", "date"),
        "heaviest": ("max(cast(weight as bigint)) over day", "bigint"), "share": ("max(share) over hour", "real"),
    },
    source=WIDE,
)  # fmt: skip
PRODUCED = EVENTS + WIDE.name.encode()
SEED = int(os.environ.get("FEATURES_FUZZ_SEED", "1"))
ENTRIES = int(os.environ.get("FEATURES_FUZZ_EVENTS", "2000"))
BODIES, CUSTOMERS = ENTRIES // 7, 50

TOO_LATE, TOO_EARLY, NO_TIMES = (
    [b'"9999-12-31T23:59:59-14:00"', b'"9999-12-31T23:59:59.999999-00:01"'],
    [b'"0001-01-01T00:00:00+14:00"', b'"0001-01-01T00:00:00.000001+00:01"'],
    [
        b'""', b'"yesterday"', b'"2024-02-30T00:00:00Z"', b'"2024-05-01T24:00:00Z"', b'"2024-05-01T23:59:60Z"', b"0",
        b'"10000-01-01T00:00:00Z"', b'"0000-01-01T00:00:00Z"', b'"-0001-01-01T00:00:00Z"', b'"\xff"', b"1e18",
        b'"2024-05-01"', b'"2024-05-01T12:00:00 Europe/Berlin"', b"[]", b"{}", b"true",
        b'"2024-05-01T12:00:00+24:00"',
    ],
)  # fmt: skip
TIMES = [*TOO_LATE, *TOO_EARLY, *NO_TIMES]
TEXTS = [
    b'"M\xff1"', b'"\xed\xa0\x80"', b'"\xf5\x80\x80\x80"', b'"\xc0\x80"', b"7", b"true", b"[]", b"{}", b'"\\ud800"',
    b'"\\udc00\\ud800"', b'"\\ud83d"',
]  # fmt: skip
NUMBERS = [b'"1"', b"1.5", b"1e3", b"true", b"[1]", b"{}", b'"\xff"', b"9" * 400, b"-" + b"9" * 400, b"1" + b"0" * 4999]
BAD: dict[str, list[bytes]] = {
    "payment_id": [*NUMBERS, b"null", b"9223372036854775808", b"-9223372036854775809"],
    "customer": [*NUMBERS, b"null", b"9223372036854775808"],
    "merchant": TEXTS,
    "amount": [
        b'"NaN"', b'"sNaN"', b'"Infinity"', b'"1e999999"', b'"1e-999999"', b'"1.005"', b'"99999999999.99"', b"1e400",
        b'""', b'"x"', b"true", b"[]", b'"\xff"', b"9" * 400,
    ],
    "paid_at": [*TIMES, b"null", b'"2024-05-01T13:00:00.000001Z"', b'"0001-01-01T00:00:00Z"', b'"2999-01-01T00:00Z"'],
    "ingested_at": [*TIMES, b"null", b'"2024-05-01T13:00:01Z"', b'"9999-12-31T00:00:00Z"', b'"2999-01-01T00:00:00Z"'],
    "share": [b"1e39", b"-1e39", b"1e400", b'"1"', b"9" * 400, b"[]", b"true"],
    "weight": [b"1e19", b"-1e308", b"1e308", b"1e309", b'"1"', b"[]", b"1" + b"0" * 4999],
    "flag": [b"1", b'"true"', b"[]", b"0.0"],
    "day": [b'"2024-05-01T00:00:00Z"', b'"2024-02-30"', b'"0000-01-01"', b'"10000-01-01"', b"20240501", b'"\xff"'],
    "seen_at": TIMES,
    "tag": [b'"x"', b'""', b"7", b'"{12345678-1234-5678-1234-567812345678}"', b'"\xff"', b"[]"],
    "small": [*NUMBERS, b"256", b"-1"],
    "large": [*NUMBERS, b"18446744073709551616", b"-1"],
    "items": [b"[9223372036854775808]", b"[[1]]", b"[1.5]", b'["1"]', b"1", b"{}", b'"1"', b"[true]"],
}  # fmt: skip
NOT_JSON = [
    b"NaN",
    b"Infinity",
    b"-",
    b"01",
    b"+1",
    b"0x1",
    b"'a'",
    b"nul",
    b'"\n"',
    b'"\\x"',
    b"[" * 3000,
    b"[1,]",
    b"",
]
GOOD: dict[str, list[bytes]] = {
    "merchant": [
        b'"a\\u0000b"', b'"\\u0000"', b'""', b"null", b'"\\ud83d\\ude00"', '"Żółć 漢字"'.encode(), b'"%|{}"',
        b'"' + b"x" * 50_000 + b'"', b'"\\"\\\\"', b'"\\ufeff\\uffff"',
    ],
    "amount": [b"1e5", b'"0.01"', b'"9999999999.99"', b"7", b"7.5", b'"1E+2"'],
    "paid_at": [b'"2024-05-02T01:30:00+14:00"', b'"2024-04-30T22:00:00-14:00"', b'"2024-05-01T12:00:00"'],
    "ingested_at": [
        b'"0001-01-02T00:00:00Z"', b'"2024-05-01T13:00:00Z"', b'"2024-05-02T02:59:59.999999+14:00"',
        b'"2024-05-01t11:00:00.123456789z"',
    ],
    "share": [b"3.4e38", b"1e-400", b"-0.0", b"null", b"1"],
    "weight": [b"9e18", b"5e-324", b"-0.0", b"null", b"-1"],
    "flag": [b"null", b"false"],
    "day": [b'"0001-01-01"', b'"9999-12-31"', b"null"],
    "seen_at": [b'"0001-01-01T00:00:00"', b'"9999-12-31T23:59:59.999999Z"', b"null"],
    "tag": [b"null", b'"12345678123456781234567812345678"'],
    "small": [b"0", b"255", b"null"],
    "large": [b"18446744073709551615", b"null"],
    "items": [b"[]", b"[null]", b"null", b"[-9223372036854775808]"],
}  # fmt: skip


class Fuzzer:
    """Makes events, each with an id of its own, and remembers how many good ones a customer has."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.good: dict[int, int] = {}  # payment id → customer
        self._last = 0

    def values(self) -> dict[str, bytes]:
        """The raw JSON of each column of a good event, some of them unusual."""
        self._last += 1
        at = NOW - timedelta(seconds=self.random.randrange(3500))
        plain: dict[str, Any] = {
            "payment_id": self._last, "customer": self.random.randrange(CUSTOMERS), "merchant": "shop", "amount": 5,
            "paid_at": at, "ingested_at": at, "share": 0.5, "weight": 2.0, "flag": True, "day": at.date(),
            "seen_at": at, "tag": UUID(int=self._last), "small": 1, "large": 2, "items": [1, 2],
        }  # fmt: skip
        raw = {name: msgspec.json.encode(value) for name, value in plain.items()}
        for name in self.random.sample(sorted(GOOD), self.random.choice([0, 0, 1, 3])):
            raw[name] = self.random.choice(GOOD[name])
        return raw

    def keep(self, values: dict[str, bytes]) -> None:
        self.good[int(values["payment_id"])] = int(values["customer"])

    def spoil(self, values: dict[str, bytes]) -> None:
        name = self.random.choice(sorted(BAD))
        values[name] = self.random.choice(BAD[name])

    def entry(self) -> tuple[dict[bytes, bytes], bool]:
        """What a producer adds to the stream, and whether it is good."""
        values = self.values()
        kind = self.random.randrange(20)
        if kind < 8:
            self.keep(values)
            whole = self.object(list(values.items()))
            more = [{}, {b"id": b"\xff", b"reason": b""}, {b"trace\xff": os.fsencode("x")}][kind % 3]
            return {**more, b"event": whole}, True
        if kind < 9:  # of two keys the last counts
            self.keep(values)
            return {b"event": self.object([("merchant", b'"first"'), *values.items()])}, True
        if kind < 15:
            self.spoil(values)
            return {b"event": self.object(list(values.items()))}, False
        return self.broken(values), False

    def object(self, items: list[tuple[str, bytes]]) -> bytes:
        space = self.random.choice([b"", b" ", b"\r\n\t"])
        return b"{" + (b"," + space).join([b'"%b":%b' % (name.encode(), raw) for name, raw in items]) + b"}" + space

    def broken(self, values: dict[str, bytes]) -> dict[bytes, bytes]:
        items = list(values.items())
        whole = self.object(items)
        at = self.random.randrange(1, len(whole.strip()))
        name = self.random.choice(sorted(values))
        other = {**values, name: self.random.choice(NOT_JSON)}
        choices: list[bytes] = [
            whole[:at],
            whole[at:],
            whole[:at] + b"\xff" + whole[at + 1 :],
            self.random.randbytes(self.random.randrange(50)),
            self.object([item for item in items if item[0] != name]),
            self.object([*items, ("more", b"1")]),
            self.object([*items, ("\x00", b"1")]),
            self.object(list(other.items())),
            self.object([*items, ("payment_id", b"null")]),
            b"\xef\xbb\xbf" + whole,
            whole.decode(errors="replace").encode("utf-16"),
            whole + b"," + whole,
            whole + whole,
            b"[" + whole + b"]",
            b"null",
            b"",
            b"\x00",
            b"[" * 100_000,
            b'{"merchant":' * 2000,
            self.object([(name.upper(), raw) for name, raw in items]),
        ]
        if self.random.randrange(10) == 0:
            return {b"other": whole}
        return {b"event": self.random.choice(choices)}

    def body(self) -> tuple[bytes, int, list[int] | None]:
        """Some events as columns, how many, and which of them are bad; None where the body is broken."""
        events = [self.values() for _ in range(self.random.randrange(1, 6))]
        kind, bad = self.random.randrange(4), list[int]()
        if kind == 1:
            bad = sorted(self.random.sample(range(len(events)), self.random.randrange(1, len(events) + 1)))
            for i in bad:
                self.spoil(events[i])
        columns = [(name, b"[" + b",".join([event[name] for event in events]) + b"]") for name in events[0]]
        whole = self.object(columns)
        broken = kind == 2 or any(b"\\ud800" in raw or b'\\ud83d"' in raw for _, raw in columns)  # in no JSON at all
        if kind == 2:
            at, name = self.random.randrange(1, len(whole.strip())), self.random.choice(sorted(events[0]))
            whole = self.random.choice(
                [
                    whole[:at], b"", b"null", b"[]", b"\xff", b"[" * 5000, self.object(columns[:-1]),
                    self.object([*columns, ("more\xff", b"[]")]), self.object([*columns, (name, b"[1,1,1,1,1,1,1]")]),
                    self.object([*columns, (name, b"1")]), self.object([*columns, (name, b"[" * 3000)]),
                ]
            )  # fmt: skip
        for event in [event for i, event in enumerate(events) if i not in bad and not broken]:
            self.keep(event)
        return whole, len(events), None if broken else bad


@pytest.fixture
def online(valkey: str) -> Iterator[OnlineStore]:
    put_online(valkey, VIEW, source=WIDE)
    with OnlineStore(valkey) as store:
        yield store


def check_reads(url: str, fuzzer: Fuzzer) -> None:
    """Every good event counts once for its customer."""
    wanted, settings = Counter(fuzzer.good.values()), load_settings({"FEATURES_CLOCK": NOW.isoformat()})
    with FeatureClient(url, settings=settings) as client:
        found = client.get_many(
            features=["customer__payments:n", "customer__payments:heaviest", "customer__payments:last_merchant"],
            customer=list(range(CUSTOMERS)),
        )
    assert dict(enumerate(found.values["n"])) == {customer: wanted[customer] for customer in range(CUSTOMERS)}


def check_landed(folder: Path, fuzzer: Fuzzer) -> None:
    rows = duckdb.sql(f"select payment_id, customer from read_parquet('{folder}/live-*.parquet')").fetchall()
    assert sorted(rows) == sorted(fuzzer.good.items())


def test_bad_events_of_producers_are_dead_letters_and_good_ones_land_and_read(
    tmp_path: Path, valkey: str, online: OnlineStore, caplog: pytest.LogCaptureFixture
) -> None:
    fuzzer, sent = Fuzzer(SEED), dict[str, tuple[dict[bytes, bytes], bool]]()
    with Ingestor(valkey, lambda: to_us(NOW), expire=False) as ingestor, caplog.at_level(logging.WARNING):
        worker = Worker(online, ingestor, WIDE, tmp_path)
        for number in range(ENTRIES):
            fields, good = fuzzer.entry()
            sent[online.client.xadd(PRODUCED, fields).decode()] = fields, good
            if number == ENTRIES // 3:  # a worker that was killed had these
                online.client.xgroup_create(PRODUCED, "features", id="0")
                online.client.xreadgroup("features", worker.consumer, {PRODUCED: ">"})
        done = worker.run(once=True)
        bad = [name for name, (_, good) in sent.items() if not good]
        letters = list(dead_letters(online, WIDE.name))
        assert sorted(set(sent) - {letter.id for letter in letters}) == sorted(set(sent) - set(bad))
    for letter in letters:
        event = sent[letter.id][0].get(b"event")
        assert letter.event == (None if event is None else event.decode(errors="backslashreplace"))
        assert letter.reason
        json.loads(msgspec.json.encode(letter))
    assert len(fuzzer.good) > ENTRIES // 4
    assert (done.accepted, done.rejected, done.landed) == (len(fuzzer.good), len(bad), len(fuzzer.good))
    assert online.client.xpending(PRODUCED, "features")["pending"] == 0
    assert online.client.xlen(PRODUCED) == online.client.xlen(NAMES.log(WIDE.name)) == 0
    assert caplog.messages == []
    check_reads(valkey, fuzzer)
    check_landed(tmp_path, fuzzer)


def test_bodies_pushed_together_or_alone_never_harm_one_another(
    tmp_path: Path, valkey: str, online: OnlineStore, caplog: pytest.LogCaptureFixture
) -> None:
    fuzzer = Fuzzer(SEED)
    bodies = [fuzzer.body() for _ in range(BODIES)]
    with Ingestor(valkey, lambda: to_us(NOW), expire=False) as ingestor, caplog.at_level(logging.WARNING):
        answers: list[Any] = []
        for start in range(0, BODIES // 2, 50):
            together = bodies[start : min(start + 50, BODIES // 2)]
            answers += ingestor.push_together(WIDE.name, [body for body, _, _ in together])
        for body, _, _ in bodies[BODIES // 2 :]:
            try:
                answers.append(ingestor.push_columns(WIDE.name, body))
            except RequestError as error:
                answers.append(error)
        for answer, (body, count, bad) in zip(answers, bodies, strict=True):
            if bad is None:
                assert isinstance(answer, RequestError), body[:2000]
                assert str(answer).encode()
            else:
                assert [index for index, _ in answer.rejected] == bad, (body, answer)
                assert answer.accepted == count - len(bad)
        Worker(online, ingestor, WIDE, tmp_path).run(once=True)
    assert caplog.messages == []
    check_reads(valkey, fuzzer)
    check_landed(tmp_path, fuzzer)
    with redis.Redis.from_url(valkey) as client:
        assert client.xlen(NAMES.log(WIDE.name)) == 0
