"""A training set of a feature server is that of a local call: rows, types, record and bytes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_server import FeatureStore
from feature_server.errors import FeatureStoreError, RequestError, SettingsError
from feature_server.training.record import read_record
from tests.interleaving.views import CUSTOMER, STORE
from tests.support.offline_home import OfflineHome, spine
from tests.support.served import Served

EVERY_STREAM_FEATURE = [f"{view.id}:{name}" for view in (CUSTOMER.view(), STORE.view()) for name in view.feature_names]
TYPES = [f"types:{name}" for name in ("vector", "price", "device", "day", "at", "local", "small", "word", "flag")]
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "a service": ("orders_v1", {}),
    "as known": ("orders_v1", {"as_known": True}),
    "full names": (["orders:count", "visits:visits"], {"full_feature_names": True}),
    "an earlier version": ("orders_v1", {"versions": {"orders": 0}}),
    "every type": (TYPES, {}),
    "stream views with text and UUID ids": (EVERY_STREAM_FEATURE, {"full_feature_names": True}),
    "stream views as known": (EVERY_STREAM_FEATURE, {"full_feature_names": True, "as_known": True}),
    "batch and stream": ("live_v1", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_file_is_that_of_a_local_call(case: str, home: OfflineHome, server: Served, tmp_path: Path) -> None:
    features, options = CASES[case]
    local = home.store.get_historical_features(spine(), features, **options)
    remote = FeatureStore(server.address).get_historical_features(spine(), features, **options)
    assert remote.to_arrow().equals(local.to_arrow(), check_metadata=True)
    assert (remote.schema, remote.feature_columns, remote.versions) == (
        local.schema, local.feature_columns, local.versions,
    )  # fmt: skip
    there, here = remote.write_parquet(tmp_path / "remote"), local.write_parquet(tmp_path / "local")
    assert (tmp_path / "remote").read_bytes() == (tmp_path / "local").read_bytes()
    assert read_record(tmp_path / "remote") == read_record(tmp_path / "local")
    assert replaced(there) == replaced(here)
    home.store.reproduce(tmp_path / "remote").write_parquet(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "local").read_bytes()


def replaced(summary: Any) -> dict[str, Any]:
    return msgspec.to_builtins(summary) | {"path": "", "seconds": 0}


def spines(folder: Path) -> dict[str, Any]:
    table = spine(40)
    pq.write_table(table, folder / "spine.parquet", row_group_size=7)
    frame = table.to_pandas().set_index(pd.Index(range(100, 140), name="row"))
    naive = frame.assign(event_timestamp=frame.event_timestamp.dt.tz_localize(None))
    return {
        "arrow": table,
        "a batch": table.combine_chunks().to_batches()[0],
        "a path": folder / "spine.parquet",
        "a path as text": str(folder / "spine.parquet"),
        "pandas": frame,
        "pandas without a zone": naive,
        "polars": pl.from_arrow(table),
        "a lazy frame": pl.from_arrow(table).lazy(),
        "no rows": table.slice(0, 0),
        "views of text": table.set_column(1, "shop", table["shop"].cast(pa.string_view())),
        "a day": table.set_column(3, "event_timestamp", table["event_timestamp"].cast(pa.date32(), safe=False)),
    }


KINDS = ["arrow", "a batch", "a path", "a path as text", "pandas", "pandas without a zone", "polars", "a lazy frame",
         "no rows", "views of text", "a day"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_spine_is_sent(kind: str, home: OfflineHome, server: Served, tmp_path: Path) -> None:
    given = spines(tmp_path)[kind]
    local = home.store.get_historical_features(given, "orders_v1")
    remote = FeatureStore(server.address).get_historical_features(given, "orders_v1")
    pd.testing.assert_frame_equal(remote.to_pandas(), local.to_pandas())
    assert remote.to_polars().equals(local.to_polars())
    assert remote.to_polars().schema == local.to_polars().schema
    remote.write_parquet(tmp_path / "remote")
    local.write_parquet(tmp_path / "local")
    assert (tmp_path / "remote").read_bytes() == (tmp_path / "local").read_bytes()


def test_a_long_spine_is_sent_in_pieces(home: OfflineHome, server: Served, tmp_path: Path) -> None:
    rows, told = 200_000, list[str]()
    local = home.store.get_historical_features(spine(rows), "orders_v1")
    remote = FeatureStore(server.address).get_historical_features(spine(rows), "orders_v1", notice=told.append)
    remote.write_parquet(tmp_path / "remote")
    local.write_parquet(tmp_path / "local")
    assert (tmp_path / "remote").read_bytes() == (tmp_path / "local").read_bytes()
    assert told[0].startswith("waiting in line")
    assert any("of 200,000 rows" in text for text in told)
    assert told[-1].startswith("fetched 0 of")


WRONG: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "no key column": (spine().drop_columns(["customer"]), "orders_v1", {}),
    "no time": (spine().drop_columns(["event_timestamp"]), "orders_v1", {}),
    "a key of another type": (spine().set_column(0, "customer", pa.array([1.5] * 12)), "orders_v1", {}),
    "no UUID": (spine().set_column(0, "customer", pa.array(["x"] * 12)), "orders_v1", {}),
    "times too fine": (
        spine().set_column(3, "event_timestamp", pa.array([1] * 12, pa.timestamp("ns", "UTC"))), "orders_v1", {},
    ),
    "a feature's name": (spine().append_column("count", pa.array([1] * 12)), "orders_v1", {}),
    "two columns of a name": (spine().append_column("shop", pa.array([1] * 12)), "orders_v1", {}),
    "a type that Parquet lacks": (
        spine().append_column("months", pa.array([(1, 2, 3)] * 12, pa.month_day_nano_interval())), "orders_v1", {},
    ),
    "an unknown service": (spine(), "orders_v2", {}),
    "an unknown feature": (spine(), ["orders:counts"], {}),
    "no features": (spine(), [], {}),
    "a version of a view that is not asked for": (spine(), "orders_v1", {"versions": {"types": 0}}),
    "a version that is not there": (spine(), "orders_v1", {"versions": {"orders": 99}}),
    "no such file": (Path("nowhere.parquet"), "orders_v1", {}),
    "a text": (17, "orders_v1", {}),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_the_words_of_a_local_call(case: str, home: OfflineHome, server: Served) -> None:
    given, features, options = WRONG[case]
    with pytest.raises(FeatureStoreError) as local:
        home.store.get_historical_features(given, features, **options).to_arrow()
    with pytest.raises(FeatureStoreError) as remote:
        FeatureStore(server.address).get_historical_features(given, features, **options)
    assert type(remote.value) is type(local.value)
    if local.value.status >= 500:  # where a server has failed is for its log
        assert remote.value.what == local.value.what
    else:
        assert str(remote.value) == str(local.value)


def test_a_deprecated_view_is_warned_of_once(home: OfflineHome, server: Served) -> None:
    before = home.registry
    views = tuple(
        msgspec.structs.replace(view, deprecation_date="2026-12-31") if view.id == "orders" else view
        for view in before.feature_views
    )
    home.define(msgspec.structs.replace(before, feature_views=views))
    store = FeatureStore(server.address)
    with pytest.warns(FutureWarning, match="orders is deprecated"):
        store.get_historical_features(spine(), ["orders:count"])
    home.define(before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.get_historical_features(spine(), ["orders:count"])


def test_what_needs_the_offline_store_says_so(server: Served) -> None:
    store = FeatureStore(server.address)
    with pytest.raises(RequestError, match="a query is for a machine that has the offline store"):
        store.get_historical_features("select 1 as customer", "orders_v1")
    for ask in (lambda: store.reproduce("x.parquet"), lambda: store.table("orders"), lambda: store.registry):
        with pytest.raises(RequestError, match="is for a machine that has the offline store"):
            ask()
    with pytest.raises(SettingsError, match="memory_limit"):
        FeatureStore(server.address, memory_limit="1GB")
    with pytest.raises(SettingsError, match="a key of access is for feature servers"):
        FeatureStore(".", key="x")
    assert repr(store) == f"FeatureStore('{server.address}')"


def test_the_file_goes_with_its_training_set(server: Served, home: OfflineHome) -> None:
    made = FeatureStore(server.address).get_historical_features(spine(), ["orders:count"])
    assert [path for path in (home.folder / "training").iterdir() if path.is_dir()] == [], "the server has let go of it"
    path = made._path
    assert path.stat().st_mode & 0o777 == 0o600
    del made
    assert not path.exists()
