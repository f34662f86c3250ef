"""What the log of each failed task ends with, as Airflow's own executor writes it: one line that says what to do.

Every task of every DAG fails, whatever became of those before it: its folder is gone, or it is ended.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_server.definitions.schedule import Schedule, ScheduledModel, ScheduledView, write_schedule

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
DAGS = '''"""DAGs of which each task fails, one by its time limit, one by the signal of a run that takes too long."""
from datetime import timedelta

from feature_server.airflow import refresh_dags


def page(context):
    """Tells nobody, for it fails."""
    raise OSError("the pager is out of order")


given = {{"FEATURES_AUTO_APPLY": "1", "FEATURES_WAREHOUSE": "none.duckdb", "FEATURES_CLOCK": "2024-05-01"}}
made = refresh_dags(project_dir={project!r}, environment=given, retries=0, on_failure=page)
made |= refresh_dags(name="none", project_dir={nowhere!r}, environment=given, retries=0)
for dag in made.values():
    for task in dag.tasks:
        task.upstream_task_ids.clear()
        task.downstream_task_ids.clear()
        if hasattr(task, "cwd"):
            task.cwd = {nowhere!r}
ended = made["catalogue"].get_task("docs"), made["rebuild"].get_task("put")
for task, does in zip(ended, ("sleep 60", "sleep 2; kill -TERM $PPID; sleep 60")):
    task.cwd, task.bash_command = {project!r}, does
ended[0].execution_timeout = timedelta(seconds=1)
made["refresh_hourly"].get_task("good")._pre_execute_hook = page
'''
REFRESH = {
    "stream.till.receipts": "none is lost: they stay in Redis until they land.",
    "apply": "run `features check` in the project: it lists every mistake.",
    "compare": "where nothing was ever applied, `features apply`.",
    "dbt.build": "dbt could not run, and nothing was published",
    "dbt.sync": "Read the tests that did not pass in this task's log",  # a model of that name
    "publish": "A run that was broken off is repaired by the next",
    "sync": "Check that Redis answers",
    "verify": "`features sync --full` of the views named writes them anew.",
    "good": "look at the red tasks before it.",
}
SAID = {
    "refresh_hourly": REFRESH,
    "catalogue": {"docs": "only the catalogue is old"},
    "freshness": {"sources": "the log of the task is dbt's.", "freshness.account__spend": "the first broken link"},
    "rebuild": {
        "copy": "Is there room on the disk for a second warehouse?",
        "build": "correct the data or the model, or apply the definition before.",
        "put": "the file is as it was.",
    } | {name: REFRESH[name] for name in ("publish", "sync", "verify")},
    "none_refresh_hourly": {"definitions": "Run `features check` in the project"},
}  # fmt: skip


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """That of an Airflow with an executor, the server that its tasks report to, and the DAGs."""
    folder = tmp_path_factory.mktemp("on_call")
    project, dags = folder / "till", folder / "dags"
    for made in (project, dags):
        made.mkdir()
    (project / "dbt_project.yml").write_text("name: till\nprofile: till\n")
    spend, other = "model.till.account__spend", "model.till.sync"
    views = (
        ScheduledView(id="account__spend", unique_id=spend, refresh="hourly", promised=True, source="till.receipts"),
        ScheduledView(id="sync", unique_id=other, refresh="hourly"),
    )
    models = (ScheduledModel(unique_id=other, task="sync"),)
    write_schedule(project / ".features" / "schedule.json", Schedule(views=views, models=models))
    (dags / "failing.py").write_text(DAGS.format(project=str(project), nowhere=str(folder / "nowhere")))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {name: text for name, text in os.environ.items() if not name.startswith(("FEATURES_", "DBT_", "AIRFLOW"))}
    environment = own | {
        "PYTHONPATH": str(ROOT), "AIRFLOW_HOME": str(folder / "airflow"), "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__API__WORKERS": "1",
        # LocalExecutor.end() of Airflow 3.3.2 puts one word for each worker that is alive when its turn comes, and
        # waits for all. Of two, the later may take the first word and be gone by its turn: the other waits for ever.
        "AIRFLOW__CORE__PARALLELISM": "1",
        # The first request to a server that has just begun took 22 s on a busy machine, and a task that gives up is an
        # error in `dags test`, which then waits for its workers without telling them to end.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        "AIRFLOW__API_AUTH__JWT_SECRET": "only-for-this-test" * 4,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
    }  # fmt: skip
    assert airflow(environment, "db", "migrate").returncode == 0
    server = [sys.executable, "-m", "airflow", "api-server", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("w") as log:
        running = subprocess.Popen([*server, "--apps", "execution"], env=environment, stdout=log, stderr=log)
    try:
        wait_for(port, folder / "server.log")
        yield environment
    finally:
        running.terminate()
        running.wait(30)


def wait_for(port: int, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


def airflow(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "airflow", *arguments]
    return subprocess.run(
        command, env=environment, cwd=environment["AIRFLOW_HOME"].rpartition("/")[0], capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("dag", SAID)
def test_the_log_of_each_task_that_failed_ends_with_what_to_do(environment: dict[str, str], dag: str) -> None:
    """But for the mark that ends a group of lines, which Airflow writes after all callbacks and shows nobody."""
    run = airflow(environment, "dags", "test", "--use-executor", dag)
    assert run.returncode == 1, run.stdout[-3000:] + run.stderr[-2000:]
    logs = Path(environment["AIRFLOW_HOME"], "logs", f"dag_id={dag}").rglob("attempt=1.log")
    events = {log.parent.name.removeprefix("task_id="): _events(log) for log in logs}
    events.pop("landed", None)  # which runs nothing
    assert events.keys() == SAID[dag].keys()
    for task, said in events.items():
        assert said[-1].startswith(f"ON CALL {dag}.{task} of run "), said[-3:]
        assert SAID[dag][task] in said[-1]
        assert "\n" not in said[-1]
        assert len([line for line in said if line.startswith("ON CALL")]) == 1


def _events(log: Path) -> list[str]:
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    return [event for event in events if not event.startswith("::")]
