"""A stream view's output expressions over columns of aggregates and latest values, as DuckDB evaluates them.

Types and nulls follow SQL: integers and decimals are exact, a decimal being its unscaled integers, `/` is a division of
floats, NaN is the greatest float, and what a `case` or `coalesce` does not need is not evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from ..definitions.stream import Node
from ..dtypes import FLOAT_WIDTHS, INTEGER_WIDTHS, DType, integer_bounds, parse_sql_type
from ..errors import RequestError

_NULL = DType("null")
_INT = DType("int64")
_BOOL = DType("bool")
_DOUBLE = DType("float64")
_SAFE = 2**62
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": np.equal, "<>": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
}  # fmt: skip


class Column(msgspec.Struct):
    """Values of one type, and which of them are null; values under a null are arbitrary.

    Integers, floats, booleans, dates (days) and timestamps (microseconds) are NumPy numbers, decimals unscaled
    integers; integers beyond 64 bits, strings and lists are Python objects.
    """

    values: np.ndarray
    null: np.ndarray
    dtype: DType

    def take(self, rows: np.ndarray) -> Column:
        return Column(self.values[rows], self.null[rows], self.dtype)


def evaluate(
    node: Node, aggregates: Sequence[Column | None], latest: Sequence[Column | None], dtype: DType, rows: int
) -> Column:
    """The expression for n rows, cast to `dtype`; RequestError where DuckDB refuses too, as for a division by zero."""
    with np.errstate(all="ignore"):
        return _cast(_Evaluation(aggregates, latest).of(node, np.arange(rows)), dtype)


class _Evaluation:
    def __init__(self, aggregates: Sequence[Column | None], latest: Sequence[Column | None]) -> None:
        self.aggregates, self.latest = aggregates, latest

    def of(self, node: Node, rows: np.ndarray) -> Column:
        """The node's values at some rows."""
        if node.op in ("aggregate", "latest"):
            column = (self.aggregates if node.op == "aggregate" else self.latest)[node.value]
            assert column is not None, f"{node.op} {node.value} is not there"
            return column.take(rows)
        if node.op == "literal":
            return _constant(node.value, len(rows))
        if node.op in ("case", "coalesce"):
            return self._choose(node, rows)
        parts = [self.of(part, rows) for part in node.args]
        if node.op in ("+", "-", "*", "/", "//", "%"):
            return _arithmetic(node.op, *parts)
        if node.op in _COMPARISONS:
            return _compare(node.op, *parts)
        if node.op in ("and", "or"):
            return _conjunction(node.op, *parts)
        if node.op in ("greatest", "least"):
            return _extreme(node.op, parts)
        if node.op == "nullif":
            same = _compare("=", *parts)
            return Column(parts[0].values, parts[0].null | (same.values & ~same.null), parts[0].dtype)
        if node.op == "cast":
            return _cast(parts[0], parse_sql_type(node.value))
        if node.op == "round":
            return _round(parts[0], node.value)
        return _unary(node.op, parts[0])

    def _choose(self, node: Node, rows: np.ndarray) -> Column:
        """`case` and `coalesce`: each row's value from the part that is right for it."""
        waiting = np.arange(len(rows))
        chosen: list[tuple[np.ndarray, Column]] = []
        if node.op == "coalesce":
            for part in node.args:
                found = self.of(part, rows[waiting])
                chosen.append((waiting[~found.null], found.take(np.flatnonzero(~found.null))))
                waiting = waiting[found.null]
        else:
            for condition, value in zip(node.args[0:-1:2], node.args[1:-1:2], strict=True):
                test = _truth(self.of(condition, rows[waiting]))
                yes = test.values & ~test.null
                chosen.append((waiting[yes], self.of(value, rows[waiting[yes]])))
                waiting = waiting[~yes]
            chosen.append((waiting, self.of(node.args[-1], rows[waiting])))
        dtype = _common([part.dtype for _, part in chosen])
        values = np.zeros(len(rows), dtype=_numpy_type(dtype))
        null = np.ones(len(rows), dtype=bool)
        for places, column in chosen:
            found = _cast(column, dtype)
            if found.values.dtype == object:
                values = values.astype(object)
            values[places], null[places] = found.values, found.null
        return Column(values, null, dtype)


