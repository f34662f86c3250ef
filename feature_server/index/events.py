"""A stream view's events as arrays in the order of the index, read through memory maps: what `windows` works on.

Folder `events-<order>` holds a folder for each part, moved into place when it is finished:

    base/places.npy           where in the index each event lies; only when that is not its own place, for events of
                              equal times lie in the order of their ids (`event_ids`)
    base/counts.npy           as in `windows.window.Events`
    base/superseded.npy       likewise; only when some event has a later version
    a0/values.npy             of each argument, as `index.values.encode` gives them
    a0/null.npy               which are null; only when some are
    a0/dictionary.arrow       what the values stand for, where they are no numbers

Like the rest of the index it is a cache of the table's rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow import arrow_int64, numpy_integers
from ..definitions.facts import COUNTS, EVENT_ID
from ..definitions.stream import Argument, StreamPlan
from ..dtypes import DType
from ..event_ids import event_id_numbers
from ..times import NEVER
from ..windows.reduce import Values
from ..windows.window import Events, superseded_at
from .files import Mapped, move_into_place, scratch_in
from .find import Index
from .seal import whole
from .values import encode, from_halves, to_halves

_load: Callable[[Path], np.ndarray] = partial(np.load, mmap_mode="r")


@dataclass(frozen=True)
class StreamIndex:
    """The events of one version of a stream view's table, with the arguments that were asked for."""

    index: Index
    events: Events
    dictionaries: dict[int, pa.Array | None]  # by an argument's number

    def of_groups(self, groups: np.ndarray) -> tuple[Events, np.ndarray]:
        """The events of these groups alone, when they are few, and the groups' numbers in them."""
        wanted = np.flatnonzero(np.bincount(groups[groups >= 0], minlength=1))
        sizes = self.events.starts[wanted + 1] - self.events.starts[wanted]
        if sizes.sum() * 2 > len(self.events.event_us):
            return self.events, groups
        ends = np.cumsum(sizes)
        rows = np.arange(sizes.sum()) + np.repeat(self.events.starts[wanted] - (ends - sizes), sizes)
        starts = np.concatenate([[0], ends, ends[-1:]]) if len(ends) else np.zeros(2, dtype=np.int64)
        renumbered = np.where(groups >= 0, np.searchsorted(wanted, groups), -1)
        return self.events.take(rows, starts.astype(np.int64)), renumbered


def open_events(index: Index, plan: StreamPlan, arguments: Sequence[int], root: Path) -> StreamIndex:
    """The events under an open index that holds the columns COUNTS, EVENT_ID and `arguments`, written where missing."""
    folder, history = root / f"events-{index.order_name}", index.history
    base = _built(folder / "base", partial(_write_base, index, plan.event_id))
    loaded: list[Values | None] = [None] * len(plan.arguments)
    dictionaries: dict[int, pa.Array | None] = {}
    places = base / "places.npy"
    for number in arguments:
        argument = plan.arguments[number]
        part = _built(folder / argument.name, partial(_write_argument, index, argument, places))
        loaded[number], dictionaries[number] = _load_argument(part)
    assert history.created_us is not None
    superseded, starts = base / "superseded.npy", np.asarray(history.starts)
    events = Events(
        starts=starts if len(starts) > 1 else np.zeros(2, dtype=np.int64),
        event_us=history.event_us,
        created_us=history.created_us,
        counts=_load(base / "counts.npy"),
        arguments=loaded,
        superseded=_load(superseded) if superseded.exists() else None,
    )
    return StreamIndex(index, events, dictionaries)


def _built(path: Path, write: Callable[[Path], None]) -> Path:
    """The folder of a part, written where it is missing or damaged."""
    if not whole(path):
        with scratch_in(path.parent) as scratch:
            (scratch / path.name).mkdir()
            write(scratch / path.name)
            move_into_place(scratch / path.name, path)
    return path


def _write_base(index: Index, dtype: DType, path: Path) -> None:
    counts: Any
    event_id: Any
    counts, event_id = index.in_order([COUNTS, EVENT_ID])
    places = _places(index, event_id, dtype)
    if places is not None:
        np.save(path / "places.npy", places)
        counts, event_id = counts.take(arrow_int64(places)), event_id.take(arrow_int64(places))
    np.save(path / "counts.npy", pc.fill_null(counts, False).to_numpy(zero_copy_only=False))
    codes = event_id if pa.types.is_integer(event_id.type) else event_id.dictionary_encode().indices
    history = index.history
    assert history.created_us is not None
    superseded = superseded_at(
        np.asarray(history.starts), codes.to_numpy(zero_copy_only=False), np.asarray(history.created_us)
    )
    if (superseded != NEVER).any():
        np.save(path / "superseded.npy", superseded)


def _places(index: Index, event_id: Any, dtype: DType) -> np.ndarray | None:
    """Where in the index each event lies; None where all lie in the order of `windows.window` there."""
    history = index.history
    assert history.created_us is not None
    event_us, created_us = np.asarray(history.event_us), np.asarray(history.created_us)
    equal = (event_us[1:] == event_us[:-1]) & (created_us[1:] == created_us[:-1])
    equal[np.asarray(history.starts)[1:-1] - 1] = False
    if not equal.any():
        return None
    rows = np.flatnonzero(np.append(False, equal) | np.append(equal, False))
    run = np.cumsum(np.append(True, ~equal))[rows]
    numbers = numpy_integers(event_id_numbers(event_id.take(arrow_int64(rows)), dtype))
    order = np.lexsort((numbers, run))
    if (order[1:] > order[:-1]).all():
        return None
    places = np.arange(len(event_us))
    places[rows] = rows[order]
    return places


def _write_argument(index: Index, argument: Argument, places: Path, path: Path) -> None:
    column: Any
    (column,) = index.in_order([argument.name])
    if places.exists():
        column = column.take(arrow_int64(_load(places)))
    encoded, dictionary = encode(column, argument.dtype)
    big = encoded.values.dtype == object
    np.save(path / ("halves.npy" if big else "values.npy"), to_halves(encoded.values) if big else encoded.values)
    if encoded.null.any():
        np.save(path / "null.npy", encoded.null)
    if dictionary is not None:
        batch = pa.record_batch([dictionary], names=[argument.name])
        with pa.ipc.new_file(str(path / "dictionary.arrow"), batch.schema) as writer:
            writer.write_batch(batch)


def _load_argument(folder: Path) -> tuple[Values, pa.Array | None]:
    big = folder / "halves.npy"
    values = from_halves(_load(big)) if big.exists() else _load(folder / "values.npy")
    null = folder / "null.npy"
    file = folder / "dictionary.arrow"
    dictionary: Any = Mapped(file).arrow().column(0).chunk(0) if file.exists() else None
    return Values(values, _load(null) if null.exists() else np.zeros(len(values), dtype=bool)), dictionary
