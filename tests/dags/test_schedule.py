"""The DAGs as Airflow reads them: imports, what runs when, in which order, under whose name."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from feature_server.definitions.facts import FeatureView
from feature_server.definitions.schedule import Schedule, ScheduledView
from feature_server.errors import SettingsError
from feature_server.settings import load_settings
from scripts.airflow_env import airflow_environment
from tests.support.dags_project import FILES
from tests.support.tiny_project import write_project

ROOT = Path(__file__).parents[2]

Structure = dict[str, Any]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Homes of one project, for FEATURES_HOME: after a good check, and after a bad one that followed it; never checked;
    with a file of a version to come, and with one that is no JSON."""
    folder = tmp_path_factory.mktemp("dags")
    promised = FILES["models/models.yml"].replace("refresh: daily}", "refresh: daily, freshness: {error: 6h}}")
    project = write_project(folder / "project", FILES | {"models/models.yml": promised})
    environ = {
        "FEATURES_PROJECT_DIR": str(project), "FEATURES_HOME": str(folder / "good"), "TILL_PAYMENTS": "none.csv",
        "FEATURES_WAREHOUSE": str(folder / "till.duckdb"), "TILL_LANDING": "landing",
    }  # fmt: skip

    def check(good: bool) -> None:
        command = [sys.executable, "-m", "feature_server", "check"]
        run = subprocess.run(command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, check=False)
        assert (run.returncode == 0) == good, run.stdout + run.stderr

    check(good=True)
    shutil.copytree(folder / "good", folder / "mistaken")
    for name, text in (("later", '{"format": 2, "views": "otherwise"}'), ("broken", '{"format": 1,')):
        (folder / name).mkdir()
        (folder / name / "schedule.json").write_text(text)
    (project / "models" / "models.yml").write_text(promised.replace("refresh: hourly", "refresh: horly"))
    environ["FEATURES_HOME"] = str(folder / "mistaken")
    check(good=False)
    return {name: folder / name for name in ("good", "mistaken", "absent", "later", "broken")}


def in_airflow(homes: dict[str, Path], *arguments: str) -> str:
    """What Python prints in an environment of Airflow's, with the good project's home."""
    given = {"FEATURES_PROJECT_DIR": str(homes["good"].parent / "project"), "FEATURES_HOME": str(homes["good"])}
    given["FEATURES_WAREHOUSE"] = str(homes["good"].parent / "till.duckdb")
    environment = airflow_environment(load_settings(given), os.environ | given)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "dags")])
    run = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def structures(homes: dict[str, Path]) -> dict[str, Structure]:
    """What Airflow sees in each home."""
    printed = in_airflow(
        homes, str(ROOT / "tests/support/dags_structure.py"), str(ROOT / "dags"), *map(str, homes.values())
    )
    return dict(zip(homes, json.loads(printed), strict=True))


@pytest.fixture(scope="module")
def dags(structures: dict[str, Structure]) -> Structure:
    return structures["good"]["dags"]


def test_dags_import_whether_the_definitions_can_be_read_or_not(structures: dict[str, Structure]) -> None:
    assert {name: found["errors"] for name, found in structures.items()} == {name: {} for name in structures}


def test_a_check_that_finds_a_mistake_leaves_the_dags_as_they_were(structures: dict[str, Structure]) -> None:
    mistaken = re.sub(r'/mistaken(?=[/"])', "/good", json.dumps(structures["mistaken"]))
    assert json.loads(mistaken) == structures["good"]


def test_there_is_a_dag_for_each_cadence_that_a_view_names(dags: Structure) -> None:
    assert {name: dag["schedule"] for name, dag in dags.items()} == {
        "refresh_hourly": "0 * * * *",
        "refresh_daily": "0 0 * * *",
        "catalogue": "30 0 * * *",
        "freshness": "*/10 * * * *",
        "rebuild": "*/10 * * * *",
    }


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("absent", "nothing says what there is to schedule"),
        ("later", "schedule.json is written in format 2, this version reads 1"),
        ("broken", "what there is to schedule cannot be read"),
    ],
)
def test_without_definitions_every_cadence_says_what_to_do(
    structures: dict[str, Structure], reason: str, expected: str
) -> None:
    dags = structures[reason]["dags"]
    assert {name: sorted(dag["tasks"]) for name, dag in dags.items()} == {
        "refresh_hourly": ["definitions"],
        "refresh_daily": ["definitions"],
        "refresh_weekly": ["definitions"],
        "catalogue": ["docs"],
    }
    for dag in dags.values():
        assert expected in dag["doc"]
        assert "Run `features check`" in dag["doc"]


