"""All DAGs of a project: one for each cadence that its views name, and those that keep what is refreshed in order."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from airflow.sdk import DAG

from ..errors import FeatureStoreError, SettingsError
from .chain import catalogue_dag, refresh_dag
from .options import PLATFORM_OWNER, START, Cadence, Callback, Options, callbacks, check_call, check_cron, fit
from .project import Place, Project, read_project
from .promises import freshness_dag
from .rebuild import rebuild_dag

__all__ = ["CADENCES", "Cadence", "refresh_dags"]

P = ParamSpec("P")
CADENCES = (
    Cadence("hourly", schedule="0 * * * *", finishes_within=timedelta(minutes=45)),
    Cadence("daily", schedule="0 0 * * *", finishes_within=timedelta(hours=6)),
    Cadence("weekly", schedule="0 0 * * 1", finishes_within=timedelta(hours=12)),
)


def _called_from_a_file(function: Callable[P, dict[str, DAG]]) -> Callable[P, dict[str, DAG]]:
    """Gives the argument `file` the calling file. Errors are ours: what, where, and what to write instead."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> dict[str, DAG]:
        calling = sys._getframe(1).f_globals
        kwargs.setdefault("file", calling.get("__file__"))
        try:
            check_call(signature, function.__name__, args, kwargs)
            made = function(*args, **kwargs)
            _check_new(made, calling.setdefault("__feature_dags__", set()))
            return made
        except FeatureStoreError as error:
            raise error.with_traceback(None) from None  # as for a Cadence

    return call


@_called_from_a_file
def refresh_dags(
    cadences: Sequence[Cadence] = CADENCES,
    *,
    name: str = "",
    project_dir: str | Path | None = None,
    profiles_dir: str | Path | None = None,
    target: str | None = None,
    home: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    owner: str = PLATFORM_OWNER,
    owners: Mapping[str, str] | None = None,
    pool: str | None = None,
    queue: str | None = None,
    retries: int | None = None,
    on_failure: Callback | Sequence[Callback] = (),
    on_success: Callback | Sequence[Callback] = (),
    notify: Callback | Sequence[Callback] = (),
    start_date: datetime = START,
    timezone: str = "UTC",
    catalogue: str | None = "30 0 * * *",
    freshness: str | None = "*/10 * * * *",
    rebuild: str | None = "*/10 * * * *",
    file: str | Path | None = None,
) -> dict[str, DAG]:
    """The DAGs of a project by id. Airflow finds those that are made in a DAG file itself.

    `cadences` are those that views may name as `refresh`: for each that one names there is a DAG, which runs only by
    hand where the cadence is not given. `name` goes before the ids of DAGs, the names of assets and that of the pool:
    each project in one Airflow has another.

    The project is that in `project_dir`, else the one that FEATURES_PROJECT_DIR or DBT_PROJECT_DIR names, else the
    nearest above `file`, the calling one, else the nearest above the current folder. `profiles_dir`, `target` and
    `home` are DBT_PROFILES_DIR, DBT_TARGET and FEATURES_HOME; `environment` are further variables of tasks, which
    Airflow shows: no passwords.

    `owner` has the tasks that belong to no dbt group, `owners` the owners of groups that are called otherwise in
    Airflow. `pool`, by default `duckdb`, must have one slot; `queue` is the executor's. `retries` is how often a
    command is tried again, by default FEATURES_TASK_RETRIES or 3; a build never is.

    `on_failure` and `on_success` are called as Airflow's callbacks of each task, `notify` of broken freshness promises.
    Cron is in `timezone`; a backfill goes back to `start_date`. `catalogue`, `freshness` and `rebuild` say when these
    DAGs run, None that there is no such DAG. SettingsError for what cannot be used.
    """
    options = Options(
        name=name, owner=owner, owners=owners or {}, pool=pool, queue=queue, retries=retries, on_failure=on_failure,
        on_success=on_success, start_date=start_date, timezone=timezone,
    )  # fmt: skip
    place = Place(
        file=None if file is None else Path(file), project_dir=project_dir, profiles_dir=profiles_dir, target=target,
        home=home, environment=environment or {},
    )  # fmt: skip
    _check(cadences, catalogue=catalogue, freshness=freshness, rebuild=rebuild)
    project = read_project(place, options)
    dags = [refresh_dag(one, project) for one in _with_views(cadences, project)]
    if catalogue is not None:
        dags.append(catalogue_dag(catalogue, project))
    if freshness is not None and project.promised():
        dags.append(freshness_dag(freshness, project, callbacks(notify, "notify")))
    if rebuild is not None and project.rebuilt():
        dags.append(rebuild_dag(rebuild, project))
    return {dag.dag_id: dag for dag in dags}


def _with_views(cadences: Sequence[Cadence], project: Project) -> Iterator[Cadence]:
    """The cadences that there may be views of, those of which nobody says when they run without a schedule."""
    given = {one.name for one in cadences}
    yield from (one for one in cadences if project.problem or project.views(one.name))
    yield from (replace(one, schedule=None) for one in CADENCES if one.name not in given and project.views(one.name))


def _check_new(made: Iterable[str], known: set[str]) -> None:
    """SettingsError for the id of a DAG that the calling file has made before: Airflow would see the last one alone."""
    if twice := sorted(known.intersection(made)):
        raise SettingsError(
            "a DAG file makes DAGs of the same ids twice", where="refresh_dags(name=…)", got=", ".join(twice),
            expected="other ids", remedy="give each project a name of its own, and say all cadences of one in one call",
        )  # fmt: skip
    known.update(made)


def _check(cadences: Any, **crons: str | None) -> None:
    for which, cron in crons.items():
        check_cron(cron, f"refresh_dags({which}=…)")
    given = isinstance(cadences, Sequence) and all(isinstance(one, Cadence) for one in cadences)
    fit(given, "refresh_dags(cadences=…)", "Cadences", cadences)
    names = [cadence.name for cadence in cadences]
    fit(len({*names}) == len(names), "refresh_dags(cadences=…)", "Cadences of different names", names)
