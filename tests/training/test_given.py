"""A spine as its owner has it: changed since, not read yet, of a class of one's own, a query with remarks."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from feature_server.errors import RequestError
from tests.support.published import Project, make_view

NOON = datetime(2024, 3, 10, 12, tzinfo=UTC)
QUERY = "select 1 as k, timestamptz '2024-03-10 12:00:00Z' as event_timestamp"


class OwnFrame(pd.DataFrame):
    @property
    def _constructor(self) -> type[OwnFrame]:
        return OwnFrame


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("given") / "project")
    project.publish(make_view("things", {"k": "bigint"}, {"n": "bigint"}), [(1, NOON, 10), (2, NOON, 20)])
    return project


def spine() -> pd.DataFrame:
    return pd.DataFrame({"k": [1, 2, 3], "event_timestamp": [NOON] * 3})


def set_a_key(frame: pd.DataFrame) -> None:
    frame.loc[0, "k"] = 2


CHANGES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "sorted": lambda frame: frame.sort_values("k", ascending=False, inplace=True),
    "cut": lambda frame: frame.drop(index=0, inplace=True),
    "a column more": lambda frame: frame.insert(0, "n", 5),
    "another index": lambda frame: frame.set_index("k", inplace=True),
    "another value": set_a_key,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_what_is_done_to_a_frame_later_moves_no_feature_to_another_row(project: Project, change: str) -> None:
    frame = spine()
    training = project.store.get_historical_features(frame, ["things:n"])
    CHANGES[change](frame)
    expected = spine().assign(n=pd.array([10, 20, None], dtype="Int64"))
    pd.testing.assert_frame_equal(training.to_pandas(), expected)
    assert training.to_arrow().column("k").to_pylist() == [1, 2, 3]


def test_a_lazy_frame_is_read_once_and_without_a_warning(project: Project) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training = project.store.get_historical_features(pl.from_pandas(spine()).lazy(), ["things:n"])
    assert training.to_arrow().column("n").to_pylist() == [10, 20, None]


def test_a_lazy_frame_that_cannot_be_read_is_refused(project: Project) -> None:
    with pytest.raises(RequestError, match="the spine cannot be read") as refused:
        project.store.get_historical_features(pl.from_pandas(spine()).lazy().select("absent"), ["things:n"])
    assert re.search(r"got: LazyFrame: .*absent", str(refused.value))


def test_a_lazy_frame_of_a_file_that_is_not_there_is_refused(project: Project, tmp_path: Path) -> None:
    for frame in (pl.scan_parquet(tmp_path / "absent.parquet"), pl.scan_csv(tmp_path / "absent.csv")):
        with pytest.raises(RequestError, match="the spine cannot be read"):
            project.store.get_historical_features(frame, ["things:n"])


def test_a_frame_of_a_class_of_ones_own_is_checked_like_any(project: Project) -> None:
    frame = OwnFrame(spine()).set_axis([7, 8, 9])
    assert project.store.get_historical_features(frame, ["things:n"]).to_arrow().column_names == [
        "k", "event_timestamp", "n",
    ]  # fmt: skip
    with pytest.raises(RequestError, match="several kinds of values"):
        project.store.get_historical_features(
            frame.assign(label=pd.Series([1, "a", None], [7, 8, 9], object)), ["things:n"]
        )


@pytest.mark.parametrize(
    "query",
    [
        f"-- labels of March\n{QUERY}",
        f"/* select\n from */ {QUERY}",
        "/* */" * 100 + QUERY,
        f"with\nlabels as ({QUERY}) from labels",
        "select* from (" + QUERY + ")",
    ],
)
def test_a_query_may_begin_with_a_remark(project: Project, query: str) -> None:
    assert project.store.get_historical_features(query, ["things:n"]).to_arrow().column("n").to_pylist() == [10]


def test_a_file_may_be_named_like_a_query(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pl.from_pandas(spine()).write_parquet("from.parquet")
    assert project.store.get_historical_features("from.parquet", ["things:n"]).to_arrow().num_rows == 3


def test_a_file_of_another_kind_is_told_how_to_be_given(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "spine.csv"
    path.write_text("k,event_timestamp\n1,2024-03-10T12:00:00Z\n")
    with pytest.raises(RequestError, match="not a Parquet file") as refused:
        project.store.get_historical_features(path, ["things:n"])
    query = str(refused.value.remedy).partition("by a query: ")[2]
    assert project.store.get_historical_features(query, ["things:n"]).to_arrow().column("n").to_pylist() == [10]
