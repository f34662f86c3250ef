"""How fresh each feature view is, offline and online, what waits in each event source, and what is wrong with them.

A view is late when nothing was published or synced for twice the time between its refreshes, whatever its rows say: a
view of rare events may rightly have an old newest event. It is expired when its newest event is older than its ttl. It
differs when its last `features verify` found keys whose values no sync to come would make equal.
"""

from datetime import datetime

import msgspec

from ..definitions.facts import FeatureView
from ..definitions.registry import Registry
from ..errors import FeatureStoreError
from ..offline.store import OfflineStore, OfflineTable
from ..online.embedded import connect
from ..online.registry import OnlineRegistry, OnlineView
from ..online.store import OnlineStore
from ..online.verified import LastVerified, read_verified
from ..settings import Settings
from ..times import from_us
from .lateness import allowed_delay, span
from .sources import SourceStatus, source_status

ANSWER_SECONDS = 5.0


class ViewStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One feature view. What was never published or synced is None; `problems` is empty when all is well.

    `refreshed_at` is the later of `published_at` and `synced_at`: a publish that finds no change makes no version, but
    every sync counts. `age_seconds` is how long before `Status.at` the newest event was.
    """

    view: str
    entities: tuple[str, ...]
    refresh: str | None
    rows: int | None = None
    published_version: int | None = None
    published_at: datetime | None = None
    newest_event: datetime | None = None
    age_seconds: float | None = None
    refreshed_at: datetime | None = None
    online: bool
    online_rows: int | None = None
    online_newest_event: datetime | None = None
    synced_version: int | None = None
    synced_at: datetime | None = None
    verified_at: datetime | None = None
    verified_keys: int | None = None
    unexplained_keys: int | None = None
    problems: tuple[str, ...] = ()


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All feature views and event sources of the registry as they were `at` an instant.

    `online_store` says what is wrong with Redis; there is then nothing to say of event sources.
    """

    at: datetime
    views: tuple[ViewStatus, ...]
    sources: tuple[SourceStatus, ...] = ()
    online_store: str | None = None

    @property
    def good(self) -> bool:
        return self.online_store is None and not any(
            [view.problems for view in self.views] + [source.problems for source in self.sources]
        )


def read_status(settings: Settings, registry: Registry) -> Status:
    """The state of every view of `registry` in the offline store and in Redis, which may be out of reach."""
    now, trouble, online, sources = settings.now(), None, _Online(), tuple[SourceStatus, ...]()
    try:
        online, sources = _read_online(settings, registry)
    except FeatureStoreError as error:
        trouble = str(error)
    offline = OfflineStore(settings.offline)
    views = [_view_status(view, offline, online, now, trouble is None) for view in registry.feature_views]
    published = {view.view: view.newest_event for view in views}
    return Status(
        at=now,
        views=tuple(views),
        sources=tuple(source.with_published(published) for source in sources),
        online_store=trouble,
    )


class _Online(msgspec.Struct, frozen=True):
    """What Redis says of the views; no registry when nothing was ever synced."""

    registry: OnlineRegistry | None = None
    verified: dict[str, LastVerified] = {}


def _read_online(settings: Settings, registry: Registry) -> tuple[_Online, tuple[SourceStatus, ...]]:
    views, project_dir = registry.feature_views, settings.project_dir
    if settings.redis_url is None and not (settings.home / "valkey").is_dir():
        return _Online(), tuple(source_status(source, views, None, project_dir) for source in registry.sources)
    with connect(settings) as url, OnlineStore(url, timeout_seconds=ANSWER_SECONDS) as store:
        online = _Online(store.registry(), read_verified(store, [view.id for view in views]))
        return online, tuple(source_status(source, views, store, project_dir) for source in registry.sources)


def _view_status(
    view: FeatureView, offline: OfflineStore, online: _Online, now: datetime, reachable: bool
) -> ViewStatus:
    status = ViewStatus(view=view.id, entities=view.entities, refresh=view.refresh, online=view.online)
    try:
        table = offline.table(view.id) if offline.exists(view.id) else None
        if table is not None:
            status = _add_offline(status, view, table)
        else:
            status = _add(status, problem=f"never published: run `features publish {view.id}`")
    except FeatureStoreError as error:
        table, status = None, _add(status, problem=str(error))
    synced = online.registry.synced(view.id) if online.registry is not None else None
    if synced is not None:
        status = _add_online(status, view, synced)
    elif view.online and table is not None and reachable:
        status = _add(status, problem=f"never synced: run `features sync {view.id}`")
    return _add_verified(_add_age(status, view, now), online.verified.get(view.id))


def _add_offline(status: ViewStatus, view: FeatureView, table: OfflineTable) -> ViewStatus:
    newest = table.newest_event_us
    published_at = from_us(table.published_at_us)
    status = msgspec.structs.replace(
        status,
        rows=table.rows,
        published_version=table.version,
        published_at=published_at,
        refreshed_at=published_at,
        newest_event=None if newest is None else from_us(newest),
    )
    if table.view().fingerprint != view.fingerprint:
        return _add(status, problem=f"published for an earlier definition: run `features publish {view.id}`")
    return status


def _add_online(status: ViewStatus, view: FeatureView, synced: OnlineView) -> ViewStatus:
    newest, synced_at = synced.newest_event_us, from_us(synced.synced_at_us)
    status = msgspec.structs.replace(
        status,
        online_rows=synced.rows,
        online_newest_event=None if newest is None else from_us(newest),
        synced_version=synced.table_version,
        synced_at=synced_at,
        refreshed_at=max(synced_at, status.refreshed_at or synced_at),
    )
    if not view.online:
        return _add(status, problem="still online: its definition says it should not be; run `features sync`")
    if synced.definition.fingerprint != view.fingerprint:
        status = _add(status, problem=f"online with an earlier definition: run `features sync {view.id}`")
    if status.published_version is not None and synced.table_version < status.published_version:
        behind = f"behind: version {synced.table_version} is online, {status.published_version} is published"
        status = _add(status, problem=f"{behind}; run `features sync {view.id}`")
    return status


def _add_verified(status: ViewStatus, last: LastVerified | None) -> ViewStatus:
    if last is None:
        return status
    at = from_us(last.instant_us)
    if last.unexplained:
        problem = (
            f"differs: {last.unexplained:,} of {last.keys:,} keys compared at {at:%Y-%m-%d %H:%M} UTC have values that "
            f"training would not see; run `features verify {status.view}`, then `features sync --full {status.view}`"
        )
        status = _add(status, problem=problem)
    return msgspec.structs.replace(status, verified_at=at, verified_keys=last.keys, unexplained_keys=last.unexplained)


def _add_age(status: ViewStatus, view: FeatureView, now: datetime) -> ViewStatus:
    allowed = allowed_delay(view.refresh)
    if allowed is not None and status.refreshed_at is not None and now - status.refreshed_at > allowed:
        ago, limit = span((now - status.refreshed_at).total_seconds()), span(allowed.total_seconds())
        problem = f"late: refreshed {ago} ago, {view.refresh} allows {limit}; look at its DAG's last run"
        status = _add(status, problem=problem)
    if status.newest_event is None:
        return status
    age = (now - status.newest_event).total_seconds()
    if view.ttl_us is not None and age > view.ttl_us / 1e6:
        problem = f"expired: its newest event is {span(age)} old, the ttl is {view.ttl}; look at its sources"
        status = _add(status, problem=problem)
    return msgspec.structs.replace(status, age_seconds=age)


def _add(status: ViewStatus, *, problem: str) -> ViewStatus:
    return msgspec.structs.replace(status, problems=(*status.problems, problem))
