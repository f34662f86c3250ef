"""Training sets say what they were made from, and are made again from that, byte by byte; the train command."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_server.errors import OfflineStoreError, RequestError
from feature_server.training import sets as training_set
from feature_server.training.record import METADATA_KEY, Fingerprint, read_record
from tests.support.published import Project, make_view

T0 = datetime(2024, 3, 10, tzinfo=UTC)
DAY = timedelta(days=1)
DAY_US = 86_400_000_000
VIEW = make_view("orders", {"customer": "bigint"}, {"count": "bigint", "word": "varchar"}, created=True, ttl_us=DAY_US)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "project")
    project.publish(VIEW, [(1, T0, T0, 10, "a"), (1, T0 + DAY, T0, 20, None), (2, T0, T0 + 5 * DAY, 30, "b")])
    project.add_service("fraud_v1", ["orders:word", "orders:count"])
    return project


def spine_file(folder: Path) -> Path:
    path = folder / "labels.parquet"
    spine = pa.table(
        {
            "customer": pa.array([2, 1, 1, None, 1]),
            "event_timestamp": pa.array([T0, T0, T0 + DAY, T0, T0 + 3 * DAY], pa.timestamp("us", "UTC")),
            "label": pa.array(["x", None, "y", "x", "x"]).dictionary_encode(),
            "weight": pa.array([0.5, None, 1.5, 0.25, 1.0]),
        }
    )
    pq.write_table(spine, path)
    return path


def features(*arguments: Any, project: Project) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "feature_server", *map(str, arguments), "--project-dir", str(project.folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_train_writes_the_file_and_says_what_is_in_it(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "train.parquet"
    run = features("train", "fraud_v1", "--spine", spine_file(tmp_path), "--out", out, project=project)
    assert (run.returncode, run.stderr) == (0, "")
    first, second = run.stdout.splitlines()
    assert first.startswith(f"wrote {out} rows=5 features=2 seconds=")
    assert second == "  orders version=0 without_row=40.0%"
    table = pq.read_table(out)
    assert table.column_names == ["customer", "event_timestamp", "label", "weight", "word", "count"]
    assert table.column("count").to_pylist() == [30, 10, 20, None, None]


def test_train_warns_of_a_deprecated_view(project: Project, tmp_path: Path) -> None:
    project.apply(msgspec.structs.replace(VIEW, deprecation_date="2026-12-31"))
    out = tmp_path / "train.parquet"
    run = features("train", "fraud_v1", "--spine", spine_file(tmp_path), "--out", out, project=project)
    assert run.returncode == 0
    assert run.stderr == "warning: feature view orders is deprecated as of 2026-12-31: read another\n"
    with pytest.warns(FutureWarning, match="orders is deprecated"):
        project.store.get_historical_features(spine_file(tmp_path), "fraud_v1")


def test_train_takes_single_features_and_its_options(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "train.parquet"
    project.publish(VIEW, [(1, T0, T0, 11, "a"), (2, T0, T0, 31, "b")])
    sql = f"select customer, event_timestamp as decided_at from '{spine_file(tmp_path)}'"
    options = ["--as-known", "--full-feature-names", "--event-timestamp", "decided_at", "--as-of-version", "orders=0"]
    run = features(
        "train", "orders:count", "orders:word", "--spine", sql, "--out", out, "--memory-limit", "1GB", "--json",
        *options, project=project,
    )  # fmt: skip
    summary = json.loads(run.stdout)
    assert summary.pop("seconds") >= 0
    expected = {"path": str(out), "rows": 5, "features": 2, "versions": {"orders": 0}, "null_share": {"orders": 0.6}}
    assert summary == expected
    table = pq.read_table(out)
    assert table.column_names == ["customer", "decided_at", "orders__count", "orders__word"]
    assert table.column("orders__count").to_pylist() == [None, 10, 20, None, None]


def test_a_training_set_on_disk_needs_no_pandas(project: Project, tmp_path: Path) -> None:
    script = f"""
