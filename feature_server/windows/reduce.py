"""Aggregates of many ranges of one array at once: what DuckDB's window functions give, with NumPy.

Events lie sorted by (group, event time); a range is `[low, high)`, and ranges come sorted, so that `ufunc.reduceat`
walks the array about once. Sums of floats are never differences of running totals; counts and sums of integers may be.
`KERNELS`, at the end, has one for each function of `definitions.aggregates`.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec
import numpy as np

from ..dtypes import DType

PAIRS_AT_ONCE = 1_000_000  # event-range pairs expanded at a time, for they take memory, and caches are small


class Values(msgspec.Struct):
    """A column: values, and which of them are null. Values under a null are arbitrary."""

    values: np.ndarray
    null: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, positions: np.ndarray) -> "Values":
        return Values(self.values[positions], self.null[positions])


class Ranges(msgspec.Struct):
    """Ranges of events, and what is aggregated over them: `where` is which events are valid, and each range's low and
    high, `arguments` are of all events. `dtype` is the first argument's, a decimal's values being unscaled; `parameter`
    is the aggregate's.
    """

    arguments: Sequence[Values]
    where: tuple[np.ndarray, np.ndarray, np.ndarray]
    dtype: DType | None
    parameter: float | None

    @property
    def unit(self) -> int:
        return 10 ** (self.dtype.scale or 0) if self.dtype is not None else 1

    @property
    def numbers(self) -> np.ndarray:
        """The first argument's values as 64-bit floats."""
        values, unit = self.arguments[0].values, self.unit
        return (values / unit if unit > 1 else values).astype(np.float64)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Integers from 0 that order and tell apart values as SQL does."""
    return np.unique(values, return_inverse=True)[1]


def _never_null(values: np.ndarray) -> Values:
    return Values(values, np.zeros(len(values), dtype=bool))


def running_totals(values: np.ndarray) -> np.ndarray:
    """The sum of the values before each place, and of all."""
    running = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=running[1:])
    return running


def count(valid: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How many of each range are valid."""
    if np.count_nonzero(valid) == len(valid):
        return high - low
    running = running_totals(valid)
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
    with np.errstate(over="ignore"):
        running = running_totals(kept.astype(np.int64))
        return running[high] - running[low]


