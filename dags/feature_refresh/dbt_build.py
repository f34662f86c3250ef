"""The dbt build of a cadence: one dbt process, and a task for each model that says how it and its tests went.

Cosmos reads dbt's manifest, lays out the models as tasks, and runs dbt. Of its own ways to run many models, one starts
dbt anew for each (4 s a model), and the watcher mode skips a build that is cleared and leaves the models to build one
by one, without the tests of sources. So here the build is one task, run again whole when cleared, and the models'
tasks report what it said.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, Context, TaskGroup, TriggerRule
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from cosmos.airflow.task_group import DbtTaskGroup
from cosmos.config import ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import DbtResourceType, ExecutionMode, InvocationMode, LoadMode
from cosmos.dbt.graph import DbtNode
from cosmos.hooks.subprocess import FullOutputSubprocessResult
from cosmos.operators.local import DbtBuildLocalOperator

from feature_server.dbt.build import keep_run, kept_run

from .project import Project, dbt_profile, held, waiting_models
from .steps import STEPS

GROUP = "dbt"
BUILD = "build"
RESULTS = "results"
GOOD = ("success", "pass", "warn")
MODELS = ("model.", "seed.", "snapshot.")  # what has a task of its own
SOME_FAILED = 1  # dbt's exit code where it ran to its end
SKIPPED = "skipped: something upstream is red"  # a test that waits for another model says nothing about this one
DUCKDB_POOL = "duckdb"  # one slot: DuckDB has one writer, and backfills ignore max_active_runs
PLATFORM_OWNER = "feature_platform"


class Build(DbtBuildLocalOperator):
    """Succeeds where dbt could build, be it in part: how each model went is for the models' tasks to say.

    `tests` maps the unique ids of models to those of their tests.
    """

    def __init__(self, *, tests: dict[str, list[str]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tests, self.some_failed = tests, False

    def execute(self, context: Context, **kwargs: Any) -> None:
        self.exclude = self.exclude or None  # as rendered: an empty one is a selector that nothing matches
        super().execute(context, **kwargs)
        if self.some_failed:
            if untold := no_models_task_says(_results(context["ti"]), self.tests):
                raise AirflowFailException("\n  ".join(["dbt failed in what no model's task can say", *untold]))
            self.log.warning("partly good: the red tasks beside this one say what failed; its views are not published")

    def handle_exception_subprocess(self, result: FullOutputSubprocessResult) -> None:
        if result.exit_code == SOME_FAILED:
            self.some_failed = True
        else:
            super().handle_exception_subprocess(result)


def no_models_task_says(results: Mapping[str, str], tests: Mapping[str, Sequence[str]]) -> list[str]:
    """What failed in a run of dbt, a hook or a test of no model, where no task would be red, or none would say it."""
    bad = [f"{name}: {said}" for name, said in results.items() if said not in (*GOOD, SKIPPED)]
    hooks = [text for text in bad if text.startswith("operation.")]
    told = any(faults(results, name, tests.get(name, ()))[0] for name in results if name.startswith(MODELS))
    return hooks if hooks or told else bad or ["dbt left no results"]


class ModelResult(BaseOperator):
    """Succeeds if the build made the model and every test of it that ran passed; else says which did not.

    Skipped where dbt skipped the model.
    """

    def __init__(self, *, unique_id: str, test_ids: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unique_id = unique_id
        self.test_ids = test_ids

    def execute(self, context: Context) -> None:
        instance = context["ti"]
        apart = held(instance)
        if self.unique_id in waiting_models(apart):
            raise AirflowSkipException(f"{self.unique_id} waits to be made anew, which the DAG `rebuild` does")
        if self.unique_id in apart["models"]:
            raise AirflowFailException(
                f"{self.unique_id} is held back: its definition in the project is not the one in force, so it is "
                "neither built nor published. `features plan` shows what differs, `features apply` puts it in force"
            )
        results = _results(instance)
        if results.get(self.unique_id) == SKIPPED:
            raise AirflowSkipException(f"{self.unique_id} was {SKIPPED}")
        bad, tests = faults(results, self.unique_id, self.test_ids)
        if bad:
            raise AirflowFailException("\n  ".join([f"{self.unique_id} is not fit to publish", *bad]))
        self.log.info("%s was built; all %d tests passed", self.unique_id, tests)


def faults(results: Mapping[str, str], unique_id: str, test_ids: Sequence[str]) -> tuple[list[str], int]:
    """What a run of dbt says of a model that was not built or of its tests that failed, and how many of these ran."""
    of_model = ".".join(unique_id.split(".")[1:3])  # `project.model` of `model.project.model.v2`
    unit_tests = [name for name in results if name.startswith(f"unit_test.{of_model}.")]
    ran = {name: results[name] for name in [*test_ids, *unit_tests] if results.get(name, SKIPPED) != SKIPPED}
    bad = [f"{name}: {said}" for name, said in ran.items() if said not in GOOD]
    built = results.get(unique_id, f"dbt did not reach it; see the log of {GROUP}.{BUILD}")
    return [*([] if built in GOOD else [f"{unique_id}: {built}"]), *bad], len(ran)


def left_out(instance: Any, models: Mapping[str, str], tests: Mapping[str, Sequence[str]]) -> list[str]:
    """The views of a run that are held back, wait, were not built or failed a test: they are not to be published."""
    results, found = _results(instance), held(instance)
    names = found["views"].keys() | found["waiting"].keys()
    return [view for view, model in models.items() if view in names or faults(results, model, tests.get(model, ()))[0]]


def _results(instance: Any) -> dict[str, str]:
    found: dict[str, str] = instance.xcom_pull(task_ids=f"{GROUP}.{BUILD}", key=RESULTS) or {}
    return found


def report_results(project_dir: str, target_path: str, context: Context) -> None:
    """Hand what dbt said of each model and test to the tasks of the models, and keep it in the project's target folder,
    also apart from what other DAGs build.

    Cosmos calls this when dbt has ended, whether well or not, with the temporary folder that dbt ran in.
    """
    file = Path(project_dir, "target", "run_results.json")
    if not file.exists():
        return
    for kept in (Path(target_path, file.name), kept_run(Path(target_path), context["ti"].dag_id)):
        keep_run(file, kept)
    results = {
        result["unique_id"]: _in_words(result["status"], result["message"])
        for result in json.loads(file.read_text(encoding="utf-8"))["results"]
    }
    context["ti"].xcom_push(key=RESULTS, value=results)


def _in_words(status: str, message: str | None) -> str:
    if status == "skipped":
        return SKIPPED
    return status if status in GOOD else f"{status}: {message}"


def selection(project: Project, refresh: str) -> list[str]:
    """dbt's selectors for a cadence: its views and the entities they name, with all upstream of both."""
    entities = sorted({entity for view in project.views(refresh) for entity in view.entities})
    names = [f"+config.meta.entity.name:{entity}" for entity in entities]
    return [f"+config.meta.feature_view.refresh:{refresh}", *names]


