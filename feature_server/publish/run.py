"""Bring a view's offline table up to date with its dbt relation, at a cost that grows with what changed.

The relation's rows are fingerprinted a bucket of event time at a time (only those buckets that can have changed, where
the build log says so) and compared with the fingerprints of the table's files. A bucket that only gained rows gets a
file with those; any other changed bucket is written anew; one commit swaps them all in. Until then no reader sees
anything of it, so a run that dies leaves the previous version in force and the next run starts over.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import msgspec

from ..dbt.build import check_warehouse
from ..definitions.facts import FeatureView, event_view
from ..definitions.stream import EventSource
from ..errors import FeatureStoreError, OfflineStoreError, WarehouseError
from ..offline.commit import CommitConflict, commit
from ..offline.files import keep, new_file
from ..offline.store import OfflineStore
from ..settings import Settings
from ..warehouse.relations import Warehouse, open_warehouse
from .compare import Plan, make_plan

Progress = Callable[[int, int], None]  # files written, files to write
BUCKET_ROWS = 2_000_000  # a bucket holds at most about this many rows: what one late row costs to rewrite


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What one `publish` did; `committed` is false when the table equalled the relation already."""

    view: str
    version: int
    rows: int
    changed_buckets: int
    rows_written: int
    rows_compared: int
    committed: bool
    seconds: float

    def __str__(self) -> str:
        return (
            f"published {self.view} version={self.version} rows={self.rows} changed_buckets={self.changed_buckets} "
            f"rows_written={self.rows_written} seconds={self.seconds:.2f}"
        )


@contextmanager
def no_progress(title: str) -> Iterator[Progress]:
    """Progress that is not shown."""
    yield lambda done, total: None


def publish_all(
    views: Sequence[FeatureView],
    settings: Settings,
    *,
    sources: Sequence[EventSource] = (),
    wait_seconds: float = 0,
    full: bool = False,
    report: Callable[[Published], None] = lambda published: None,
    show_progress: Callable[[str], AbstractContextManager[Progress]] = no_progress,
) -> tuple[list[Published], dict[str, FeatureStoreError]]:
    """Publish `views` from one state of the warehouse: what was done, and, by view id, what could not be and why.

    `sources` are the event sources of stream views. A view that fails does not keep the others from being published.
    Waits up to `wait_seconds` for a build that holds the warehouse, then raises WarehouseError.
    """
    published: list[Published] = []
    failed: dict[str, FeatureStoreError] = {}
    store = OfflineStore(settings.offline)
    if not views:  # dbt makes no warehouse for a project without models
        return published, failed
    if not settings.warehouse.is_file():
        check_warehouse(views, settings)  # says where dbt has built instead
    with open_warehouse(
        settings.warehouse,
        wait_seconds=wait_seconds,
        spill=settings.offline / ".spill",
        sources=sources,
        project_dir=settings.project_dir,
    ) as warehouse:
        check_warehouse(views, settings)
        for view in views:
            try:
                with show_progress(view.id) as progress:
                    published.append(publish(view, warehouse, store, full=full, progress=progress))
            except (WarehouseError, OfflineStoreError) as error:
                failed[view.id] = error
            else:
                report(published[-1])
    return published, failed


def publish(
    view: FeatureView,
    warehouse: Warehouse,
    store: OfflineStore,
    *,
    full: bool = False,
    bucket_rows: int = BUCKET_ROWS,
    progress: Progress = lambda done, total: None,
) -> Published:
    """Commit what differs between `view`'s relation and its offline table; nothing when nothing does.

    Of a stream view it is the events that are published.
    `full` compares all rows whatever the build log says. Raises WarehouseError for a relation that is missing, differs
    from its definition, or has rows without a key or event time; CommitConflict when another process keeps publishing.
    """
    started = time.monotonic()
    try:
        plan, committed = _commit_changes(view, warehouse, store, full, bucket_rows, progress)
    except CommitConflict:
        plan, committed = _commit_changes(view, warehouse, store, full, bucket_rows, progress)
    table = store.table(view.id)
    return Published(
        view=view.id,
        version=table.version,
        rows=table.rows,
        changed_buckets=plan.changed_buckets,
        rows_written=sum(write.extent.fingerprint.rows for write in plan.writes),
        rows_compared=plan.rows_compared,
        committed=committed,
        seconds=time.monotonic() - started,
    )


def _commit_changes(
    view: FeatureView, warehouse: Warehouse, store: OfflineStore, full: bool, bucket_rows: int, progress: Progress
) -> tuple[Plan, bool]:
    """What was planned, and whether there was anything to commit."""
    rows, path = event_view(view), store.path(view.id)
    base = store.table(view.id) if store.exists(view.id) else None
    plan = make_plan(rows, warehouse, base, full=full, bucket_rows=bucket_rows)
    if base is not None and not plan.replace and not plan.changed_buckets:
        return plan, False
    files = [new_file(path, write.bucket, write.extent) for write in plan.writes]
    progress(0, len(files))
    written = warehouse.write(rows, plan.writes, [file.path for file in files])
    for done, (file, count) in enumerate(zip(files, written, strict=True), 1):
        keep(file, count, view_id=view.id)
        progress(done, len(files))
    state = msgspec.structs.replace(plan.state, features=view.features if view.stream is not None else ())
    commit(path, state, base=base, added=files, removed=plan.removed, replace=plan.replace)
    return plan, True
