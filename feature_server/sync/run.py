"""Offline → online: the latest row of each key at an instant, only what changed. `sync.view` has the rules."""

from collections.abc import Callable, Sequence

import msgspec

from ..definitions.registry import Registry
from ..errors import FeatureStoreError, OnlineStoreError, RequestError
from ..offline.store import OfflineStore
from ..online.registry import with_views
from ..online.store import OnlineStore
from .session import Progress, Session, SyncOptions, fenced
from .view import SyncResult, ViewSync, grace_us

__all__ = ["SyncOptions", "SyncReport", "SyncResult", "grace_us", "sync"]


class SyncReport(msgspec.Struct, frozen=True, kw_only=True):
    """Results of views that were synced, errors of those that were not."""

    results: tuple[SyncResult, ...]
    failures: dict[str, FeatureStoreError]


def sync(
    online: OnlineStore,
    offline: OfflineStore,
    registry: Registry,
    *,
    views: Sequence[str] | None = None,
    refresh: str | None = None,
    now_us: Callable[[], int],
    options: SyncOptions = SyncOptions(),  # noqa: B008 - frozen
    progress: Callable[[str], Progress] = lambda view_id: lambda done, total: None,
    report: Callable[[SyncResult], None] = lambda result: None,
) -> SyncReport:
    """Sync views, then publish the definitions.

    By default all views that are online, or those of one cadence, and those that no longer are online are taken away.
    `now_us` is asked once the lock of a view is held. A view that fails does not keep the others from being synced.
    """
    found = online.registry()
    if found is not None and found.registry.project != registry.project:
        raise OnlineStoreError(
            f"this Redis holds the features of project {found.registry.project!r}",
            expected=f"an empty one, or that of {registry.project!r}",
            remedy="use another Redis or database number in FEATURES_REDIS_URL",
        )
    known = {view.id for view in registry.feature_views if view.online}
    gone = set(found.views if found else ()) | {generation.view for generation in online.generations().values()}
    gone -= known
    if views is None:
        chosen = [view.id for view in registry.feature_views if view.online and refresh in (None, view.refresh)]
        chosen += sorted(gone)
    else:
        chosen = _named(registry, views, gone)
    results: list[SyncResult] = []
    failures: dict[str, FeatureStoreError] = {}
    for view_id in chosen:
        try:
            with fenced(
                online, view_id, lease_seconds=options.lease_seconds, wait_seconds=options.wait_seconds
            ) as fence:
                run = ViewSync(Session(online, offline, registry, fence, options, progress(view_id)))
                results.append(run.sync(now_us) if view_id in known else run.remove())
                if view_id not in known:
                    online.forget_verified(view_id)
            report(results[-1])
            if results[-1].leftover:
                failures[view_id] = _leftover(results[-1])
        except FeatureStoreError as error:
            failures[view_id] = error
    online.publish(lambda now: with_views(now, registry, now.views if now else {}))
    return SyncReport(results=tuple(results), failures=failures)


def _leftover(result: SyncResult) -> OnlineStoreError:
    return OnlineStoreError(
        "rows that nobody reads any more cannot be listed, because the offline table that lists them is gone",
        where=result.view,
        got=f"row keys that begin with {' or '.join(code + '{' for code in result.leftover)}",
        remedy="run `features sync --sweep`, which looks at every key in Redis to find and delete them",
    )


def _named(registry: Registry, views: Sequence[str], gone: set[str]) -> list[str]:
    chosen = []
    for name in views:
        view_id = name if name in gone else registry.feature_view(name).id
        if view_id not in gone and not registry.feature_view(view_id).online:
            raise RequestError(
                f"feature view {view_id!r} is not online",
                where=registry.feature_view(view_id).path or None,
                remedy="set `online: true` in its meta, then run `features apply`",
            )
        if view_id not in chosen:
            chosen.append(view_id)
    return chosen
