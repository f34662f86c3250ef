"""What a DAG file may say to `refresh_dags`, as Airflow reads it: two projects in one folder, and mistakes."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from feature_server.airflow import Cadence, refresh_dags
from feature_server.definitions.schedule import Schedule, ScheduledModel, ScheduledView, write_schedule
from feature_server.errors import SettingsError
from feature_server.settings import load_settings
from scripts.airflow_env import airflow_environment

ROOT = Path(__file__).parents[2]
FIVE_LINES = '''"""The DAGs of the feature warehouse."""
from feature_server.airflow import refresh_dags

refresh_dags()
'''
SHOP = '''"""A project elsewhere, with everything said."""
from datetime import datetime, timedelta
from feature_server.airflow import Cadence, refresh_dags

def page(context):
    """Tells somebody."""

hourly = Cadence("hourly", "@hourly", timedelta(minutes=50), tags=["labels"])
refresh_dags(
    [hourly, Cadence("weekly", None, timedelta(hours=1))],
    name="shop", project_dir={shop!r}, profiles_dir="dbt", target="prod", home={home!r},
    environment={{"FEATURES_WAREHOUSE": {warehouse!r}}}, owner="data", owners={{"money": "team-money"}},
    pool="one_writer", queue="big", retries=1, on_failure=page, on_success=[page], start_date=datetime(2020, 5, 1),
    timezone="Europe/Amsterdam", catalogue=None, freshness="*/5 * * * *", rebuild=None,
)
'''
DAILY = """
from datetime import timedelta
from feature_server.airflow import Cadence, refresh_dags
refresh_dags([Cadence("daily", "@daily", timedelta(hours=1))], name="daily", catalogue=None)
"""
PROFILE = """
own:
  target: prod
  outputs: {prod: {type: duckdb, path: own.duckdb}}
"""
MISTAKES = {
    "misspelt": ("retrys=1", "refresh_dags(retrys=…): no such argument", "remedy: did you mean retries?"),
    "positions": ("(), 'shop'", "refresh_dags(…): not the arguments that it has", "got: too many positional arguments"),
    "name": ('name="my shop"', "refresh_dags(name=…): not an argument that can be used", "got: \"'my shop'\""),
    "zone": ('timezone="Mars/Base"', "refresh_dags(timezone=…)", "expected: a time zone, as Europe/Amsterdam"),
    "cron": ('catalogue="at noon"', "refresh_dags(catalogue=…)", "five fields of cron"),
    "callback": ('on_failure="page me"', "refresh_dags(on_failure=…)", "notifiers, or functions of the task's context"),
    "cadence": ('cadences=["hourly"]', "refresh_dags(cadences=…)", "expected: Cadences"),
    "no refresh": ('[Cadence("nightly", None, None)]', "Cadence(name=…)", "what views name as refresh: hourly, daily"),
    "limit": ('[Cadence("hourly", None, 60)]', "Cadence('hourly', …): finishes_within", "a timedelta above zero"),
    "twice": ("); refresh_dags(", "refresh_dags(name=…): a DAG file makes DAGs of the same ids", "got: catalogue"),
    "retries": ("retries=-1", "refresh_dags(retries=…)", "a number from 0 on, or None"),
    "queue": ('queue=""', "refresh_dags(queue=…)", "expected: a name"),
    "profiles": ('profiles_dir="none"', "--profiles-dir or DBT_PROFILES_DIR", "does not exist"),
    "variables": ('environment={"A": 1}', "refresh_dags(environment=…)", "texts by names of variables"),
}  # fmt: skip


DOCUMENT = ROOT / "docs" / "airflow.md"


def snippets() -> list[str]:
    """The DAG files of the page for users."""
    found = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    assert len(found) == 3
    return found


def write_scheduled(project: Path, home: Path) -> None:
    """A project as far as a DAG file reads it: one hourly view, with one model and its promise."""
    project.mkdir(parents=True)
    (project / "dbt_project.yml").write_text(f"name: {project.name}\nprofile: own\n")
    (project / "profiles.yml").write_text(PROFILE)
    unique_id = f"model.{project.name}.account__spend"
    view = ScheduledView(
        id="account__spend@v1", unique_id=unique_id, refresh="hourly", entities=("account",), promised=True
    )
    model = ScheduledModel(unique_id=unique_id, task="account__spend_v1", group="money")
    write_schedule(home / "schedule.json", Schedule(views=(view,), models=(model,)))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Airflow sees in the folder `dags` of a project, in which there is the file of another project too."""
    folder = tmp_path_factory.mktemp("two")
    till, shop, home = folder / "till", folder / "shop", folder / "kept"
    write_scheduled(till, till / ".features")
    write_scheduled(shop, home)
    (shop / "dbt").mkdir()
    (till / "dags").mkdir()
    (till / "dags" / "plain.py").write_text(FIVE_LINES)
    texts = {"shop": str(shop), "home": str(home), "warehouse": str(home / "shop.duckdb")}
    (till / "dags" / "shop.py").write_text(SHOP.format(**texts))
    (till / "dags" / "daily.py").write_text(DAILY)
    for name, (argument, *_) in MISTAKES.items():
        text = FIVE_LINES.replace("()", f"({argument})").replace("import ", "import Cadence, ")
        (till / "dags" / f"bad_{name}.py").write_text(text)
    return read_dags(till / "dags", folder / "till.duckdb")


