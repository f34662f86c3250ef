"""The benchmarks' harness: what it measures, what it makes of results, and that each benchmark runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.common import make_case, meets
from benchmarks.data import ViewSize, spine_file, view_file
from benchmarks.measure import BenchmarkFailed, in_child, medians, stopwatch
from benchmarks.report import label, markdown
from benchmarks.run import BENCHMARKS, main, write

ROOT = Path(__file__).parents[1]

CASES = [
    make_case(
        "1M rows, one view",
        ours={"wall_s": 0.5, "cpu_s": 0.9, "peak_mb": 900.0},
        limit={"wall_s": 0.7, "cpu_s": 1.2, "peak_mb": 1500.0},
        feast={"wall_s": 4.0, "cpu_s": 6.0, "peak_mb": 4000.0},
        targets={"cpu_s/limit": "<= 1.5", "cpu_s/feast": "<= 0.5", "peak_mb/feast": "<= 0.5"},
    ),
    make_case("no Feast", ours={"cpu_s": 3.0}, limit={"cpu_s": 1.0}, targets={"cpu_s/limit": "<= 1.5"}),
    make_case(
        "no limit", ours={"cpu_s": 3.0}, feast=None, targets={"cpu_s/feast": "<= 0.5", "cpu_s": "<= 4"}
    ),
]  # fmt: skip
RESULTS = {
    "made_at": "2026-01-02T03:04:05+00:00",
    "size": "default",
    "machine": {"processor": "one × 2", "DuckDB": "2.0.0"},
    "benchmarks": [{"name": "point_in_time", "title": "Point in time", "cases": CASES}],
    "failed": {"read": "benchmarks.read ended with code 1"},
}

TABLE = """\
| case              | number   | ours | against | theirs | ratio | target | met          |
|-------------------|----------|------|---------|--------|-------|--------|--------------|
| 1M rows, one view | CPU, s   | 0.9  | limit   | 1.2    | 0.75  | <= 1.5 | yes          |
| 1M rows, one view | CPU, s   | 0.9  | Feast   | 6      | 0.15  | <= 0.5 | yes          |
| 1M rows, one view | peak, MB | 900  | Feast   | 4,000  | 0.225 | <= 0.5 | yes          |
| no Feast          | CPU, s   | 3    | limit   | 1      | 3     | <= 1.5 | **no**       |
| no limit          | CPU, s   | 3    | Feast   |        |       | <= 0.5 | not measured |
| no limit          | CPU, s   | 3    |         |        | 3     | <= 4   | yes          |
"""


def spin(seconds: float) -> dict[str, float]:
    """So many seconds of CPU, whatever else the machine does."""
    with stopwatch() as seen:
        block = bytearray(50_000_000)
        begun = time.process_time()
        while time.process_time() - begun < seconds:
            block[0] ^= 1
    return {**seen, "answer": 42.0}


def fail() -> dict[str, float]:
    raise ValueError("something to say")


def test_a_ratio_is_ours_against_theirs_and_null_where_there_is_none() -> None:
    assert [case["ratios"] for case in CASES] == [
        {"cpu_s/limit": 0.75, "cpu_s/feast": 0.15, "peak_mb/feast": 0.225},
        {"cpu_s/limit": 3.0},
        {"cpu_s/feast": None, "cpu_s": 3.0},
    ]


@pytest.mark.parametrize(
    ("ratio", "target", "met"),
    [
        (1.5, "<= 1.5", True),
        (1.501, "<= 1.5", False),
        (0.6, ">= 0.6", True),
        (0.5, ">= 0.6", False),
        (None, "<= 1", None),
    ],
)
def test_a_target_is_met_up_to_its_bound(ratio: float | None, target: str, met: bool | None) -> None:
    assert meets(ratio, target) is met


def test_the_table_shows_each_ratio_against_its_target() -> None:
    text = markdown(RESULTS)
    assert TABLE in text
    assert "- read: benchmarks.read ended with code 1" in text


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        ("cpu_s", "CPU, s"),
        ("peak_mb", "peak, MB"),
        ("rows_per_s", "rows per s"),
        ("cpu_us_per_row", "CPU µs per row"),
        ("server_cpu_us", "server CPU, µs"),
    ],
)
def test_numbers_are_labelled_with_their_unit(metric: str, text: str) -> None:
    assert label(metric) == text


def test_results_are_written_as_json_markdown_and_a_picture(tmp_path: Path) -> None:
    written = write(RESULTS, tmp_path / "results")
    assert [path.name for path in written] == ["2026-01-02T0304.json", "2026-01-02T0304.md", "2026-01-02T0304.png"]
    assert json.loads(written[0].read_text()) == RESULTS
    assert "![plot](2026-01-02T0304.png)" in written[1].read_text()
    assert written[2].read_bytes().startswith(b"\x89PNG")


def test_a_function_is_measured_in_processes_of_its_own() -> None:
    seen = in_child("tests.test_benchmarks:spin", {"seconds": 0.3}, runs=2)
    assert seen["answer"] == 42.0
    assert seen["runs"] == 2
    assert seen["cpu_s"] >= 0.29
    assert seen["wall_s"] >= 0.29
    assert seen["peak_mb"] > 50


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(BenchmarkFailed, match="something to say"):
        in_child("tests.test_benchmarks:fail", {}, runs=1)


def test_medians_keep_words_and_whole_numbers() -> None:
    runs = [{"s": 3.0, "rows": 5, "name": "x"}, {"s": 1.0, "rows": 5, "name": "x"}, {"s": 2.0, "rows": 5, "name": "x"}]
    assert medians(runs) == {"s": 2.0, "rows": 5, "name": "x"}


def test_data_is_the_same_every_time_and_sorted_by_time(tmp_path: Path) -> None:
    size = ViewSize(entities=50, history=4, features=3)
    first, second = (pq.read_table(view_file(tmp_path / name, "a", size)) for name in "xy")
    assert first.equals(second)
    assert first.column_names == ["entity_id", "event_timestamp", "created_timestamp", "a_f0", "a_f1", "a_f2"]
    times = first["event_timestamp"].to_pylist()
    assert times == sorted(times)
    assert sorted(first["entity_id"].to_pylist()) == sorted(list(range(50)) * 4)
    spine = pq.read_table(spine_file(tmp_path / "x", 30, size))
    assert spine.column_names == ["entity_id", "event_timestamp", "label"]
    assert spine.num_rows == 30


@pytest.mark.heavy
@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_runs_at_its_smallest_size(name: str, tmp_path: Path) -> None:
    arguments = ["--only", name, "--size", "tiny", "--runs", "1", "--no-feast"]
    assert main([*arguments, "--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]) == 0
    (path,) = (tmp_path / "results").glob("*.json")
    (benchmark,) = json.loads(path.read_text())["benchmarks"]
    assert benchmark["name"] == name
    assert any(ratio is not None for case in benchmark["cases"] for ratio in case["ratios"].values())
