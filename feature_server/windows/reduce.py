"""Aggregates of many ranges of one array at once: what DuckDB's window functions give, with NumPy.

Events lie sorted by (group, event time); a range is `[low, high)`, and ranges come sorted, so that `ufunc.reduceat`
walks the array about once. Sums of floats are never differences of running totals; counts and sums of integers may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

PAIRS_AT_ONCE = 1_000_000  # event-range pairs expanded at a time, for they take memory, and caches are small


class Values(msgspec.Struct):
    """A column: values, and which of them are null. Values under a null are arbitrary."""

    values: np.ndarray
    null: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, positions: np.ndarray) -> Values:
        return Values(self.values[positions], self.null[positions])


def joined(parts: Sequence[Values]) -> Values:
    return Values(np.concatenate([part.values for part in parts]), np.concatenate([part.null for part in parts]))


def count(valid: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How many of each range are valid."""
    if valid.all():
        return high - low
    running = np.zeros(len(valid) + 1, dtype=np.int64)
    np.cumsum(valid, out=running[1:])
    return running[high] - running[low]


def total(values: np.ndarray, valid: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Sum of the valid values of each range: float64 for floats, int64 for integers, Python ints where it overflows."""
    if values.dtype.kind == "f":
        numbers = values.astype(np.float64, copy=False)
        return over_ranges(np.add, numbers if valid.all() else np.where(valid, numbers, 0.0), low, high, 0.0)
    kept = np.where(valid, values, 0)
    longest = int((high - low).max(initial=0))
    largest = max(abs(int(kept.max(initial=0))), abs(int(kept.min(initial=0))))
    if largest * max(longest, 1) >= 2**63:
        return over_ranges(np.add, kept.astype(object), low, high, 0)
    running = np.zeros(len(kept) + 1, dtype=np.int64)
    with np.errstate(over="ignore"):
        np.cumsum(kept.astype(np.int64), out=running[1:])
        return running[high] - running[low]


def extreme(ufunc: np.ufunc, values: np.ndarray, valid: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """np.minimum or np.maximum of the valid values of each range; arbitrary where a range has none."""
    if values.dtype.kind == "f":
        return _float_extreme(ufunc, values, valid, low, high)
    if values.dtype == object:  # integers beyond 64 bits
        in_order, places = np.unique(values, return_inverse=True)
        found = extreme(ufunc, places, valid, low, high)
        return np.append(in_order, 0)[np.clip(found, 0, len(in_order))]
    if values.dtype.kind == "b":
        values = values.astype(np.int8)
    bounds = np.iinfo(values.dtype)
    neutral = bounds.max if ufunc is np.minimum else bounds.min
    return over_ranges(ufunc, np.where(valid, values, neutral), low, high, neutral)


def _float_extreme(
    ufunc: np.ufunc, values: np.ndarray, valid: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """As SQL orders floats: NaN is the greatest."""
    nan = np.isnan(values) & valid
    if not nan.any():
        neutral = np.inf if ufunc is np.minimum else -np.inf
        return over_ranges(ufunc, values if valid.all() else np.where(valid, values, neutral), low, high, neutral)
    if ufunc is np.maximum:
        found = over_ranges(np.fmax, np.where(valid & ~nan, values, -np.inf), low, high, -np.inf)
        return np.where(count(nan, low, high) > 0, np.nan, found)
    found = over_ranges(np.fmin, np.where(valid & ~nan, values, np.inf), low, high, np.inf)
    return np.where(count(valid & ~nan, low, high) > 0, found, np.nan)


def first(valid: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Position of the first valid event of each range; -1 where there is none."""
    following = np.where(valid, np.arange(len(valid)), len(valid))
    following = np.minimum.accumulate(following[::-1])[::-1]
    found = np.append(following, len(valid))[low]
    return np.where(found < high, found, -1)


def last(valid: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Position of the last valid event of each range; -1 where there is none."""
    preceding = np.maximum.accumulate(np.where(valid, np.arange(len(valid)), -1)) if len(valid) else np.array([], int)
    found = np.append(preceding, -1)[high - 1]
    return np.where((high > low) & (found >= low), found, -1)


def expanded(valid: np.ndarray, low: np.ndarray, high: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """The valid events of each range, some ranges at a time: (ranges, range of each pair counted from 0, event)."""
    sizes = high - low
    ends = np.cumsum(sizes)
    start = 0
    while start < len(low):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + PAIRS_AT_ONCE, side="right")))
        size = sizes[start:stop]
        owner = np.repeat(np.arange(stop - start), size)
        offset = np.arange(len(owner)) - np.repeat(np.cumsum(size) - size, size)
        event = low[start:stop][owner] + offset
        keep = valid[event] if len(event) else np.zeros(0, dtype=bool)
        yield slice(start, stop), owner[keep], event[keep]
        start = stop


def distinct(codes: np.ndarray, valid: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How many different codes (integers from 0) the valid events of each range have."""
    found = np.zeros(len(low), dtype=np.int64)
    span = int(codes.max(initial=0)) + 1
    for ranges, owner, event in expanded(valid, low, high):
        pairs = np.unique(owner * span + codes[event])
        found[ranges] = np.bincount(pairs // span, minlength=ranges.stop - ranges.start)
    return found


def variance(values: np.ndarray, valid: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of squared distances from each range's mean, in two passes so that nothing cancels, and its valid values."""
    size = count(valid, low, high)
    squares = np.zeros(len(low))
    numbers = values.astype(np.float64)
    for ranges, owner, event in expanded(valid, low, high):
        here = ranges.stop - ranges.start
        mean = np.bincount(owner, numbers[event], here) / np.maximum(np.bincount(owner, minlength=here), 1)
        squares[ranges] = np.bincount(owner, (numbers[event] - mean[owner]) ** 2, here)
    return np.where(size == 1, 0.0, squares), size


def quantile_positions(
    values: np.ndarray, valid: np.ndarray, low: np.ndarray, high: np.ndarray, level: float, *, continuous: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events that hold the quantile of each range: (lower, upper, weight of upper); positions -1 in an empty range.

    Continuous as DuckDB's quantile_cont: between the values at floor and ceil of (n - 1) * level. Discrete as its
    quantile_disc: the value at ceil(n * level) - 1, at least the first.
    """
    lower = np.full(len(low), -1)
    upper = np.full(len(low), -1)
    weight = np.zeros(len(low))
    for ranges, owner, event in expanded(valid, low, high):
        order = np.lexsort((values[event], owner))
        event = event[order]
        size = np.bincount(owner, minlength=ranges.stop - ranges.start)
        begin = np.cumsum(size) - size
        some = size > 0
        if continuous:
            rank = (size - 1) * level
            at, to = np.floor(rank).astype(int), np.ceil(rank).astype(int)
        else:
            at = to = np.maximum(np.ceil(size * level).astype(int) - 1, 0)
            rank = at
        chunk = np.flatnonzero(some)
        lower[ranges.start + chunk] = event[begin[chunk] + at[chunk]]
        upper[ranges.start + chunk] = event[begin[chunk] + to[chunk]]
        weight[ranges.start + chunk] = (rank - at)[chunk]
    return lower, upper, weight


def between(lower: np.ndarray, upper: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Floats between two as DuckDB interpolates them: 64-bit ones are weighed, 32-bit ones stepped to."""
    if lower.dtype == np.float32:
        start = lower.astype(np.float64)
        return _fused(upper - start, weight, start)
    return _fused(lower.astype(np.float64), 1 - weight, upper.astype(np.float64) * weight)


def between_decimals(lower: np.ndarray, upper: np.ndarray, weight: np.ndarray, precision: int) -> np.ndarray:
    """As `between` for unscaled decimals, cut to integers; beyond 18 digits from their exact difference."""
    if precision <= 18:
        start = lower.astype(np.float64)
        return _fused(upper.astype(np.float64) - start, weight, start).astype(np.int64)
    found = np.empty(len(lower), dtype=object)
    for row, (low, high, part) in enumerate(zip(lower.tolist(), upper.tolist(), weight.tolist(), strict=True)):
        step = max(high - low, 0)
        found[row] = low + int((float(step >> 64) * 2.0**64 + float(step & (2**64 - 1))) * part)
    return found


def _fused(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> np.ndarray:
    """first * second + third, rounded once, by what rounding takes from product and sum (Dekker, Knuth)."""

    def halves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scaled = values * 134_217_729.0
        high = scaled - (scaled - values)
        return high, values - high

    with np.errstate(all="ignore"):
        product = first * second
        (a, b), (c, d) = halves(first), halves(second)
        product_rest = ((a * c - product) + a * d + b * c) + b * d
        total = product + third
        added = total - product
        rest = (product - (total - added)) + (third - added)
        found = total + (rest + product_rest)
    return np.where(np.isfinite(found), found, total)


def arg_extreme(by: np.ndarray, valid: np.ndarray, low: np.ndarray, high: np.ndarray, *, largest: bool) -> np.ndarray:
    """Position of the valid event with the largest or smallest `by` of each range, the earliest on a tie; -1: none."""
    found = np.full(len(low), -1)
    for ranges, owner, event in expanded(valid, low, high):
        order = np.lexsort((-event if largest else event, by[event], owner))
        owner, event = owner[order], event[order]
        if not len(owner):
            continue
        change = np.flatnonzero(np.diff(owner))
        pick = np.append(change, len(owner) - 1) if largest else np.append(0, change + 1)
        found[ranges.start + owner[pick]] = event[pick]
    return found


def over_ranges(ufunc: np.ufunc, values: np.ndarray, low: np.ndarray, high: np.ndarray, empty: object) -> np.ndarray:
    """`ufunc` over each range, `empty` for one without events."""
    if not len(low):
        return values[:0]
    last = len(values) - 1
    if last < 0:
        return np.full(len(low), empty, dtype=values.dtype)
    bounds = np.empty(2 * len(low), dtype=np.int64)  # below len(values), as reduceat wants; no copy to pad them
    bounds[0::2], bounds[1::2] = np.minimum(low, last), np.minimum(high, last)
    found = ufunc.reduceat(values, bounds)[0::2]
    cut = np.flatnonzero((high > last) & (low < last))
    found[cut] = ufunc(found[cut], values[last])
    found[low == high] = empty
    return found