def read_dags(dags: Path, warehouse: Path) -> dict[str, Any]:
    """What Airflow sees in a folder, without anything said of a project."""
    own = {name: text for name, text in os.environ.items() if not name.startswith(("FEATURES_", "DBT_", "AIRFLOW"))}
    given = {"FEATURES_WAREHOUSE": str(warehouse), "PYTHONPATH": str(ROOT)}
    airflow = airflow_environment(load_settings(given, project_dir=dags.parent), own)
    environment = {name: text for name, text in airflow.items() if not name.startswith(("FEATURES_", "DBT_"))} | given
    command = [sys.executable, str(ROOT / "tests/support/dags_structure.py"), str(dags), ""]
    run = subprocess.run(command, env=environment, cwd=dags.parent, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)[0]
    return found


def test_two_projects_in_one_airflow_share_no_dag_pool_asset_or_folder(seen: dict[str, Any]) -> None:
    files = {name: dag["file"] for name, dag in seen["dags"].items()}
    assert files == {
        "refresh_hourly": "plain.py", "catalogue": "plain.py", "freshness": "plain.py", "rebuild": "plain.py",
        "shop_refresh_hourly": "shop.py", "shop_freshness": "shop.py",
        "daily_refresh_hourly": "daily.py", "daily_freshness": "daily.py", "daily_rebuild": "daily.py",
    }  # fmt: skip
    till, shop = (seen["dags"][name]["tasks"] for name in ("refresh_hourly", "shop_refresh_hourly"))
    assert till["publish"]["assets"] == ["feature-view://account__spend/v1"]
    assert shop["publish"]["assets"] == ["feature-view://shop.account__spend/v1"]
    assert (till["publish"]["pool"], shop["publish"]["pool"]) == ("duckdb", "one_writer")
    assert "/till/.features/run/refresh_hourly " in till["dbt.build"]["command"]
    assert "/kept/run/shop_refresh_hourly " in shop["dbt.build"]["command"]
    sources = seen["dags"]["shop_freshness"]["tasks"]["sources"]["command"]
    assert "/kept/run/shop_sources " in sources


def test_a_dag_file_finds_the_project_above_it_and_what_is_said_wins(seen: dict[str, Any]) -> None:
    till, shop = (seen["dags"][name]["tasks"]["sync"] for name in ("refresh_hourly", "shop_refresh_hourly"))
    assert Path(till["env"]["FEATURES_PROJECT_DIR"]).name == "till"
    assert {name: Path(till["env"][f"FEATURES_{name}"]).name for name in ("HOME", "WAREHOUSE", "TARGET_PATH")} == {
        "HOME": ".features", "WAREHOUSE": "till.duckdb", "TARGET_PATH": "target",
    }  # fmt: skip
    assert {name: Path(shop["env"][f"FEATURES_{name}"]).name for name in ("PROJECT_DIR", "HOME", "WAREHOUSE")} == {
        "PROJECT_DIR": "shop", "HOME": "kept", "WAREHOUSE": "shop.duckdb",
    }  # fmt: skip
    for engine in ("", "ENGINE_"):
        assert (shop["env"][f"DBT_{engine}TARGET"], shop["env"][f"DBT_{engine}PROFILES_DIR"]) == ("prod", "dbt")


