"""Training sets end to end: published views, a spine, and every row with its features."""

from __future__ import annotations

import shutil
import uuid
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_server.errors import FeatureStoreError, OfflineStoreError, RequestError, UnknownNameError
from feature_server.training import sets as training_set
from tests.support.published import Project, make_view

T0 = datetime(2024, 3, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOUR_US = 3_600_000_000


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def make_spine(rows: list[tuple[Any, datetime | None]], key: str = "customer") -> pa.Table:
    times = pa.array([time for _, time in rows], pa.timestamp("us", "UTC"))
    return pa.table({key: [value for value, _ in rows], "event_timestamp": times})


def values(project: Project, spine: Any, features: list[str], **options: Any) -> list[tuple[Any, ...]]:
    table = project.store.get_historical_features(spine, features, **options).to_arrow()
    return list(zip(*(table.column(name).to_pylist() for name in table.column_names[-len(features) :]), strict=True))


ORDERS = make_view("orders", {"customer": "bigint"}, {"amount": "double", "count": "bigint"}, created=True)
SHOP = make_view("shop", {"customer": "bigint", "shop": "varchar"}, {"visits": "bigint"}, ttl_us=2 * HOUR_US)


def publish_orders(project: Project) -> None:
    project.publish(
        ORDERS,
        [
            (1, T0, T0, 1.0, 10),
            (1, T0 + HOUR, T0 + 3 * HOUR, 2.0, 20),
            (1, T0 + HOUR, T0 + 2 * HOUR, -1.0, -1),
            (2, T0 + HOUR, None, None, 2**53 + 1),
        ],
    )


def test_every_spine_row_comes_back_once_in_its_order_duplicates_included(project: Project) -> None:
    publish_orders(project)
    spine = make_spine([(2, T0 + HOUR), (1, T0), (2, T0 + HOUR), (3, T0), (None, T0), (1, T0 - HOUR), (1, None)])
    result = project.store.get_historical_features(spine, ["orders:count"]).to_arrow()
    assert result.select(["customer", "event_timestamp"]).equals(spine)
    expected = [2**53 + 1, 10, 2**53 + 1, None, None, None, None]
    assert result.column("count").to_pylist() == expected


def test_the_features_come_in_the_order_asked_for(project: Project) -> None:
    publish_orders(project)
    spine = make_spine([(1, T0 + HOUR)])
    result = project.store.get_historical_features(spine, ["orders:count", "orders:amount"]).to_arrow()
    assert result.column_names == ["customer", "event_timestamp", "count", "amount"]
    assert result.schema.types[2:] == [pa.int64(), pa.float64()]
    assert values(project, spine, ["orders:count", "orders:amount"]) == [(20, 2.0)]


def test_as_known_uses_only_what_was_created_by_then(project: Project) -> None:
    publish_orders(project)
    spine = make_spine([(1, T0 + HOUR), (1, T0 + 2 * HOUR), (1, T0 + 3 * HOUR), (2, T0 + 9 * HOUR)])
    assert values(project, spine, ["orders:count"]) == [(20,), (20,), (20,), (2**53 + 1,)]
    assert values(project, spine, ["orders:count"], as_known=True) == [(10,), (-1,), (20,), (None,)]


def test_as_known_counts_rows_without_created_timestamps_from_when_their_sources_say(project: Project) -> None:
    view = msgspec.structs.replace(SHOP, known_after_us=30 * 60 * 10**6)
    project.publish(view, [(1, "a", T0, 1), (1, "a", T0 + HOUR, 2)])
    times = [T0 + timedelta(minutes=minutes) for minutes in (29, 30, 89, 90, 121, 181)]
    spine = pa.table({"shop": ["a"] * 6, "customer": [1] * 6, "event_timestamp": times})
    assert values(project, spine, ["shop:visits"]) == [(1,), (1,), (2,), (2,), (2,), (None,)]
    assert values(project, spine, ["shop:visits"], as_known=True) == [(None,), (1,), (1,), (2,), (2,), (None,)]


def test_several_join_keys_must_all_match(project: Project) -> None:
    project.publish(SHOP, [(1, "a", T0, 1), (1, "b", T0, 2), (2, "a", T0, 3)])
    spine = pa.table(
        {"shop": ["b", "a", "c", None, "a"], "customer": [1, 2, 1, 1, None], "event_timestamp": [T0 + 2 * HOUR] * 5}
    )
    assert values(project, spine, ["shop:visits"]) == [(2,), (3,), (None,), (None,), (None,)]
    late = spine.set_column(2, "event_timestamp", pa.array([T0 + 2 * HOUR + timedelta(microseconds=1)] * 5))
    assert values(project, late, ["shop:visits"]) == [(None,)] * 5


def test_a_service_mixes_views_with_their_own_keys_and_ttl(project: Project) -> None:
    publish_orders(project)
    project.publish(SHOP, [(1, "a", T0, 7)])
    project.add_service("fraud_v1", ["shop:visits", "orders:amount"])
    spine = make_spine([(1, T0 + HOUR), (1, T0 + 3 * HOUR)]).append_column("shop", pa.array(["a", "a"]))
    result = project.store.get_historical_features(spine, "fraud_v1").to_arrow()
    assert result.column_names == ["customer", "event_timestamp", "shop", "visits", "amount"]
    assert result.column("visits").to_pylist() == [7, None]
    assert result.column("amount").to_pylist() == [2.0, 2.0]


class Case(NamedTuple):
    sql_type: str
    values: list[Any]
    spine: Any


KEY_CASES = [
    Case("bigint", [2**53, 2**53 + 1, -(2**63), 2**63 - 1], pa.array([2**53, 2**53 + 1, -(2**63), 2**63 - 1])),
    Case("ubigint", [2**64 - 1, 2**64 - 2, 0, 1], pa.array([2**64 - 1, 2**64 - 2, 0, 1], pa.uint64())),
    Case("bigint", [-1, 0, 1, 2], pa.array([-1, 0, 1, 2], pa.int32())),
    Case("tinyint", [-128, 127, 0, 1], pa.array([-128, 127, 0, 1], pa.int64())),
    Case("varchar", ["", "é", "a" * 300, "A"], pa.array(["", "é", "a" * 300, "A"], pa.large_string())),
    Case("varchar", ["x", "y", "z", "w"], pa.array(["x", "y", "z", "w"]).dictionary_encode()),
    Case("date", [date(1, 1, 1), date(9999, 12, 31), date(1970, 1, 1), date(2024, 2, 29)],
         pa.array([date(1, 1, 1), date(9999, 12, 31), date(1970, 1, 1), date(2024, 2, 29)])),
    Case("uuid", [str(uuid.UUID(int=n)) for n in (0, 1, 2**127, 2**128 - 1)],
         pa.array([str(uuid.UUID(int=n)).upper() for n in (0, 1, 2**127, 2**128 - 1)])),
]  # fmt: skip


@pytest.mark.parametrize("case", KEY_CASES, ids=lambda case: f"{case.sql_type}-{case.spine.type}")
@pytest.mark.parametrize("paired", [False, True], ids=["alone", "with another key"])
def test_keys_of_any_type_match_exactly(project: Project, case: Case, paired: bool) -> None:
    other = {"other": "bigint"} if paired else {}
    view = make_view("things", {"key": case.sql_type} | other, {"number": "integer"})
    extra = (5,) if paired else ()
    project.publish(view, [(value, *extra, T0, number) for number, value in enumerate(case.values)])
    order = [3, 0, 2, 1, 0]
    spine = pa.table({"key": case.spine.take(pa.array(order)), "event_timestamp": [T0] * 5, "other": [5] * 5})
    assert values(project, spine, ["things:number"]) == [(number,) for number in order]


def test_an_integer_too_large_for_the_views_key_matches_nothing(project: Project) -> None:
    view = make_view("things", {"key": "utinyint"}, {"number": "integer"})
    project.publish(view, [(0, T0, 1), (255, T0, 2)])
    spine = pa.table({"key": [-1, 0, 255, 256, 2**63 - 1, None], "event_timestamp": [T0] * 6})
    assert values(project, spine, ["things:number"]) == [(None,), (1,), (2,), (None,), (None,), (None,)]


def test_spine_times_of_any_zone_and_unit_are_instants(project: Project) -> None:
    publish_orders(project)
    moments = [T0 + HOUR, T0 + HOUR - timedelta(seconds=1)]
    naive = [moment.replace(tzinfo=None) for moment in moments]
    for time in (
        pa.array(naive, pa.timestamp("s")),
        pa.array(naive, pa.timestamp("ns")),
        pa.array(moments, pa.timestamp("ms", "America/New_York")),
        pa.array(moments, pa.timestamp("us", "+05:30")),
    ):
        spine = pa.table({"customer": [1, 1], "event_timestamp": time})
        assert values(project, spine, ["orders:count"]) == [(20,), (10,)], time.type


def test_a_date_is_its_first_instant_and_stays_a_date(project: Project) -> None:
    view = make_view("things", {"customer": "bigint"}, {"number": "integer"})
    project.publish(view, [(1, T0 - HOUR, 1), (1, T0, 2), (1, T0 + HOUR, 3)])
    spine = pa.table({"customer": [1, 1], "event_timestamp": [T0.date(), None]})
    assert values(project, spine, ["things:number"]) == [(2,), (None,)]
    result = project.store.get_historical_features(spine, ["things:number"]).to_arrow()
    assert result.column("event_timestamp").type == pa.date32()


def test_a_parquet_file_whose_columns_repeat_a_name_is_an_error(project: Project, tmp_path: Path) -> None:
    publish_orders(project)
    pq.write_table(pa.table([[1], [2]], names=["customer", "customer"]), tmp_path / "twice.parquet")
    assert "two columns have the same name" in str(fail(project, tmp_path / "twice.parquet", ["orders:count"]))


def test_an_hour_that_daylight_saving_repeats_is_told_apart(project: Project) -> None:
    view = make_view("clock", {"customer": "bigint"}, {"number": "integer"})
    first = datetime(2024, 11, 3, 5, 30, tzinfo=UTC)
    project.publish(view, [(1, first, 1), (1, first + HOUR, 2)])
    local = pd.DataFrame(
        {"customer": [1, 1], "event_timestamp": pd.to_datetime([first, first + HOUR]).tz_convert("America/New_York")}
    )
    assert local["event_timestamp"].dt.hour.tolist() == [1, 1]
    assert values(project, local, ["clock:number"]) == [(1,), (2,)]


def test_pandas_keeps_its_columns_and_index_and_integers_stay_integers(project: Project) -> None:
    publish_orders(project)
    spine = pd.DataFrame(
        {"customer": [2, 3], "event_timestamp": pd.to_datetime([T0 + HOUR] * 2), "label": [True, False]}, index=[7, 5]
    )
    frame = project.store.get_historical_features(spine, ["orders:count", "orders:amount"]).to_pandas()
    pd.testing.assert_frame_equal(frame[["customer", "event_timestamp", "label"]], spine)
    assert frame["count"].dtype == pd.Int64Dtype()
    assert frame["count"].tolist() == [2**53 + 1, pd.NA]
    assert frame["amount"].isna().all()


def test_polars_gives_polars(project: Project) -> None:
    publish_orders(project)
    spine = pl.DataFrame({"customer": [2, 3], "event_timestamp": [T0 + HOUR] * 2})
    frame = project.store.get_historical_features(spine, ["orders:count"]).to_polars()
    assert frame.drop("count").equals(spine)
    assert frame["count"].to_list() == [2**53 + 1, None]


def test_a_parquet_file_is_a_spine_by_its_path_and_a_query_by_its_text(project: Project, tmp_path: Path) -> None:
    publish_orders(project)
    path = tmp_path / "labels.parquet"
    pq.write_table(make_spine([(1, T0), (2, T0 + HOUR)]), path)
    expected = [(10,), (2**53 + 1,)]
    assert values(project, path, ["orders:count"]) == expected
    assert values(project, str(path), ["orders:count"]) == expected
    sql = f"  SELECT customer, event_timestamp from '{path}' order by customer"
    assert values(project, sql, ["orders:count"]) == expected


def test_a_query_reads_published_views_by_their_names(project: Project) -> None:
    old, new = (make_view("score", {"k": "uuid"}, {"x": "ubigint"}, version=version) for version in ("1", "2"))
    key = str(uuid.UUID(int=9))
    project.publish(old, [(key, T0, 1)])
    project.apply(msgspec.structs.replace(old, latest=False))
    project.publish(new, [(key, T0, 2**64 - 1)])
    sql = """select k, score.event_timestamp + interval 1 hour as event_timestamp, old.x as x1, score.x as x2
             from score join "score@v1" as old using (k)"""
    assert values(project, sql, ["score@v1:x", "score:x"], full_feature_names=True) == [(1, 2**64 - 1)]
    table = project.store.get_historical_features(sql, ["score@v1:x", "score:x"], full_feature_names=True).to_arrow()
    assert table.column_names == ["k", "event_timestamp", "x1", "x2", "score@v1__x", "score__x"]


def test_a_long_spine_is_the_same_in_chunks(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_orders(project)
    spine = make_spine([(number % 3, T0 + (number % 5 - 1) * HOUR) for number in range(25)])
    whole = project.store.get_historical_features(spine, ["orders:count"]).to_arrow()
    monkeypatch.setattr(training_set, "CHUNK_ROWS", 10)
    pieces = project.store.get_historical_features(spine, ["orders:count"]).to_arrow()
    assert pieces.column("count").num_chunks == 3
    assert pieces.equals(whole)


def test_a_spine_without_rows_gives_the_columns_alone(project: Project, tmp_path: Path) -> None:
    publish_orders(project)
    spine = make_spine([]).cast(pa.schema([("customer", pa.int64()), ("event_timestamp", pa.timestamp("us", "UTC"))]))
    training_set = project.store.get_historical_features(spine, ["orders:count"])
    assert training_set.to_arrow().num_rows == 0
    training_set.write_parquet(tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").schema.names == ["customer", "event_timestamp", "count"]


def test_the_time_column_can_have_another_name(project: Project) -> None:
    publish_orders(project)
    spine = make_spine([(1, T0)]).rename_columns(["customer", "decided_at"])
    assert values(project, spine, ["orders:count"], event_timestamp="decided_at") == [(10,)]


def test_a_published_correction_changes_the_answer_and_a_pinned_version_does_not(project: Project) -> None:
    view = make_view("things", {"key": "bigint"}, {"number": "integer"})
    first = project.publish(view, [(1, T0, 1)])
    spine = make_spine([(1, T0)], "key")
    store = project.store
    assert store.get_historical_features(spine, ["things:number"]).to_arrow().column("number").to_pylist() == [1]
    project.publish(view, [(1, T0, 2)])
    assert store.get_historical_features(spine, ["things:number"]).to_arrow().column("number").to_pylist() == [2]
    assert values(project, spine, ["things:number"], versions={"things": first}) == [(1,)]


def test_an_index_removed_between_two_uses_is_built_again(project: Project) -> None:
    publish_orders(project)
    training_set = project.store.get_historical_features(make_spine([(1, T0)]), ["orders:count"])
    shutil.rmtree(project.home / "index")
    assert training_set.to_arrow().column("count").to_pylist() == [10]


def test_a_folder_that_cannot_be_written_is_an_error(project: Project) -> None:
    publish_orders(project)
    (project.home / "index").write_text("in the way")
    with pytest.raises(OfflineStoreError, match="the index cannot be written"):
        project.store.get_historical_features(make_spine([(1, T0)]), ["orders:count"])


def test_the_warehouse_is_never_opened(project: Project) -> None:
    publish_orders(project)
    with duckdb.connect(str(project.home / "warehouse.duckdb")) as build:
        build.execute("begin")
        assert values(project, make_spine([(1, T0)]), ["orders:count"]) == [(10,)]


def fail(project: Project, spine: Any, features: Any, **options: Any) -> FeatureStoreError:
    with pytest.raises(FeatureStoreError) as caught:
        project.store.get_historical_features(spine, features, **options)
    assert not (project.home / "index").exists(), "an error comes before any work"
    return caught.value


def test_what_does_not_fit_is_an_error_before_any_work(project: Project, tmp_path: Path) -> None:
    publish_orders(project)
    unpublished = make_view("unpublished", {"customer": "bigint"}, {"count": "bigint"})
    project.apply(unpublished)
    spine = make_spine([(1, T0)])
    orders = ["orders:count"]

    def with_column(name: str, values: Any) -> pa.Table:
        return pa.table(
            {column: spine.column(column) for column in spine.column_names if column != name} | {name: values}
        )

    cases: list[tuple[Any, Any, type[FeatureStoreError], str]] = [
        (spine.select(["event_timestamp"]), orders, RequestError, "join keys are missing: customer (for orders)"),
        (spine.select(["customer"]), orders, RequestError, "no column 'event_timestamp'"),
        (with_column("customer", pa.array([1.0])), orders, RequestError, "dtype Int64"),
        (with_column("customer", pa.array(["1"])), orders, RequestError, "expected: int64, as in orders"),
        (with_column("event_timestamp", ["2024-03-10"]), orders, RequestError, "pandas.to_datetime"),
        (with_column("event_timestamp", pa.array([20240310])), orders, RequestError, "got: int64"),
        (with_column("count", pa.array([1])), orders, RequestError, "full_feature_names=True"),
        (spine, ["orders:count", "unpublished:count"], RequestError, "orders:count and unpublished:count"),
        (spine, ["unpublished:count"], OfflineStoreError, "features publish unpublished"),
        (spine, ["orders:cuont"], UnknownNameError, "did you mean 'count'?"),
        (spine, "fraud_v1", UnknownNameError, "fraud_v1"),
        (tmp_path / "none.parquet", orders, RequestError, "there is no such file"),
        (Path(__file__), orders, RequestError, "not a Parquet file"),
        ("from_labels.parquet", orders, RequestError, "there is no such file"),
        ("select nothing", orders, RequestError, "the query fails"),
        ([1, 2], orders, RequestError, "got: list"),
        (pd.DataFrame({"customer": [1, "a"]}), orders, RequestError, "several kinds of values"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), orders, RequestError, "two columns have the same name: a"),
        ("select 1 as a, 2 as a", orders, RequestError, "columns a"),
        (pa.table([[1], [2]], names=["customer", "customer"]), orders, RequestError, "two columns have the same name"),
    ]
    for bad, features, kind, message in cases:
        error = fail(project, bad, features)
        assert isinstance(error, kind), error
        assert message in str(error)
    error = fail(project, spine, orders, versions={"order": 0})
    assert "did you mean 'orders'?" in str(error)
    error = fail(project, spine, orders, versions={"orders": 99})
    assert isinstance(error, OfflineStoreError)


def test_nanoseconds_that_would_be_lost_are_an_error(project: Project) -> None:
    publish_orders(project)
    spine = pa.table({"customer": [1], "event_timestamp": pa.array([1], pa.timestamp("ns"))})
    with pytest.raises(RequestError, match="finer than a microsecond"):
        project.store.get_historical_features(spine, ["orders:count"]).to_arrow()


def test_text_that_is_no_uuid_is_an_error(project: Project) -> None:
    project.publish(make_view("things", {"key": "uuid"}, {"number": "integer"}), [(str(uuid.UUID(int=1)), T0, 1)])
    spine = make_spine([("not one", T0)], "key")
    with pytest.raises(RequestError, match="a join key is not a UUID") as caught:
        project.store.get_historical_features(spine, ["things:number"]).to_arrow()
    assert "got: 'not one'" in str(caught.value)


def test_a_definition_in_force_that_was_not_published_yet_is_an_error(project: Project) -> None:
    publish_orders(project)
    project.apply(make_view("orders", {"customer": "bigint"}, {"count": "integer"}, created=True))
    error = fail(project, make_spine([(1, T0)]), ["orders:count"])
    assert "run `features publish orders`" in str(error)