def _constant(value: Any, rows: int) -> Column:
    if value is None:
        return Column(np.zeros(rows), np.ones(rows, dtype=bool), _NULL)
    null = np.zeros(rows, dtype=bool)
    if isinstance(value, bool):
        return Column(np.full(rows, value), null, _BOOL)
    if isinstance(value, int):
        return Column(np.full(rows, value, dtype=np.int64 if abs(value) < 2**63 else object), null, _INT)
    if isinstance(value, float):
        return _decimal_literal(value, rows)
    return Column(np.full(rows, value, dtype=object), null, DType("string"))


def _decimal_literal(value: float, rows: int) -> Column:
    """A literal with a point is a decimal, as `0.5` is decimal(2,1); one with an exponent a double."""
    text = repr(value)
    null = np.zeros(rows, dtype=bool)
    if "e" in text or "n" in text:
        return Column(np.full(rows, value), null, _DOUBLE)
    whole, _, fraction = text.partition(".")
    dtype = DType("decimal", precision=38, scale=len(fraction))
    return Column(np.full(rows, int(whole + fraction), dtype=np.int64), null, dtype)


def _is_float(dtype: DType) -> bool:
    return dtype.kind in FLOAT_WIDTHS


def _is_exact(dtype: DType) -> bool:
    return dtype.kind in INTEGER_WIDTHS or dtype.kind == "decimal"


def _common(dtypes: Sequence[DType]) -> DType:
    """The type that values of several types are brought to."""
    kinds = [dtype for dtype in dtypes if dtype != _NULL]
    if not kinds:
        return _NULL
    if any(dtype.kind == "float64" for dtype in kinds):
        return _DOUBLE
    if any(dtype.kind == "float32" for dtype in kinds):
        return DType("float32")
    if any(dtype.kind == "decimal" for dtype in kinds):
        return DType("decimal", precision=38, scale=max(dtype.scale or 0 for dtype in kinds))
    if all(dtype.kind in INTEGER_WIDTHS for dtype in kinds):
        return kinds[0] if len(set(kinds)) == 1 else _INT
    return kinds[0]


def _numpy_type(dtype: DType) -> Any:
    if dtype.kind in ("string", "list", "uuid"):
        return object
    return {"float64": np.float64, "null": np.float64, "float32": np.float32, "bool": np.bool_}.get(
        dtype.kind, np.int64
    )


