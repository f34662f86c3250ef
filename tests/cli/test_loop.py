"""An analyst's loop: edit, `features check`, build a part, apply; what a failed check leaves."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from feature_server.project.process import dbt_command
from tests.support.stream_project import FILES
from tests.support.tiny_project import features, write_project

VIEWS = "models/features.yml"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("loop"), FILES)
    assert features("apply", cwd=folder).returncode == 0
    return folder


def artifacts(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "target" / name).read_bytes() for name in ("manifest.json", "feature_models.json")}


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (VIEWS, "refresh: daily", "refresh: dayly", "models[customer__country].config.meta.feature_view.refresh"),
        ("models/customer__country.sql", "select", "select {{ nothing.here }}", "'nothing' is undefined"),
        (VIEWS, "models:", "models: [", "dbt cannot parse the project"),
    ],
)
def test_a_failed_check_leaves_what_was_found_good_last(
    project: Path, file: str, old: str, new: str, said: str
) -> None:
    before, path = artifacts(project), project / file
    text = path.read_text()
    try:
        path.write_text(text.replace(old, new, 1))
        for command in ("check", "plan", "apply"):
            run = features(command, cwd=project)
            assert run.returncode == 1
            assert said in run.stdout + run.stderr
            assert artifacts(project) == before
        again = features("apply", "--no-parse", "--json", cwd=project)
        if "parse" in said:  # no file of the project can be looked at
            assert (again.returncode, again.stdout) == (1, "")
        else:
            assert (again.returncode, json.loads(again.stdout)["changes"]) == (0, [])
    finally:
        path.write_text(text)
    assert features("check", cwd=project).returncode == 0


def test_applied_without_parsing_after_a_part_was_built_it_still_knows_the_sql_of_all(project: Path) -> None:
    run = subprocess.run(
        [*dbt_command(), "build", "--quiet", "--select", "customer__country", "--profiles-dir", "profiles"],
        cwd=project, env=os.environ | {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    manifest = json.loads((project / "target" / "manifest.json").read_text())
    assert not manifest["nodes"]["model.tiny.customer__payments"].get("compiled_code")  # dbt wrote it, of the part
    applied = features("apply", "--no-parse", "--json", cwd=project)
    assert applied.returncode == 0, applied.stdout
    assert json.loads(applied.stdout)["changes"] == []


def test_a_schedule_goes_on_by_what_is_in_force_where_the_definitions_are_not_fit(project: Path) -> None:
    before, views, country = artifacts(project), project / VIEWS, project / "models" / "customer__country.sql"
    text, sql = views.read_text(), country.read_text()
    try:
        views.write_text(text.replace("refresh: daily", "refresh: dayly"))
        run = features("compare", "--json", cwd=project)
        assert run.returncode == 0, run.stderr
        assert "models/features.yml:" in run.stderr
        assert "the project's definitions are not fit, so those in force stand" in run.stderr
        assert {name: kept for name, kept in json.loads(run.stdout).items() if kept} == {}
        country.write_text(sql.replace("'NL'", "'BE'"))
        found = json.loads(features("compare", "--json", cwd=project).stdout)
        assert [*found["views"]] == ["customer__country"]
        assert found["models"] == ["model.tiny.customer__country"]
    finally:
        views.write_text(text)
        country.write_text(sql)
    assert artifacts(project) == before
    assert features("compare", cwd=project).stdout == "the project is what is in force\n"


def test_what_was_compiled_for_one_target_is_not_applied_to_another(tmp_path: Path) -> None:
    other = "    other: {type: duckdb, path: tiny.duckdb, schema: other, threads: 1, settings: {TimeZone: UTC}}\n"
    folder = write_project(tmp_path, FILES | {"profiles/profiles.yml": FILES["profiles/profiles.yml"] + other})
    assert features("check", cwd=folder).returncode == 0
    refused = features("apply", "--no-parse", "--target", "other", cwd=folder)
    assert refused.returncode == 1
    assert "the SQL was compiled for another target" in refused.stderr
    assert features("apply", "--no-parse", cwd=folder).returncode == 0
