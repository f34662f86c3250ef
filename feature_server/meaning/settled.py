"""The registry that the project describes, with the meanings that are in force where nothing has changed.

Both old and new SQL are read by today's code: another version of sqlglot or dbt alone changes no meaning.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
from msgspec import UNSET

from ..definitions.facts import FeatureView, fingerprint
from ..definitions.models import Model, SameMeaning
from ..definitions.registry import Registry
from ..definitions.stream import EventSource, StreamPlan
from ..errors import RequestError
from ..kept import Kept
from .forms import Forms

_replace = msgspec.structs.replace


def settle(
    in_force: Registry | None, wanted: Registry, accepted: Iterable[SameMeaning] = (), kept: Kept | None = None
) -> Registry:
    """The `wanted` registry with the meaning of each of its models, and of its views the fingerprints.

    A model that still means what it meant keeps its meaning, and so does that of a view that is `accepted`. A registry
    that was loaded without models stays as it is.
    """
    if not wanted.models:
        return wanted
    before = Registry(project=wanted.project) if in_force is None else in_force
    vouched = {view.unique_id: view.id for view in wanted.feature_views}
    names = {one.view for one in accepted}
    models = _settled(
        {model.unique_id: model for model in before.models},
        {model.unique_id: model for model in wanted.models},
        {unique_id for unique_id, view in vouched.items() if view in names},
        kept,
    )
    old_views = {view.id: view for view in before.feature_views}
    views = tuple(_view(old_views.get(view.id), view, models, before, wanted) for view in wanted.feature_views)
    known = {one.view: one for one in (*before.same_meanings, *accepted)}
    same = tuple(known[view.id] for view in views if view.id in known and known[view.id].meaning == view.meaning)
    return _replace(wanted, models=tuple(models.values()), feature_views=views, same_meanings=same)


def accept(
    in_force: Registry | None, wanted: Registry, views: Iterable[str], reason: str, now_us: int
) -> tuple[SameMeaning, ...]:
    """That these views of the (settled) `wanted` registry mean what they mean in force.

    Raises UnknownNameError for a view that is not there, RequestError for one whose meaning has not changed.
    """
    old = {view.id: view.meaning for view in in_force.feature_views} if in_force is not None else {}
    found = []
    for name in dict.fromkeys(views):
        view = wanted.feature_view(name)
        if not (meaning := old.get(view.id)) or meaning == view.meaning:
            raise RequestError(
                f"the SQL of {view.id!r} means what it meant" if meaning else f"no SQL of {view.id!r} is in force",
                where="--same-meaning", expected="a view of which `features plan` says that its SQL changed",
                got=name, remedy="leave the view out",
            )  # fmt: skip
        found.append(SameMeaning(view=view.id, meaning=meaning, reason=reason, applied_at_us=now_us))
    return tuple(found)


def _settled(
    old: Mapping[str, Model], new: Mapping[str, Model], accepted: set[str], kept: Kept | None
) -> dict[str, Model]:
    """The models with their meanings, each after those that it reads."""
    done: dict[str, Model] = {}
    before, now = Forms(old, kept=kept), Forms(done, kept=kept)
    for unique_id in _in_order(new):
        model, was = new[unique_id], old.get(unique_id)
        if was is not None and (unique_id in accepted or _is_untouched(was, model, old, done)):
            meaning = was.meaning
        else:
            form = now.of(model)
            meaning = was.meaning if was is not None and before.of(was) == form else form
        done[unique_id] = _replace(model, meaning=meaning)
    return dict(sorted(done.items()))


def _in_order(models: Mapping[str, Model]) -> list[str]:
    """Unique ids, each after those that it reads."""
    order: dict[str, None] = {}
    for start in models:
        waiting = [start]
        while waiting:
            below = [name for name in models[waiting[-1]].reads.values() if name in models and name not in order]
            below = [name for name in below if name not in waiting]
            if below:
                waiting.append(below[0])
            else:
                order[waiting.pop()] = None
    return list(order)


def _is_untouched(was: Model, model: Model, old: Mapping[str, Model], done: Mapping[str, Model]) -> bool:
    """Whether a model and all that it reads are the same, text for text."""
    fields = ("sql", "incremental_sql", "rows", "settings", "reads")
    return all(getattr(was, field) == getattr(model, field) for field in fields) and all(
        _meaning(old.get(name)) == _meaning(done.get(name)) for name in model.reads.values()
    )


def _meaning(model: Model | None) -> str | None:
    return None if model is None else model.meaning


def _view(
    old: FeatureView | None, view: FeatureView, models: Mapping[str, Model], before: Registry, wanted: Registry
) -> FeatureView:
    view = _replace(view, meaning=models[view.unique_id].meaning)
    if (
        old is not None
        and old.meaning == view.meaning
        and _same_columns(old, view)
        and _same_source(view, before, wanted)
        and (stream := _stream(old.stream, view.stream)) is not None
    ):
        order = {feature.name: number for number, feature in enumerate(old.features)}
        features = tuple(sorted(view.features, key=lambda feature: order[feature.name]))
        return _replace(view, features=features, stream=stream or None, fingerprint=old.fingerprint)
    return _replace(view, fingerprint=fingerprint(view))


def _stream(old: StreamPlan | None, new: StreamPlan | None) -> StreamPlan | Literal[False] | None:
    """The plan in force, with what of its arguments is pii now: False where there is none, None where that cannot be
    told because other arguments mean the same."""
    if old is None or new is None:
        return False
    pii = {argument.sql: argument.pii for argument in new.arguments}
    if not any((*pii.values(), *(argument.pii for argument in old.arguments))):
        return old
    if pii.keys() != {argument.sql for argument in old.arguments}:
        return None
    return _replace(old, arguments=tuple(_replace(each, pii=pii[each.sql]) for each in old.arguments))


def _same_columns(old: FeatureView, view: FeatureView) -> bool:
    return _columns(old) == _columns(view) and (old.stream is None) == (view.stream is None)


def _columns(view: FeatureView) -> object:
    types = {feature.name: feature.dtype for feature in view.features}
    return view.id, view.join_keys, view.event_timestamp, view.created_timestamp, types


def _same_source(view: FeatureView, before: Registry, wanted: Registry) -> bool:
    if view.stream is None:
        return True
    old, new = ([_plain(one) for one in side.sources if one.name == view.stream.source] for side in (before, wanted))
    return old == new


def _plain(source: EventSource) -> EventSource:
    """A source whatever is pii of it: that changes no value."""
    return _replace(source, columns=tuple(_replace(column, pii=UNSET) for column in source.columns))
