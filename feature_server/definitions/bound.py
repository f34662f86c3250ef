"""Views that are published and synced together: all of one run, or none."""

from collections.abc import Iterable

from .facts import FeatureService, FeatureView
from .registry import Registry


def bound_views(views: Iterable[FeatureView], services: Iterable[FeatureService]) -> tuple[tuple[str, ...], ...]:
    """Groups of view ids: the batch views of one cadence that a service with `consistent: run` reads.

    Groups that share a view are one. A view over live events is in none: its values are of the moment they are read.
    """
    cadences = {view.id: view.refresh for view in views if view.stream is None}
    groups: list[set[str]] = []
    for service in services:
        if service.consistent != "run":
            continue
        read = [ref.view for ref in service.features if ref.view in cadences]
        for cadence in dict.fromkeys(cadences[view] for view in read):
            joined = {view for view in read if cadences[view] == cadence}
            apart = [group for group in groups if group.isdisjoint(joined)]
            joined.update(*(group for group in groups if not group.isdisjoint(joined)))
            groups = [*apart, joined]
    return tuple(sorted(tuple(sorted(group)) for group in groups if len(group) > 1))


def with_bound(chosen: Iterable[str], registry: Registry) -> list[str]:
    """The chosen views, and behind them those that are online and belong to one of them."""
    found, online = dict.fromkeys(chosen), {view.id for view in registry.feature_views if view.online}
    for group in bound_views(registry.feature_views, registry.feature_services):
        if not found.keys().isdisjoint(group):
            found |= dict.fromkeys(view for view in group if view in online)
    return list(found)
