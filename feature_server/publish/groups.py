"""Which views are published: of those that belong together all of one run, or none."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from ..definitions.facts import FeatureView
from ..errors import FeatureStoreError, NotFit, OfflineStoreError, WarehouseError
from ..offline.store import PublishedState

Groups = Sequence[Sequence[str]]


def not_together(
    views: Mapping[str, FeatureView], groups: Groups, look: Callable[[FeatureView], PublishedState]
) -> dict[str, FeatureStoreError]:
    """By id, the views of groups that are not published: what keeps each from it, itself or another of its group.

    `look` gives what would be published of a view, or raises what keeps it from that. That views are of one run is told
    by the last build that the warehouse's log has of each.
    """
    kept: dict[str, FeatureStoreError] = {}
    for group in groups:
        chosen = [name for name in group if name in views]
        if not chosen:
            continue
        unfit = {name: "is left out" for name in group if name not in views}
        own, builds = dict[str, FeatureStoreError](), dict[str, str]()
        for name in chosen:
            try:
                build = look(views[name]).last_build
            except (WarehouseError, OfflineStoreError) as error:
                own[name], unfit[name] = error, error.what
            else:
                builds |= {} if build is None else {name: build}
        if not unfit and len(set(builds.values())) > 1:
            unfit = {name: f"last built by {build}" for name, build in builds.items()}
        for name in chosen if unfit else ():
            others = {other: why for other, why in unfit.items() if other != name}
            kept[name] = own.get(name) or _kept(name, group, others)
    return kept


def _kept(name: str, group: Collection[str], others: Mapping[str, str]) -> NotFit:
    return NotFit(
        "the view keeps what was published of it, for not all that belongs to it is fit",
        where=name,
        expected=f"all of one run, by `consistent: run` of a service: {', '.join(group)}",
        got="; ".join(f"{other}: {why}" for other, why in others.items()),
        remedy="`dbt build` for all of them, then `features publish` for all of them",
    )


def fit_groups(groups: Groups, views: Iterable[str], kept: Collection[str]) -> list[Sequence[str]]:
    """The groups of which all views are published."""
    chosen = set(views)
    return [group for group in groups if chosen.issuperset(group) and not any(name in kept for name in group)]
