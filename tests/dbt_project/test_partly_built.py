"""A model of which dbt could build some batches and others not is one that was not built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb

from tests.support.example import package_files
from tests.support.tiny_project import write_project

DAYS = """
{{ config(materialized='incremental', incremental_strategy='microbatch', event_time='day', batch_size='day',
          begin='2024-01-01') }}
select timestamp '{{ model.batch.event_time_start }}' as day,
    {{ "'no number'::integer" if model.batch and model.batch.event_time_start.day == 2 else 1 }} as number
"""
FILES = {
    "dbt_project.yml": """
name: tiny
version: "1.0"
profile: tiny
flags: {send_anonymous_usage_stats: false}
""",
    "profiles.yml": "tiny: {target: local, outputs: {local: {type: duckdb, path: tiny.duckdb, threads: 1}}}\n",
    **package_files(),
    "models/days.sql": DAYS,
}


def test_a_model_that_is_built_in_part_is_noted_as_not_built(tmp_path: Path) -> None:
    project = write_project(tmp_path, FILES)
    dbt = [str(Path(sys.executable).with_name("dbt")), "run", "--profiles-dir", "."]
    days = ["--event-time-start", "2024-01-01", "--event-time-end", "2024-01-03"]
    run = subprocess.run([*dbt, *days], cwd=project, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stdout
    with duckdb.connect(str(project / "tiny.duckdb"), read_only=True) as warehouse:
        assert warehouse.sql("select number from days").fetchall() == [(1,)]
        assert warehouse.sql("from failed_tests").fetchall() == [("days", "build: partial success")]
