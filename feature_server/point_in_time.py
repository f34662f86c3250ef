"""The point-in-time rule: which row of a feature view's history counts for a key at a time.

A row counts at time t if `event <= t` and, with a ttl, `event >= t - ttl`; of these the latest event wins, on a tie the
latest created, null created being the earliest. Of rows that tie in both, a data error, it is the one with the last
place in the table (`offline.store.PLACE`): training, sync and verify agree on it. `as_known` also demands
`created <= t`, which a null created never meets; a view without created timestamps knows each row at its event time,
or as much later as its sources say (`known_after_us`).

Everything here is whole arrays at a time: a binary search that narrows all spine rows at once, so that any number of
keys and any span of time cost `log2(rows of the largest key)` steps and no packing of keys and times into one number.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Int64s: TypeAlias = npt.NDArray[np.int64]
Booleans: TypeAlias = npt.NDArray[np.bool_]

NO_ROW = -1
NO_CREATED = np.iinfo(np.int64).min  # stands for a null created timestamp, and sorts before every other
_EARLIEST = np.iinfo(np.int64).min
_NEVER = np.iinfo(np.int64).max
_BLOCK = 64


@dataclass(frozen=True)
class History:
    """A view's rows sorted by join keys, event and created timestamp; times in microseconds since 1970 UTC.

    Group g, the rows of one key, is `starts[g]` up to but not including `starts[g + 1]`. `created_us` is NO_CREATED
    where it is null, and None for a view without created timestamps.
    """

    starts: Int64s
    event_us: Int64s
    created_us: Int64s | None

    @cached_property
    def created_minima(self) -> list[Int64s]:
        """The earliest created of each block of rows, then of each pair of blocks, of pairs of pairs and so on."""
        assert self.created_us is not None
        return _block_minima(self.created_us)


def rows_at(
    history: History,
    groups: Int64s,
    at_us: Int64s,
    *,
    ttl_us: int | None = None,
    as_known: bool = False,
    known_after_us: int = 0,
) -> Int64s:
    """The row of the history that counts for each (group, time): n row numbers, NO_ROW where there is none.

    A negative group stands for a key that the history does not have.
    """
    result = np.full(len(groups), NO_ROW, dtype=np.int64)
    order = np.argsort(groups)  # neighbours in the history are read together
    order = order[np.searchsorted(groups[order], 0) :]
    if len(order) == 0:
        return result
    groups, at_us = groups[order], at_us[order]
    first = history.starts[groups]
    until = at_us
    if as_known and history.created_us is None:
        until = _before(at_us, known_after_us)
    rows = last_not_after(history.event_us, until, first - 1, history.starts[groups + 1])
    if as_known and history.created_us is not None:
        rows = _last_known(history, history.created_us, at_us, first, rows)
    found = np.flatnonzero(rows >= first)
    if ttl_us is not None:
        found = found[history.event_us[rows[found]] >= _before(at_us[found], ttl_us)]
    result[order[found]] = rows[found]
    return result


def _before(at_us: Int64s, duration_us: int) -> Int64s:
    """Times so much earlier; the earliest there is where that would be before it."""
    return np.maximum(at_us, _EARLIEST + duration_us) - duration_us


def last_not_after(events: Int64s, at: Int64s, before: Int64s, after: Int64s) -> Int64s:
    """The last row between `before` and `after`, both exclusive, whose event is not after `at`; else `before`."""
    before, after = before.copy(), after.copy()
    while True:
        unsure = after - before > 1
        count = np.count_nonzero(unsure)
        if count == 0:
            return before
        if count < len(before) // 2:  # some keys have far more rows than most: go on with those alone
            before[unsure] = last_not_after(events, at[unsure], before[unsure], after[unsure])
            return before
        middle = (before + after) >> 1
        counts = (middle == before) | (events[middle] <= at)  # where sure, middle is before: another key's row, or -1
        before = np.where(counts, middle, before)
        after = np.where(counts, after, middle)


def _last_known(history: History, created: Int64s, at: Int64s, first: Int64s, rows: Int64s) -> Int64s:
    """The last row from `first` to `rows` that was known by `at`; a row before `first` when there is none."""
    rows = rows.copy()
    pending = _step_back(created, at, first, rows, np.flatnonzero(rows >= first))
    if len(pending) > 0:  # none known down to the start of their block: skip whole blocks
        blocks = _last_block(history.created_minima, at[pending], rows[pending] // _BLOCK)
        rows[pending] = np.where(blocks < 0, -1, blocks * _BLOCK + _BLOCK - 1)
        _step_back(created, at, first, rows, pending[rows[pending] >= first[pending]])
    return rows


def _step_back(created: Int64s, at: Int64s, first: Int64s, rows: Int64s, pending: npt.NDArray[np.intp]) -> npt.NDArray:
    """Moves `rows[pending]` back, in place, to the last row known; returns those that reached the end of a block."""
    at_block_end = [pending[:0]]
    while len(pending) > 0:
        created_here = created[rows[pending]]
        pending = pending[(created_here > at[pending]) | (created_here == NO_CREATED)]
        rows[pending] -= 1
        pending = pending[rows[pending] >= first[pending]]
        ends = rows[pending] % _BLOCK == _BLOCK - 1
        at_block_end.append(pending[ends])
        pending = pending[~ends]
    return np.concatenate(at_block_end)


def _block_minima(created: Int64s) -> list[Int64s]:
    level = np.empty(-(-len(created) // _BLOCK), dtype=np.int64)
    for start in range(0, len(level), 1 << 14):  # bounded memory
        values = np.array(created[start * _BLOCK : (start + (1 << 14)) * _BLOCK])
        values[values == NO_CREATED] = _NEVER
        level[start : start + (1 << 14)] = np.minimum.reduceat(values, np.arange(0, len(values), _BLOCK))
    levels = [level]
    while len(level) > 1:
        padded = np.append(level, _NEVER) if len(level) % 2 else level
        level = np.minimum(padded[::2], padded[1::2])
        levels.append(level)
    return levels


def _last_block(levels: list[Int64s], at: Int64s, blocks: Int64s) -> Int64s:
    """The last block up to `blocks` with a created not after `at`, or -1: up a tree of minima, then down again."""
    nodes, height = blocks.copy(), 0
    at = np.minimum(at, _NEVER - 1)  # a block of nulls alone is never known
    result = np.full(len(blocks), -1, dtype=np.int64)
    level_of = np.zeros(len(blocks), dtype=np.int64)
    pending = np.arange(len(blocks))
    while len(pending) > 0:
        hit = levels[height][nodes[pending]] <= at[pending]
        result[pending[hit]] = nodes[pending[hit]]
        level_of[pending[hit]] = height
        pending = pending[~hit]
        nodes[pending] -= 1
        pending = pending[nodes[pending] >= 0]
        nodes[pending] >>= 1  # the parent may hold the node just ruled out, but nothing after it
        height += 1
    for height in range(len(levels) - 1, 0, -1):
        inside = np.flatnonzero((level_of == height) & (result >= 0))
        right = np.minimum(result[inside] * 2 + 1, len(levels[height - 1]) - 1)
        result[inside] = np.where(levels[height - 1][right] <= at[inside], right, result[inside] * 2)
        level_of[inside] = height - 1
    return result