def extreme(ufunc: np.ufunc, values: np.ndarray, valid: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """np.minimum or np.maximum of the valid values of each range; arbitrary where a range has none."""
    if values.dtype.kind == "f":
        return _float_extreme(ufunc, values, valid, low, high)
    if values.dtype == object:  # integers beyond 64 bits
        in_order, places = np.unique(values, return_inverse=True)
        found = extreme(ufunc, places, valid, low, high)
        return np.append(in_order, 0)[np.clip(found, 0, len(in_order))]
    bounds = (False, True) if values.dtype.kind == "b" else (np.iinfo(values.dtype).min, np.iinfo(values.dtype).max)
    neutral = bounds[ufunc is np.minimum]
    return over_ranges(ufunc, np.where(valid, values, neutral), low, high, neutral)


def _float_extreme(
    ufunc: np.ufunc, values: np.ndarray, valid: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """As SQL orders floats: NaN is the greatest."""
    nan = np.isnan(values) & valid
    some_nan = nan.any()
    known = valid & ~nan if some_nan else valid
    neutral = np.inf if ufunc is np.minimum else -np.inf
    found = over_ranges(ufunc, values if known.all() else np.where(known, values, neutral), low, high, neutral)
    if not some_nan:
        return found
    is_nan = count(known, low, high) == 0 if ufunc is np.minimum else count(nan, low, high) > 0
    return np.where(is_nan, np.nan, found)


def _end(of: Ranges, *, last: bool) -> np.ndarray:
    """Position of the first or last valid event of each range; -1 where there is none."""
    valid, low, high = of.where
    before = running_totals(valid)
    places = np.append(np.flatnonzero(valid), -1)
    return np.where(before[high] > before[low], places[before[high] - 1 if last else before[low]], -1)


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


def _count_distinct(of: Ranges) -> Values:
    codes = _ranks(of.arguments[0].values)
    found = np.zeros(len(of.where[1]), dtype=np.int64)
    span = int(codes.max(initial=0)) + 1
    for ranges, owner, event in expanded(*of.where):
        pairs = np.unique(owner * span + codes[event])
        found[ranges] = np.bincount(pairs // span, minlength=ranges.stop - ranges.start)
    return _never_null(found)


def _variance(spare: int, of: Ranges) -> Values:
    """The mean squared distance from each range's mean, in two passes so that nothing cancels; `spare` values are left
    out of the count that it is divided by."""
    size = count(*of.where)
    squares = np.zeros(len(of.where[1]))
    numbers = of.numbers
    for ranges, owner, event in expanded(*of.where):
        here = ranges.stop - ranges.start
        means = np.bincount(owner, numbers[event], here) / np.maximum(np.bincount(owner, minlength=here), 1)
        squares[ranges] = np.bincount(owner, (numbers[event] - means[owner]) ** 2, here)
    return Values(np.where(size == 1, 0.0, squares) / np.maximum(size - spare, 1), size <= spare)


def _quantile_positions(of: Ranges, level: float, *, continuous: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events that hold the quantile of each range: (lower, upper, weight of upper); positions -1 in an empty range.

    Continuous as DuckDB's quantile_cont: between the values at floor and ceil of (n - 1) * level. Discrete as its
    quantile_disc: the value at ceil(n * level) - 1, at least the first.
    """
    lower, upper = np.full((2, len(of.where[1])), -1)
    weight = np.zeros(len(of.where[1]))
    for ranges, owner, event in expanded(*of.where):
        order = np.lexsort((of.arguments[0].values[event], owner))
        event = event[order]
        size = np.bincount(owner, minlength=ranges.stop - ranges.start)
        begin = np.cumsum(size) - size
        rank = (size - 1) * level if continuous else np.maximum(np.ceil(size * level) - 1, 0)
        at, to = np.floor(rank).astype(int), np.ceil(rank).astype(int)
        chunk = np.flatnonzero(size)
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


def _arg_extreme(of: Ranges, *, largest: bool) -> np.ndarray:
    """Position of the valid event with the largest or smallest second argument of each range, the earliest on a tie;
    -1: none."""
    by = _ranks(of.arguments[1].values)
    found = np.full(len(of.where[1]), -1)
    for ranges, owner, event in expanded(*of.where):
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


def picked(values: Values, rows: np.ndarray) -> Values:
    """The values at rows; null where negative."""
    if not len(values):
        return Values(np.zeros(len(rows), dtype=values.values.dtype), np.ones(len(rows), dtype=bool))
    taken = values.take(np.maximum(rows, 0))
    return Values(taken.values, taken.null | (rows < 0))


def mean(total: np.ndarray, size: np.ndarray, unit: int) -> np.ndarray:
    """A sum of so many values, integers being of a unit, divided as DuckDB divides the exact sum."""
    size = np.maximum(size, 1)
    if total.dtype.kind == "f":
        return total / size
    return (total.astype(np.longdouble) / (size * unit)).astype(np.float64)


def _sum(of: Ranges) -> Values:
    return Values(total(of.arguments[0].values, *of.where), count(*of.where) == 0)


def _product(of: Ranges) -> Values:
    valid, low, high = of.where
    with np.errstate(all="ignore"):
        found = over_ranges(np.multiply, np.where(valid, of.numbers, 1.0), low, high, 1.0)
    return Values(found, count(*of.where) == 0)


def _avg(of: Ranges) -> Values:
    size = count(*of.where)
    return Values(mean(total(of.arguments[0].values, *of.where), size, of.unit), size == 0)


def _extreme(ufunc: np.ufunc, of: Ranges) -> Values:
    return Values(extreme(ufunc, of.arguments[0].values, *of.where), count(*of.where) == 0)


def _deviation(spare: int, of: Ranges) -> Values:
    found = _variance(spare, of)
    return Values(np.sqrt(found.values), found.null)


def _quantile(level: float | None, of: Ranges) -> Values:
    level = float(of.parameter or 0) if level is None else level
    lower, upper, weight = _quantile_positions(of, level, continuous=True)
    at, to = picked(of.arguments[0], lower), picked(of.arguments[0], upper)
    at_values, to_values = np.where(at.null, 0, at.values), np.where(to.null, 0, to.values)
    if of.dtype is not None and of.dtype.kind == "decimal":
        found = between_decimals(at_values, to_values, weight, int(of.dtype.precision or 38))
    else:
        found = between(at_values, to_values, weight)
    return Values(np.where(lower == upper, at_values, found), at.null)


def _list(of: Ranges) -> Values:
    (values,), (valid, low, high), last = of.arguments, of.where, of.parameter
    lists = np.empty(len(low), dtype=object)
    for i, (start, stop) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        rows = np.flatnonzero(valid[start:stop]) + start
        rows = rows if last is None else rows[-int(last) :]
        lists[i] = [None if values.null[row] else values.values[row].item() for row in rows]
    return Values(lists, np.array([not found for found in lists], dtype=bool))


KERNELS: dict[str, Callable[[Ranges], Values | np.ndarray]] = {  # values, or the positions of the events that have them
    **dict.fromkeys(("count_star", "count"), lambda of: _never_null(count(*of.where))),
    "count_distinct": _count_distinct,
    **dict.fromkeys(("count_if", "sum"), _sum),
    "product": _product,
    "avg": _avg,
    **dict.fromkeys(("min", "bool_and"), partial(_extreme, np.minimum)),
    **dict.fromkeys(("max", "bool_or"), partial(_extreme, np.maximum)),
    "stddev_samp": partial(_deviation, 1),
    "stddev_pop": partial(_deviation, 0),
    "var_samp": partial(_variance, 1),
    "var_pop": partial(_variance, 0),
    "median": partial(_quantile, 0.5),
    "quantile_cont": partial(_quantile, None),
    "quantile_disc": lambda of: _quantile_positions(of, float(of.parameter or 0), continuous=False)[0],
    "first": partial(_end, last=False),
    "last": partial(_end, last=True),
    "arg_min": partial(_arg_extreme, largest=False),
    "arg_max": partial(_arg_extreme, largest=True),
    "list": _list,
}
