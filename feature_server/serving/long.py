"""Rows that are too long to be written at once, and an answer with short ones in their place."""

import struct

from ..layout.sliced import SlicedRow
from .plan import LONG_ROWS
from .reader import OnlineFeatures


def long_rows(answer: OnlineFeatures) -> dict[int, SlicedRow]:
    """The long rows of one entity, by view; none of a damaged one, which is told as such when it is read."""
    found: dict[int, SlicedRow] = {}
    if answer.count != 1:
        return found
    for number, view in enumerate(answer.plan.views):
        row = answer.rows[number][0]
        if row is not None and len(row) > LONG_ROWS and not view.stream and view.layout.variable:
            try:
                found[number] = SlicedRow(view.layout, row)
            except (ValueError, struct.error):
                continue
    return found


def shortened(answer: OnlineFeatures, rows: dict[int, SlicedRow]) -> OnlineFeatures:
    """The same answer with short rows in place of the long ones."""
    short: list[list[bytes | None]] = [
        [rows[number].short()] if number in rows else each for number, each in enumerate(answer.rows)
    ]
    return OnlineFeatures(answer.plan, answer.count, answer.entities, short, answer.now_us)
