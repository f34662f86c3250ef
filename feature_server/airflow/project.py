"""What a DAG file has to know of the project: the schedule that `features check` wrote, and where things are.

Airflow imports the DAG file anew for each task, so nothing here loads dbt, DuckDB, SQL or the command line.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

from ..definitions.registry import Registry, read_registry
from ..definitions.schedule import Schedule, ScheduledView, read_schedule
from ..errors import FeatureStoreError
from ..project.process import check_project, said
from ..settings import PROJECT_FILE, Settings, load_settings, parse_time

COMPARE = "compare"


@dataclass(frozen=True)
class Project:
    """The definitions that the DAGs are made of; `problem` says what to do when there are none to read.

    `environment` has the commands of tasks see the same project, target and stores as the DAG file.
    """

    settings: Settings
    environment: dict[str, str]
    schedule: Schedule
    problem: str | None = None

    def views(self, refresh: str) -> tuple[ScheduledView, ...]:
        """The feature views of one cadence, by name."""
        return self.schedule.views_of(refresh)

    def promised(self) -> tuple[ScheduledView, ...]:
        """The feature views that promise their freshness, by name."""
        return tuple(view for view in self.schedule.views if view.promised)

    def rebuilt(self) -> tuple[ScheduledView, ...]:
        """The feature views of any cadence that a new definition may have made anew, by name."""
        return tuple(
            view for view in self.schedule.views if view.source is None and view.refresh not in (None, "manual")
        )

    def sources(self, refresh: str) -> tuple[str, ...]:
        """The event sources that stream views of one cadence are over, by name."""
        return tuple(sorted({view.source for view in self.views(refresh) if view.source is not None}))

    @property
    def retries(self) -> int:
        """How often a task is tried again."""
        return int(os.environ.get("FEATURES_TASK_RETRIES", "3"))


def read_project(file: Path, project_dir: str | Path | None = None) -> Project:
    """Read the schedule of the project of a DAG file; never raises for one that is missing or cannot be read."""
    settings = load_settings(project_dir=project_dir or _project_above(file))
    environment: dict[str, str] = {}
    try:
        check_project(settings.project_dir)
        environment = settings.environment  # where it has to ask dbt, dbt may say no
        return Project(settings, environment, read_schedule(settings.schedule_path))
    except FeatureStoreError as error:
        remedy = f"Run `features check` in {settings.project_dir}; the DAG appears within a minute of its success."
        return Project(settings, environment, Schedule(), f"{error}\n\n{remedy}")


def _project_above(file: Path) -> Path | None:
    """The nearest dbt project above a DAG file, where the environment names none."""
    if os.environ.get("FEATURES_PROJECT_DIR") or said(os.environ, "PROJECT_DIR"):
        return None
    return next((folder for folder in file.resolve().parents if (folder / PROJECT_FILE).is_file()), None)


def settings_of(environment: Mapping[str, str] | None) -> Settings:
    """Those of a task that has an environment of its own."""
    return load_settings(os.environ | dict(environment or {}))


def registry_in_force(environment: Mapping[str, str] | None) -> Registry:
    """The definitions that are published, which the project's may not be."""
    return read_registry(settings_of(environment).registry_path)


def held(instance: Any) -> dict[str, Any]:
    """What the task `compare` of a run has found that is not in force, or in force and `waiting` to be made anew."""
    found: dict[str, Any] = instance.xcom_pull(task_ids=COMPARE) or {}
    return {"views": {}, "new": [], "gone": [], "models": [], "waiting": {}} | found


def excluding_held(instance: Any) -> str:
    """dbt's option that leaves out the models that are not to be built; empty where all are."""
    found = held(instance)
    models = dict.fromkeys([*found["models"], *waiting_models(found)])
    return shlex.join(["--exclude", *(".".join(unique_id.split(".")[2:]) for unique_id in models)]) if models else ""


def waiting_models(found: Mapping[str, Any]) -> list[str]:
    """The models that the DAG `rebuild` makes anew."""
    return [model for models in found["waiting"].values() for model in models]


def as_of(dag_run: Any, params: Mapping[str, Any]) -> str:
    """The instant a run speaks of, ISO UTC: param `as_of`, else the end of its data interval, never after the present.

    A run without a data interval (started by hand, without a logical date) speaks of the moment it was asked for. The
    present is FEATURES_CLOCK where that is set.
    """
    if params["as_of"] is not None:
        moment = parse_time(params["as_of"], where="param as_of")
    else:
        moment = min(dag_run.data_interval_end or dag_run.run_after, load_settings().now())
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
