"""Join keys as data scientists have them: columns of pandas, polars, NumPy and Arrow, with what is missing in them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from feature_server import FeatureClient
from feature_server.client.columns import python_values
from feature_server.errors import FeatureStoreError, RequestError
from tests.support.online_rows import NOW, OnlineRows, view
from tests.support.served import served
from tests.support.serving_cases import AT_NOW

U = uuid.UUID(int=7)
KEYS: dict[str, Any] = {"int64": 1, "string": "a", "uuid": U, "date": date(2024, 3, 1), "bool": True}
COLUMNS: dict[str, list[Any]] = {
    "int64": [
        pd.Series([1, None], dtype="Int64"), pd.Series([1, None], dtype="int64[pyarrow]"),
        pd.array([1, pd.NA], "Int64"),
        pd.Series([1, None], dtype="Int64").astype("category"), pd.Index([1, None], dtype="Int64"), [1, pd.NA],
        pd.Series([1, None], dtype=object), pl.Series([1, None]), pa.array([1, None]), pa.chunked_array([[1], [None]]),
        [np.int64(1), None], (1, None), np.ma.masked_array([1, 2], [False, True]),
    ],
    "string": [
        pd.Series(["a", None]), pd.Series(["a", None], dtype="string"), pd.Series(["a", None], dtype=object),
        pd.Series(["a", None], dtype="category"), pd.Series(["a", None], dtype="string[pyarrow]"),
        [np.str_("a"), pd.NA],
        pl.Series(["a", None]), pl.Series(["a", None], dtype=pl.Categorical), pa.array(["a", None]),
        pl.Series(["a", None], dtype=pl.Enum(["a"])), pa.array(["a", None]).dictionary_encode(),
    ],
    "uuid": [pd.Series([U, None], dtype=object), pd.Series([str(U), None]), pl.Series([str(U), None])],
    "date": [
        pd.Series([date(2024, 3, 1), None]), pd.Series([date(2024, 3, 1), pd.NaT], dtype=object),
        pd.Series([date(2024, 3, 1), None], dtype="date32[pyarrow]"), pl.Series([date(2024, 3, 1), None]),
        np.array(["2024-03-01", "NaT"], "datetime64[D]"),
    ],
    "bool": [pd.Series([True, None], dtype="boolean"), pl.Series([True, None]), pa.array([True, None])],
}  # fmt: skip


@pytest.fixture(scope="module")
def urls(valkey_server: str) -> Iterator[tuple[str, str]]:
    rows = OnlineRows(valkey_server)
    rows.redis.flushall()
    rows.define(*(view(f"by__{kind}", {f"k_{kind}": kind}, {"n": "int8"}) for kind in KEYS))
    for kind, key in KEYS.items():
        rows.put(f"by__{kind}", key, NOW, 1)
    with served(valkey_server) as running:
        yield valkey_server, running.address


@pytest.mark.parametrize("kind", KEYS)
def test_what_is_missing_in_a_column_of_keys_is_a_null_key(urls: tuple[str, str], kind: str) -> None:
    for url in urls:
        with FeatureClient(url, settings=AT_NOW) as client:
            for column in COLUMNS[kind]:
                found = client.get_many(features=[f"by__{kind}:n"], **{f"k_{kind}": column})
                assert found["n"] == [1, None], (url, column)
                assert found.statuses["n"] == ["PRESENT", "NOT_FOUND"]
            for missing in (None, pd.NA, pd.NaT):
                assert client.get(features=[f"by__{kind}:n"], **{f"k_{kind}": missing}).statuses == {"n": "NOT_FOUND"}


HALF = "a\ud800"
CALLS: dict[str, Any] = {
    "a key": {"features": ["by__string:n"], "k_string": HALF},
    "a UUID": {"features": ["by__uuid:n"], "k_uuid": HALF},
    "an integer": {"features": ["by__int64:n"], "k_int64": HALF},
    "a feature": {"features": [f"by__string:{HALF}"], "k_string": "a"},
    "a service": {"service": HALF, "k_string": "a"},
    "the name of a key": {"features": ["by__string:n"], HALF: "a"},
}


@pytest.mark.parametrize("call", CALLS)
def test_half_a_surrogate_pair_is_refused_by_an_error_that_can_be_written(urls: tuple[str, str], call: str) -> None:
    for url in urls:
        asked = dict(CALLS[call])
        first = filter(None, [asked.pop("service", None)])
        with FeatureClient(url, settings=AT_NOW) as client, pytest.raises(FeatureStoreError) as caught:
            client.get(*first, **asked)
        assert "\\ud800" in str(caught.value) or "surrogates not allowed" in str(caught.value)
        str(caught.value).encode()


def test_a_float_key_is_refused_with_what_keeps_integers(urls: tuple[str, str]) -> None:
    with FeatureClient(urls[0], settings=AT_NOW) as client:
        with pytest.raises(RequestError, match="expected: int64"):
            client.get_many(features=["by__int64:n"], k_int64=pd.Series([1, None]))
        with pytest.raises(RequestError, match='dtypes "Int64"'):
            client.get(features=["by__int64:n"], k_int64=float("nan"))


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([[1.5, None], None], dtype=pd.ArrowDtype(pa.list_(pa.float64()))),
        pl.Series([[1.5, None], None]),
        pa.array([[1.5, None], None]),
    ],
    ids=["pandas", "polars", "arrow"],
)
def test_a_null_in_a_list_stays_null(column: Any) -> None:
    assert python_values(column) == [[1.5, None], None]
