"""Publish all views of a run from one state of the warehouse: those that are fit, of a group all or none."""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path

from ..dbt.build import check_warehouse, read_last_run, read_run
from ..dbt.stale import stale_sources
from ..definitions.facts import FeatureView
from ..definitions.models import Model
from ..definitions.stream import EventSource
from ..errors import FeatureStoreError, NotApplied, NotFit, NotPublished, OfflineStoreError, WarehouseError
from ..meaning.tokens import distrust
from ..offline.store import OfflineStore, PublishedState
from ..offline.together import begin, end, forget_others
from ..settings import Settings
from ..times import to_us
from ..warehouse.relations import Warehouse, open_warehouse
from .built import BuiltBy, BuiltOtherwise
from .groups import Groups, fit_groups, not_together
from .noted import note_failed, note_published
from .run import Progress, Published, look, publish


def publish_all(
    views: Sequence[FeatureView],
    settings: Settings,
    *,
    sources: Sequence[EventSource] = (),
    models: Iterable[Model] = (),
    groups: Groups = (),
    left_out: Sequence[FeatureView] = (),
    held: Sequence[FeatureView] = (),
    waiting: Collection[str] = (),
    wait_seconds: float = 0,
    full: bool = False,
    run_results: Path | None = None,
    report: Callable[[Published], None] = lambda published: None,
    show_progress: Callable[[str], AbstractContextManager[Progress]] = lambda title: nullcontext(
        lambda done, total: None
    ),
) -> tuple[list[Published], dict[str, FeatureStoreError]]:
    """Publish `views` from one state of the warehouse: what was done, and, by view id, what could not be and why.

    `sources` are the event sources of stream views, `models` what views are built from. A view that fails does not keep
    the others from being published, but for those of its group in `groups`, ids of views that are published all of one
    run or not at all. That those `left_out` are not fit, are still `waiting` to be made anew, or are `held` back, is
    noted. One that was built by other SQL than its models' is built anew by the next build. `run_results` is dbt's file
    of the run that built the views, by default of the last in the target folder.

    Waits up to `wait_seconds` for a build that holds the warehouse, then raises WarehouseError.
    """
    _note_apart(settings, left_out, held, waiting)
    published: list[Published] = []
    failed: dict[str, FeatureStoreError] = {}
    otherwise: dict[str, str] = {}  # the last build of each view that is to be made anew
    if not views:  # dbt makes no warehouse for a project without models
        return published, failed
    if not settings.warehouse.is_file():
        check_warehouse(views, settings)  # says where dbt has built instead
    with _opened(settings, sources, wait_seconds) as warehouse:
        check_warehouse(views, settings)
        stale = stale_sources([view for view in views if view.freshness], settings)
        store, built_by = OfflineStore(settings.offline), _built_by(models, settings, run_results)
        kept, fit = _bind(views, groups, settings, lambda view: look(view, warehouse, store, built_by, full))
        for view in views:
            try:
                if view.id in kept:
                    raise kept[view.id]
                with show_progress(view.id) as progress:
                    published.append(publish(view, warehouse, store, built_by=built_by, full=full, progress=progress))
            except (WarehouseError, OfflineStoreError) as error:
                failed[view.id] = error
                _note(view, settings, error=error)
                if isinstance(error, BuiltOtherwise):
                    otherwise[view.unique_id] = error.invocation
            else:
                report(published[-1])
                _note(view, settings, warehouse=warehouse, stale=stale.get(view.id))
        for group in fit:
            if failed.keys().isdisjoint(group):
                end(settings.offline, group)
    if otherwise:
        distrust(settings.definitions_path, otherwise)
    return published, failed


def _opened(
    settings: Settings, sources: Sequence[EventSource], wait_seconds: float
) -> AbstractContextManager[Warehouse]:
    return open_warehouse(
        settings.warehouse,
        wait_seconds=wait_seconds,
        spill=settings.offline / ".spill",
        sources=sources,
        project_dir=settings.project_dir,
        attached=settings.attached,
    )


def _note_apart(
    settings: Settings, left_out: Sequence[FeatureView], held: Sequence[FeatureView], waiting: Collection[str]
) -> None:
    """Note why a run takes in no rows of these views."""
    for view in left_out:
        waits = NotPublished("`features rebuild` has not made it anew yet")
        _note(view, settings, error=waits if view.id in waiting else NotFit("it failed a test or was not built"))
    for view in held:
        _note(view, settings, error=NotApplied("its definition in the project is not the one in force"))


def _built_by(models: Iterable[Model], settings: Settings, run_results: Path | None) -> BuiltBy:
    run = read_run(run_results) if run_results else read_last_run(settings.target_path)
    as_of = run.as_of(settings.project_dir) if run else ""
    return BuiltBy({model.unique_id: model for model in models}, run, as_of, settings.target_path)


def _bind(
    views: Sequence[FeatureView], groups: Groups, settings: Settings, look: Callable[[FeatureView], PublishedState]
) -> tuple[dict[str, FeatureStoreError], list[Sequence[str]]]:
    """Which views are kept back by another of their group, and the groups that are published, which is noted."""
    kept = not_together({view.id: view for view in views}, groups, look)
    fit = fit_groups(groups, (view.id for view in views), kept)
    forget_others(settings.offline, groups)
    for group in fit:
        begin(OfflineStore(settings.offline), group)
    return kept, fit


def _note(
    view: FeatureView,
    settings: Settings,
    *,
    error: FeatureStoreError | None = None,
    warehouse: Warehouse | None = None,
    stale: str | None = None,
) -> None:
    """Keep what a run of a view with a freshness promise came to: why it failed, or of when its rows speak."""
    if not view.freshness:
        return
    if error is not None:
        note_failed(view, settings, error)
    elif warehouse is not None:
        note_published(view, settings, as_of_us=_spoke_of(view, warehouse, settings), stale=stale)


def _spoke_of(view: FeatureView, warehouse: Warehouse, settings: Settings) -> int | None:
    """The instant that the rows of a view speak of: its last build's; of events, which come as they land, the present.

    None where there is no build log.
    """
    if view.stream is not None:
        return settings.now_us()
    builds = warehouse.builds(view)
    as_of = builds[-1].as_of if builds else None
    return None if as_of is None else to_us(datetime.fromisoformat(as_of))
