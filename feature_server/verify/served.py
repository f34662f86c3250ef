"""What reads would serve of a stream view's keys now, and which of those values differ from others."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..definitions.facts import FeatureView
from ..definitions.stream import EventSource
from ..errors import OnlineStoreError
from ..history.log import landing_folder
from ..layout.events import plan_of
from ..layout.row import from_stored
from ..online.registry import OnlineRegistry, OnlineView
from ..online.store import OnlineStore
from ..serving.rows import ViewColumns
from ..serving.statuses import ValueCounts
from ..serving.stream import StreamViewReader

Values = tuple[Any, ...]


def live_of(
    online: OnlineStore, registry: OnlineRegistry, view: FeatureView, project_dir: Path
) -> tuple[OnlineStore, EventSource, Path]:
    """Where a view's live events are: in which store, of which source, landed in which folder."""
    for source in registry.registry.sources:
        if source.name == plan_of(view).source:
            return online, source, landing_folder(source, project_dir)
    raise OnlineStoreError(
        "the online registry lacks the view's event source", where=view.id, expected=plan_of(view).source,
        remedy="run `features apply` and `features sync`",
    )  # fmt: skip


def served_values(
    found: OnlineView, stored: Sequence[bytes | None], bases: Sequence[bytes | None], at_us: int
) -> tuple[list[Values], ViewColumns]:
    """What a read at an instant gives for the values and bases of some keys: the view's features, None for no value.

    Also the read itself.
    """
    view = found.definition
    read = StreamViewReader(found, view.ttl_us, view.features, ValueCounts()).read(stored, at_us, (), bases)
    columns = []
    for i, feature in enumerate(view.features):
        convert, nulls = from_stored(feature.dtype) or (lambda value: value), read.nulls[i]
        columns.append(
            [None if nulls is not None and nulls[row] else convert(value) for row, value in enumerate(read.columns[i])]
        )
    return [tuple(column[row] for column in columns) for row in range(len(stored))], read


def unequal(one: Values, other: Values) -> list[int]:
    """Places where values differ; sums of floats may differ in their last digits, for their order is not fixed."""
    return [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if not _equal(a, b)]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)