import sys
from feature_server import FeatureStore
store = FeatureStore({str(project.folder)!r})
assert store.get_historical_features({str(spine_file(tmp_path))!r}, "fraud_v1").to_arrow().num_rows == 5
print("pandas" in sys.modules)
"""
    spine = pa.table({"customer": [1], "event_timestamp": [T0]})
    project.store.get_historical_features(spine, "fraud_v1")
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_a_bad_spine_ends_with_code_1_and_no_file(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "train.parquet"
    run = features("train", "fraud_v1", "--spine", tmp_path / "none.parquet", "--out", out, project=project)
    assert run.returncode == 1
    assert run.stderr.startswith(f"error: spine {tmp_path / 'none.parquet'}: there is no such file")
    assert not out.exists()
    run = features("train", "fraud_v1", "--spine", "x.parquet", "--out", out, "--as-of-version", "3", project=project)
    assert run.returncode == 2
    assert "VIEW=VERSION" in run.stderr


def test_reproduce_writes_the_same_bytes_after_the_tables_moved_on(project: Project, tmp_path: Path) -> None:
    out, again = tmp_path / "train.parquet", tmp_path / "again.parquet"
    spine = spine_file(tmp_path)
    assert features("train", "fraud_v1", "--spine", spine, "--out", out, project=project).returncode == 0
    project.publish(VIEW, [(1, T0, T0, -1, "changed"), (3, T0 + 9 * DAY, T0, 1, "c")])
    renamed = make_view("orders", {"customer": "bigint"}, {"total": "double"}, ttl_us=5 * DAY_US)
    project.publish(renamed, [(1, T0, 0.5)])
    run = features("reproduce", out, "--out", again, project=project)
    assert (run.returncode, run.stderr) == (0, "")
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, None, 3, 4, None], pa.int16()),
        pa.array([0.5, None, float("nan"), 4.0, None]),
        pa.array([True, None, False, True, None]),
        pa.array(["a", None, "", "é" * 9, None]),
        pa.array([b"a", None, b"", b"x" * 9, None], pa.large_binary()),
        pa.array(["a", None, "", "é" * 9, None], pa.string_view()),
        pa.array([[1, None], None, [], [4], None], pa.list_(pa.int8())),
        pa.array([["a", None], None, [], ["b"], None], pa.list_(pa.string())),
        pa.array([{"a": 1, "b": None}, None, {"a": 2, "b": "x"}, {"a": None, "b": "y"}, None]),
        pa.array([None, None, None, None, None]),
        pa.array([Decimal("1.5"), None, Decimal("2.5"), Decimal("3.5"), None]),
        pa.array([T0, None, T0 + DAY, T0, None]),
    ],
    ids=lambda values: str(values.type),
)
def test_a_fingerprint_depends_on_values_alone(values: pa.Array) -> None:
    def fingerprint(array: pa.Array) -> str:
        hashed = Fingerprint(pa.schema([("x", array.type)]))
        hashed.update(pa.table({"x": array}))
        return hashed.hexdigest()

    embedded = pa.concat_arrays([values[3:], values, values[1:]])[2:7]
    assert fingerprint(embedded) == fingerprint(values)
    for low, high in ((0, 3), (1, 4), (2, 5), (3, 4), (0, 0)):
        copied = pa.array(values[low:high].to_pylist(), values.type)
        assert fingerprint(embedded[low:high]) == fingerprint(copied)
    if values.null_count < len(values):
        assert fingerprint(pa.array(values.to_pylist()[::-1], values.type)) != fingerprint(values)


def test_a_file_written_in_chunks_is_reproduced_in_the_same_chunks(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, again = tmp_path / "train.parquet", tmp_path / "again.parquet"
    monkeypatch.setattr(training_set, "CHUNK_ROWS", 2)
    project.store.get_historical_features(spine_file(tmp_path), "fraud_v1").write_parquet(out)
    assert pq.ParquetFile(out).metadata.num_row_groups == 3
    monkeypatch.undo()
    project.store.reproduce(out).write_parquet(again)
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_spine_from_memory_is_reproduced_from_the_output_alone(project: Project, tmp_path: Path, unit: str) -> None:
    out, again = tmp_path / "train.parquet", tmp_path / "again.parquet"
    spine = pa.table(
        {
            "customer": pa.array([1, 1, None], pa.int16()),
            "event_timestamp": pa.array([T0 + DAY, T0, T0], pa.timestamp(unit, "America/New_York")),
            "tags": pa.array([["a", None], None, []], pa.list_(pa.string())),
            "name": pa.array(["é", None, ""], pa.large_string()),
            "flag": pa.array([True, None, False]),
            "nothing": pa.nulls(3),
            "grade": pa.DictionaryArray.from_arrays(pa.array([2, None, 1], pa.int8()), ["unused", "b", "a"]),
            "since": pa.array([T0, T0, None], pa.timestamp("s")),
        }
    )
    training_set = project.store.get_historical_features(spine, ["orders:count"], as_known=True)
    training_set.write_parquet(out)
    assert pq.read_table(out).column("count").to_pylist() == [20, 10, None]
    project.store.reproduce(out).write_parquet(again)
    assert again.read_bytes() == out.read_bytes()
    assert project.store.reproduce(again).to_arrow().column("count").to_pylist() == [20, 10, None]


def test_the_file_names_the_service_the_definitions_and_the_table_versions(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "train.parquet"
    project.store.get_historical_features(spine_file(tmp_path), "fraud_v1").write_parquet(out)
    record = json.loads(pq.read_metadata(out).metadata[METADATA_KEY])
    assert record["service"] == "fraud_v1"
    assert [feature["text"] for feature in record["features"]] == ["orders:word", "orders:count"]
    assert record["views"][0]["table_version"] == 0
    assert record["views"][0]["definition"] == json.loads(msgspec.json.encode(VIEW))
    assert record["spine"]["columns"] == ["customer", "event_timestamp", "label", "weight"]
    assert record["spine"]["rows"] == 5
    assert str(tmp_path) not in json.dumps(record)


def test_a_table_in_memory_carries_the_same_record(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "train.parquet"
    training_set = project.store.get_historical_features(spine_file(tmp_path), "fraud_v1")
    training_set.write_parquet(out)
    in_memory = training_set.to_arrow().schema.metadata[METADATA_KEY]
    assert msgspec.json.encode(read_record(out)) == in_memory


def test_a_spine_that_was_edited_since_is_an_error(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "train.parquet"
    project.store.get_historical_features(spine_file(tmp_path), "fraud_v1").write_parquet(out)
    table = pq.read_table(out)
    pq.write_table(table.slice(1).replace_schema_metadata(pq.read_metadata(out).metadata), out)
    with pytest.raises(RequestError, match="not those that the training set was made with"):
        project.store.reproduce(out)


def test_a_file_that_says_nothing_of_its_making_is_an_error(project: Project, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not say what it was made from"):
        project.store.reproduce(spine_file(tmp_path))


def test_a_table_that_was_deleted_and_made_anew_is_not_taken_for_the_old_one(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "train.parquet"
    project.store.get_historical_features(spine_file(tmp_path), "fraud_v1").write_parquet(out)
    project.offline.path("orders").rename(tmp_path / "lost")
    with pytest.raises(OfflineStoreError, match="has no offline table"):
        project.store.reproduce(out)
    project.publish(VIEW, [(1, T0, T0, 10, "a")])
    with pytest.raises(OfflineStoreError, match="is not the one that the training set was made from"):
        project.store.reproduce(out)


def test_an_output_that_cannot_be_written_leaves_nothing_behind(project: Project, tmp_path: Path) -> None:
    training_set = project.store.get_historical_features(spine_file(tmp_path), "fraud_v1")
    with pytest.raises(RequestError, match="the file cannot be written"):
        training_set.write_parquet(tmp_path / "no such folder" / "train.parquet")
    spine = pa.table({"customer": [1], "event_timestamp": [T0], "gap": [pa.MonthDayNano([1, 2, 3])]})
    with pytest.raises(RequestError, match="a type that Parquet lacks"):
        project.store.get_historical_features(spine, "fraud_v1")
    assert {path.name for path in tmp_path.iterdir()} == {"project", "labels.parquet"}
