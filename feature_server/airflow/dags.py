"""All DAGs of a project: one for each cadence that its views name, and those that keep what is refreshed in order."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from .chain import Cadence, catalogue_dag, refresh_dag
from .project import read_project
from .promises import Notify, freshness_dag
from .rebuild import rebuild_dag

__all__ = ["CADENCES", "Cadence", "refresh_dags"]

CADENCES = (
    Cadence("hourly", schedule="0 * * * *", finishes_within=timedelta(minutes=45)),
    Cadence("daily", schedule="0 0 * * *", finishes_within=timedelta(hours=6)),
    Cadence("weekly", schedule="0 0 * * 1", finishes_within=timedelta(hours=12)),
)


def refresh_dags(
    cadences: Sequence[Cadence] = CADENCES,
    *,
    project_dir: str | Path | None = None,
    catalogue: str | None = "30 0 * * *",
    freshness: str | None = "*/10 * * * *",
    rebuild: str | None = "*/10 * * * *",
    notify: Sequence[Notify] = (),
) -> dict[str, DAG]:
    """The DAGs of a project by id; made in a DAG file, Airflow finds them itself.

    `cadences` are what views may name as `refresh`: each that one names is a DAG. The project is the one in
    `project_dir`, else the one that FEATURES_PROJECT_DIR or DBT_PROJECT_DIR names, else the nearest above the calling
    file, else the one that dbt finds from the current folder. `catalogue`, `freshness` and `rebuild` say when these
    DAGs run, None that there is no such DAG; `notify` sends the alerts of broken freshness promises on.
    """
    project = read_project(Path(sys._getframe(1).f_globals.get("__file__", "")), project_dir)
    dags = [refresh_dag(cadence, project) for cadence in cadences if project.problem or project.views(cadence.name)]
    if catalogue is not None:
        dags.append(catalogue_dag(catalogue, project))
    if freshness is not None and project.promised():
        dags.append(freshness_dag(freshness, project, notify))
    if rebuild is not None and project.rebuilt():
        dags.append(rebuild_dag(rebuild, project))
    return {dag.dag_id: dag for dag in dags}
