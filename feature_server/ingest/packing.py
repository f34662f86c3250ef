"""Events of a source → the records of each stream view over it, and the events that one of them cannot take.

Many events are packed in parts, so that no step over them takes long: the server's event loop waits for each.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..definitions.facts import FeatureView
from ..errors import shown
from ..layout.events import COUNTS, CREATED, EVENT, EVENT_ID, GRACE_US, retention_us, window_us
from ..layout.records import EventPacker, PackedEvents, moved
from .reader import Batch, by_halves, refusal
from .rows import RowQueries
from .trim import Trimmer


class View:
    """Where and how the events of one stream view are written."""

    def __init__(self, view: FeatureView, code: str, doubtful: bool) -> None:
        self.view, self.code, self.doubtful = view, code.encode(), doubtful
        self.packer = EventPacker(view)
        retention = retention_us(view)
        self.retention_us = None if retention is None else retention + 2 * GRACE_US
        window = window_us(view)
        self.trimmer = Trimmer(view, None if window is None else window + GRACE_US)

    def key(self, entity: bytes) -> bytes:
        return b"%b{%b}" % (self.code, entity)


class Packed(NamedTuple):
    """The records of one view for one part of the events; `rows` says which events have any, None for all."""

    view: View
    events: PackedEvents
    rows: npt.NDArray[np.int64] | None


class Refused(Exception):
    """Events that a view cannot take: their position and why, `reasons`."""

    def __init__(self, reasons: dict[int, str]) -> None:
        self.reasons = reasons


def pack(queries: RowQueries, views: Sequence[View], parts: Sequence[Batch]) -> list[list[Packed]]:
    """For each part the records of each view, after the events that any of them cannot take were refused."""
    packed = [_pack_part(queries, views, part) for part in parts]
    while wrong := _moved(packed):
        for number, reasons in wrong.items():
            parts[number].refuse(reasons)
            packed[number] = _pack_part(queries, views, parts[number])
    return packed


def _pack_part(queries: RowQueries, views: Sequence[View], part: Batch) -> list[Packed]:
    packed: list[Packed] = []
    while part.table.num_rows:
        packed, wrong = [], dict[int, str]()
        for view in views:
            try:
                packed.append(pack_view(queries, view, part.table))
            except Refused as refused:
                wrong |= refused.reasons
            except Exception:  # noqa: BLE001 - see `refusal`; packing asks nothing of Redis
                wrong |= _find_wrong(queries, view, part.table)
        if not wrong:
            return packed
        part.refuse(wrong)
    return []


def pack_view(queries: RowQueries, view: View, events: pa.Table) -> Packed:
    """The records of one view. Raises Refused."""
    rows, kept = queries.rows(view.view, events), None
    needed = (*view.view.key_names, EVENT, CREATED, EVENT_ID)
    if nulls := {name: rows[name].is_null().to_numpy() for name in needed if rows[name].null_count}:
        counts, wrong = rows[COUNTS].fill_null(pa.scalar(False)).to_numpy(), dict[int, str]()
        for name, null in nulls.items():
            for row in np.flatnonzero(null & counts).tolist():
                wrong.setdefault(row, f"{name} of {view.view.id} is null")
        if wrong:
            raise Refused(wrong)
        there = ~np.any(list(nulls.values()), axis=0)  # the model leaves the others out
        rows, kept = rows.filter(pa.array(there)), np.flatnonzero(there)
    return Packed(view, view.packer.pack(rows), kept)


def _find_wrong(queries: RowQueries, view: View, events: pa.Table) -> dict[int, str]:
    """Which events an expression of the view fails on."""

    def look(some: pa.Table) -> dict[int, str] | None:
        try:
            pack_view(queries, view, some)
        except Refused as refused:
            return refused.reasons
        except Exception as error:  # noqa: BLE001 - see `refusal`
            return {0: f"{view.view.id}: {refusal(error)}"} if some.num_rows == 1 else None
        return {}

    return by_halves(events, look)


def _moved(packed: Sequence[Sequence[Packed]]) -> dict[int, dict[int, str]]:
    """By part and position in it the events of which an earlier one is another version, with another key of a view."""
    wrong: dict[int, dict[int, str]] = {}
    filled = [number for number, views in enumerate(packed) if views]
    for of_parts in zip(*(packed[number] for number in filled), strict=True):
        for place, row in moved([part.events for part in of_parts]):
            view, _, rows = of_parts[place]
            reason = f"another version of the event has another key of {view.view.id}"
            wrong.setdefault(filled[place], {})[row if rows is None else int(rows[row])] = reason
    return wrong


def of_keys(queries: RowQueries, view: View, events: pa.Table, failed: dict[bytes, Any]) -> dict[int, str]:
    """Which events belong to keys that Redis could not append to, such as one that another program wrote.

    They are in the log, and in what else was written with them: the key is right again when it is synced anew.
    """

    def look(some: pa.Table) -> dict[int, str] | None:
        here = failed.keys() & map(view.key, pack_view(queries, view, some).events.entities)
        if not here or some.num_rows > 1:
            return None if here else {}
        key = here.pop()
        return {0: f"{view.view.id}: Redis cannot append to the key {shown(key)}: {failed[key]}; "
                   f"run `features sync --full {view.view.id}`, then send the event again"}  # fmt: skip

    return by_halves(events, look)
