"""Whether what a warehouse holds of a view was built by the SQL that is in force.

dbt's builds leave the SQL that really ran, of the view's model and of each model upstream of it, with the instants of
the run replaced (macros/built_sql.sql). A view is compared with the builds that its relation may still hold rows of.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from ..definitions.facts import FeatureView
from ..definitions.models import Model
from ..durable import write_whole
from ..errors import UNREADABLE, NotApplied
from ..meaning.explained import difference
from ..meaning.forms import Forms
from ..meaning.settled import MARK
from ..offline.store import PublishedState
from ..warehouse.builds import BuiltFrom
from ..warehouse.relations import Warehouse

Models = Mapping[str, Model]


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
    texts = warehouse.built_texts(view, {hash_ for _, build in ran for _, hash_ in build.models})
    forms = Forms(models)
    for built, build in ran:
        if not build.models:
            raise _refused(view, builds, f"a build of {built} before the SQL that ran was recorded")
        for unique_id, hash_ in build.models:
            text, wanted = texts.get(hash_), models.get(unique_id)
            if text is None:
                raise _refused(view, builds, f"SQL of {unique_id} that is not in the log any more")
            if wanted is None:
                raise _refused(view, builds, f"{unique_id}, which it no longer reads")
            allowed = [
                sql
                for known in (wanted, published.get(unique_id))
                if known is not None
                for sql in _allowed(known, own=unique_id == built, whole=build.whole)
            ]
            if text not in allowed and forms.of_sql(wanted, text) not in {forms.of_sql(wanted, sql) for sql in allowed}:
                lines = difference(allowed[0], text)
                raise _refused(view, builds, "\n".join([f"{unique_id}, with", *(f"    {line}" for line in lines)]))


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


def _refused(view: FeatureView, builds: Sequence[BuiltFrom], got: str) -> BuiltOtherwise:
    error = BuiltOtherwise(
        "the view was built by other SQL than is in force, so it is not published",
        where=view.id,
        expected="the SQL that `features apply` put in force",
        got=got,
        remedy=f"`features plan` shows what the project says now: apply it, or undo it; then `dbt build --select "
        f"+{view.name}` makes the view anew, and publish again",
    )
    error.invocation = builds[-1].invocation_id
    return error


def models_of(view: FeatureView, models: Models) -> tuple[Model, ...]:
    """The view's model and those that it reads, itself or through others."""
    waiting, found = [view.unique_id], dict[str, Model]()
    for unique_id in waiting:  # the list grows
        if unique_id in models and unique_id not in found:
            found[unique_id] = models[unique_id]
            waiting += models[unique_id].reads.values()
    return tuple(found[unique_id] for unique_id in sorted(found))


def distrust(path: Path, refused: Mapping[str, str]) -> None:
    """Have the next build of each refused model make it whole: what builds tell its definition by is another then.

    `refused` maps unique ids to the invocation that was the last.
    """
    try:
        tokens = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (OSError, *UNREADABLE):  # the next `features apply` writes it anew
        return
    marked = {name: f"{tokens[name].partition(MARK)[0]}{MARK}{of}" for name, of in refused.items() if name in tokens}
    write_whole(path, lambda file: file.write(msgspec.json.format(msgspec.json.encode(tokens | marked), indent=1)))