def test_a_refresh_publishes_after_the_build_and_is_good_when_every_model_is(dags: Structure) -> None:
    tasks = dags["refresh_hourly"]["tasks"]
    assert {name: task["after"] for name, task in tasks.items()} == {
        "stream.till.receipts": [],
        "compare": [],
        "landed": ["stream.till.receipts"],
        "dbt.build": ["compare", "landed"],
        "dbt.stg_payments": ["dbt.build"],
        "dbt.account__receipts": ["dbt.build"],
        "dbt.accounts": ["dbt.stg_payments"],
        "dbt.account__activity_v1": ["dbt.stg_payments"],
        "dbt.account__activity_v2": ["dbt.stg_payments"],
        "dbt.account__totals": ["dbt.stg_payments"],
        "publish": ["dbt.build"],
        "sync": ["dbt.build", "publish"],
        "verify": ["dbt.build", "sync"],
        "good": [
            "dbt.account__activity_v1",
            "dbt.account__activity_v2",
            "dbt.account__receipts",
            "dbt.account__totals",
            "dbt.accounts",
            "dbt.stg_payments",
            "publish",
            "stream.till.receipts",
            "sync",
            "verify",
        ],
    }


def test_models_are_shown_when_the_build_failed_and_it_runs_when_events_could_not_land(dags: Structure) -> None:
    tasks = dags["refresh_hourly"]["tasks"]
    whatever_came_before = {name for name, task in tasks.items() if task["rule"] == "all_done"}
    assert whatever_came_before == {
        "landed", "dbt.stg_payments", "dbt.accounts", "dbt.account__receipts", "dbt.account__totals",
        "dbt.account__activity_v1", "dbt.account__activity_v2",
    }  # fmt: skip
    if_the_build_was_good = {name for name, task in tasks.items() if task["rule"] == "all_done_min_one_success"}
    assert if_the_build_was_good == {"sync", "verify"}


def test_a_cadence_lands_the_events_of_its_stream_views(dags: Structure) -> None:
    landing = {
        f"{dag}.{name}": task["command"]
        for dag in dags
        for name, task in dags[dag]["tasks"].items()
        if name.startswith("stream")
    }
    assert landing == {"refresh_hourly.stream.till.receipts": "features stream till.receipts --once"}


def test_commands_are_those_of_the_command_line(dags: Structure) -> None:
    commands = {name: task["command"] for name, task in dags["refresh_daily"]["tasks"].items() if task["command"]}
    build = re.sub(r"(\S*/)(?=dbt |project|good)", "", commands.pop("dbt.build") or "")
    assert build == (
        "dbt --no-use-colors build --project-dir project --profiles-dir project/profiles"
        " --target-path good/run/refresh_daily --log-path good/run/refresh_daily --indirect-selection buildable"
        " --select +config.meta.feature_view.refresh:daily +config.meta.entity.name:account +tag:labels"
        """ {{ excluding_held(ti) }} --vars '{"as_of": "{{ as_of(dag_run, params) }}"}'"""
    )
    assert commands == {
        "compare": "features compare --refresh daily --json",
        "publish": "features publish --refresh daily --wait 300 --run-results {{ run_results(dag.dag_id) }}",
        "sync": "features sync --refresh daily",
        "verify": "features verify --refresh daily",
    }
    assert dags["catalogue"]["tasks"]["docs"]["command"] == "features docs"
    assert {name: (task["command"], task["after"]) for name, task in dags["rebuild"]["tasks"].items()} == {
        "copy": ("features rebuild --step copy --json", []),
        "build": ("features rebuild --step build", ["copy"]),
        "put": ("features rebuild --step put", ["build"]),
        "publish": ("features publish --wait 300 --run-results {{ run_results('rebuild') }}", ["put"]),
        "sync": ("features sync", ["publish"]),
        "verify": ("features verify", ["sync"]),
    }


