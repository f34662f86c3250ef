"""A reader written from docs/redis_layout.md alone gets back every value that was synced."""

from __future__ import annotations

import json
import math
import re
import struct
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.sync_project import START, Tables, at, make_view, run_sync, sync_one

DOCUMENT = (Path(__file__).parents[2] / "docs" / "redis_layout.md").read_text()
FORMATS = {
    "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q",
    "float32": "f", "float64": "d", "bool": "B", "date": "i", "timestamp": "q", "timestamptz": "q",
}  # fmt: skip


class DocumentedReader:
    """Reads rows as the document says; the section on keys, on a row, and on reading a value."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.registry = json.loads(client.get("features:registry"))

    def key(self, view: str, *parts: Any) -> str:
        return f"{self.registry['views'][view]['code']}{{{'|'.join(map(self.entity, parts))}}}"

    @staticmethod
    def entity(value: Any) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            for character, written in (("%", "%25"), ("|", "%7C"), ("{", "%7B"), ("}", "%7D")):
                value = value.replace(character, written)
            return value or "%"
        return str(value)

    def read(self, view: str, *parts: Any) -> tuple[int, dict[str, Any]] | None:
        row = self.client.get(self.key(view, *parts))
        return None if row is None else self.decode(row, self.registry["views"][view]["definition"]["features"])

    @staticmethod
    def decode(row: bytes, features: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        (event,) = struct.unpack_from("<q", row, 0)
        bitmap, place = row[8 : 8 + math.ceil(len(features) / 8)], 8 + math.ceil(len(features) / 8)
        is_null = [bitmap[i // 8] >> (i % 8) & 1 == 1 for i in range(len(features))]
        values: dict[str, Any] = {feature["name"]: None for feature in features}
        variable = [i for i, feature in enumerate(features) if feature["dtype"]["kind"] in ("string", "list")]
        for i, feature in enumerate(features):
            if i not in variable:
                value, place = fixed(row, place, feature["dtype"])
                values[feature["name"]] = None if is_null[i] else value
        ends = struct.unpack_from(f"<{len(variable)}I", row, place)
        start = base = place + 4 * len(variable)
        for i, end in zip(variable, ends, strict=True):
            part, start = row[start : base + end], base + end
            if not is_null[i]:
                dtype = features[i]["dtype"]
                values[features[i]["name"]] = part.decode() if dtype["kind"] == "string" else items(part, dtype["item"])
        assert start == len(row)
        return event, values


def fixed(row: bytes, place: int, dtype: dict[str, Any]) -> tuple[Any, int]:
    kind = dtype["kind"]
    if kind == "uuid":
        return uuid.UUID(bytes=row[place : place + 16]), place + 16
    if kind == "decimal":
        width = 8 if dtype["precision"] <= 18 else 16
        number = int.from_bytes(row[place : place + width], "little", signed=True)
        return Decimal(number).scaleb(-dtype["scale"], Context(prec=50)), place + width
    (value,) = struct.unpack_from("<" + FORMATS[kind], row, place)
    place += struct.calcsize(FORMATS[kind])
    if kind == "bool":
        return {0: False, 1: True}[value], place
    if kind == "date":
        return date(1970, 1, 1) + timedelta(days=value), place
    if kind.startswith("timestamp"):
        return datetime(1970, 1, 1, tzinfo=UTC if kind == "timestamptz" else None) + timedelta(
            microseconds=value
        ), place
    return value, place


def items(part: bytes, item: str) -> list[Any]:
    width = struct.calcsize(FORMATS[item])
    if part[0] == 0:
        return list(struct.unpack(f"<{(len(part) - 1) // width}{FORMATS[item]}", part[1:]))
    (count,) = struct.unpack_from("<I", part, 1)
    bitmap = part[5 : 5 + math.ceil(count / 8)]
    values = struct.unpack(f"<{count}{FORMATS[item]}", part[5 + len(bitmap) :])
    return [None if bitmap[i // 8] >> (i % 8) & 1 else value for i, value in enumerate(values)]


SAMPLES: dict[str, list[Any]] = {
    "int8": [-128, 127], "int16": [-(2**15), 2**15 - 1], "int32": [-(2**31), 2**31 - 1],
    "int64": [-(2**63), 2**63 - 1, 2**53 + 1], "uint8": [0, 255], "uint16": [0, 2**16 - 1], "uint32": [0, 2**32 - 1],
    "uint64": [0, 2**64 - 1], "float32": [-0.0, 1.5, math.inf, math.nan],
    "float64": [0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan],
    "bool": [True, False], "date": [date.min, date.max, date(1969, 12, 31)],
    "decimal(9,2)": [Decimal("-9999999.99"), Decimal("0.01")], "decimal(18,18)": [Decimal("0.999999999999999999")],
    "decimal(38,0)": [Decimal(10**38 - 1), Decimal(-(10**38) + 1)], "decimal(38,37)": [Decimal("1." + "1" * 37)],
    "timestamp": [datetime.min, datetime.max, datetime(2013, 12, 31, 23, 59, 59, 999999)],
    "timestamptz": [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)],
    "uuid": [uuid.UUID(int=0), uuid.UUID("c0ffee00-0000-4000-8000-00000000000f")],
    "string": ["", "é\U00010348", "a\x00b", "x" * 300],
    "list<int64>": [[], [1, None, -(2**63)], [None] * 9], "list<uint64>": [[2**64 - 1]],
    "list<float32>": [[0.5] * 384, [math.nan, -math.inf]], "list<float64>": [[0.1, None], [-0.0]],
}  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Equal in type and value, NaN and the sign of zero included."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    return type(a) is type(b) and a == b


def test_every_type_survives_the_round_trip_exactly_and_null_in_any_of_them(valkey: str, tmp_path: Path) -> None:
    features = {f"f{i}": dtype for i, dtype in enumerate(SAMPLES)}
    view, tables = make_view(features=features), Tables(tmp_path)
    longest = max(map(len, SAMPLES.values()))
    rows: list[list[Any]] = [[values[i % len(values)] for values in SAMPLES.values()] for i in range(longest)]
    rows += [
        [None] * len(features),
        *([None if i % 3 == gap else v for i, v in enumerate(rows[0])] for gap in range(3)),
    ]
    tables.commit(view, [[(key, at(key), *values) for key, values in enumerate(rows)]])
    sync_one(valkey, tables, view, now=at(100))
    with redis.Redis.from_url(valkey) as client:
        reader = DocumentedReader(client)
        for key, values in enumerate(rows):
            found = reader.read(view.id, key)
            assert found is not None
            assert (
                found[0] == (START - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) + key * 60_000_000
            )
            wrong = [
                (dtype, value, got)
                for dtype, value, got in zip(SAMPLES, values, found[1].values(), strict=True)
                if not same(value, got)
            ]
            assert wrong == []


KEYS: dict[str, list[Any]] = {
    "int64": [-5, 0, 2**63 - 1],
    "uint64": [2**64 - 1],
    "string": ["", "%", "a|b", "{x}", "é", "100%|{}"],
    "date": [date(2013, 12, 31), date.min],
    "uuid": [uuid.UUID("c0ffee00-0000-4000-8000-00000000000f")],
    "bool": [True, False],
}


def test_every_type_of_join_key_is_found_where_the_document_says(valkey: str, tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    views = {kind: make_view(f"by_{kind}", {"first": kind, "second": "string"}, {"n": "int32"}) for kind in KEYS}
    for kind, view in views.items():
        tables.commit(view, [[(key, "x|y", at(1), n) for n, key in enumerate(KEYS[kind])]])
    run_sync(valkey, tables, *views.values(), now=at(2))
    with redis.Redis.from_url(valkey) as client:
        reader = DocumentedReader(client)
        for kind, view in views.items():
            for n, key in enumerate(KEYS[kind]):
                found = reader.read(view.id, key, "x|y")
                assert found is not None, (kind, key)
                assert found[1] == {"n": n}


def test_the_document_names_every_key_that_is_in_redis(valkey: str, tmp_path: Path) -> None:
    view, tables = make_view(), Tables(tmp_path)
    tables.commit(view, [[(1, at(1), 1.0)]])
    sync_one(valkey, tables, view, now=at(2))
    documented = set(re.findall(r"`(features:\w+)", DOCUMENT))
    with redis.Redis.from_url(valkey) as client:
        found = {key.decode() for key in client.scan_iter(count=1000) if b"{" not in key}
    assert found <= documented


@pytest.mark.parametrize("name", sorted({*FORMATS, "decimal", "uuid", "string", "list"}))
def test_the_document_describes_every_type(name: str) -> None:
    table = DOCUMENT[DOCUMENT.index("| type | stored as |") :]
    if re.fullmatch(r"u?int\d+", name):
        assert "int8 … int64, uint8 … uint64" in table
    else:
        assert re.search(rf"^\| .*\b{name}\b", table, re.MULTILINE)
