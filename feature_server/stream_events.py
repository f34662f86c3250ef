"""The event history of a stream view: what its offline table holds in place of feature values."""

from __future__ import annotations

import msgspec

from .definitions import Feature, FeatureView
from .dtypes import DType

EVENT_ID, COUNTS = "event_id", "counts"


def event_view(view: FeatureView) -> FeatureView:
    """The view whose rows are the versions of a stream view's events: its offline table's columns.

    It has the stream view's id, fingerprint and plan; its features are the event id, whether the model's filters let
    the event count, and the plan's arguments. A view without a stream is itself.
    """
    if (plan := view.stream) is None:
        return view
    return msgspec.structs.replace(
        view,
        event_timestamp="event_timestamp",
        created_timestamp="created_timestamp",
        features=(
            Feature(name=EVENT_ID, dtype=plan.event_id),
            Feature(name=COUNTS, dtype=DType("bool")),
            *(Feature(name=argument.name, dtype=argument.dtype) for argument in plan.arguments),
        ),
    )


def always_known(view: FeatureView) -> tuple[str, ...]:
    """The columns of a view's offline table, besides the event timestamp, that no row may lack."""
    return view.key_names if view.stream is None else (*view.key_names, "created_timestamp", EVENT_ID)
