"""Run refresh DAGs once with Airflow itself and no services: `python -m scripts.refresh hourly daily`.

What Airflow says goes to a log file; printed is a line for each task, or JSON. Ends with 1 when a run failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from feature_server.durable import make_private
from feature_server.errors import FeatureStoreError
from feature_server.settings import load_settings, parse_time

from .airflow_env import airflow_environment, prepare_airflow

CATALOGUE = "catalogue"
OTHERS = (CATALOGUE, "freshness", "rebuild")  # DAGs, but no cadences of feature views


@dataclass(frozen=True)
class TaskRun:
    """How one task of a run ended; `seconds` is None for a task that was never started."""

    task: str
    state: str
    seconds: float | None


@dataclass(frozen=True)
class DagRun:
    """How one run of a DAG ended, with its tasks in the order they were started."""

    dag: str
    state: str
    seconds: float
    tasks: tuple[TaskRun, ...]


def run_dag(dag_id: str, at: str | None) -> DagRun:
    """Run one DAG in this process; `prepare_airflow` must have been called."""
    dags_folder = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
    if dags_folder not in sys.path:
        sys.path.insert(0, dags_folder)
    dag = importlib.import_module("refresh").dags.get(dag_id)
    if dag is None:
        raise FeatureStoreError(
            "no such DAG", where=dag_id, expected="a cadence that a feature view names as its `refresh`",
            remedy="`python -m scripts.airflow_env dags list` lists the DAGs",
        )  # fmt: skip
    started = time.monotonic()
    done = dag.test(logical_date=None if at is None else parse_time(at, where="--at"))
    instances = sorted(
        done.get_task_instances(), key=lambda instance: (instance.start_date is None, instance.start_date)
    )
    return DagRun(dag_id, str(done.state), round(time.monotonic() - started, 1), tuple(map(_task_run, instances)))


def _task_run(instance: Any) -> TaskRun:
    seconds = None if instance.duration is None else round(instance.duration, 2)
    return TaskRun(instance.task_display_name, str(instance.state), seconds)


def main(arguments: list[str]) -> int:
    """Parse the command line and run; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.refresh", description=__doc__)
    parser.add_argument(
        "cadence", nargs="+", help="hourly, daily, weekly, catalogue, freshness or rebuild; run one after the other"
    )
    parser.add_argument("--at", metavar="TIME", help="logical date, e.g. 2013-12-31T23:00Z; by default now")
    parser.add_argument("--log", type=Path, help="what Airflow says [default: run/refresh.log in FEATURES_HOME]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    settings = load_settings()
    log = (given.log or settings.home / "run" / "refresh.log").resolve()
    make_private(log.parent)
    runs: list[DagRun] = []
    try:
        with _output_to(log) as out:
            prepare_airflow({"FEATURES_TASK_RETRIES": "0"} | airflow_environment(settings))
            for cadence in given.cadence:
                runs.append(run_dag(cadence if cadence in OTHERS else f"refresh_{cadence}", given.at))
                if not given.json:
                    print(_text(runs[-1]), file=out, flush=True)
                if runs[-1].state != "success":
                    break
    except FeatureStoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    good = all(run.state == "success" for run in runs)
    said = [] if good else reasons(log.read_text(errors="replace"))
    if given.json:
        print(json.dumps({"runs": [asdict(run) for run in runs], "reasons": said, "log": str(log)}, indent=2))
    elif not good:
        print("\n".join([*said, f"what Airflow said: {log}"]))
    return 0 if good else 1


class _output_to:
    """Everything this process and its children print goes to `log`; the block gets the former standard output."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __enter__(self) -> IO[str]:
        sys.stdout.flush()
        sys.stderr.flush()
        self.saved = (os.dup(1), os.dup(2))
        with self.log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        return os.fdopen(os.dup(self.saved[0]), "w")

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, saved in zip((1, 2), self.saved, strict=True):
            os.dup2(saved, descriptor)
            os.close(saved)


def reasons(log: str) -> list[str]:
    """What failed tasks said in Airflow's log: why, and what to do."""
    whys = re.findall(r"AirflowFailException: (.*(?:\n  .*)*)", log)
    remedies = re.findall(r"ON CALL .*?(?= \[feature_server)", log)
    return list(dict.fromkeys([*whys, *remedies]))


def _text(run: DagRun) -> str:
    tasks = [
        f"  {task.state:<16}{'' if task.seconds is None else f'{task.seconds:.2f} s':>9}  {task.task}"
        for task in run.tasks
    ]
    return "\n".join([f"{run.dag}: {run.state} in {run.seconds} s", *tasks])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
