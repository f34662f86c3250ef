"""The definitions that views were published by, for when the registry that had them is lost."""

from contextlib import suppress

from ..definitions.facts import FeatureView
from ..definitions.models import Model
from ..definitions.registry import Registry
from ..errors import OfflineStoreError
from ..offline.store import OfflineStore, PublishedState


def restored(project: str, store: OfflineStore) -> Registry | None:
    """The batch views that are published, and the models that they were built from; None where there is none.

    Of views that were published by different definitions of what both read, the last published is kept.
    """
    views, models = list[FeatureView](), dict[str, Model]()
    for state in _states(store):
        own = {model.unique_id: model for model in state.models}
        if own and all(models.get(name, model).meaning == model.meaning for name, model in own.items()):
            views.append(state.view)
            models = own | models
    if not views:
        return None
    return Registry(
        project=project,
        feature_views=tuple(sorted(views, key=lambda view: view.id)),
        models=tuple(models[name] for name in sorted(models)),
    )


def _states(store: OfflineStore) -> list[PublishedState]:
    """Of batch views, the last published first; not of tables that cannot be read, which publishing tells."""
    found = []
    for name in store.ids():
        with suppress(OfflineStoreError):
            table = store.table(name)
            found.append((table.published_at_us, table.state))
    return [state for _, state in sorted(found, key=lambda one: -one[0]) if state.view.stream is None]
