"""Rows written straight into Valkey, as docs/redis_layout.md describes them: what serving is tested against.

Nothing of `sync` is used, so that the two are checked against the document and not against each other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import redis

from feature_server.definitions.facts import (
    Entity,
    Feature,
    FeatureRef,
    FeatureService,
    FeatureView,
    JoinKey,
    parse_duration,
)
from feature_server.definitions.registry import Registry
from feature_server.dtypes import parse_dtype
from feature_server.layout.keys import EPOCH, REGISTRY, key_encoder, row_key
from feature_server.online.registry import OnlineRegistry, OnlineView
from feature_server.times import to_us
from tests.support.packed import RowCodec

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def view(
    name: str,
    keys: Mapping[str, str],
    features: Mapping[str, str],
    *,
    ttl: str | None = None,
    version: str | None = None,
    latest: bool = True,
    online: bool = True,
) -> FeatureView:
    """A feature view with join keys and features given as name → type."""
    return FeatureView(
        name=name,
        version=version,
        latest=latest,
        entities=(name.split("__")[0],),
        join_keys=tuple(JoinKey(key, parse_dtype(dtype)) for key, dtype in keys.items()),
        ttl_us=None if ttl is None else parse_duration(ttl),
        online=online,
        features=tuple(Feature(name=feature, dtype=parse_dtype(dtype)) for feature, dtype in features.items()),
        description=f"What is known of {name}.",
    )


def service(name: str, *features: str) -> FeatureService:
    refs = tuple(FeatureRef(*text.split(":"), text) for text in features)
    return FeatureService(name=name, features=refs)


class OnlineRows:
    """Writes definitions and rows into a Valkey server; each `define` is a new epoch."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)
        self.codes: dict[str, str] = {}
        self.views: dict[str, FeatureView] = {}

    def define(
        self, *views: FeatureView, services: Sequence[FeatureService] = (), unsynced: Sequence[FeatureView] = ()
    ) -> None:
        """Put these definitions in force; a view whose definition is new gets a new row key code."""
        for definition in views:
            if self.views.get(definition.id) != definition:
                self.codes[definition.id] = f"c{self.redis.incr('features:next_code')}"
            self.views[definition.id] = definition
        entities = {
            definition.entities[0]: Entity(name=definition.entities[0], join_keys=definition.join_keys)
            for definition in (*views, *unsynced)
        }
        online = OnlineRegistry(
            registry=Registry(
                project="test",
                entities=tuple(entities.values()),
                feature_views=tuple(sorted((*views, *unsynced), key=lambda definition: definition.id)),
                feature_services=tuple(services),
            ),
            views={
                definition.id: OnlineView(
                    code=self.codes[definition.id],
                    definition=definition,
                    table_version=1,
                    synced_at_us=to_us(NOW),
                    rows=1,
                    newest_event_us=to_us(NOW),
                )
                for definition in views
            },
        )
        with self.redis.pipeline() as pipeline:
            pipeline.set(REGISTRY, msgspec.json.encode(online))
            pipeline.set(EPOCH, time.time_ns())  # never one that an emptied server has had before
            pipeline.execute()

    def put(self, view_id: str, key: Any, event_timestamp: datetime, *values: Any) -> None:
        """One row; `key` is the join key's value, or a tuple of them."""
        definition = self.views[view_id]
        parts = key if isinstance(key, tuple) else (key,)
        texts = [key_encoder(key)(part) for key, part in zip(definition.join_keys, parts, strict=True)]
        packed = RowCodec(definition.features).encode(to_us(event_timestamp), values)
        self.redis.set(row_key(self.codes[view_id].encode(), [text or "" for text in texts]), packed)
