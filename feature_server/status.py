"""How fresh each feature view is, offline and online, and what is wrong with it.

A view is late when nothing was published or synced for twice the time between its refreshes, whatever its rows say: a
view of rare events may rightly have an old newest event. It is expired when its newest event is older than its ttl.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from .definitions import FeatureView
from .embedded import connect
from .errors import FeatureStoreError
from .offline import OfflineStore, OfflineTable
from .online import OnlineStore
from .online_registry import OnlineRegistry, OnlineView
from .registry import Registry
from .settings import EPOCH, Settings

PERIODS = {"hourly": timedelta(hours=1), "daily": timedelta(days=1), "weekly": timedelta(weeks=1)}
ALLOWED_PERIODS = 2
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
    problems: tuple[str, ...] = ()


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All feature views of the registry as they were `at` an instant; `online_store` says what is wrong with Redis."""

    at: datetime
    views: tuple[ViewStatus, ...]
    online_store: str | None = None

    @property
    def good(self) -> bool:
        return self.online_store is None and not any(view.problems for view in self.views)


def read_status(settings: Settings, registry: Registry) -> Status:
    """The state of every view of `registry` in the offline store and in Redis, which may be out of reach."""
    now, trouble, online = settings.now(), None, None
    try:
        online = _read_online(settings)
    except FeatureStoreError as error:
        trouble = str(error)
    offline = OfflineStore(settings.offline)
    return Status(
        at=now,
        views=tuple(_view_status(view, offline, online, now, trouble is None) for view in registry.feature_views),
        online_store=trouble,
    )


def _read_online(settings: Settings) -> OnlineRegistry | None:
    """None when nothing was ever synced."""
    if settings.redis_url is None and not (settings.home / "valkey").is_dir():
        return None
    with connect(settings) as url, OnlineStore(url, timeout_seconds=ANSWER_SECONDS) as store:
        return store.registry()


def _view_status(
    view: FeatureView, offline: OfflineStore, online: OnlineRegistry | None, now: datetime, reachable: bool
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
    synced = online.views.get(view.id) if online is not None else None
    if synced is not None:
        status = _add_online(status, view, synced)
    elif view.online and table is not None and reachable:
        status = _add(status, problem=f"never synced: run `features sync {view.id}`")
    return _add_age(status, view, now)


def _add_offline(status: ViewStatus, view: FeatureView, table: OfflineTable) -> ViewStatus:
    newest = table.newest_event_us
    published_at = _instant(table.published_at_us)
    status = msgspec.structs.replace(
        status,
        rows=table.rows,
        published_version=table.version,
        published_at=published_at,
        refreshed_at=published_at,
        newest_event=None if newest is None else _instant(newest),
    )
    if table.view().fingerprint != view.fingerprint:
        return _add(status, problem=f"published for an earlier definition: run `features publish {view.id}`")
    return status


def _add_online(status: ViewStatus, view: FeatureView, synced: OnlineView) -> ViewStatus:
    newest, synced_at = synced.newest_event_us, _instant(synced.synced_at_us)
    status = msgspec.structs.replace(
        status,
        online_rows=synced.rows,
        online_newest_event=None if newest is None else _instant(newest),
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


def _add_age(status: ViewStatus, view: FeatureView, now: datetime) -> ViewStatus:
    period = PERIODS.get(view.refresh or "")
    if period is not None and status.refreshed_at is not None and now - status.refreshed_at > period * ALLOWED_PERIODS:
        ago, limit = span((now - status.refreshed_at).total_seconds()), span((period * ALLOWED_PERIODS).total_seconds())
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


def _instant(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


def span(seconds: float) -> str:
    """A length of time in the two largest of its units: `2 h 5 min`, `41 d`."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days >= 3:
        return f"{days} d"
    parts = ((days, "d"), (hours, "h"), (minutes, "min"))
    return " ".join([f"{number} {unit}" for number, unit in parts if number][:2])
