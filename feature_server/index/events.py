"""A stream view's events as arrays in the order of the index, read through memory maps: what `windows` works on.

Folder `events-<order>` holds a folder for each part, moved into place when it is finished:

    base/counts.npy           as in `windows.window.Events`
    base/superseded.npy       likewise; only when some event has a later version
    a0/values.npy             of each argument, as `index.values.encode` gives them
    a0/null.npy               which are null; only when some are
    a0/dictionary.arrow       what the values stand for, where they are no numbers

Like the rest of the index it is a cache of the table's rows.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..definitions.facts import COUNTS, EVENT_ID
from ..definitions.stream import Argument, StreamPlan
from ..times import NEVER
from ..windows.reduce import Values
from ..windows.window import Events, superseded_at
from .files import move_into_place, scratch_in
from .find import Index
from .values import encode, from_halves, to_halves

_load: Callable[[Path], np.ndarray] = partial(np.load, mmap_mode="r")


class StreamIndex:
    """The events of one version of a stream view's table, with the arguments that were asked for."""

    def __init__(self, index: Index, plan: StreamPlan, arguments: Sequence[int], folder: Path) -> None:
        self.index = index
        self.dictionaries: dict[int, pa.Array] = {}
        loaded: list[Values | None] = [None] * len(plan.arguments)
        for number in arguments:
            loaded[number], dictionary = _load_argument(folder / plan.arguments[number].name)
            if dictionary is not None:
                self.dictionaries[number] = dictionary
        history = index.history
        assert history.created_us is not None
        superseded = folder / "base" / "superseded.npy"
        starts = np.asarray(history.starts)
        self.events = Events(
            starts=starts if len(starts) > 1 else np.zeros(2, dtype=np.int64),
            event_us=history.event_us,
            created_us=history.created_us,
            counts=_load(folder / "base" / "counts.npy"),
            arguments=loaded,
            superseded=_load(superseded) if superseded.exists() else None,
        )

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
    folder = root / f"events-{index.order_name}"
    parts: dict[str, Callable[[Path], None]] = {"base": partial(_write_base, index)}
    for argument in (plan.arguments[number] for number in arguments):
        parts[argument.name] = partial(_write_argument, index, argument)
    for name, write in parts.items():
        if not (folder / name).is_dir():
            _build(folder / name, write)
    return StreamIndex(index, plan, arguments, folder)


def _build(path: Path, write: Callable[[Path], None]) -> None:
    with scratch_in(path.parent) as scratch:
        (scratch / path.name).mkdir()
        write(scratch / path.name)
        move_into_place(scratch / path.name, path)


def _write_base(index: Index, path: Path) -> None:
    counts: Any
    event_id: Any
    counts, event_id = index.in_order([COUNTS, EVENT_ID])
    np.save(path / "counts.npy", pc.fill_null(counts, False).to_numpy(zero_copy_only=False))
    codes = event_id if pa.types.is_integer(event_id.type) else event_id.dictionary_encode().indices
    history = index.history
    assert history.created_us is not None
    superseded = superseded_at(
        np.asarray(history.starts), codes.to_numpy(zero_copy_only=False), np.asarray(history.created_us)
    )
    if (superseded != NEVER).any():
        np.save(path / "superseded.npy", superseded)


def _write_argument(index: Index, argument: Argument, path: Path) -> None:
    (column,) = index.in_order([argument.name])
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
    dictionary: Any = None
    if (folder / "dictionary.arrow").exists():
        with pa.memory_map(str(folder / "dictionary.arrow")) as source:
            dictionary = pa.ipc.open_file(source).get_batch(0).column(0)
    return Values(values, _load(null) if null.exists() else np.zeros(len(values), dtype=bool)), dictionary
