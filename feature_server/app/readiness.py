"""Whether views can be read: of all that are online, or of none."""

from typing import NamedTuple

from ..errors import FeatureStoreError
from ..online.registry import OnlineRegistry


class Unread(NamedTuple):
    why: list[str]
    some_are_read: bool


def unread_views(online: OnlineRegistry, refused: FeatureStoreError | None) -> Unread:
    """Why views cannot be read, and whether others can; `refused` is why no stream view can."""
    views = [view for view in online.registry.feature_views if view.online]
    lacking = [view for view in views if online.synced(view.id) is None]
    why = [f"feature view {view.id!r} is not synced: run `features sync {view.id}`" for view in lacking]
    if refused is not None:
        why.append(str(refused))
        lacking += [view for view in views if view.stream is not None and view not in lacking]
    return Unread(why, not views or len(lacking) < len(views))
