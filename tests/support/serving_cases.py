"""Feature views that serving is tested with, requests that are refused, and tables of any values."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from feature_server.errors import FeatureStoreError, RequestError, UnknownNameError
from feature_server.settings import load_settings
from tests.support.online_rows import NOW, service, view

SECOND, MICROSECOND = timedelta(seconds=1), timedelta(microseconds=1)


AT_NOW = load_settings({"FEATURES_CLOCK": NOW.isoformat()})


TRANSACTIONS = view(
    "customer__transactions", {"customer_id": "int64"}, {"transactions_1h": "int64", "amount": "float64"}, ttl="1h"
)


PROFILE = view("customer__profile", {"customer_id": "int64"}, {"country": "string", "city": "string", "age": "uint8"})


RISK = view("merchant__risk", {"merchant_id": "string"}, {"ratio": "float32"})


DELAYS = view("carrier_airport__delays", {"carrier": "string", "airport": "string"}, {"late_share": "float64"})


OLD = view("customer__purchases", {"customer_id": "int64"}, {"purchases_30d": "int64"}, version="1", latest=False)


NEW = view("customer__purchases", {"customer_id": "int64"}, {"purchases_30d": "float64"}, version="2")


FRAUD = service(
    "fraud_v1", "merchant__risk:ratio", "customer__transactions:amount", "customer__transactions:transactions_1h"
)


BAD_REQUESTS: list[tuple[str, dict[str, Any], type[FeatureStoreError], str]] = [
    ("unknown service", {"service": "fraud_v2", "customer_id": [1]}, UnknownNameError, "did you mean 'fraud_v1'"),
    ("unknown view", {"features": ["merchant__rysk:ratio"]}, UnknownNameError, "did you mean 'merchant__risk'"),
    ("unknown feature", {"features": ["merchant__risk:ratoi"]}, UnknownNameError, "did you mean 'ratio'"),
    ("not a reference", {"features": ["ratio"]}, RequestError, "view:feature"),
    ("no features", {"features": []}, RequestError, "no features are asked for"),
    ("both", {"service": "fraud_v1", "features": ["merchant__risk:ratio"]}, RequestError, "leave one of them out"),
    ("asked for twice", {"features": ["merchant__risk:ratio"] * 2}, RequestError, "asked for twice"),
    (
        "name clash",
        {"features": ["customer__purchases@v1:purchases_30d", "customer__purchases@v2:purchases_30d"]},
        RequestError,
        "full_feature_names",
    ),
    ("missing key", {"features": ["merchant__risk:ratio"], "customer_id": [1]}, RequestError, "'merchant_id' is miss"),
    ("misspelt key", {"features": ["merchant__risk:ratio"], "mercant_id": ["a"]}, RequestError, "mean 'merchant_id'"),
    ("uneven", {"service": "fraud_v1", "customer_id": [1, 2], "merchant_id": ["a"]}, RequestError, "different lengths"),
    ("text for a number", {"service": "fraud_v1", "customer_id": ["1"], "merchant_id": ["a"]}, RequestError, "int64"),
    ("a float", {"service": "fraud_v1", "customer_id": [1.0], "merchant_id": ["a"]}, RequestError, "int64"),
    ("a boolean", {"service": "fraud_v1", "customer_id": [True], "merchant_id": ["a"]}, RequestError, "int64"),
    ("too large", {"service": "fraud_v1", "customer_id": [2**63], "merchant_id": ["a"]}, RequestError, "int64"),
    ("a number for text", {"features": ["merchant__risk:ratio"], "merchant_id": [1]}, RequestError, "a string"),
    ("not a number", {"service": "fraud_v1", "customer_id": [math.nan], "merchant_id": ["a"]}, RequestError, "nan (fl"),
    ("bytes", {"features": ["merchant__risk:ratio"], "merchant_id": [b"a"]}, RequestError, "b'a' (bytes)"),
    ("a decimal", {"features": ["merchant__risk:ratio"], "merchant_id": [Decimal(1)]}, RequestError, "(Decimal)"),
    (
        "a date for text",
        {"features": ["merchant__risk:ratio"], "merchant_id": [date(2026, 1, 1)]},
        RequestError,
        "date",
    ),
    ("a UUID for text", {"features": ["merchant__risk:ratio"], "merchant_id": [UUID(int=1)]}, RequestError, "(UUID)"),
    ("one value", {"features": ["merchant__risk:ratio"], "merchant_id": "a"}, RequestError, "use get()"),
    (
        "too many",
        {"service": "fraud_v1", "customer_id": [1] * 400_000, "merchant_id": ["a"] * 400_000},
        RequestError,
        "split the entities",
    ),
]


OF_A_CLIENT: list[tuple[str, dict[str, Any], type[FeatureStoreError], str]] = [
    ("half a pair", {"features": ["merchant__risk:ratio"], "merchant_id": ["\ud800"]}, RequestError, "entities"),
    ("half a pair in a service", {"service": "a\ud800", "merchant_id": ["a"]}, RequestError, "service"),
    ("half a pair in a feature", {"features": ["a\ud800:b"], "merchant_id": ["a"]}, RequestError, "feature"),
    (
        "a table",
        {"features": ["merchant__risk:ratio"], "merchant_id": pd.DataFrame({"a": [1]})},
        RequestError,
        "(1, 1)",
    ),
    ("a matrix", {"features": ["merchant__risk:ratio"], "merchant_id": np.zeros((2, 1))}, RequestError, "(2, 1)"),
]


INTEGERS = {f"{sign}int{bits}": (sign, bits) for sign in ("", "u") for bits in (8, 16, 32, 64)}


TIMES = st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31, 23, 59, 59, 999999))


def values_of(dtype: str) -> st.SearchStrategy[Any]:
    """Values of a feature type, as Python has them."""
    if dtype in INTEGERS:
        sign, bits = INTEGERS[dtype]
        return st.integers(0, 2**bits - 1) if sign else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if dtype.startswith("list<"):
        return st.lists(st.none() | values_of(dtype[5:-1]), max_size=4)
    return {
        "float32": st.floats(width=32),
        "float64": st.floats(),
        "bool": st.booleans(),
        "string": st.text(max_size=8),
        "date": st.dates(),
        "timestamp": TIMES,
        "timestamptz": TIMES.map(lambda time: time.replace(tzinfo=UTC)),
        "uuid": st.uuids(),
        "decimal(12,3)": st.integers(-(10**12) + 1, 10**12 - 1).map(lambda n: Decimal(n).scaleb(-3)),
        "decimal(38,10)": st.integers(-(10**28), 10**28).map(lambda n: Decimal(f"{n}e-10")),
    }[dtype]


TYPES = [
    *INTEGERS, "float32", "float64", "bool", "string", "date", "timestamp", "timestamptz", "uuid", "decimal(12,3)",
    "decimal(38,10)", "list<float32>", "list<float64>", "list<int64>", "list<uint8>",
]  # fmt: skip


def same(one: Any, other: Any) -> bool:
    """Equal and of one type, NaN equal to itself."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[Any]]]:
    """Types of some features, and rows of their values with nulls."""
    types = draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=10))
    row = st.tuples(*(st.none() | values_of(dtype) for dtype in types)).map(list)
    return types, draw(st.lists(row, min_size=1, max_size=12))
