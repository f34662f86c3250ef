"""The short cut of `serving_json` for rows of numbers: from stored bytes to JSON without a Python object a value.

Taken when a view's rows all have one width, the features asked for are numbers or booleans, and nothing is missing,
null, expired, NaN or infinite; otherwise `serving_rows` does the work, value by value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import orjson

from .dtypes import FLOAT_WIDTHS, INTEGER_WIDTHS
from .serving_rows import ViewReader

MIN_ENTITIES = 8  # below, NumPy's overhead is more than it saves
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z
_KINDS = {*INTEGER_WIDTHS, *FLOAT_WIDTHS, "bool"}


class NumericView:
    """Writes the rows of one view, features in the order of `ViewReader.features`."""

    def __init__(self, view: ViewReader) -> None:
        self._view = view
        stored = view.online.definition.features
        bitmap = (len(stored) + 7) // 8
        offsets, offset = {}, 8 + bitmap
        for feature in stored:
            offsets[feature.name] = offset
            offset += feature.dtype.fixed_width or 0
        self._row = np.dtype(
            {
                "names": ["event", "nulls", *(f"f{i}" for i in range(len(view.features)))],
                "formats": ["<i8", ("u1", bitmap), *(_format(feature.dtype.kind) for feature in view.features)],
                "offsets": [0, 8, *(offsets[feature.name] for feature in view.features)],
                "itemsize": offset,
            }
        )
        self._fields = [(f"f{i}", feature.dtype.kind) for i, feature in enumerate(view.features)]

    @classmethod
    def of(cls, view: ViewReader) -> NumericView | None:
        """None when the short cut can never be taken for this view."""
        if view.stream:
            return None
        same_width = all(feature.dtype.fixed_width is not None for feature in view.online.definition.features)
        return cls(view) if same_width and all(feature.dtype.kind in _KINDS for feature in view.features) else None

    def write(self, rows: Sequence[bytes | None], now_us: int) -> tuple[bytes, list[bytes]] | None:
        """JSON arrays: the event timestamps, and the values of each feature; None when a row needs a closer look."""
        if None in rows:
            return None
        joined = b"".join(rows)  # type: ignore[arg-type]
        if len(joined) != len(rows) * self._row.itemsize:
            return None
        table = np.frombuffer(joined, self._row)
        event_us = np.ascontiguousarray(table["event"])
        ttl_us = self._view.ttl_us
        if event_us.max() > now_us or event_us.min() < (0 if ttl_us is None else now_us - ttl_us):
            return None
        if table["nulls"].any():
            return None
        columns = []
        for name, kind in self._fields:
            column = np.ascontiguousarray(table[name])
            if kind == "float32":
                column = column.astype(np.float64)  # exactly the digits that the other path and Python give
            text = orjson.dumps(column, option=_OPTIONS)
            if kind in FLOAT_WIDTHS and b"n" in text:  # null, which stands for what JSON cannot say
                return None
            columns.append(text)
        self._view.counts.present += len(rows) * len(columns)
        return orjson.dumps(event_us.view("M8[us]"), option=_OPTIONS), columns


def _format(kind: str) -> str:
    widths = INTEGER_WIDTHS | FLOAT_WIDTHS
    return "?" if kind == "bool" else f"<{kind[0]}{widths[kind]}"
