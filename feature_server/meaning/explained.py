"""What a change of meaning is: which models changed, why, and their SQL before and after."""

import difflib
from collections.abc import Iterator, Mapping

import msgspec

from ..definitions.facts import FeatureView
from ..definitions.models import Model
from ..definitions.registry import Registry
from .forms import Forms

_LINES, _WIDTH = 12, 160  # of a diff that is shown


class ModelChange(msgspec.Struct, frozen=True):
    """A model, seed or snapshot that changed: why, and the lines of its SQL that differ, `-` before and `+` after."""

    model: str
    why: tuple[str, ...]
    diff: tuple[str, ...] = ()


class MeaningChange(msgspec.Struct, frozen=True, kw_only=True):
    """A view whose meaning changed, by which models, and the services that read it."""

    view: str
    models: tuple[ModelChange, ...]
    services: tuple[str, ...]


def changes_of_meaning(in_force: Registry, wanted: Registry) -> tuple[MeaningChange, ...]:
    """Of the views in both registries those that mean something else in the (settled) `wanted` one.

    None where the registry in force has no models: nothing is known of what they meant.
    """
    old_views = {view.id: view for view in in_force.feature_views}
    old, new = ({model.unique_id: model for model in side.models} for side in (in_force, wanted))
    return tuple(
        MeaningChange(
            view=view.id,
            models=tuple(_model_changes(view, old, new, in_force, wanted)),
            services=tuple(service.name for service in wanted.services_using(view.id)),
        )
        for view in wanted.feature_views
        if view.id in old_views and in_force.models and view.meaning and view.meaning != old_views[view.id].meaning
    )


def _model_changes(
    view: FeatureView, old: Mapping[str, Model], new: Mapping[str, Model], in_force: Registry, wanted: Registry
) -> Iterator[ModelChange]:
    """The models under a view that changed themselves; one that only reads a changed one is not named."""
    waiting, seen = [view.unique_id], {view.unique_id}
    said, says = Forms(old, by="unique_id"), Forms(new, by="unique_id")
    for unique_id in waiting:  # the list grows
        before, after = old.get(unique_id), new.get(unique_id)
        if before is None and after is not None:
            yield ModelChange(_name(unique_id), ("it is read since now",))
        if after is None:
            continue
        changed = before is not None and before.meaning != after.meaning and not _is_same(before, after)
        if before is not None and changed and said.of(before) != says.of(after):
            yield ModelChange(_name(unique_id), tuple(_why(before, after, in_force, wanted)), _diff(before, after))
        below = [name for name in after.reads.values() if name in new and name not in seen]
        seen.update(below)
        waiting += below


def _is_same(before: Model, after: Model) -> bool:
    fields = ("sql", "incremental_sql", "rows", "settings", "reads")
    return all(getattr(before, field) == getattr(after, field) for field in fields)


def _why(before: Model, after: Model, in_force: Registry, wanted: Registry) -> Iterator[str]:
    found = []
    if before.rows != after.rows:
        found.append(f"rows of {after.path}")
    elif before.code != after.code:
        found.append(_of(after.package, wanted, after.path))
    macros = sorted(
        name for name in after.macros if name in before.macros and before.macros[name] != after.macros[name]
    )
    for name in macros:
        _, package, macro = name.split(".", 2)
        found.append(_of(package, wanted, f"macro {macro}"))
    settings = sorted(before.settings.keys() | after.settings.keys())
    found += [f"setting {name}" for name in settings if before.settings.get(name) != after.settings.get(name)]
    if not found:
        names = sorted(in_force.variables.keys() | wanted.variables.keys())
        changed = [name for name in names if in_force.variables.get(name) != wanted.variables.get(name)]
        found += [f"variable {name}" for name in changed]
    yield from found or ["what it is compiled with: macros' names, the environment, the target or dbt itself"]


def _of(package: str, wanted: Registry, what: str) -> str:
    return what if package == wanted.project else f"package {package}: {what}"


def _diff(before: Model, after: Model) -> tuple[str, ...]:
    return difference(before.sql, after.sql) or difference(
        *(model.incremental_sql or model.sql for model in (before, after))
    )


def difference(before: str, after: str) -> tuple[str, ...]:
    """The lines of two texts of SQL that differ, in one format; a few of them."""
    from .canonical import pretty  # with sqlglot, which nothing needs where nothing differs

    old, new = pretty(before), pretty(after)
    found = list(difflib.unified_diff(old, new, n=0, lineterm=""))[2:]
    lines = [" ".join([line[0], line[1:].strip()])[:_WIDTH] for line in found if not line.startswith("@@")]
    more = len(lines) - _LINES
    return tuple(lines if more <= 1 else [*lines[:_LINES], f"… {more} lines more"])


def _name(unique_id: str) -> str:
    return unique_id.partition(".")[2].partition(".")[2]
