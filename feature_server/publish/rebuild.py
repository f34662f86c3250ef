"""Incremental views whose definition in force is not the one published: made anew beside the warehouse.

DuckDB has one writer, and a view may take hours to make anew. So it is made in a copy of the file, for as long as it
takes, while other builds go on in the file itself; then its relation is moved there. The three steps are taken by
processes of their own, and what they agree on stands in a file beside it.
"""

import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ..dbt.artifacts import read_manifest
from ..dbt.build import keep_run, kept_run
from ..dbt.elsewhere import build_elsewhere
from ..definitions.bound import bound_views
from ..definitions.facts import FeatureView
from ..definitions.models import Model
from ..definitions.registry import Registry
from ..durable import make_private, write_whole
from ..errors import UNREADABLE, OfflineStoreError, WarehouseError
from ..offline.store import OfflineStore
from ..project.target import database_name
from ..settings import Settings
from ..warehouse.file import name_parts
from ..warehouse.moved import copied, move
from ..warehouse.relations import open_warehouse
from .built import models_of

_MOVED = ("table", "incremental")  # materialized so, a model is a table of its own


class Rebuild(msgspec.Struct, frozen=True, kw_only=True):
    """What is made anew, at which instant: views by id, those that are published with them too, each with its
    fingerprint; of the models, by unique id, the ones that are moved. `invocation` is the build that made them.
    """

    views: dict[str, str]
    models: tuple[str, ...]
    as_of: str
    invocation: str = ""


def waiting_views(registry: Registry, settings: Settings) -> dict[str, tuple[str, ...]]:
    """By id the views that are to be made anew apart, each with the incremental models under it that are.

    Such a view was published by another definition than is in force, and it or a changed model under it is incremental.
    """
    found = dict(_waiting(registry, settings))
    groups = [group for group in bound_views(registry.feature_views, registry.feature_services) if {*group} & {*found}]
    if not groups:
        return found
    nodes = read_manifest(settings.target_path).nodes
    kinds = {view.id: nodes[view.unique_id].config.get("materialized") for view in registry.feature_views
             if view.unique_id in nodes}  # fmt: skip
    bad = {name for group in groups if not all(kinds.get(name) in _MOVED for name in group) for name in group}
    return {name: models for name, models in found.items() if name not in bad}


def _waiting(registry: Registry, settings: Settings) -> Iterator[tuple[str, tuple[str, ...]]]:
    store, models = OfflineStore(settings.offline), {model.unique_id: model for model in registry.models}
    database = database_name(settings.warehouse).lower()
    for view in registry.feature_views:
        read = models_of(view, models)
        if view.stream is not None or not all(_is_in(database, model) for model in read):
            continue
        with suppress(OfflineStoreError):  # never published, or damaged: the next publish says so
            state = store.table(view.id).state
            if state.view.fingerprint != view.fingerprint and (
                apart := tuple(_changed(view, models, {model.unique_id: model.meaning for model in state.models}))
            ):
                yield view.id, apart


def _is_in(database: str, model: Model) -> bool:
    """Whether building it writes in this database: it is this one alone that is copied."""
    parts = name_parts(model)
    return len(parts) < 3 or parts[0].lower() == database


def _changed(view: FeatureView, models: dict[str, Model], published: dict[str, str]) -> Iterator[str]:
    for model in models_of(view, models):
        own, before = model.unique_id == view.unique_id, published.get(model.unique_id, model.meaning)
        if model.settings.get("materialized") == "incremental" and (own or before != model.meaning):
            yield model.unique_id


def begin(registry: Registry, settings: Settings, chosen: Collection[str], *, wait_seconds: float) -> Rebuild | None:
    """Have a copy of the warehouse, and say what of the `chosen` views is to be made anew in it; None where nothing is.

    The instant is that of which the last build of the views spoke: their builds go on from there. Of views whose
    builds spoke of others the first are taken, with all that they are published with.
    """
    waiting = {name: models for name, models in waiting_views(registry, settings).items() if name in chosen}
    if not waiting:
        return None
    folder = _folder(settings)
    shutil.rmtree(folder, ignore_errors=True)
    make_private(folder)
    copied(settings.warehouse, _file(settings), wait_seconds=wait_seconds)
    groups = bound_views(registry.feature_views, registry.feature_services)
    units = dict.fromkeys(next((group for group in groups if name in group), (name,)) for name in waiting)
    instants = _instants(registry, settings, list(units))
    as_of = instants[0]
    names = sorted({name for unit, at in zip(units, instants, strict=True) if at == as_of for name in unit})
    views = [registry.feature_view(name) for name in names]
    models = {model for name in names for model in waiting.get(name, ())} | {view.unique_id for view in views}
    rebuild = Rebuild(
        views={view.id: view.fingerprint for view in views}, models=tuple(sorted(models)), as_of=as_of
    )  # fmt: skip
    _write(settings, rebuild)
    return rebuild


