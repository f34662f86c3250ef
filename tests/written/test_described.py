"""Tests and constraints that tell rows apart: those by which dbt itself refuses rows that are alike."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from feature_server.written.project import read_project
from tests.support.tiny_project import write_project

CONFIGS = [
    "severity: ERROR", "limit: 1", "limit: 0",
    "warn_if: '>10'", "error_if: '>10'", "error_if: '> 0'", "fail_calc: count(*) - 1",
    "severity: warn", "severity: WARN", "severity: error", "where: id > 1", "enabled: false",
]  # fmt: skip
ALIKE = "select 1 as id union all select 1"
PROFILES = "t: {target: a, outputs: {a: {type: duckdb, path: t.duckdb}}}\n"


def test_the_tests_that_count_are_those_that_fail_in_a_build_of_equal_rows(tmp_path: Path) -> None:
    tests = [f"columns: [{{name: id, data_tests: [{{unique: {{config: {{{one}}}}}}}]}}]" for one in CONFIGS]
    yaml = "models:\n" + "".join(f"  - name: m{place}\n    {one}\n" for place, one in enumerate(tests))
    flags = "flags: {send_anonymous_usage_stats: false}\n"
    files = {
        "dbt_project.yml": f'name: t\nversion: "1.0"\nprofile: t\n{flags}',
        "profiles.yml": PROFILES,
        "models/m.yml": yaml,
        **{f"models/m{place}.sql": ALIKE for place in range(len(CONFIGS))},
    }
    write_project(tmp_path, files)
    dbt = [sys.executable, "-m", "dbt.cli.main", "--quiet", "build", "--profiles-dir", ".", "--project-dir", "."]
    assert subprocess.run(dbt, cwd=tmp_path, capture_output=True, check=False).returncode == 1
    results = json.loads((tmp_path / "target" / "run_results.json").read_text())["results"]
    failed = {each["unique_id"].split(".")[2] for each in results if each["status"] == "fail"}
    assert failed == {f"unique_m{place}_id" for place in (0, 1, 3, 5, 9)}
    counted = {f"unique_{name}_id" for name, said in read_project(tmp_path).described.items() if said.keys}
    assert counted == failed
