"""Whether what a warehouse holds of a view was built by the SQL, and from the seeds' rows, that are in force.

dbt's builds leave the SQL that really ran, of the view's model and of each model upstream of it, with the instants of
the run replaced, and a hash of each seed as it was loaded (built_sql.sql of the dbt package). A view is compared with
the builds that its relation may still hold rows of. Where there is no such log, what dbt's run_results.json has of one
is, which has to have made the view and all upstream of it: of rows that came otherwise nothing is known.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec

from ..dbt.build import LastRun, build_failure
from ..dbt.compiled import AS_OF
from ..definitions.facts import FeatureView
from ..definitions.models import Model
from ..errors import NotApplied, NotFit
from ..meaning.explained import difference
from ..meaning.forms import Forms
from ..offline.store import PublishedState
from ..warehouse.builds import BuiltFrom
from ..warehouse.relations import Warehouse

Models = Mapping[str, Model]
OVER = "build: over "  # rows that failed a test
NOT_BUILT = ("build: error", "build: skipped")  # when last asked for, so that the rows are those of a build before
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|\+00:00)")


class BuiltOtherwise(NotApplied):
    """A view whose rows were built by other SQL than what is in force; `invocation` is the build that was the last."""

    invocation: str


def check_built(view: FeatureView, warehouse: Warehouse, models: Models, state: PublishedState | None) -> None:
    """BuiltOtherwise if a build that the relation may hold rows of ran other SQL of the view's models than is in force.

    `state` is what was published of the view, by the same definition: builds that it knows of are not looked at again,
    and the SQL that it was published by is as good. Nothing is known, and nothing refused, of a warehouse without the
    log, or of definitions that were applied without their SQL.
    """
    builds = warehouse.built_from(view)
    if not builds or view.unique_id not in models:
        return
    published = {} if state is None else {model.unique_id: model for model in state.models}
    ran = [(view.unique_id, build) for build in _to_check(builds, state)]
    for model in models_of(view, models):  # those that builds append to may hold rows of several
        if model.unique_id != view.unique_id and model.settings.get("materialized"):
            ran += [(model.unique_id, build) for build in _to_check(warehouse.built_from(view, model.relation), None)]
    texts = warehouse.built_texts({hash_ for _, build in ran for _, hash_ in build.models})
    forms, instants = Forms(models), warehouse.instants()
    for built, build in ran:
        if not build.models:
            raise _refused(view, builds[-1].invocation_id, f"a build of {built} before the SQL that ran was recorded")
        for unique_id, hash_ in build.models:
            text, wanted, before = texts.get(hash_), models.get(unique_id), published.get(unique_id)
            if wanted is None:
                raise _refused(view, builds[-1].invocation_id, f"{unique_id}, which it no longer reads")
            if wanted.rows:
                if wanted.loaded and hash_ not in (wanted.loaded, before and before.loaded):
                    raise _refused(
                        view, builds[-1].invocation_id, f"{unique_id}, with other rows than {wanted.path} had"
                    )
                continue
            if text is None:
                raise _refused(view, builds[-1].invocation_id, f"SQL of {unique_id} that is not in the log any more")
            allowed = [
                sql
                for known in (wanted, before)
                if known is not None
                for sql in _allowed(known, own=unique_id == built, whole=build.whole)
            ]
            if not _is_one_of(text, [*allowed, *(_of_run(sql, instants) for sql in allowed)], wanted, forms):
                raise _refused(view, builds[-1].invocation_id, _said(unique_id, allowed[0], text))


def _is_one_of(text: str, allowed: Sequence[str], model: Model, forms: Forms) -> bool:
    return text in allowed or forms.of_sql(model, text) in {forms.of_sql(model, sql) for sql in dict.fromkeys(allowed)}


def _of_run(sql: str, instants: Collection[datetime]) -> str:
    """SQL as a run of one of these instants leaves it: a literal of its own that equals one is replaced too."""

    def replaced(found: re.Match[str]) -> str:
        with suppress(ValueError):  # no time, though written as one
            return AS_OF if datetime.fromisoformat(found[0]) in instants else found[0]
        return found[0]

    return _INSTANT.sub(replaced, sql)


def _said(unique_id: str, wanted: str, ran: str) -> str:
    return "\n".join([f"{unique_id}, with", *(f"    {line}" for line in difference(wanted, ran))])


class BuiltBy(msgspec.Struct, frozen=True):
    """By which SQL views are to be built, that of `models`, and for those without the log what dbt ran: by its
    run_results.json, of the instant `as_of`, with its artifacts in `target_path`. `run` is None where it ran nothing.
    """

    models: Models = msgspec.field(default_factory=dict)
    run: LastRun | None = None
    as_of: str = ""
    target_path: Path = Path("target")

    def check(
        self, view: FeatureView, warehouse: Warehouse, before: PublishedState | None, *, replaced: bool, changed: bool
    ) -> str | None:
        """NotFit where rows of the view's relation are not fit, or may be by other SQL than is in force.

        `before` is what is published of the view; it is `replaced`, or its rows have `changed`. Gives the last build
        that is known to have made the view.
        """
        if builds := warehouse.builds(view):
            check_built(view, warehouse, self.models, None if replaced else before)
            return builds[-1].invocation_id
        failed = build_failure(self.run, view.unique_id, self.target_path) if self.run and view.unique_id else None
        if failed:
            raise failed_build(view, failed)
        missing = _missing(self.run, view, self.models)
        if view.unique_id not in self.models or (missing and not changed):
            return None if before is None else before.last_build
        if self.run is None or missing:
            raise _unknown(view, self.run, missing)
        check_run(view, self.models, before, self.run, self.as_of)
        return self.run.metadata.invocation_id


def check_green(view: FeatureView, warehouse: Warehouse, models: Models) -> None:
    """NotFit where the view's last build or a test of it failed, or a test of what it reads: it may hold such rows."""
    if failed := warehouse.failed_tests(view):
        raise failed_build(view, ", ".join(failed))
    for model in models_of(view, models):
        failed = warehouse.failed_tests(view, model.relation) if model.unique_id != view.unique_id else ()
        if red := [test for test in failed if not test.startswith(NOT_BUILT)]:
            raise failed_build(view, f"{', '.join(red)} of {model.unique_id}, which it reads")


