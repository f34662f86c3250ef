"""The DAG `freshness`: a task for each view that promises freshness, which fails once when the promise breaks."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG, BaseNotifier, BaseOperator, Context, TriggerRule

from ..dbt.stale import sources_file
from ..definitions.registry import read_registry
from ..project.process import dbt_command, place_arguments
from .chain import COMMAND_TIMEOUT, command, common, schedule
from .options import Callback, callbacks
from .project import Project, settings_of
from .shell import Shell
from .steps import STEPS, say_what_to_do

NEWS, ALERT = "news", "alert"  # the XCom of what a task found, and a notifier's variable for its text


class FreshnessPromise(BaseOperator):
    """Fails when the promise of a view has broken, or its cause has changed, since the run before; says when it is kept
    again. What stays broken is told once: later runs are green, and `features status` is not."""

    def __init__(self, *, view_id: str, environment: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.view_id = view_id
        self.environment = environment

    def execute(self, context: Context) -> None:
        from ..catalog.alerts import news
        from ..catalog.status import read_status

        settings = settings_of(self.environment)
        registry = read_registry(settings.registry_path)
        states = {state.view: state for state in read_status(settings, registry).views}
        state = states.get(self.view_id)
        if state is None or state.freshness is None:
            self.log.info("%s promises nothing in the definitions in force", self.view_id)
            return
        found = news(self.view_id, state.freshness, settings)
        if found is None:
            self.log.info("%s: %s", self.view_id, state.freshness.state)
            return
        context["ti"].xcom_push(key=NEWS, value=msgspec.to_builtins(found))
        if found.cause is not None:
            raise AirflowFailException(found.text)
        self.log.info("%s", found.text)


class Tell:
    """Airflow's callback of a promise's task: has notifiers send what it found, then notes it as told. What one of them
    could not send, the next run finds again."""

    def __init__(self, view_id: str, environment: dict[str, str], notify: Sequence[Callback]) -> None:
        self.view_id, self.environment, self.notify = view_id, environment, notify

    def __call__(self, context: Mapping[str, Any]) -> None:
        from ..catalog.alerts import note_told

        found = context["ti"].xcom_pull(task_ids=context["ti"].task_id, key=NEWS)
        if found is None:
            return
        for notifier in self.notify:
            send(notifier, {**context, ALERT: found["text"]})
        note_told(self.view_id, found["cause"], settings_of(self.environment))


def send(notifier: Any, context: dict[str, Any]) -> None:
    """As Airflow calls a notifier, but an error is one, and what it renders is not what the next alert says."""
    if isinstance(notifier, BaseNotifier):
        notifier = copy.copy(notifier)
        notifier.render_template_fields(context)
        notifier.notify(context)
    else:
        notifier(context)


def freshness_dag(cron: str, project: Project, notify: Sequence[Callback] = ()) -> DAG:
    """The DAG `freshness`: one alert for each promise that breaks, or is kept again, which `notify` sends on."""
    with DAG(
        project.options.id("freshness"),
        description="Fails once for each feature view whose freshness promise breaks, and names the cause",
        schedule=schedule(cron, project),
        dagrun_timeout=COMMAND_TIMEOUT,
        doc_md=STEPS["freshness"].doc_md,
        tags=project.options.tags("freshness"),
        **common(project),
    ) as dag:
        sources = command(
            "sources",
            shlex.join(_source_freshness(project)),
            project,
            of=Shell,
            pool=project.options.slot,
            retries=0,  # it is run again soon
            skip_on_exit_code=1,  # dbt's for a source that is late, which is for the views' promises to tell
        )
        for view in project.promised():
            environment = project.environment
            tell = Tell(view.id, environment, notify)
            sources >> FreshnessPromise(
                task_id=f"freshness.{view.id.replace('@', '_')}",
                view_id=view.id,
                environment=environment,
                owner=project.options.owner_of(view.owner.group if view.owner else None),
                doc_md=STEPS["freshness"].doc_md,
                retries=0,
                trigger_rule=TriggerRule.ALL_DONE,
                on_failure_callback=[tell, *callbacks(project.options.on_failure, "on_failure"), say_what_to_do],
                on_success_callback=[tell, *callbacks(project.options.on_success, "on_success")],
            )
    return dag


def _source_freshness(project: Project) -> list[str]:
    """`dbt source freshness` in a target folder of its own: what builds and publishing read stays as it is."""
    settings, folder = project.settings, project.settings.home / "run" / project.options.id("sources")
    return [
        *dbt_command(), "source", "freshness", *place_arguments(settings.project_dir, settings.environ),
        "--target-path", str(folder), "--output", str(sources_file(settings)),
    ]  # fmt: skip
