"""What a DAG file has to know of the project: its registry, where things are, and how dbt reaches its warehouse."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec

from feature_server.definitions.bound import bound_views
from feature_server.definitions.facts import FeatureView
from feature_server.definitions.registry import Registry, read_registry
from feature_server.errors import FeatureStoreError
from feature_server.manifest.load import load_registry
from feature_server.project.target import target_of
from feature_server.settings import Settings, load_settings, parse_time

COMPARE = "compare"
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Project:
    """The definitions that the DAGs are made of; `problem` says what to do when there are none to read."""

    settings: Settings
    registry: Registry | None
    problem: str | None = None

    def views(self, refresh: str) -> tuple[FeatureView, ...]:
        """The feature views of one cadence, by name."""
        views = () if self.registry is None else self.registry.feature_views
        return tuple(view for view in views if view.refresh == refresh)

    def promised(self) -> tuple[FeatureView, ...]:
        """The feature views that promise their freshness, by name."""
        views = () if self.registry is None else self.registry.feature_views
        return tuple(view for view in views if view.freshness)

    def rebuilt(self) -> tuple[FeatureView, ...]:
        """The feature views of any cadence that a new definition may have made anew, by name."""
        views = () if self.registry is None else self.registry.feature_views
        return tuple(view for view in views if view.stream is None and view.refresh not in (None, "manual"))

    def sources(self, refresh: str) -> tuple[str, ...]:
        """The event sources that stream views of one cadence are over, by name."""
        return tuple(sorted({view.stream.source for view in self.views(refresh) if view.stream is not None}))

    @property
    def retries(self) -> int:
        """How often a task is tried again."""
        return int(os.environ.get("FEATURES_TASK_RETRIES", "3"))


def groups_in_force(environment: Mapping[str, str] | None) -> tuple[tuple[str, ...], ...]:
    """The views that are published together by the definitions in force, which the project's may not be."""
    registry = read_registry(load_settings(os.environ | dict(environment or {})).registry_path)
    return bound_views(registry.feature_views, registry.feature_services)


def held(instance: Any) -> dict[str, Any]:
    """What the task `compare` of a run has found that is not in force, or in force and `waiting` to be made anew."""
    found: dict[str, Any] = instance.xcom_pull(task_ids=COMPARE) or {}
    return {"views": {}, "new": [], "gone": [], "models": [], "waiting": {}} | found


def held_models(instance: Any) -> str:
    """The models that are not to be built, as dbt's selectors."""
    found = held(instance)
    models = [*found["models"], *waiting_models(found)]
    return " ".join(".".join(unique_id.split(".")[2:]) for unique_id in dict.fromkeys(models))


def waiting_models(found: Mapping[str, Any]) -> list[str]:
    """The models that the DAG `rebuild` makes anew."""
    return [model for models in found["waiting"].values() for model in models]


def read_project() -> Project:
    """Read dbt's manifest once; never raises for definitions that are missing or wrong."""
    settings = load_settings({"FEATURES_PROJECT_DIR": str(REPOSITORY)} | os.environ)
    try:
        _check_warehouse(settings)
        return Project(settings, load_registry(settings.project_dir, settings.target_path))
    except FeatureStoreError as error:
        remedy = f"Run `features check` in {settings.project_dir}; the DAG appears within a minute of its success."
        return Project(settings, None, f"{error}\n\n{remedy}")


def _check_warehouse(settings: Settings) -> None:
    """FeatureStoreError unless dbt, which Airflow runs in a copy of the project, builds in the file that is read."""
    target = target_of(msgspec.structs.replace(settings.asked, environ=settings.environ | settings.environment))
    if not Path(target.path).is_absolute():
        raise FeatureStoreError(
            "the path of dbt's DuckDB file is relative, and Airflow builds in a copy of the project",
            where=f"target {target.name} of profile {target.profile}", got=target.path,
            expected="an absolute path, or one from the environment",
            remedy=f"write path: \"{{{{ env_var('FEATURES_WAREHOUSE', '{target.path}') }}}}\" into profiles.yml",
        )  # fmt: skip


def dbt_profile(settings: Settings) -> tuple[str, str, Path]:
    """Profile name, target name and profiles.yml of the dbt project, as dbt itself takes them."""
    target = target_of(settings.asked)
    return target.profile, target.name, settings.project_dir / target.profiles_dir / "profiles.yml"


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