def failed_build(view: FeatureView, got: str) -> NotFit:
    """That a view's rows are not fit."""
    whole = " --full-refresh" if OVER in got else ""  # what was appended stays
    return NotFit(
        "the view's last build or a test of it failed, so its rows are not published",
        where=view.id,
        expected="built, and all tests green",
        got=got,
        remedy=f"correct the data or the model, then `dbt build --select +{view.name}{whole}` and publish again",
    )


def _missing(run: LastRun | None, view: FeatureView, models: Models) -> list[str]:
    """The models under a view, itself among them, that a run did not make."""
    made = {} if run is None else run.compiled()
    return [model.unique_id for model in models_of(view, models) if model.sql and model.unique_id not in made]


def check_run(view: FeatureView, models: Models, state: PublishedState | None, run: LastRun, as_of: str) -> None:
    """BuiltOtherwise where a run of dbt, of the instant `as_of`, made the view or a model under it by other SQL."""
    forms, ran = Forms(models), run.compiled()
    changed = state is not None and state.view.fingerprint != view.fingerprint
    for model in models_of(view, models):
        if (text := ran.get(model.unique_id)) is None:
            continue
        text, full, part = (_alike(sql, as_of) for sql in (text, model.sql, model.incremental_sql or model.sql))
        appended = model.settings.get("materialized") == "incremental" and not run.args.get("full_refresh")
        if not _is_one_of(text, [full, part], model, forms):
            raise _refused(view, run.metadata.invocation_id, _said(model.unique_id, full, text), whole=appended)
        if changed and appended and (full == part or not _is_one_of(text, [full], model, forms)):
            got = f"{model.unique_id}, to which {run} appended: rows by the definition before are in it"
            raise _refused(view, run.metadata.invocation_id, got, whole=True)


def _unknown(view: FeatureView, run: LastRun | None, missing: Sequence[str]) -> NotApplied:
    return NotApplied(
        "it is not known by which SQL the view was built, so what changed of it is not published",
        where=view.id,
        expected="a build of it, with all upstream of it, as the last that dbt ran",
        got="no run of dbt" if run is None else f"{run}, which did not make {', '.join(missing)}",
        remedy=f"`dbt build --select +{view.name}`, then publish before dbt runs anything else; or give the project "
        "the hooks of the dbt package, which note it",
    )


def _alike(sql: str, as_of: str) -> str:
    return sql.strip().replace(as_of, AS_OF) if as_of else sql.strip()


def _to_check(builds: Sequence[BuiltFrom], state: PublishedState | None) -> Iterable[BuiltFrom]:
    """The builds since the last that made the whole relation, without those that were published already."""
    seen = 0 if state is None else state.builds_seen
    if not 0 < seen <= len(builds) or builds[seen - 1].invocation_id != (state and state.last_build):
        seen = 0
    whole = max((i for i, build in enumerate(builds) if build.whole), default=0)
    return builds[max(seen, whole) :]


def _allowed(model: Model, *, own: bool, whole: bool) -> list[str]:
    """The SQL that a build may have run of a model: of its own that of its kind, of others both."""
    full, incremental = (sql.strip() for sql in (model.sql, model.incremental_sql or model.sql))
    if not own:
        return list(dict.fromkeys([full, incremental]))
    return [full if whole else incremental]


def _refused(view: FeatureView, invocation: str, got: str, *, whole: bool = False) -> BuiltOtherwise:
    error = BuiltOtherwise(
        "the view was built by other SQL than is in force, so it is not published",
        where=view.id,
        expected="the SQL that `features apply` put in force",
        got=got,
        remedy=f"where `features plan` shows a change, apply it, or undo it; then `dbt build "
        f"{'--full-refresh ' if whole else ''}--select +{view.name}` makes the view anew, and publish again",
    )
    error.invocation = invocation
    return error


def models_of(view: FeatureView, models: Models) -> tuple[Model, ...]:
    """The view's model and those that it reads, itself or through others."""
    waiting, found = [view.unique_id], dict[str, Model]()
    for unique_id in waiting:  # the list grows
        if unique_id in models and unique_id not in found:
            found[unique_id] = models[unique_id]
            waiting += models[unique_id].reads.values()
    return tuple(found[unique_id] for unique_id in sorted(found))