def build(registry: Registry, settings: Settings) -> Rebuild:
    """Make what `begin` said; holds nothing that another build waits for. NotFit where a test fails."""
    rebuild = _read(settings)
    views = [registry.feature_view(name) for name in rebuild.views]
    names = [view.name if view.version is None else f"{view.name}.v{view.version}" for view in views]
    last = build_elsewhere(settings, _file(settings), _folder(settings), names, rebuild.as_of)
    rebuild = msgspec.structs.replace(rebuild, invocation=last.metadata.invocation_id)
    _write(settings, rebuild)
    return rebuild


def put(registry: Registry, settings: Settings, *, wait_seconds: float) -> Rebuild:
    """Move what was made into the warehouse, from where it is published, and remove the other file."""
    rebuild = _read(settings)
    if not rebuild.invocation:
        raise _nothing(settings, "nothing was built")
    for name, definition in rebuild.views.items():
        if all((view.id, view.fingerprint) != (name, definition) for view in registry.feature_views):
            raise _nothing(settings, f"{name} by a definition that is not in force any more")
    _check_wanted(registry, settings, rebuild, wait_seconds)
    models = [model for model in registry.models if model.unique_id in rebuild.models]
    move(
        settings.warehouse, _file(settings), models, invocation=rebuild.invocation, wait_seconds=wait_seconds
    )  # fmt: skip
    keep_run(_folder(settings) / "target" / "run_results.json", rebuilt_by(settings))
    shutil.rmtree(_folder(settings))
    return rebuild


def rebuilt_by(settings: Settings) -> Path:
    """dbt's results of the last build whose relations were put into the warehouse."""
    return kept_run(settings.target_path, "rebuild")


def _check_wanted(registry: Registry, settings: Settings, rebuild: Rebuild, wait_seconds: float) -> None:
    """WarehouseError where what was made is older than what the warehouse has of the views."""
    made = datetime.fromisoformat(rebuild.as_of)
    with open_warehouse(settings.warehouse, wait_seconds=wait_seconds) as warehouse:
        for name in rebuild.views:
            builds = warehouse.builds(registry.feature_view(name))
            if builds and builds[-1].as_of and datetime.fromisoformat(builds[-1].as_of) > made:
                raise _nothing(settings, f"{name} of {rebuild.as_of}, and a build of {builds[-1].as_of} since")


def _instants(registry: Registry, settings: Settings, units: Sequence[Sequence[str]]) -> list[str]:
    """Of each unit the latest instant that a build of its views spoke of; the present where there is no build log."""
    found = []
    with open_warehouse(_file(settings)) as warehouse:
        for unit in units:
            builds = [warehouse.builds(registry.feature_view(name)) for name in unit]
            known = [datetime.fromisoformat(log[-1].as_of) for log in builds if log and log[-1].as_of]
            found.append(max(known, default=settings.now()).astimezone(UTC).isoformat().replace("+00:00", "Z"))
    return found


def _folder(settings: Settings) -> Path:
    """Beside the warehouse, on the machine and the disk that have room for it."""
    return settings.warehouse.with_name(f".{settings.warehouse.name}.rebuild")


def _file(settings: Settings) -> Path:
    """A copy of the warehouse: of the same name, for the name of a DuckDB file is that of its database."""
    return _folder(settings) / settings.warehouse.name


def _write(settings: Settings, rebuild: Rebuild) -> None:
    write_whole(_folder(settings) / "rebuild.json", lambda file: file.write(msgspec.json.encode(rebuild)))


def _read(settings: Settings) -> Rebuild:
    try:
        return msgspec.json.decode((_folder(settings) / "rebuild.json").read_bytes(), type=Rebuild)
    except (OSError, *UNREADABLE) as error:
        raise _nothing(settings, str(error)) from None


def _nothing(settings: Settings, got: str) -> WarehouseError:
    return WarehouseError(
        "there is nothing that was made anew",
        where=str(_folder(settings)), expected="its steps one after the other", got=got,
        remedy="run `features rebuild` from its first step",
    )  # fmt: skip
