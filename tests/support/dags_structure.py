"""Prints what Airflow sees in a DAG folder, as JSON: `python tests/support/dags_structure.py DAGS_FOLDER HOME…`.

Once for each home, which stands for FEATURES_HOME: importing Airflow takes far longer than reading DAGs.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def structure(folder: str, home: str) -> dict[str, Any]:
    """The import errors and, for each DAG, what the tests look at."""
    os.environ["FEATURES_HOME"] = home  # an empty one says nothing
    bag = _bag(Path(folder))
    return {"errors": bag.import_errors, "dags": {dag_id: _dag(dag) for dag_id, dag in bag.dags.items()}}


def _bag(folder: Path) -> Any:
    try:
        from airflow.dag_processing.dagbag import BundleDagBag
    except ImportError:  # Airflow 3.1
        from airflow.models.dagbag import DagBag

        return DagBag(folder, include_examples=False)
    return BundleDagBag(folder, bundle_path=folder, bundle_name="dags-folder")


def _dag(dag: Any) -> dict[str, Any]:
    def told(name: str, otherwise: Any) -> Any:
        return getattr(dag.timetable, name, getattr(dag.timetable, f"_{name}", otherwise))  # the latter in Airflow 3.1

    return {
        "schedule": told("expression", None),
        "timezone": str(getattr(told("timezone", ""), "name", told("timezone", ""))),
        "start": dag.start_date.isoformat(),
        "file": Path(dag.fileloc).name,
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "timeout": dag.dagrun_timeout.total_seconds(),
        "tags": sorted(dag.tags),
        "doc": dag.doc_md,
        "tasks": {task.task_id: _task(task) for task in dag.tasks},
    }


def _task(task: Any) -> dict[str, Any]:
    return {
        "after": sorted(task.upstream_task_ids),
        "rule": task.trigger_rule.value,
        "pool": task.pool,
        "queue": task.queue,
        "owner": task.owner,
        "retries": task.retries,
        "backoff": bool(task.retry_exponential_backoff),
        "timeout": task.execution_timeout and task.execution_timeout.total_seconds(),
        "command": getattr(task, "bash_command", None),
        "assets": sorted(asset.uri for asset in task.outlets),
        "env": getattr(task, "env", None),
        "doc": task.doc_md or "",
        "tells": [getattr(one, "__name__", type(one).__name__) for one in task.on_failure_callback],
    }


if __name__ == "__main__":
    folder, *homes = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):
        found = [structure(folder, home) for home in homes]
    print(json.dumps(found))
