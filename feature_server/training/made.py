"""What is made of a spine, wherever it was made: told in numbers, and given as pandas. It needs pyarrow alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from .. import frames
from .given import is_frame

if TYPE_CHECKING:
    import pandas


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What was written: `null_share` is the part of the rows for which a view had no value at all."""

    path: str
    rows: int
    features: int
    versions: dict[str, int]
    null_share: dict[str, float]
    seconds: float


def as_pandas(spine: Any, table: pa.Table, features: Sequence[str]) -> pandas.DataFrame:
    """A spine's own pandas columns and index as they are, and features in the types of docs/types.md."""
    if not is_frame(spine, "pandas", "DataFrame"):
        return frames.to_pandas(table)
    import pandas

    found = frames.to_pandas(table.select(list(features)))
    return pandas.concat([spine, found.set_index(spine.index)], axis=1)
