"""The DAG of a cadence: compare, live events → dbt build and tests → publish → sync → verify. And the catalogue's."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, BaseOperator, Context, Param, TriggerRule

from ..definitions.bound import bound_views
from ..definitions.facts import FeatureView
from ..definitions.schedule import Schedule, ScheduledView
from ..errors import NOT_FIT
from .dbt_build import ModelResult, dbt_build, failures, left_out, results_of
from .options import Cadence, callbacks
from .project import COMPARE, Project, as_of, excluding_held, held, registry_in_force, scheduled, settings_of
from .shell import Shell
from .steps import STEPS, say_what_to_do

try:
    from airflow.sdk import CronDataIntervalTimetable
except ImportError:  # Airflow 3.1
    from airflow.timetables.interval import CronDataIntervalTimetable

DEFINITIONS = "definitions"
COMMAND_TIMEOUT = timedelta(minutes=30)
VIEW = "view"  # what an asset is of
AS_OF = "The instant the run speaks of, ISO 8601. Empty: the end of the data interval, but not after the present."


class NotReady(BaseOperator):
    """Stands in for the tasks of a project whose definitions cannot be read; fails, saying what to do."""

    def __init__(self, *, problem: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.problem = problem

    def execute(self, context: Context) -> None:
        raise AirflowFailException(self.problem)


def refresh_dag(cadence: Cadence, project: Project) -> DAG:
    """The DAG `refresh_<cadence>`. A view that fails keeps what was published of it; the others go on."""
    views, options = project.views(cadence.name), project.options
    owners = {view.owner.group: view.owner for view in views if view.owner is not None and view.owner.group}
    emails = {options.owner_of(group): f"mailto:{owner.email}" for group, owner in owners.items() if owner.email}
    with DAG(
        options.id(f"refresh_{cadence.name}"),
        description=f"Builds, tests, publishes, syncs and verifies the {cadence.name} feature views",
        schedule=schedule(cadence.schedule, project),
        dagrun_timeout=cadence.finishes_within,
        params={"as_of": Param(None, type=["null", "string"], description=AS_OF)},
        doc_md=refresh_doc(cadence, project),
        tags=options.tags(cadence.name, *sorted(owners)),
        owner_links=emails,
        **common(project),
    ) as dag:
        if project.problem:
            NotReady(task_id=DEFINITIONS, problem=project.problem, doc_md=project.problem, retries=0)
            return dag
        build = dbt_build(project, dag.dag_id, cadence)
        option = f"--refresh {cadence.name}"
        verify = command("verify", f"features verify {option}", project)
        good = Good(task_id="good", trigger_rule=TriggerRule.NONE_FAILED, doc_md=STEPS["good"].doc_md)
        if landings := [
            command(f"stream.{source}", f"features stream {source} --once", project, step="stream")
            for source in project.sources(cadence.name)
        ]:
            # A build without the latest events is a good one, but the run is not.
            landed = EmptyOperator(task_id="landed", trigger_rule=TriggerRule.ALL_DONE, doc_md=STEPS["landed"].doc_md)
            landings >> landed >> build
            landings >> good
        publish = command(
            "publish",
            f"features publish {option} --wait 300 --run-results {{{{ run_results(dag.dag_id) }}}}",
            project,
            of=Publish,
            refresh=cadence.name,
            pool=options.slot,
            outlets=[view_asset(view, project) for view in views],
        )
        sync = command("sync", f"features sync {option}", project, of=Sync)
        sync.trigger_rule = TriggerRule.ALL_DONE_MIN_ONE_SUCCESS  # also when some views were not fit to publish
        _definitions(cadence, project) >> build >> [publish, sync]
        verify.trigger_rule = TriggerRule.ALL_DONE_MIN_ONE_SUCCESS  # of what was synced
        publish >> sync
        [build, sync] >> verify
        models = [task for task in dag.tasks if isinstance(task, ModelResult)]  # behind a red one may be skipped ones
        [*models, publish, sync, verify] >> good
    return dag


def _definitions(cadence: Cadence, project: Project) -> BashOperator:
    """The task that says what of the project is not in force, behind one that puts it in force where that is wanted."""
    compare = f"features compare --refresh {cadence.name} --json"
    if not project.settings.auto_apply:
        return command(COMPARE, compare, project, of=Definitions, output_processor=msgspec.json.decode)
    apply = command("apply", "features apply", project, of=Definitions)
    again = f"{compare} --no-parse"
    return apply >> command(COMPARE, again, project, of=Definitions, output_processor=msgspec.json.decode)


def catalogue_dag(cron: str, project: Project) -> DAG:
    """The DAG `catalogue`: the docs site, once a day."""
    with DAG(
        project.options.id("catalogue"),
        description="Writes the catalogue of features as one static file",
        schedule=schedule(cron, project),
        dagrun_timeout=COMMAND_TIMEOUT,
        doc_md=project.problem or STEPS["docs"].doc_md,
        tags=project.options.tags("docs"),
        **common(project),
    ) as dag:
        command("docs", "features docs", project, pool=project.options.slot)
    return dag


def schedule(cron: str | None, project: Project) -> CronDataIntervalTimetable | None:
    """When the DAG is due, if ever; not while FEATURES_CLOCK stops the clock: all runs would be of one instant."""
    if cron is None or project.settings.clock is not None:
        return None
    return CronDataIntervalTimetable(cron, timezone=project.options.timezone)


def common(project: Project) -> dict[str, Any]:
    """What all DAGs share. A task that has failed tells others first: the last line of its log says what to do."""
    options = project.options
    return {
        "start_date": options.start,
        "catchup": False,
        "max_active_runs": 1,
        "is_paused_upon_creation": False,
        "user_defined_macros": {
            "as_of": partial(as_of, project.environment),
            "excluding_held": excluding_held,
            "run_results": partial(run_results, project.environment),
        },
        "default_args": {
            "owner": options.owner,
            "retries": options.tries,
            "retry_delay": timedelta(seconds=30),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(minutes=10),
            "execution_timeout": COMMAND_TIMEOUT,
            "on_failure_callback": [*callbacks(options.on_failure, "on_failure"), say_what_to_do],
            "on_success_callback": callbacks(options.on_success, "on_success"),
            **({} if options.queue is None else {"queue": options.queue}),
        },
    }


class Good(BaseOperator):
    """Succeeds when nothing before it failed and no view waits to be made anew; skipped where one does.

    Red where something failed in dbt for which no task is: models made from it are skipped, which would hide it.
    """

    def execute(self, context: Context) -> None:
        if bad := failures(results_of(context["ti"])):
            raise AirflowFailException("\n  ".join(["dbt failed in what has no task of its own", *bad]))
        if waiting := held(context["ti"])["waiting"]:
            raise AirflowSkipException(f"to be made anew, which the DAG `rebuild` does: {', '.join(waiting)}")


class Command(Shell):
    """One command of the product; not tried again where it ends with `lasting`, by which it says that this would change
    nothing."""

    outlets: list[Asset]
    lasting, lasting_means = NOT_FIT, "some views keep what they had: see above; the others are done"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(skip_on_exit_code=self.lasting, **kwargs)

    def execute(self, context: Context) -> Any:
        try:
            return super().execute(context)
        except AirflowSkipException:
            raise AirflowFailException(self.lasting_means) from None


class Definitions(Command):
    """`features compare` or `apply`: a project that cannot be read stays so until somebody acts."""

    lasting, lasting_means = 1, "the project's definitions are not fit: see above"


def run_results(environment: Mapping[str, str], dag_id: str) -> str:
    """The file that dbt's results of a DAG's last build are kept in, quoted."""
    from ..dbt.build import kept_run

    return shlex.quote(str(kept_run(settings_of(environment).target_path, dag_id)))


class Publish(Command):
    """`features publish` of a cadence without the views that are not fit for it, for which there is no asset event
    either.

    Views that the definitions in force bind are published all of one run, or none of them. What is in force but stands
    in no schedule, as nothing is known of its tests, keeps what it had, and the task is red.
    """

    def __init__(self, *, refresh: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.refresh = refresh

    def execute(self, context: Context) -> Any:
        schedule = scheduled(settings_of(self.env))  # which `apply` may have written in this run
        models = {view.id: view.unique_id for view in schedule.views_of(self.refresh)}
        registry = registry_in_force(self.env)
        apart = held(context["ti"])
        unfit = left_out(context["ti"], models, {model.unique_id: model.tests for model in schedule.models})
        failed = [view for view in unfit if view not in apart["waiting"]]
        unknown = unscheduled(registry.feature_views, schedule, self.refresh, apart["gone"])
        for group in bound_views(registry.feature_views, registry.feature_services):
            others = [view for view in group if view in models and view not in unfit]
            if others and len(others) < len(group):
                self.log.warning("%s: kept as published, for not all that belongs to it is fit", ", ".join(others))
                unfit += others
        if len(unfit) == len(models) and not failed and not unknown:
            raise AirflowSkipException("all views of this run wait to be made anew, which the DAG `rebuild` does")
        if len(unfit) == len(models):
            raise AirflowFailException("no view of this run is fit to publish: all keep what they had")
        self.bash_command += _without([*unfit, *unknown], apart)
        self.outlets = [asset for asset in self.outlets if asset.extra[VIEW] not in unfit]
        super().execute(context)
        if unknown:
            raise AirflowFailException(f"in force, but in no schedule: {', '.join(unknown)}. Run `features check`")


def unscheduled(views: Iterable[FeatureView], schedule: Schedule, refresh: str, gone: Iterable[str]) -> list[str]:
    """The views in force of a cadence that the project has, but no schedule, be it of another cadence."""
    known = {*(view.id for view in schedule.views), *gone}
    return [view.id for view in views if view.refresh == refresh and view.id not in known]


def _without(views: list[str], apart: Mapping[str, Any]) -> str:
    """The options of `features publish` for views that it leaves out, and what else `compare` found `apart`."""
    not_applied = {*apart["views"], *apart["gone"]}
    return "".join(
        f" --{'held' if view in not_applied else 'except'} {view}"
        for view in dict.fromkeys([*views, *apart["gone"]])
        if view not in apart["new"]  # which it does not know
    )


class Sync(Command):
    """`features sync` without the views that wait to be made anew, and those that are bound to them."""

    def execute(self, context: Context) -> Any:
        waiting = held(context["ti"])["waiting"]
        registry = registry_in_force(self.env)
        groups = bound_views(registry.feature_views, registry.feature_services)
        bound = (view for group in groups if not waiting.keys().isdisjoint(group) for view in group)
        self.bash_command += "".join(f" --except {view}" for view in dict.fromkeys([*waiting, *bound]))
        return super().execute(context)


def command(
    task_id: str,
    bash_command: str,
    project: Project,
    *,
    step: str = "",
    of: type[BashOperator] | None = None,
    **kwargs: Any,
) -> BashOperator:
    """A task that is one command of the product; `step` names it in STEPS, if not its id."""
    return (of or Command)(
        task_id=task_id,
        bash_command=bash_command,
        env=project.environment,
        append_env=True,
        cwd=str(project.settings.project_dir),
        doc_md=STEPS[step or task_id].doc_md,
        **kwargs,
    )


def view_asset(view: ScheduledView, project: Project) -> Asset:
    """`feature-view://customer__purchases/v2` for customer__purchases@v2: an @ in a URI would start a host name.

    Of a project that the DAG file names `shop`, `feature-view://shop.customer__purchases/v2`: no view has a dot.
    """
    name = f"{project.options.name}.{view.id}" if project.options.name else view.id
    uri = f"feature-view://{name.replace('@', '/')}"
    return Asset(name=name, uri=uri, group="feature_view", extra={VIEW: view.id})


def refresh_doc(cadence: Cadence, project: Project) -> str:
    if project.problem:
        return project.problem
    rows = [
        f"| `{view.id}` | {', '.join(view.entities)} | {view.owner.name if view.owner else ''} | {view.ttl or 'none'} |"
        for view in project.views(cadence.name)
    ]
    return "\n".join(
        [
            f"Feature views with `refresh: {cadence.name}`. A run speaks of one instant, the end of its data interval,",
            "which dbt gets as `as_of`: run again, it gives the same rows. A view that fails a test, or that is not",
            "built, keeps what was published of it; the others go on, and the run is red at the failed view's task.",
            "",
            "| feature view | entities | owner | ttl |",
            "|---|---|---|---|",
            *rows,
        ]
    )
