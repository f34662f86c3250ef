"""What each step of a refresh does and what to do when it fails: shown in Airflow, and logged when it does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One step of a refresh, in words."""

    what: str
    if_it_fails: str

    @property
    def doc_md(self) -> str:
        return f"{self.what}\n\n**If it fails:** {self.if_it_fails}"


_AGAIN = "clear this task with everything downstream, or start a new run"

STEPS = {
    "definitions": Step(
        "Stands in for all tasks of a project whose definitions cannot be read.",
        "nothing is built or published: readers are on the last good run. Run `features check` in the project: it says "
        "what is wrong, and writes what the DAGs are made of.",
    ),
    "stream": Step(
        "Takes in the events that producers left in Redis, and lands all that were pushed in files, where the build "
        "that follows reads them (`features stream SOURCE --once`).",
        "reads see pushed events all the same, and none is lost: they stay in Redis until they land. The build goes on "
        "without them; training sets lack them. Check that Redis answers and that there is room on the disk, then "
        + _AGAIN
        + ".",
    ),
    "build": Step(
        "One `dbt build` of the cadence's feature views, the entities they name and all upstream of both, with every "
        "test of theirs. The tasks beside it say how each model went; where some failed, dbt has built the others.",
        "dbt could not run, and nothing was published: training and serving read what they read before. Its log says "
        "why. Then " + _AGAIN + ".",
    ),
    "model": Step(
        "Says how the build of this model and its tests went; runs nothing itself.",
        "the view keeps what was published of it, and so do those made from it; all others go on. Read the tests that "
        "did not pass in this task's log, correct the data or the model, then clear the task `dbt.build` with "
        "everything downstream, or start a new run. Of one that is held back: `features plan`, then `features apply`.",
    ),
    "compare": Step(
        "Says what the project defines otherwise than is in force (`features compare`): such views are left as they "
        "are, and their tasks are red. With `FEATURES_AUTO_APPLY=1` the task `apply` puts it in force instead.",
        "nothing was built. `features check` lists every mistake of the project; where nothing was ever applied, "
        "`features apply`. Then " + _AGAIN + ".",
    ),
    "landed": Step("Waits for the landing of live events, whether it went well or not.", _AGAIN + "."),
    "good": Step(
        "Green when every view of the cadence is built, tested, published, synced and verified.",
        "look at the red tasks before it.",
    ),
    "apply": Step(
        "Puts the definitions in force that are then built, tested and published (`features apply`).",
        "run `features check` in the project: it lists every mistake. Then " + _AGAIN + ".",
    ),
    "publish": Step(
        "Commits what changed in the cadence's views to the offline store (`features publish`), but for those that are "
        "held back, failed a test or were not built: they keep what they had.",
        "readers are on the last complete version of each view that the log names; the others go on. A run that was "
        "broken off is repaired by the next: " + _AGAIN + ".",
    ),
    "sync": Step(
        "Writes the latest row of each key that changed to the online store (`features sync`).",
        "what is served is complete but may be of the run before; `features status` says how old. Check that Redis "
        "answers, then " + _AGAIN + ". Where the log names a view whose definition is not the one published, it is one "
        "that `publish` left out: its own task says why.",
    ),
    "verify": Step(
        "Reads keys online and computes the same values offline at one instant (`features verify`).",
        "values are being served that training would not see; the log names keys and values. "
        "`features sync --full` of the views named writes them anew.",
    ),
    "sources": Step(
        "Asks the sources that declare dbt's `freshness` when they were last loaded (`dbt source freshness`). Skipped: "
        "one is late, which the promises of the views below it tell.",
        "whether sources have stopped is as it was known before; the log of the task is dbt's.",
    ),
    "freshness": Step(
        "Compares a view with its freshness promise. Red once when the promise breaks or the cause is another.",
        "what is served and trained on is older than promised; the error names the first broken link and what to do. "
        "`features status` says how it stands.",
    ),
    "copy": Step(
        "Copies DuckDB's file, where incremental views wait to be made anew: their definition in force is not the one "
        "published. Where none does, this and all behind it are skipped.",
        "the views keep what was published of them. Is there room on the disk for a second warehouse? The next run, in "
        "ten minutes, tries again.",
    ),
    "rebuild": Step(
        "Makes the views anew in the copy, with all upstream of them and their tests. Nothing waits for it: refreshes "
        "build in the file itself meanwhile.",
        "the views keep what was published of them, and the next run tries again. The log names the models and tests: "
        "correct the data or the model, or apply the definition before.",
    ),
    "put": Step(
        "Puts the relations that were made anew into DuckDB's file, in one transaction.",
        "the file is as it was. " + _AGAIN + "; or the next run makes the views anew.",
    ),
    "docs": Step(
        "Writes the catalogue: dbt's docs site as one static file (`features docs`).",
        "only the catalogue is old; " + _AGAIN + ".",
    ),
}


_BUILDS = {"dbt.build": "build", "build": "rebuild"}  # that of a refresh, and the one of the DAG `rebuild`


def step_of(task_id: str) -> Step:
    """What a task does; those of models are named as they are, in a group."""
    group, _, rest = task_id.partition(".")
    name = _BUILDS.get(task_id) or ("model" if group == "dbt" else group if rest else task_id)
    return STEPS[name]


def say_what_to_do(context: Mapping[str, Any]) -> None:
    """Log one line for whoever is on call when a task has failed for good."""
    instance = context["ti"]
    what_to_do = step_of(instance.task_id).if_it_fails
    log.error("ON CALL %s.%s of run %s: %s", instance.dag_id, instance.task_id, instance.run_id, what_to_do)
