"""Stream views online: where the events of each are kept, said in the online registry before the first is written."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .online import OnlineStore
from .online_registry import OnlineRegistry, OnlineView, with_views
from .registry import Registry
from .stream_records import same_records


def put_streams_online(store: OnlineStore, registry: Registry, views: Sequence[str], *, now_us: int) -> OnlineRegistry:
    """Give each of these stream views a code, or a new one where its records are laid out anew."""
    codes: dict[str, str] = {}

    def change(now: OnlineRegistry | None) -> OnlineRegistry:
        online = dict(now.views) if now else {}
        for view_id in views:
            view, live = registry.feature_view(view_id), online.get(view_id)
            if live is not None and same_records(live.definition, view):
                online[view_id] = msgspec.structs.replace(live, definition=view)
                continue
            code = codes.get(view_id) or codes.setdefault(view_id, store.new_code())
            online[view_id] = OnlineView(code=code, definition=view, table_version=0, synced_at_us=now_us, rows=0)
        return with_views(now, registry, online)

    return store.publish(change)