def dbt_build(
    project: Project, select: list[str], execution_timeout: timedelta
) -> tuple[BaseOperator, dict[str, list[str]]]:
    """The task that builds what dbt's selectors `select`, in the group `dbt` with its models' tasks, and their tests.

    A test runs when everything it reads is selected or upstream of that: one between views of two cadences would
    compare two instants. A build that failed is not retried: dbt could not run, or stopped in the midst.
    """
    profile_name, target_name, profiles_file = dbt_profile(project.settings)
    profile = ProfileConfig(profile_name, target_name, profiles_yml_filepath=profiles_file)
    group, tests_of_model = _models_group(project, select, profile)
    build = Build(
        task_id=BUILD,
        tests=tests_of_model,
        task_group=group,
        doc_md=STEPS["build"].doc_md,
        pool=DUCKDB_POOL,
        retries=0,
        execution_timeout=execution_timeout,
        project_dir=str(project.settings.project_dir),
        profile_config=profile,
        env=project.settings.environment,
        select=" ".join(select),
        exclude="{{ held_models(ti) }}",
        indirect_selection="buildable",
        vars={"as_of": "{{ as_of(dag_run, params) }}"},
        invocation_mode=InvocationMode.SUBPROCESS,  # within the task's own process dbt would keep DuckDB's lock
        dbt_executable_path=dbt_executable(),
        install_deps=False,
        emit_datasets=False,
        should_store_compiled_sql=False,
        skip_exit_code=None,
        callback=report_results,
        callback_args={"target_path": str(project.settings.target_path)},
    )
    for task in group.tasks_map.values():
        if isinstance(task, ModelResult):
            task.trigger_rule = TriggerRule.ALL_DONE  # each says for itself what became of its model
            if not task.upstream_task_ids:
                build >> task
    return build, tests_of_model


def _models_group(
    project: Project, select: list[str], profile: ProfileConfig
) -> tuple[DbtTaskGroup, dict[str, list[str]]]:
    """The group `dbt` with a task for each model that is selected, and each model's tests by its unique id."""
    tests_of_model: dict[str, list[str]] = {}
    converter = result_task(tests_of_model)
    group = DbtTaskGroup(
        group_id=GROUP,
        project_config=ProjectConfig(
            dbt_project_path=project.settings.project_dir,
            manifest_path=project.settings.target_path / "manifest.json",
            install_dbt_deps=False,
        ),
        profile_config=profile,
        execution_config=ExecutionConfig(execution_mode=ExecutionMode.LOCAL),
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST,
            select=select,
            emit_datasets=False,
            node_converters=dict.fromkeys(
                (DbtResourceType.MODEL, DbtResourceType.SEED, DbtResourceType.SNAPSHOT), converter
            ),
        ),
    )
    for unique_id, test_ids in group.dbt_graph.tests_per_model.items():
        tests_of_model.setdefault(unique_id, []).extend(test_ids)
    return group, tests_of_model


def dbt_executable() -> str:
    """The dbt beside this interpreter, else the one that is found first."""
    beside = Path(sys.executable).parent / "dbt"
    return str(beside) if beside.exists() else "dbt"


def result_task(tests_of_model: dict[str, list[str]]) -> Callable[..., ModelResult]:
    """How Cosmos is to show a model; its tests are filled in when all are known."""

    def convert(dag: DAG, task_group: TaskGroup, node: DbtNode, **_: Any) -> ModelResult:
        return ModelResult(
            task_id=node.name.replace(".", "_"),
            dag=dag,
            task_group=task_group,
            doc_md=STEPS["model"].doc_md,
            owner=node.config.get("group") or PLATFORM_OWNER,
            retries=0,
            unique_id=node.unique_id,
            test_ids=tests_of_model.setdefault(node.unique_id, []),
        )

    return convert
