"""The DAG `freshness`: a task for each view that promises freshness, which fails once when the promise breaks."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, BaseOperator, Context, TriggerRule
from airflow.sdk.exceptions import AirflowFailException

from feature_server.catalog.alerts import news
from feature_server.catalog.status import read_status
from feature_server.definitions.registry import read_registry
from feature_server.settings import load_settings

from .chain import COMMAND_TIMEOUT, command, common, schedule
from .dbt_build import DUCKDB_POOL, PLATFORM_OWNER, dbt_executable
from .project import Project, dbt_profile
from .steps import STEPS, say_what_to_do


class FreshnessPromise(BaseOperator):
    """Fails when the promise of a view has broken, or its cause has changed, since the run before; says when it is kept
    again. What stays broken is told once: later runs are green, and `features status` is not."""

    def __init__(self, *, view_id: str, environment: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.view_id = view_id
        self.environment = environment

    def execute(self, context: Context) -> None:
        settings = load_settings(os.environ | self.environment)
        registry = read_registry(settings.registry_path)
        states = {state.view: state for state in read_status(settings, registry).views}
        state = states.get(self.view_id)
        if state is None or state.freshness is None:
            self.log.info("%s promises nothing in the definitions in force", self.view_id)
            return
        found = news(self.view_id, state.freshness, settings)
        if found is not None and found.broken:
            raise AirflowFailException(found.text)
        self.log.info("%s", f"{self.view_id}: {state.freshness.state}" if found is None else found.text)


def freshness_dag(cron: str, project: Project, notify: Sequence[Callable[[Any], Any]] = ()) -> DAG:
    """The DAG `freshness`: one alert for each promise that breaks, which `notify`, Airflow's notifiers, send on."""
    with DAG(
        "freshness",
        description="Fails once for each feature view whose freshness promise breaks, and names the cause",
        schedule=schedule(cron, project),
        dagrun_timeout=COMMAND_TIMEOUT,
        doc_md=STEPS["freshness"].doc_md,
        tags=["features", "freshness"],
        **common(project),
    ) as dag:
        sources = command(
            "sources",
            shlex.join(_source_freshness(project)),
            project,
            of=BashOperator,
            pool=DUCKDB_POOL,
            retries=0,  # it is run again soon
            skip_on_exit_code=1,  # dbt's for a source that is late, which is for the views' promises to tell
        )
        for view in project.promised():
            sources >> FreshnessPromise(
                task_id=f"freshness.{view.id.replace('@', '_')}",
                view_id=view.id,
                environment=project.settings.environment,
                owner=view.owner.group if view.owner and view.owner.group else PLATFORM_OWNER,
                doc_md=STEPS["freshness"].doc_md,
                retries=0,
                trigger_rule=TriggerRule.ALL_DONE,
                on_failure_callback=[say_what_to_do, *notify],
            )
    return dag


def _source_freshness(project: Project) -> list[str]:
    """`dbt source freshness` in a target folder of its own: what builds and publishing read stays as it is."""
    settings = project.settings
    _, target, profiles = dbt_profile(settings.project_dir)
    return [
        dbt_executable(), "source", "freshness", "--profiles-dir", str(profiles.parent), "--target", target,
        "--target-path", str(settings.home / "run" / "sources"), "--output", str(settings.target_path / "sources.json"),
    ]  # fmt: skip
