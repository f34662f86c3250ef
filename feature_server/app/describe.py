"""Definitions as the JSON that the registry pages show, with what is online of them."""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import to_builtins

from ..catalog.promise import Standing
from ..definitions.facts import Entity, Feature, FeatureService, FeatureView, Freshness, JoinKey
from ..online.registry import OnlineRegistry
from ..times import from_us
from .promised import Standings


class Seen(msgspec.Struct, frozen=True):
    """What is online when it is asked for, and how freshness promises stand then, by view id."""

    online: OnlineRegistry
    standings: Standings = {}


def iso(microseconds: int) -> str:
    """Microseconds since 1970 UTC as ISO 8601."""
    return from_us(microseconds).isoformat().replace("+00:00", "Z")


def describe_entity(seen: Seen, entity: Entity) -> dict[str, Any]:
    return {
        "name": entity.name,
        "join_keys": list(map(_column, entity.join_keys)),
        "description": entity.description,
        "feature_views": [view.id for view in seen.online.registry.feature_views if entity.name in view.entities],
    }


def describe_view(seen: Seen, view: FeatureView) -> dict[str, Any]:
    """A view's definition; `online` says what Redis holds of it, null when it has not been synced."""
    online, stored = seen.online, seen.online.synced(view.id)
    state = stored and {
        "rows": stored.rows,
        "newest_event_timestamp": None if stored.newest_event_us is None else iso(stored.newest_event_us),
        "synced_at": iso(stored.synced_at_us),
        "table_version": stored.table_version,
    }
    return {
        "id": view.id,
        "name": view.name,
        "version": view.version,
        "latest": view.latest,
        "entities": list(view.entities),
        "join_keys": list(map(_column, view.join_keys)),
        "stream": None if view.stream is None else view.stream.source,
        "event_timestamp": view.event_timestamp,
        "created_timestamp": view.created_timestamp,
        "ttl": view.ttl,
        "refresh": view.refresh,
        "freshness": _freshness(view.freshness, seen.standings.get(view.id)) if view.freshness else None,
        "deprecation_date": view.deprecation_date or None,
        "fingerprint": view.fingerprint,
        "meaning": view.meaning or None,
        "description": view.description,
        "owner": to_builtins(view.owner),
        "tags": list(view.tags),
        "features": [
            {**_column(feature), "description": feature.description, "tags": list(feature.tags), **_pii(feature)}
            for feature in view.features
        ],
        "feature_services": [service.name for service in online.registry.services_using(view.id)],
        "served": view.online,
        "online": state,
    }


def _freshness(promise: Freshness, standing: Standing | None) -> dict[str, Any]:
    """A promise and how it stands; that is null of a view which is not online, for the server does not know it."""
    state: dict[str, Any] = {"state": None, "age_seconds": None, "last_good_run": None}
    if standing is not None:
        state = {
            "state": standing.state,
            "age_seconds": None if standing.age_us is None else standing.age_us / 1e6,
            "last_good_run": None if standing.good_us is None else iso(standing.good_us),
        }
    limits = {"warn_seconds": promise.warn_us, "error_seconds": promise.error_us}
    return {"promise": str(promise)} | state | {name: None if us is None else us / 1e6 for name, us in limits.items()}


def describe_service(seen: Seen, service: FeatureService) -> dict[str, Any]:
    """A service's features, in its order, each with what its view says of it."""
    views = {view.id: view for view in seen.online.registry.feature_views}
    known = {(view.id, feature.name): feature for view in views.values() for feature in view.features}
    join_keys = {key.name: key for ref in service.features for key in views[ref.view].join_keys}
    features = [(ref, known[ref.view, ref.feature]) for ref in service.features]
    return {
        "name": service.name,
        "description": service.description,
        "owner": to_builtins(service.owner),
        "tags": list(service.tags),
        "consistent": service.consistent or None,
        "join_keys": list(map(_column, join_keys.values())),
        "features": [
            {
                "feature": ref.text,
                "feature_view": ref.view,
                **_column(found),
                "description": found.description,
                **_pii(found),
            }
            for ref, found in features
        ],
    }


def service_request(service: dict[str, Any]) -> dict[str, Any]:
    """A request for a service as `describe_service` gives it."""
    return {"feature_service": service["name"], "entities": _example_entities(service["join_keys"])}


def view_request(view: dict[str, Any], *, most: int) -> dict[str, Any]:
    """A request for the first features of a view as `describe_view` gives it, `most` of them."""
    features = [f"{view['id']}:{feature['name']}" for feature in view["features"][:most]]
    return {"features": features, "entities": _example_entities(view["join_keys"])}


def example_request(online: OnlineRegistry | None) -> dict[str, Any]:
    """A request that the definitions in force can answer; without any, one for a service named fraud_v1."""
    if online and online.registry.feature_services:
        return service_request(describe_service(Seen(online), online.registry.feature_services[0]))
    if online and online.registry.feature_views:
        return view_request(describe_view(Seen(online), online.registry.feature_views[0]), most=1)
    return {"feature_service": "fraud_v1", "entities": {"customer_id": [42], "merchant_id": [7]}}


def _example_entities(join_keys: Iterable[dict[str, str]]) -> dict[str, list[Any]]:
    """One entity of the right types."""
    values: dict[str, Any] = {
        "string": "…", "date": "2013-12-31", "uuid": "123e4567-e89b-12d3-a456-426614174000", "bool": True,
    }  # fmt: skip
    return {key["name"]: [values.get(key["type"], 42)] for key in join_keys}


def _pii(feature: Feature) -> dict[str, bool]:
    return {"pii": True} if feature.pii else {}


def _column(column: JoinKey | Feature) -> dict[str, Any]:
    return {"name": column.name, "type": str(column.dtype)}
