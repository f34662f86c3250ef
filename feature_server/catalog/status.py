"""How fresh each feature view is, offline and online, what waits in each event source, and what is wrong with them.

A view is late when nothing was published or synced for twice the time between its refreshes, whatever its rows say: a
view of rare events may rightly have an old newest event. It is expired when its newest event is older than its ttl. It
differs when its last `features verify` found keys whose values no sync to come would make equal. It is evicted when
Redis has evicted keys since its last full sync: rows online are counted as they were written.
"""

from datetime import datetime
from typing import Any

import msgspec

from ..dbt.stale import stale_sources
from ..definitions.facts import FeatureView
from ..definitions.registry import Registry
from ..errors import FeatureStoreError
from ..offline.damage import absent
from ..offline.store import OfflineStore
from ..online.embedded import connect
from ..online.memory import doubt, eviction_refused, look_at, noted, stream_views
from ..online.registry import LastVerified, OnlineRegistry, OnlineView, registry_evicted
from ..online.store import OnlineStore, once_more
from ..publish.noted import read_noted
from ..settings import Settings
from ..times import from_us, to_us
from .freshness import Chain, Kept, judge
from .lateness import allowed_delay, span
from .sources import SourceStatus, source_status

ANSWER_SECONDS = 5.0


class ViewStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One feature view. What was never published or synced is None; `problems` is empty when all is well.

    `refreshed_at` is the later of `published_at` and `synced_at`: a publish that finds no change makes no version, but
    every sync counts. `age_seconds` is how long before `Status.at` the newest event was. `freshness` is how its promise
    stands, if it has one: one that warns is no problem.
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
    freshness: Kept | None = None
    verified_at: datetime | None = None
    verified_keys: int | None = None
    unexplained_keys: int | None = None
    problems: tuple[str, ...] = ()


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All feature views and event sources of the registry as they were `at` an instant.

    `online_store` says what is wrong with Redis; there is then nothing to say of event sources. `notice` says what to
    do though all is well.
    """

    at: datetime
    views: tuple[ViewStatus, ...]
    sources: tuple[SourceStatus, ...] = ()
    online_store: str | None = None
    notice: str | None = None

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
        trouble = online.gone
    except FeatureStoreError as error:
        trouble = str(error)
    offline = OfflineStore(settings.offline)
    views = [_view_status(view, offline, online, now, trouble is None) for view in registry.feature_views]
    published = {view.view: view.newest_event for view in views}
    sources = tuple(source.with_published(published) for source in sources)
    return Status(
        at=now,
        views=_with_promises(views, registry, sources, settings, now, online.registry, trouble is None),
        sources=sources,
        online_store=trouble,
        notice=online.registry.notice if online.registry is not None else None,
    )


class _Online(msgspec.Struct, frozen=True):
    """What Redis says of the views; no registry when nothing was ever synced."""

    registry: OnlineRegistry | None = None
    verified: dict[str, LastVerified] = {}
    evicts: str | None = None  # what is wrong with Redis for stream views
    gone: str | None = None  # what is wrong where the registry was evicted


def _read_online(settings: Settings, registry: Registry) -> tuple[_Online, tuple[SourceStatus, ...]]:
    views, project_dir = registry.feature_views, settings.project_dir
    if settings.redis_url is None and not (settings.home / "valkey").is_dir():
        return _Online(), tuple(source_status(source, views, None, project_dir) for source in registry.sources)
    with connect(settings) as url, OnlineStore(url, timeout_seconds=ANSWER_SECONDS) as store:
        return once_more(lambda: _read_open(settings, registry, url, store))


def _read_open(
    settings: Settings, registry: Registry, url: str, store: OnlineStore
) -> tuple[_Online, tuple[SourceStatus, ...]]:
    views, project_dir = registry.feature_views, settings.project_dir
    found, memory = store.registry(), look_at(url)
    gone = registry_evicted(memory.evicted) if found is None and memory.evicted and memory.evicted.keys else None
    found = None if found is None else noted(found, memory.evicted)
    refused = eviction_refused(memory, stream_views(registry), allowed=settings.allow_eviction)
    online = _Online(
        found,
        store.verified([view.id for view in views]),
        None if refused is None else str(refused),
        None if gone is None else str(gone),
    )
    return online, tuple(source_status(source, views, store, project_dir, found) for source in registry.sources)


def _view_status(
    view: FeatureView, offline: OfflineStore, online: _Online, now: datetime, reachable: bool
) -> ViewStatus:
    problems: list[str] = []
    published, synced, verified = dict[str, Any](), dict[str, Any](), dict[str, Any]()
    try:
        published = _published(view, offline, problems)
    except FeatureStoreError as error:
        problems.append(str(error))
    if online.registry is not None and (found := online.registry.synced(view.id)) is not None:
        synced = _synced(view, found, published.get("published_version"), problems)
        if online.registry.is_doubtful(view.id):
            problems.append(doubt(online.registry, view.id))
    elif view.online and published and reachable:
        problems.append(f"never synced: run `features sync {view.id}`")
    if view.online and view.stream is not None and online.evicts is not None:
        problems.append(f"may be evicted: {online.evicts}")
    refreshes = [at for at in (published.get("published_at"), synced.get("synced_at")) if at is not None]
    refreshed_at, newest = max(refreshes, default=None), published.get("newest_event")
    age = None if newest is None else (now - newest).total_seconds()
    allowed = allowed_delay(view.refresh)
    if not view.freshness and allowed is not None and refreshed_at is not None and now - refreshed_at > allowed:
        ago, limit = span((now - refreshed_at).total_seconds()), span(allowed.total_seconds())
        problems.append(f"late: refreshed {ago} ago, {view.refresh} allows {limit}; look at its DAG's last run")
    if age is not None and view.ttl_us is not None and age > view.ttl_us / 1e6:
        problems.append(f"expired: its newest event is {span(age)} old, the ttl is {view.ttl}; look at its sources")
    if (last := online.verified.get(view.id)) is not None:
        verified = _verified(view, last, problems)
    return ViewStatus(
        view=view.id,
        entities=view.entities,
        refresh=view.refresh,
        online=view.online,
        age_seconds=age,
        refreshed_at=refreshed_at,
        problems=tuple(problems),
        **published,
        **synced,
        **verified,
    )


def _with_promises(
    states: list[ViewStatus],
    registry: Registry,
    sources: tuple[SourceStatus, ...],
    settings: Settings,
    now: datetime,
    online: OnlineRegistry | None,
    reachable: bool,
) -> tuple[ViewStatus, ...]:
    """The states with how promises stand; a broken one is a problem."""
    views = {view.id: view for view in registry.feature_views}
    stale = stale_sources([view for view in views.values() if view.freshness], settings)
    live = {source.source: source for source in sources}
    synced = {} if online is None else {view_id: entry.good_us for view_id, entry in online.views.items()}
    return tuple(
        state
        if not view.freshness
        else _promised(state, view, live, stale.get(view.id), settings, now, reachable, synced.get(view.id))
        for state in states
        for view in (views[state.view],)
    )


def _promised(
    state: ViewStatus,
    view: FeatureView,
    live: dict[str, SourceStatus],
    stale: str | None,
    settings: Settings,
    now: datetime,
    reachable: bool,
    synced_run_us: int | None,
) -> ViewStatus:
    source = live.get(view.stream.source) if view.stream is not None else None
    online, now_us = view.online and reachable, to_us(now)
    newest = [state.online_newest_event if online else state.newest_event]
    if online and source is not None:
        newest.append(source.newest_event)  # pushes are read at once
    waited = None if source is None else source.oldest_seconds
    chain = Chain(
        now_us=now_us,
        newest_us=max((to_us(moment) for moment in newest if moment is not None), default=None),
        noted=read_noted(view.id, settings),
        online=online,
        synced_run_us=synced_run_us,
        waiting_us=None if waited is None else now_us - round(waited * 1e6),
        stale=stale,
    )
    assert view.freshness
    kept = judge(view, view.freshness, chain, settings)
    late = (f"late: {kept}",) if kept.state == "error" else ()
    return msgspec.structs.replace(state, freshness=kept, problems=(*state.problems, *late))


def _published(view: FeatureView, offline: OfflineStore, problems: list[str]) -> dict[str, Any]:
    """What the offline table says of a view, and what is wrong with it; nothing of one never published."""
    if not offline.exists(view.id):
        problems.append(f"never published: run `features publish {view.id}`")
        return {}
    table = offline.table(view.id)
    found = {
        "rows": table.rows,
        "published_version": table.version,
        "published_at": from_us(table.published_at_us),
        "newest_event": None if table.newest_event_us is None else from_us(table.newest_event_us),
    }
    if table.view().fingerprint != view.fingerprint:
        problems.append(f"published for an earlier definition: run `features publish {view.id}`")
    if damaged := list(absent(table)):
        problems.append(
            f"damaged: {damaged[0]} ({len(damaged)} of {len(table.files())} files); "
            f"run `features publish --full {view.id}`"
        )
    return found


def _synced(
    view: FeatureView, synced: OnlineView, published_version: int | None, problems: list[str]
) -> dict[str, Any]:
    """What Redis says of a view, and what is wrong with it."""
    if not view.online:
        problems.append("still online: its definition says it should not be; run `features sync`")
    elif synced.definition.fingerprint != view.fingerprint:
        problems.append(f"online with an earlier definition: run `features sync {view.id}`")
    if view.online and published_version is not None and synced.table_version < published_version:
        behind = f"behind: version {synced.table_version} is online, {published_version} is published"
        problems.append(f"{behind}; run `features sync {view.id}`")
    return {
        "online_rows": synced.rows,
        "online_newest_event": None if synced.newest_event_us is None else from_us(synced.newest_event_us),
        "synced_version": synced.table_version,
        "synced_at": from_us(synced.synced_at_us),
    }


def _verified(view: FeatureView, last: LastVerified, problems: list[str]) -> dict[str, Any]:
    """What `features verify` found of a view."""
    at = from_us(last.instant_us)
    if last.unexplained:
        problems.append(
            f"differs: {last.unexplained:,} of {last.keys:,} keys compared at {at:%Y-%m-%d %H:%M} UTC have values that "
            f"training would not see; run `features verify {view.id}`, then `features sync --full {view.id}`"
        )
    return {"verified_at": at, "verified_keys": last.keys, "unexplained_keys": last.unexplained}