def _wide(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == object else values.astype(object)


def _largest(values: np.ndarray) -> int:
    if not len(values):
        return 0
    return max(abs(int(values.max())), abs(int(values.min())))


def _scaled(column: Column, digits: int) -> np.ndarray:
    """The values of integers or decimals times 10 to the power of `digits`."""
    values = column.values.astype(np.int64) if column.values.dtype.kind in "biu" else column.values
    if digits == 0:
        return values
    factor = 10**digits
    zeroed = np.where(column.null, 0, values)
    return zeroed * factor if _largest(zeroed) * factor < _SAFE else _wide(zeroed) * factor


def _exact(first: Column, second: Column, times: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """Integers of the same unit (for a product: of their own), wide enough not to overflow; the result's scale."""
    scales = first.dtype.scale or 0, second.dtype.scale or 0
    scale = sum(scales) if times else max(scales)
    a = _scaled(first, 0 if times else scale - scales[0])
    b = _scaled(second, 0 if times else scale - scales[1])
    a, b = np.where(first.null, 0, a), np.where(second.null, 0, b)
    bound = _largest(a) * max(_largest(b), 1) if times else _largest(a) + _largest(b)
    return (a, b, scale) if bound < _SAFE else (_wide(a), _wide(b), scale)


def _arithmetic(op: str, first: Column, second: Column) -> Column:
    null = first.null | second.null
    both_integer = all(column.dtype.kind in INTEGER_WIDTHS for column in (first, second))
    exact = _is_exact(first.dtype) and _is_exact(second.dtype)
    if not exact or op == "/" or (op == "//" and not both_integer):
        return _of_floats(op, first, second, null)
    a, b, scale = _exact(first, second, op == "*")
    if op in ("//", "%"):
        if ((b == 0) & ~null).any():
            raise RequestError(f"division by zero in {op}", where="the model", remedy="divide by nullif(…, 0)")
        b = np.where(b == 0, 1, b)
        quotient = np.abs(a) // np.abs(b)
        if op == "//":
            values = np.where((a < 0) == (b < 0), quotient, -quotient)
        else:
            remainder = np.abs(a) - quotient * np.abs(b)
            values = np.where(a < 0, -remainder, remainder)
    else:
        values = {"+": np.add, "-": np.subtract, "*": np.multiply}[op](a, b)
    return Column(values, null, _INT if both_integer else DType("decimal", precision=38, scale=scale))


def _of_floats(op: str, first: Column, second: Column, null: np.ndarray) -> Column:
    dtype = _common([first.dtype, second.dtype])
    dtype = dtype if _is_float(dtype) else _DOUBLE
    a, b = _cast(first, dtype).values, _cast(second, dtype).values
    function: Any = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "//": np.divide, "%": np.fmod}[op]
    return Column(function(a, b), null, dtype)


def _compare(op: str, first: Column, second: Column) -> Column:
    null = first.null | second.null
    a, b = _comparable(first, second)
    if a.dtype.kind == "f":
        nan_a, nan_b = np.isnan(a), np.isnan(b)
        # NaN is the greatest: two ranks that order as the values do
        found = np.where(nan_a | nan_b, _COMPARISONS[op](nan_a.astype(int), nan_b.astype(int)), _COMPARISONS[op](a, b))
    elif a.dtype == object:
        found = np.zeros(len(a), dtype=bool)
        found[~null] = _COMPARISONS[op](a[~null], b[~null]).astype(bool)
    else:
        found = _COMPARISONS[op](a, b)
    return Column(found.astype(bool), null, _BOOL)


def _comparable(first: Column, second: Column) -> tuple[np.ndarray, np.ndarray]:
    if _is_exact(first.dtype) and _is_exact(second.dtype):
        a, b, _ = _exact(first, second, False)
        return a, b
    dtype = _common([first.dtype, second.dtype])
    return _cast(first, dtype).values, _cast(second, dtype).values


def _truth(column: Column) -> Column:
    return column if column.dtype == _BOOL else _cast(column, _BOOL)


def _conjunction(op: str, first: Column, second: Column) -> Column:
    first, second = _truth(first), _truth(second)
    decides = op == "or"
    sure = ((first.values == decides) & ~first.null) | ((second.values == decides) & ~second.null)
    return Column(np.where(sure, decides, not decides), ~sure & (first.null | second.null), _BOOL)


def _extreme(op: str, parts: Sequence[Column]) -> Column:
    """`greatest` and `least`: nulls are passed over."""
    dtype = _common([part.dtype for part in parts])
    found = _cast(parts[0], dtype)
    for part in parts[1:]:
        other = _cast(part, dtype)
        better = _compare(">" if op == "greatest" else "<", other, found)
        take = ~other.null & (found.null | better.values)
        found = Column(np.where(take, other.values, found.values), found.null & other.null, dtype)
    return found


def _unary(op: str, part: Column) -> Column:
    if op == "is null":
        return Column(part.null.copy(), np.zeros(len(part.null), dtype=bool), _BOOL)
    if op == "not":
        part = _truth(part)
        return Column(~part.values, part.null, _BOOL)
    if op in ("neg", "abs") and (_is_exact(part.dtype) or part.dtype == _NULL):
        values = _wide(part.values) if part.values.dtype.kind == "u" else part.values
        return Column(-values if op == "neg" else np.abs(values), part.null, part.dtype)
    if op in ("floor", "ceil") and part.dtype.kind == "decimal":
        unit = 10 ** (part.dtype.scale or 0)
        values = part.values // unit if op == "floor" else -(-part.values // unit)
        return Column(values, part.null, DType("decimal", precision=38, scale=0))
    if op == "sign":
        number = part.values if _is_exact(part.dtype) else np.nan_to_num(_cast(part, _DOUBLE).values)
        return Column((number > 0).astype(np.int64) - (number < 0), part.null, DType("int8"))
    dtype = part.dtype if op in ("neg", "abs", "floor", "ceil") and _is_float(part.dtype) else _DOUBLE
    numbers = _cast(part, dtype).values
    function: Any = {
        "neg": np.negative, "abs": np.abs, "floor": np.floor, "ceil": np.ceil, "ln": np.log, "exp": np.exp,
        "sqrt": np.sqrt,
    }[op]  # fmt: skip
    return Column(function(numbers), part.null, dtype)


def _round(part: Column, digits: int) -> Column:
    """Halves go away from zero."""
    if part.dtype.kind in INTEGER_WIDTHS:
        return part
    if part.dtype.kind == "decimal":
        drop = max((part.dtype.scale or 0) - digits, 0)
        scale = (part.dtype.scale or 0) - drop
        return Column(_divided(part.values, 10**drop), part.null, DType("decimal", precision=38, scale=scale))
    dtype = part.dtype if _is_float(part.dtype) else _DOUBLE
    numbers = _cast(part, dtype).values
    if digits == 0:
        return Column(_away(numbers), part.null, dtype)
    scaled = _away(numbers * _constant_of(dtype, 10.0**digits)) / _constant_of(dtype, 10.0**digits)
    return Column(np.where(np.isfinite(scaled), scaled, numbers), part.null, dtype)


def _constant_of(dtype: DType, value: float) -> Any:
    """A constant of a float type."""
    return np.float32(value) if dtype.kind == "float32" else np.float64(value)


def _away(numbers: np.ndarray) -> np.ndarray:
    whole = np.trunc(numbers)
    return np.where(np.abs(numbers - whole) >= 0.5, whole + np.sign(numbers), whole)


def _divided(values: np.ndarray, unit: int) -> np.ndarray:
    """Integers divided, halves away from zero."""
    if unit == 1:
        return values
    size = np.abs(values)
    quotient = (size + unit // 2) // unit
    return np.where(values < 0, -quotient, quotient)


def _cast(column: Column, dtype: DType) -> Column:
    """The column in another type; RequestError for a value that it cannot hold."""
    source = column.dtype
    if source == dtype:
        return column
    if source == _NULL:
        return Column(np.zeros(len(column.null), dtype=_numpy_type(dtype)), column.null, dtype)
    if dtype.kind in FLOAT_WIDTHS:
        return Column(_floats(column).astype(_numpy_type(dtype)), column.null, dtype)
    if dtype.kind == "bool":
        return Column(column.values.astype(bool), column.null, dtype)
    if dtype.kind == "decimal" or dtype.kind in INTEGER_WIDTHS:
        return Column(_integers(column, dtype), column.null, dtype)
    return Column(column.values, column.null, dtype)


def _floats(column: Column) -> np.ndarray:
    numbers = np.where(column.null, 0, column.values).astype(np.float64)
    return numbers / 10.0**column.dtype.scale if column.dtype.scale else numbers


def _integers(column: Column, dtype: DType) -> np.ndarray:
    """Values as integers of the target's unit, within its bounds."""
    scale, source = dtype.scale or 0, column.dtype
    if _is_float(source):
        values = _rounded_floats(np.where(column.null, 0, column.values), dtype, scale)
    elif scale >= (source.scale or 0):
        values = _scaled(column, scale - (source.scale or 0))
    else:
        values = _divided(column.values, 10 ** ((source.scale or 0) - scale))
    values = np.where(column.null, 0, values)
    if dtype.kind == "decimal":
        least, most = -(10 ** int(dtype.precision or 38)) + 1, 10 ** int(dtype.precision or 38) - 1
    else:
        least, most = integer_bounds(dtype.kind)
    if len(values) and not least <= int(values.min()) <= int(values.max()) <= most:
        raise _beyond(dtype)
    return values.astype(np.int64) if values.dtype == object and most < 2**63 else values


def _rounded_floats(numbers: np.ndarray, dtype: DType, scale: int) -> np.ndarray:
    """To integers as DuckDB casts: halves to even; to decimals after a nudge of 1e-9 units away from zero."""
    numbers = numbers.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise _beyond(dtype)
    if dtype.kind == "decimal":
        numbers = numbers * 10.0**scale
        numbers = numbers + 1e-9 * np.sign(numbers)
    whole = np.rint(numbers)
    if len(whole) and np.abs(whole).max() >= 2.0**62:
        found = np.empty(len(whole), dtype=object)
        found[:] = [int(number) for number in whole]
        return found
    return whole.astype(np.int64)


def _beyond(dtype: DType) -> RequestError:
    return RequestError(f"a value that {dtype} cannot hold", where="the model", remedy="cast to a wider type")
