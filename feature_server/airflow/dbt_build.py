"""The dbt build of a cadence: one dbt process, and a task for each model that says how it and its tests went.

Why one process: docs/decisions/0006-dbt-runs-once-a-refresh.md. The models' tasks report what it said; a build that is
cleared is run again whole.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import BaseOperator, Context, TaskGroup, TriggerRule

from ..project.process import dbt_command, place_arguments
from .options import Cadence
from .project import Project, held, settings_of, waiting_models
from .shell import Shell
from .steps import STEPS

GROUP = "dbt"
BUILD = "build"
RESULTS = "results"
GOOD = ("success", "pass", "warn")
SOME_FAILED = 1  # dbt's exit code where it ran to its end
SKIPPED = "skipped: something upstream is red"  # a test that waits for another model says nothing about this one
AS_OF = '{"as_of": "{{ as_of(dag_run, params) }}"}'  # dbt's variables


class Build(Shell):
    """Succeeds where dbt could build, be it in part: how each model went is for the models' tasks to say.

    `folder` is dbt's target folder of this DAG; `tests` maps the unique ids of models that have a task to those of
    their tests.
    """

    def __init__(self, *, folder: Path, tests: dict[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(skip_on_exit_code=SOME_FAILED, **kwargs)
        self.folder, self.tests = folder, tests

    def execute(self, context: Context) -> None:
        results = self.folder / "run_results.json"
        results.unlink(missing_ok=True)  # what is there afterwards is of this run
        some_failed = False
        try:
            super().execute(context)
        except AirflowSkipException:
            some_failed = True
        report_results(results, settings_of(self.env).target_path, context)
        if some_failed:
            if untold := no_models_task_says(results_of(context["ti"]), self.tests):
                raise AirflowFailException("\n  ".join(["dbt failed in what no model's task can say", *untold]))
            self.log.warning("partly good: the red tasks beside this one say what failed; its views are not published")


def no_models_task_says(results: Mapping[str, str], tests: Mapping[str, Sequence[str]]) -> list[str]:
    """What failed in a run of dbt, a hook or a test of no model, where no task would be red, or none would say it."""
    bad = failures(results)
    hooks = [text for text in bad if text.startswith("operation.")]
    told = any(faults(results, name, ids)[0] for name, ids in tests.items() if name in results)
    return hooks if hooks or told else bad or ["dbt left no results"]


def failures(results: Mapping[str, str]) -> list[str]:
    """What failed in a run of dbt, without what was skipped for it."""
    return [f"{name}: {said}" for name, said in results.items() if said not in (*GOOD, SKIPPED)]


class ModelResult(BaseOperator):
    """Succeeds if the build made the model and every test of it that ran passed; else says which did not.

    Skipped where dbt skipped the model.
    """

    def __init__(self, *, unique_id: str, test_ids: Sequence[str], **kwargs: Any) -> None:
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
        results = results_of(instance)
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
    unknown = f"dbt did not reach it: see the log of {GROUP}.{BUILD}; one that is gone `features check` takes out"
    built = results.get(unique_id, unknown)
    return [*([] if built in GOOD else [f"{unique_id}: {built}"]), *bad], len(ran)


def left_out(instance: Any, models: Mapping[str, str], tests: Mapping[str, Sequence[str]]) -> list[str]:
    """The views of a run that are held back, wait, were not built or failed a test: they are not to be published."""
    results, found = results_of(instance), held(instance)
    names = found["views"].keys() | found["waiting"].keys()
    return [view for view, model in models.items() if view in names or faults(results, model, tests.get(model, ()))[0]]


def results_of(instance: Any) -> dict[str, str]:
    """What dbt said of each model and test of a run, by unique id; empty where it did not get so far."""
    found: dict[str, str] = instance.xcom_pull(task_ids=f"{GROUP}.{BUILD}", key=RESULTS) or {}
    return found


def report_results(file: Path, target_path: Path, context: Context) -> None:
    """Hand what dbt said of each model and test to the tasks of the models, and keep it in the project's target folder,
    also apart from what other DAGs build."""
    from ..dbt.build import keep_run, kept_run

    if not file.exists():
        return
    for kept in (target_path / file.name, kept_run(target_path, context["ti"].dag_id)):
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


def selectors(project: Project, refresh: str, tags: Iterable[str]) -> list[str]:
    """dbt's selectors for a cadence: its views, the entities they name, what has one of the tags, and all upstream."""
    entities = sorted({entity for view in project.views(refresh) for entity in view.entities})
    chosen = [f"config.meta.entity.name:{entity}" for entity in entities] + [f"tag:{tag}" for tag in tags]
    return [f"+{one}" for one in [f"config.meta.feature_view.refresh:{refresh}", *chosen]]


def dbt_build(project: Project, dag_id: str, cadence: Cadence) -> BaseOperator:
    """The task that builds what a cadence needs, in the group `dbt` with the tasks of the models.

    A test runs when everything it reads is selected or upstream of that: one between views of two cadences would
    compare two instants. A build that failed is not retried: dbt could not run, or stopped in the midst.
    """
    models = project.schedule.built_for(cadence.name, cadence.tags)
    settings, folder = project.settings, project.settings.home / "run" / dag_id
    with TaskGroup(GROUP):
        build = Build(
            task_id=BUILD,
            bash_command=_command(project, selectors(project, cadence.name, cadence.tags), folder),
            folder=folder,
            tests={model.unique_id: model.tests for model in models},
            env=project.environment,
            append_env=True,
            cwd=str(settings.project_dir),
            doc_md=STEPS["build"].doc_md,
            pool=project.options.slot,
            retries=0,
            execution_timeout=cadence.finishes_within,
        )
        tasks = {
            model.unique_id: ModelResult(
                task_id=model.task,
                unique_id=model.unique_id,
                test_ids=model.tests,
                doc_md=STEPS["model"].doc_md,
                owner=project.options.owner_of(model.group),
                retries=0,
                trigger_rule=TriggerRule.ALL_DONE,  # each says for itself what became of its model
            )
            for model in models
        }
    for model in models:
        ([tasks[name] for name in model.upstream] or build) >> tasks[model.unique_id]
    return build


def _command(project: Project, select: list[str], folder: Path) -> str:
    """`dbt build` in a target folder of its own: what checks, publishing and other DAGs read stays as it is."""
    settings = project.settings
    words = [
        *dbt_command(), "--no-use-colors", "build", *place_arguments(settings.project_dir, settings.environ),
        "--target-path", str(folder), "--log-path", str(folder), "--indirect-selection", "buildable",
        "--select", *select,
    ]  # fmt: skip
    return f"{shlex.join(words)} {{{{ excluding_held(ti) }}}} --vars '{AS_OF}'"