def test_schedules_owners_queue_retries_and_callbacks_are_as_said(seen: dict[str, Any]) -> None:
    dag = seen["dags"]["shop_refresh_hourly"]
    assert seen["dags"]["daily_refresh_hourly"]["schedule"] is None  # a cadence that is not given
    assert (dag["timezone"], dag["start"]) == ("Europe/Amsterdam", "2020-04-30T22:00:00+00:00")
    assert (dag["schedule"], dag["timeout"]) == ("0 * * * *", 3000)
    assert dag["tags"] == ["features", "hourly", "shop"]
    assert seen["dags"]["shop_freshness"]["schedule"] == "*/5 * * * *"
    tasks = dag["tasks"]
    assert {name: task["owner"] for name, task in tasks.items() if task["owner"] != "data"} == {
        "dbt.account__spend_v1": "team-money"
    }
    assert {task["queue"] for task in tasks.values()} == {"big"}
    assert {name: task["retries"] for name, task in tasks.items()} == {
        "compare": 1, "dbt.build": 0, "dbt.account__spend_v1": 0, "publish": 1, "sync": 1, "verify": 1, "good": 1,
    }  # fmt: skip
    assert {tuple(task["tells"]) for task in tasks.values()} == {("page", "say_what_to_do")}
    assert "+tag:labels" in tasks["dbt.build"]["command"]
    promise = seen["dags"]["shop_freshness"]["tasks"]["freshness.account__spend_v1"]
    assert promise["tells"] == ["Tell", "page", "say_what_to_do"]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_an_import_error_that_says_what_to_write(seen: dict[str, Any], mistake: str) -> None:
    (text,) = (text for name, text in seen["errors"].items() if Path(name).name == f"bad_{mistake}.py")
    said = text.partition("feature_server.errors.SettingsError: ")[2]
    assert said.startswith(MISTAKES[mistake][1]), text
    assert MISTAKES[mistake][2] in said
    assert "line 4, in <module>" in text


def test_there_is_no_other_import_error(seen: dict[str, Any]) -> None:
    assert {Path(name).stem for name in seen["errors"]} == {f"bad_{name}" for name in MISTAKES}


def test_the_dag_files_of_the_page_for_users_are_what_it_says(tmp_path: Path) -> None:
    for name in ("shop", "bank"):
        write_scheduled(tmp_path / "srv" / name / "dbt", tmp_path / "srv" / name / "dbt" / ".features")
    expected: list[set[str]] = [
        {"refresh_hourly", "refresh_daily", "refresh_weekly", "catalogue"},  # of no project
        {"refresh_hourly", "freshness", "rebuild"},
        {
            f"{name}_{dag}"
            for name in ("shop", "bank")
            for dag in ("refresh_hourly", "freshness", "rebuild", "catalogue")
        },
    ]
    for number, (text, dags) in enumerate(zip(snippets(), expected, strict=True)):
        folder = tmp_path / f"airflow_{number}" / "dags"
        folder.mkdir(parents=True)
        (folder / "features.py").write_text(text.replace("/srv", str(tmp_path / "srv")))
        seen = read_dags(folder, tmp_path / "any.duckdb")
        assert seen["errors"] == {}
        assert {*seen["dags"]} == dags
    assert (
        "name it: refresh_dags(project_dir=…)"
        in read_dags(tmp_path / "airflow_0" / "dags", tmp_path / "any.duckdb")["dags"]["catalogue"]["doc"]
    )


def test_the_page_says_every_argument() -> None:
    known = set(inspect.signature(refresh_dags).parameters)
    rows = re.findall(r"^\| (`.*?) \|", DOCUMENT.read_text(), re.M)
    assert {name for row in rows for name in row.split("`")[1::2]} == known


@pytest.mark.parametrize(
    ("arguments", "where", "said"),
    [
        ({"schedul": "@daily"}, "Cadence(schedul=…): no such argument", "remedy: did you mean schedule?"),
        ({}, "Cadence(…): not the arguments that it has", "got: missing a required argument: 'schedule'"),
        ({"schedule": "@daily", "finishes_within": 3600}, ": finishes_within: not an arg", "a timedelta above zero"),
        ({"schedule": "daily", "finishes_within": timedelta(1)}, "'hourly', …): schedule: not an arg", "\"'daily'\""),
        ({"schedule": None, "finishes_within": timedelta(1), "tags": "labels"}, ": tags: not an arg", "dbt tags"),
    ],
)
def test_a_cadence_that_cannot_be_used_says_what_to_write(arguments: dict[str, Any], where: str, said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Cadence("hourly", **arguments)
    assert where in str(raised.value).splitlines()[0]
    assert said in str(raised.value)
