"""The DAG `rebuild`: incremental views by a new definition, made anew beside the warehouse while others are built."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.sdk import DAG, Context

from .chain import VIEW, Command, command, common, schedule, view_asset
from .project import Project
from .steps import STEPS

COPY = "copy"
LONGEST = timedelta(hours=24)


class Copy(Command):
    """`features rebuild --step copy`; skipped, and all behind it, where no view waits to be made anew."""

    def execute(self, context: Context) -> Any:
        found = super().execute(context)
        if not found["views"]:
            raise AirflowSkipException("no view waits to be made anew")
        return found


class ForRebuilt(Command):
    """A command for the views that were made anew: all of these `views`, or those that are `online`."""

    def __init__(self, *, which: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.which = which

    def execute(self, context: Context) -> Any:
        names = context["ti"].xcom_pull(task_ids=COPY)[self.which]
        if not names:
            raise AirflowSkipException("none of the views is online")
        self.bash_command += f" {' '.join(names)}"
        self.outlets = [asset for asset in self.outlets if asset.extra[VIEW] in names]
        return super().execute(context)


def rebuild_dag(cron: str, project: Project) -> DAG:
    """The DAG `rebuild`: its build, the only step that takes long, holds neither the pool nor DuckDB's file."""
    with DAG(
        project.options.id("rebuild"),
        description="Makes incremental views anew whose definition in force is not the one published",
        schedule=schedule(cron, project),
        dagrun_timeout=LONGEST,
        doc_md=STEPS["rebuild"].doc_md,
        tags=project.options.tags("rebuild"),
        **common(project),
    ) as dag:
        step, slot = "features rebuild --step", project.options.slot
        copy = command(
            COPY,
            f"{step} copy --json",
            project,
            of=Copy,
            pool=slot,
            output_processor=msgspec.json.decode,
        )
        build = command("build", f"{step} build", project, step="rebuild", retries=0, execution_timeout=LONGEST)
        put = command("put", f"{step} put", project, pool=slot)
        publish = command(
            "publish",
            "features publish --wait 300 --run-results {{ run_results('rebuild') }}",  # which `put` has written
            project,
            of=ForRebuilt,
            which="views",
            pool=slot,
            outlets=[view_asset(view, project) for view in project.rebuilt()],
        )
        sync = command("sync", "features sync", project, of=ForRebuilt, which="online")
        verify = command("verify", "features verify", project, of=ForRebuilt, which="online")
        copy >> build >> put >> publish >> sync >> verify
    return dag