def test_whatever_opens_duckdb_waits_for_the_one_slot(dags: Structure) -> None:
    guarded = {f"{dag}.{name}" for dag in dags for name, task in dags[dag]["tasks"].items() if task["pool"] == "duckdb"}
    assert guarded == {
        "refresh_hourly.dbt.build",
        "refresh_hourly.publish",
        "refresh_daily.dbt.build",
        "refresh_daily.publish",
        "catalogue.docs",
        "freshness.sources",
        "rebuild.copy",
        "rebuild.put",
        "rebuild.publish",
    }


def test_publishing_is_an_event_of_each_view(dags: Structure) -> None:
    assets = {name: task["assets"] for name, task in dags["refresh_hourly"]["tasks"].items() if task["assets"]}
    views = ("account__activity/v1", "account__activity/v2", "account__receipts/", "account__totals/")
    assert assets == {"publish": [f"feature-view://{view}" for view in views]}


def test_a_model_belongs_to_its_group_and_the_rest_to_the_platform(dags: Structure) -> None:
    owners = {name: task["owner"] for name, task in dags["refresh_daily"]["tasks"].items()}
    assert owners.pop("dbt.account__daily") == "money"
    assert set(owners.values()) == {"feature_platform"}
    assert dags["refresh_daily"]["tags"] == ["daily", "features", "money"]


def test_commands_are_tried_again_ever_later_and_a_build_is_not(dags: Structure) -> None:
    for dag in dags.values():
        for name, task in dag["tasks"].items():
            again = (task["command"] or name in ("landed", "good")) and name not in ("build", "dbt.build", "sources")
            assert task["retries"] == (3 if again else 0), name
            assert task["backoff"], name
            assert task["tells"], name
            assert 0 < task["timeout"] <= dag["timeout"], name


def test_dags_run_once_at_a_time_and_do_not_catch_up(dags: Structure) -> None:
    assert {(dag["catchup"], dag["max_active_runs"]) for dag in dags.values()} == {(False, 1)}


def test_every_dag_and_task_says_what_it_does(dags: Structure) -> None:
    for dag in dags.values():
        assert dag["doc"]
        assert [name for name, task in dag["tasks"].items() if not task["doc"]] == []
    assert "| `account__activity@v2` | account | Money team | none |" in dags["refresh_hourly"]["doc"]


IMPORTS = """
import sys
import airflow.sdk, airflow.providers.standard.operators.bash, airflow.providers.standard.operators.empty
used = "DAG BaseNotifier BaseOperator Asset Context Param TaskGroup TriggerRule".split()
for name in used:
    getattr(airflow.sdk, name)
if not hasattr(airflow.sdk, "CronDataIntervalTimetable"):  # Airflow 3.1
    import airflow.timetables.interval
before = {*sys.modules}
import refresh
assert {"refresh_hourly", "freshness", "rebuild"} < {*refresh.dags}
print("LOADED", *sorted({*sys.modules} - before))
"""


def test_importing_the_dag_file_loads_definitions_and_no_library(homes: dict[str, Path]) -> None:
    """Airflow does it in the process of each task; what Airflow's own import loads is not counted."""
    loaded = in_airflow(homes, "-c", IMPORTS).rpartition("LOADED")[2].split()
    packages = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    assert packages - {"airflow"} == {"feature_server", "refresh"}
    ours = {name.split(".")[1] for name in loaded if name.startswith("feature_server.")}
    assert ours == {
        "airflow", "dbt", "definitions", "dtypes", "durable", "errors", "extras", "formats", "limits", "oidc",
        "project", "settings", "times",
    }  # fmt: skip


def test_the_dag_folder_lists_every_dag_of_the_readme() -> None:
    text = (ROOT / "dags" / "README.md").read_text()
    for name in ("refresh_hourly", "refresh_daily", "refresh_weekly", "catalogue", "freshness", "rebuild"):
        assert f"| `{name}` |" in text


