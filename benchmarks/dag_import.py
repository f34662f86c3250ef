"""What Airflow pays for the DAG file, which it imports in each task's process and at each look for changes.

Ours is the CPU of importing dags/refresh.py, its DAGs made, where Airflow's SDK and the operators have been imported;
the limit is that import of Airflow alone. Half of the views are hourly and half daily; each has four tests, ten share a
staging model, one of seven is over live events, one of ten promises its freshness.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from .measure import ROOT, Numbers, in_child, stopwatch

VIEWS = {"tiny": {33: 0.5}, "default": {33: 0.5, 1_000: 2.0}, "full": {33: 0.5, 1_000: 2.0}}  # the most CPU, s
ENTITIES = 5


def write_project(folder: Path, views: int) -> Path:
    """A project of which only the schedule is there, as `features check` would write it; its home."""
    from feature_server.definitions.facts import Owner
    from feature_server.definitions.schedule import Schedule, ScheduledModel, ScheduledView, write_schedule

    def model(name: str, upstream: str | None, **kwargs: str) -> ScheduledModel:
        tests = tuple(f"test.bench.{kind}_{name}.0123456789" for kind in ("grain", "range", "not_null", "accepted"))
        made_from = () if upstream is None else (f"model.bench.{upstream}",)
        return ScheduledModel(
            unique_id=f"model.bench.{name}", task=name, upstream=made_from, tests=tests, **kwargs  # type: ignore[arg-type]
        )  # fmt: skip

    models = [model(f"staging_{number:04}", None) for number in range(views // 10 + 1)]
    models += [model(f"entity_{one}", "staging_0000", entity=f"entity_{one}") for one in range(ENTITIES)]
    scheduled = []
    for number in range(views):
        entity, team = f"entity_{number % ENTITIES}", f"team_{number % 20}"
        models.append(model(f"{entity}__view_{number:04}", f"staging_{number // 10:04}", group=team))
        scheduled.append(
            ScheduledView(
                id=f"{entity}__view_{number:04}",
                unique_id=models[-1].unique_id,
                refresh=("hourly", "daily")[number % 2],
                entities=(entity,),
                ttl="30d",
                source="bench.events" if number % 7 == 0 else None,
                promised=number % 10 == 0,
                owner=Owner(name=team, email=f"{team}@example.com", group=team),
            )
        )
    (folder / "home").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text("name: bench\nprofile: bench\n")
    write_schedule(folder / "home" / "schedule.json", Schedule(views=tuple(scheduled), models=tuple(models)))
    return folder / "home"


def environment_of(home: Path) -> dict[str, str]:
    """That of Airflow's processes where the project of a home is scheduled."""
    from feature_server.settings import load_settings
    from scripts.airflow_env import airflow_environment

    given = {"FEATURES_PROJECT_DIR": str(home.parent), "FEATURES_HOME": str(home)}
    given["FEATURES_WAREHOUSE"] = str(home / "warehouse.duckdb")
    return airflow_environment(load_settings(given), os.environ | given)


def airflow_alone() -> Numbers:
    """Airflow's SDK and the operators of the DAGs, without a DAG."""
    with stopwatch() as seen:
        _import_airflow()
    return seen


def dag_file(views: int) -> Numbers:
    """The DAG file, after those."""
    _import_airflow()
    sys.path.insert(0, str(ROOT / "dags"))
    with stopwatch() as seen:
        import refresh
    tasks = sum(len(dag.tasks) for dag in refresh.dags.values())
    assert tasks > views, tasks
    return {**seen, "tasks": tasks}


def _import_airflow() -> None:
    import airflow.providers.standard.operators.bash
    import airflow.providers.standard.operators.empty
    import airflow.sdk

    assert airflow.sdk.DAG, airflow.sdk.BaseOperator  # which it imports when it is asked for them


def main(arguments: Sequence[str] | None = None) -> int:
    from .common import make_case, parser, write_results

    chosen = parser(__doc__ or "").parse_args(arguments)
    work, cases = chosen.work.resolve() / "dag_import", []
    for views, most in VIEWS[chosen.size].items():
        shutil.rmtree(work, ignore_errors=True)
        env = environment_of(write_project(work, views))
        runs = chosen.runs or 3
        limit = in_child("benchmarks.dag_import:airflow_alone", {}, runs=runs, env=env)
        ours = in_child("benchmarks.dag_import:dag_file", {"views": views}, runs=runs, env=env)
        targets = {"cpu_s": f"<= {most}", "cpu_s/limit": f"<= {most}"}
        cases.append(make_case(f"DAG file of {views:,} views", ours=ours, limit=limit, targets=targets))
    shutil.rmtree(work, ignore_errors=True)
    write_results(Path(chosen.out), "Importing the DAG file", cases)
    return 0


if __name__ == "__main__":
    sys.exit(main())
