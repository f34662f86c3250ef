"""How the freshness promises of views that are online stand, at the moment of a scrape or of a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..catalog.promise import Standing, stands
from ..definitions.facts import FeatureView
from ..history.live import LiveSource
from ..online.registry import OnlineRegistry
from ..times import to_us

if TYPE_CHECKING:
    from ..online.store import OnlineStore

Standings = Mapping[str, Standing]


def promised(online: OnlineRegistry) -> list[FeatureView]:
    """The views of which this server can tell whether they keep their promise: it sees no offline store."""
    return [view for view in online.registry.feature_views if view.freshness and view.online]


def read_pushed(store: OnlineStore, online: OnlineRegistry) -> dict[str, int]:
    """The newest event of the last push that waits of each source under a promise; none where PyArrow is not there."""
    try:
        import pyarrow.compute as pc

        from ..history.log import last_logged
    except ImportError:  # such a server takes no pushes either
        return {}
    names, found = {view.stream.source for view in promised(online) if view.stream is not None}, dict[str, int]()
    for source in online.registry.sources:
        if source.name in names and (table := last_logged(store, source)) is not None:
            newest = pc.max(table[source.event_timestamp]).as_py()
            found |= {} if newest is None else {source.name: to_us(newest)}
    return found


def standings(
    online: OnlineRegistry, live: Iterable[LiveSource], pushed: Mapping[str, int], now_us: int
) -> dict[str, Standing]:
    """By view id; `pushed` is what `read_pushed` read."""
    waits = {source.source: source.oldest_seconds for source in live}
    found = dict[str, Standing]()
    for view in promised(online):
        stored = online.synced(view.id)
        newest = [] if stored is None or stored.newest_event_us is None else [stored.newest_event_us]
        waited = None
        if view.stream is not None:
            waited = waits.get(view.stream.source)
            newest += [pushed[view.stream.source]] if view.stream.source in pushed else []
        assert view.freshness
        found[view.id] = stands(
            view.freshness,
            now_us=now_us,
            newest_us=max(newest, default=None),
            run_us=None if stored is None else stored.good_us,
            waiting_us=None if waited is None else now_us - round(waited * 1e6),
        )
    return found