CLOCK = "2024-01-31T12:00:00Z"
NOON = datetime(2024, 1, 31, 12, tzinfo=UTC)
ELEVEN = datetime(2024, 1, 31, 11, tzinfo=UTC)
LATER = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("param", "interval_end", "run_after", "expected"),
    [
        (None, ELEVEN, LATER, "2024-01-31T11:00:00Z"),
        (None, LATER, LATER, "2024-01-31T12:00:00Z"),
        (None, None, ELEVEN, "2024-01-31T11:00:00Z"),
        (None, None, LATER, "2024-01-31T12:00:00Z"),
        ("2024-01-01T01:30:00+02:00", ELEVEN, LATER, "2023-12-31T23:30:00Z"),
        ("2024-01-01", ELEVEN, LATER, "2024-01-01T00:00:00Z"),
    ],
)
def test_a_run_speaks_of_the_end_of_its_interval_but_not_of_the_future(
    monkeypatch: pytest.MonkeyPatch,
    param: str | None,
    interval_end: datetime | None,
    run_after: datetime,
    expected: str,
) -> None:
    from feature_server.airflow.project import as_of

    monkeypatch.setenv("FEATURES_CLOCK", CLOCK)
    dag_run = SimpleNamespace(data_interval_end=interval_end, run_after=run_after)
    assert as_of({}, dag_run, {"as_of": param}) == expected


def test_a_param_that_is_no_time_is_an_error() -> None:
    from feature_server.airflow.project import as_of

    with pytest.raises(SettingsError, match="param as_of: not a time"):
        as_of({}, SimpleNamespace(data_interval_end=NOON, run_after=NOON), {"as_of": "yesterday"})


MODEL, TEST, OTHER, HOOK = "model.till.spend", "test.till.not_null_spend", "test.till.no_model", "operation.till.end"


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({MODEL: "success", TEST: "fail: 1", OTHER: "pass"}, []),
        ({MODEL: "skipped: something upstream is red", OTHER: "fail: 1"}, []),
        ({MODEL: "success", TEST: "pass", OTHER: "fail: 1"}, [f"{OTHER}: fail: 1"]),
        ({MODEL: "success", TEST: "fail: 1", HOOK: "error: no disk"}, [f"{HOOK}: error: no disk"]),
        ({}, ["dbt left no results"]),
    ],
)
def test_a_build_is_red_where_something_failed_that_no_models_task_says(
    results: dict[str, str], expected: list[str]
) -> None:
    from feature_server.airflow.dbt_build import no_models_task_says

    assert no_models_task_says(results, {MODEL: [TEST]}) == expected


def test_a_view_of_another_cadence_in_the_project_or_gone_from_it_is_not_one_that_no_schedule_has() -> None:
    from feature_server.airflow.chain import unscheduled

    hourly = [FeatureView(name=name, entities=(), join_keys=(), features=(), refresh="hourly") for name in "abcd"]
    daily = FeatureView(name="e", entities=(), join_keys=(), features=(), refresh="daily")
    views = (
        ScheduledView(id="a", unique_id="", refresh="hourly"),
        ScheduledView(id="b", unique_id="", refresh="daily"),
    )
    assert unscheduled([*hourly, daily], Schedule(views=views), "hourly", ["c"]) == ["d"]


@pytest.mark.parametrize("missing", [OTHER, "model.till.stg_new"])
def test_a_run_is_red_where_models_were_skipped_for_something_without_a_task(missing: str) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    from feature_server.airflow.chain import Good

    results = {missing: "error: no table", MODEL: "skipped: something upstream is red", TEST: "pass"}
    instance = SimpleNamespace(xcom_pull=lambda task_ids, key="": results if key == "results" else {})
    with pytest.raises(AirflowFailException, match=f"dbt failed in what has no task of its own\n  {missing}: error"):
        Good(task_id="good").execute({"ti": instance})
    del results[missing]
    Good(task_id="good").execute({"ti": instance})


def test_a_failed_task_logs_one_line_for_whoever_is_on_call(caplog: pytest.LogCaptureFixture) -> None:
    from feature_server.airflow.steps import say_what_to_do

    instance = SimpleNamespace(dag_id="refresh_hourly", task_id="sync", run_id="scheduled__1")
    with caplog.at_level(logging.ERROR):
        say_what_to_do({"ti": instance})
    (line,) = caplog.messages
    assert line.startswith("ON CALL refresh_hourly.sync of run scheduled__1: what is served is complete")
    assert "\n" not in line
