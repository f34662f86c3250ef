"""What a DAG file has to know of the project: the schedule that `features check` wrote, and where things are.

Airflow imports the DAG file anew for each task, so nothing here loads dbt, DuckDB, SQL or the command line.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from ..definitions.owner import Owner
from ..definitions.registry import Registry, read_registry
from ..definitions.schedule import Schedule, ScheduledView, read_schedule
from ..errors import FeatureStoreError
from ..project.process import said
from ..settings import PROJECT_FILE, Settings, load_settings, parse_time
from .options import Options, fit

COMPARE = "compare"


@dataclass(frozen=True)
class Project:
    """The definitions that the DAGs are made of; `problem` says what to do when there are none to read.

    `environment` has the commands of tasks see the same project, target and stores as the DAG file.
    """

    settings: Settings
    environment: dict[str, str]
    schedule: Schedule
    options: Options
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


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a project is, as far as the DAG file says: other than what the environment says, and before it."""

    file: Path | None = None
    project_dir: str | Path | None = None
    profiles_dir: str | Path | None = None
    target: str | None = None
    home: str | Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("project_dir", "profiles_dir", "target", "home"):
            value = getattr(self, name)
            good = value is None or (isinstance(value, str | Path) and str(value))
            fit(good, f"refresh_dags({name}=…)", "a name" if name == "target" else "a folder", value)
        texts = isinstance(self.environment, Mapping) and all(
            isinstance(text, str) for pair in self.environment.items() for text in pair
        )
        fit(texts, "refresh_dags(environment=…)", "texts by names of variables", self.environment)

    @property
    def said(self) -> dict[str, str]:
        """dbt's variables for what is said here, by both names, so that no other value of either counts."""
        values = {"PROFILES_DIR": self.profiles_dir, "TARGET": self.target}
        return {
            f"DBT_{engine}{name}": str(value)
            for name, value in values.items()
            if value is not None
            for engine in ("", "ENGINE_")
        }

    def settings(self) -> Settings:
        """The project is the one said here or by the environment, else the nearest above the DAG file, else dbt's own:
        the nearest above the current folder."""
        environ = os.environ | dict(self.environment) | self.said
        folder = self.project_dir
        if folder is None and not (environ.get("FEATURES_PROJECT_DIR") or said(environ, "PROJECT_DIR")):
            above = () if self.file is None else self.file.resolve().parents
            folder = next((one for one in above if (one / PROJECT_FILE).is_file()), None)
        return load_settings(environ, project_dir=folder, home=self.home)


def read_project(place: Place, options: Options) -> Project:
    """Read the schedule of a project; never raises for one that is missing or cannot be read."""
    settings = place.settings()
    environment = {**place.environment, **place.said}
    folder = settings.project_dir
    known = environment | {"FEATURES_PROJECT_DIR": str(folder), "FEATURES_HOME": str(settings.home)}
    try:
        if not (folder / PROJECT_FILE).is_file():
            raise FeatureStoreError(
                "there is no dbt project", where=str(folder), expected=f"a folder with {PROJECT_FILE}",
                remedy="name it: refresh_dags(project_dir=…) or FEATURES_PROJECT_DIR",
            )  # fmt: skip
        known |= settings.environment  # where it has to ask dbt, dbt may say no
        return Project(settings, known, scheduled(settings), options)
    except FeatureStoreError as error:
        remedy = f"Run `features check` in {folder}; the DAG appears within a minute of its success."
        return Project(settings, known, Schedule(), options, f"{error}\n\n{remedy}")


def settings_of(environment: Mapping[str, str] | None) -> Settings:
    """Those of a task that has an environment of its own."""
    return load_settings(os.environ | dict(environment or {}))


def scheduled(settings: Settings) -> Schedule:
    """What there is to schedule of a project; FeatureStoreError where it is another's, as far as dbt has said which."""
    target = settings.known_target
    meant = None if target is None or not target.project else Owner(target.project, target.label)
    return read_schedule(settings.schedule_path, meant)


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


def as_of(environment: Mapping[str, str], dag_run: Any, params: Mapping[str, Any]) -> str:
    """The instant a run speaks of, ISO UTC: param `as_of`, else the end of its data interval, never after the present.

    A run without a data interval (started by hand, without a logical date) speaks of the moment it was asked for. The
    present is FEATURES_CLOCK where that is set.
    """
    if params["as_of"] is not None:
        moment = parse_time(params["as_of"], where="param as_of")
    else:
        moment = min(dag_run.data_interval_end or dag_run.run_after, settings_of(environment).now())
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
