"""A stream view's output expressions over columns of aggregates and latest values, as DuckDB evaluates them.

Types and nulls follow SQL: integers and decimals are exact, a decimal being its unscaled integers, `/` is a division of
floats, NaN is the greatest float, and what a `case` or `coalesce` does not need is not evaluated.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeAlias

import msgspec
import numpy as np

from ..definitions.stream import Node
from ..dtypes import FLOAT_WIDTHS, INTEGER_WIDTHS, DType, integer_bounds, parse_sql_type
from ..errors import RequestError

_Function: TypeAlias = Callable[..., np.ndarray]

_NULL, _INT, _BOOL, _DOUBLE = DType("null"), DType("int64"), DType("bool"), DType("float64")
_EXACT_KINDS = {*INTEGER_WIDTHS, "decimal", "null"}
_NUMPY_TYPES: dict[str, Any] = {
    "float64": np.float64, "float32": np.float32, "bool": np.bool_, "string": object, "list": object, "uuid": object,
}  # fmt: skip


class Column(msgspec.Struct):
    """Values of one type, and which of them are null; values under a null are arbitrary.

    Integers, floats, booleans, dates (days) and timestamps (microseconds) are NumPy numbers, decimals unscaled
    integers; integers beyond 64 bits, strings and lists are Python objects.
    """

    values: np.ndarray
    null: np.ndarray
    dtype: DType


_Columns: TypeAlias = Sequence[Column | None] | Mapping[int, Column]
_Inputs: TypeAlias = Mapping[str, _Columns]


def evaluate(node: Node, aggregates: _Columns, latest: _Columns, dtype: DType, rows: int) -> Column:
    """The expression for n rows, cast to `dtype`; RequestError where DuckDB refuses too, as for a division by zero."""
    with np.errstate(all="ignore"):
        return _cast(_of(node, {"aggregate": aggregates, "latest": latest}, np.arange(rows)), dtype)


def _of(node: Node, inputs: _Inputs, rows: np.ndarray) -> Column:
    """The node's values at some rows."""
    if node.op in inputs:
        column = inputs[node.op][node.value]
        assert column is not None, f"{node.op} {node.value} is not there"
        return Column(_integers_wide(column.values.take(rows)), column.null.take(rows), column.dtype)
    if node.op == "literal":
        dtype, one, null = _constant(node.value)
        return Column(one.repeat(len(rows)), null.repeat(len(rows)), dtype)
    if node.op in ("case", "coalesce"):
        return _choose(node, inputs, rows)
    return _OPERATORS[node.op](node, *[_of(part, inputs, rows) for part in node.args])


def _choose(node: Node, inputs: _Inputs, rows: np.ndarray) -> Column:
    """Each row's value by the first condition of a `case` that is true, or the first of `coalesce` that is not null."""
    cases = len(node.args) // 2 if node.op == "case" else 0
    conditions = [*node.args[0 : 2 * cases : 2], *[None] * (len(node.args) - 2 * cases)]
    waiting, chosen = np.arange(len(rows)), []
    for condition, value in zip(conditions, [*node.args[1 : 2 * cases : 2], *node.args[2 * cases :]], strict=True):
        here = waiting
        if condition is not None:
            test = _cast(_of(condition, inputs, rows[waiting]), _BOOL)
            yes = test.values & ~test.null
            here, waiting = waiting[yes], waiting[~yes]
        found = _of(value, inputs, rows[here])
        chosen.append((here, found))
        waiting = waiting if condition is not None else here[found.null]
    dtype = _common(*[found.dtype for _, found in chosen])
    values, null = np.zeros(len(rows), dtype=_NUMPY_TYPES.get(dtype.kind, np.int64)), np.ones(len(rows), dtype=bool)
    for places, column in chosen:
        if len(places):
            found = _cast(column, dtype)
            values = values.astype(object, copy=False) if found.values.dtype == object else values
            values[places], null[places] = found.values, found.null
    return Column(values, null, dtype)


@lru_cache(typed=True)
def _constant(value: Any) -> tuple[DType, np.ndarray, np.ndarray]:
    """A literal with a point is a decimal, as `0.5` is decimal(2,1); one with an exponent a double."""
    dtype, null = {bool: _BOOL, int: _INT, float: _DOUBLE, str: DType("string")}.get(type(value), _NULL), value is None
    if dtype == _DOUBLE and not {"e", "n"} & {*repr(value)}:
        whole, _, fraction = repr(value).partition(".")
        dtype, value = _decimal(len(fraction)), int(whole + fraction)
    one = _integer(value or 0) if dtype.kind in _EXACT_KINDS else np.array([value], dtype=_NUMPY_TYPES[dtype.kind])
    return dtype, one, np.array([null])


def _integer(value: int) -> np.ndarray:
    return np.array([value], dtype=np.int64 if abs(value) < 2**63 else object)


def _integers_wide(values: np.ndarray) -> np.ndarray:
    """Integers of 64 bits, or Python's where those do not hold them; other values as they are."""
    if values.dtype.kind == "u" and values.max(initial=0) >= 2**63:
        return values.astype(object)
    return values.astype(np.int64, copy=False) if values.dtype.kind in "iu" else values


def _decimal(scale: int) -> DType:
    return DType("decimal", precision=38, scale=scale)


@lru_cache
def _common(*dtypes: DType) -> DType:
    """The type that values of several types are brought to."""
    known = [dtype for dtype in dtypes if dtype != _NULL]
    kinds = {dtype.kind for dtype in known}
    if floats := kinds & FLOAT_WIDTHS.keys():
        return DType(max(floats))
    if "decimal" in kinds:
        return _decimal(max(dtype.scale or 0 for dtype in known))
    return _INT if len(kinds) > 1 and kinds <= _EXACT_KINDS else (known or [_NULL])[0]


@lru_cache
def _digits(*dtypes: DType) -> tuple[int, ...] | None:
    """By how many digits exact numbers are scaled to their common unit; None where not all are exact."""
    most = max(dtype.scale or 0 for dtype in dtypes)
    return tuple(most - (dtype.scale or 0) for dtype in dtypes) if {t.kind for t in dtypes} <= _EXACT_KINDS else None


def _strict(dtype: DType, function: _Function, *columns: Column) -> Column:
    """A function that is null where an argument is; one of our own sees no object or exact number under a null."""
    null, values = columns[0].null, [column.values for column in columns]
    for column in columns[1:]:
        null = null | column.null
    if np.count_nonzero(null) and not isinstance(function, np.ufunc):
        if object in [some.dtype for some in values]:
            known = ~null
            some = function(*[of[known] for of in values])
            found = np.zeros(len(null), dtype=some.dtype)
            found[known] = some
            return Column(found, null, dtype)
        if dtype.kind in _EXACT_KINDS:
            values = [np.where(null, 1, of) for of in values]
    return Column(function(*values), null, dtype)


def _alike(*columns: Column) -> Sequence[Column]:
    """Columns of one unit: exact ones of the smallest, whatever its type can hold."""
    dtypes = [column.dtype for column in columns]
    digits, dtype = _digits(*dtypes), _common(*dtypes)
    if digits is None:
        return [_cast(column, dtype) for column in columns]
    scaled = zip(digits, columns, strict=True)
    return [_strict(dtype, partial(_scaled, some), column) if some else column for some, column in scaled]


@lru_cache
def _number_type(op: str, *dtypes: DType) -> tuple[bool, DType]:
    """Whether an operator is exact, as it is where all parts and the function are, and the type of its values."""
    decimal, common, exact = "decimal" in {dtype.kind for dtype in dtypes}, _common(*dtypes), _digits(*dtypes)
    if op not in _EXACT or exact is None or (op == "//" and decimal):
        return False, common if common.kind in FLOAT_WIDTHS and op not in ("ln", "exp", "sqrt") else _DOUBLE
    scales = [dtype.scale or 0 for dtype in dtypes]
    return True, _decimal(sum(scales) if op == "*" else max(scales)) if decimal else _INT


def _numbers(node: Node, *parts: Column) -> Column:
    exact, dtype = _number_type(node.op, *[part.dtype for part in parts])
    if not exact:
        return _strict(dtype, _FLOATS[node.op], *[_cast(part, dtype) for part in parts])
    return _strict(dtype, _EXACT[node.op], *(parts if node.op == "*" or dtype == _INT else _alike(*parts)))


def _largest(values: np.ndarray) -> int:
    """The greatest absolute value; that of Python's integers may be any."""
    if not len(values):
        return 0
    return 2**63 if values.dtype == object else max(int(values.max()), -int(values.min()))


def _sure(function: _Function, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A sum, difference or product of integers: Python's where 64 bits may not hold it."""
    largest = _largest(a), _largest(b)
    if (math.prod if function is np.multiply else sum)(largest) < 2**63:
        return function(a, b)
    return function(a.astype(object), b.astype(object))


def _division(op: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`//` and `%` of integers, towards zero."""
    if np.count_nonzero(b == 0):
        raise RequestError(f"division by zero in {op}", where="the model", remedy="divide by nullif(…, 0)")
    if _largest(a) == 2**63:  # of which a 64-bit quotient by -1 is too great
        a = a.astype(object)
    quotient = a // b
    rest = a - quotient * b
    below = (rest != 0) & ((a < 0) != (b < 0))
    return quotient + below if op == "//" else rest - b * below


def _scaled(digits: int, values: np.ndarray) -> np.ndarray:
    """Integers times 10 to the power of `digits`, halves away from zero."""
    if digits >= 0:
        return _sure(np.multiply, values, _integer(10**digits)) if digits else values
    halves = np.abs(values) // _integer(10**-digits // 2)
    return np.sign(values) * ((halves + 1) // 2)


_EXACT: dict[str, _Function] = {
    "+": partial(_sure, np.add), "-": partial(_sure, np.subtract), "*": partial(_sure, np.multiply),
    "//": partial(_division, "//"), "%": partial(_division, "%"), "neg": np.negative, "abs": np.abs,
}  # fmt: skip
_FLOATS: dict[str, _Function] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "//": np.divide, "%": np.fmod, "neg": np.negative,
    "abs": np.abs, "floor": np.floor, "ceil": np.ceil, "ln": np.log, "exp": np.exp, "sqrt": np.sqrt,
}  # fmt: skip


def _sign(node: Node, part: Column) -> Column:
    numbers = _cast(part, part.dtype if part.dtype.kind in _EXACT_KINDS else _DOUBLE)
    return _strict(DType("int8"), lambda values: (values > 0).astype(np.int64) - (values < 0), numbers)


def _rounding(node: Node, part: Column) -> Column:
    """`floor`, `ceil` and `round`, whose halves go away from zero."""
    scale, digits = part.dtype.scale or 0, node.value or 0
    if part.dtype.kind == "decimal":
        drop, unit = max(scale - digits, 0), _integer(10**scale)
        functions: dict[str, _Function] = {"floor": lambda v: v // unit, "ceil": lambda v: -(-v // unit)}
        return _strict(_decimal(scale - drop), functions.get(node.op, partial(_scaled, -drop)), part)
    if node.op != "round" or part.dtype.kind in INTEGER_WIDTHS:
        return part if node.op == "round" else _numbers(node, part)
    dtype = part.dtype if part.dtype.kind in FLOAT_WIDTHS else _DOUBLE
    return _strict(dtype, partial(_rounded, digits) if digits else _away, _cast(part, dtype))


def _rounded(digits: int, numbers: np.ndarray) -> np.ndarray:
    unit = numbers.dtype.type(10.0**digits)
    found = _away(numbers * unit) / unit
    return np.where(np.isfinite(found), found, numbers)


def _away(numbers: np.ndarray) -> np.ndarray:
    """Halves away from zero: by adding the float just below a half, so that nothing below a half goes up with them."""
    half = np.float32(0.49999997) if numbers.dtype == np.float32 else 0.49999999999999994
    return np.trunc(numbers + np.copysign(half, numbers))


def _ordered(function: _Function, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A comparison to which NaN is the greatest float."""
    found = function(a, b)
    if a.dtype.kind == "f" and np.count_nonzero(nan := np.isnan(a) | np.isnan(b)):
        found = np.where(nan, function(np.isnan(a), np.isnan(b)), found)
    return found.astype(bool, copy=False)


_COMPARISONS: dict[str, _Function] = {
    "=": np.equal, "<>": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
}  # fmt: skip


def _comparison(node: Node, *parts: Column) -> Column:
    return _strict(_BOOL, partial(_ordered, _COMPARISONS[node.op]), *_alike(*parts))


def _extreme(node: Node, *parts: Column) -> Column:
    """`greatest` and `least`: nulls are passed over."""
    better = Node(">" if node.op == "greatest" else "<")
    found, *others = _alike(*parts)
    for other in others:
        take = ~other.null & (found.null | _comparison(better, other, found).values)
        found = Column(np.where(take, other.values, found.values), found.null & other.null, found.dtype)
    return Column(found.values, found.null, _common(*[part.dtype for part in parts]))


def _conjunction(node: Node, *parts: Column) -> Column:
    first, second = (_cast(part, _BOOL) for part in parts)
    settles = node.op == "or"  # the value of one part with which the other does not matter
    settled = ((first.values == settles) & ~first.null) | ((second.values == settles) & ~second.null)
    return Column(settled == settles, (first.null | second.null) & ~settled, _BOOL)


def _nullif(node: Node, first: Column, second: Column) -> Column:
    same = _comparison(Node("="), first, second)
    return Column(first.values, first.null | (same.values & ~same.null), first.dtype)


def _cast(column: Column, dtype: DType) -> Column:
    """The column in another type; RequestError for a value that it cannot hold."""
    if column.dtype == dtype:
        return column
    if dtype == _BOOL or dtype.kind in FLOAT_WIDTHS or dtype.kind in _EXACT_KINDS:
        return _strict(dtype, partial(_converted, column.dtype, dtype), column)
    return Column(column.values, column.null, dtype)


def _converted(source: DType, dtype: DType, values: np.ndarray) -> np.ndarray:
    if dtype.kind in FLOAT_WIDTHS:
        numbers = values.astype(np.float64)
        return (numbers / 10.0**source.scale if source.scale else numbers).astype(_NUMPY_TYPES[dtype.kind], copy=False)
    if dtype == _BOOL:
        return values.astype(bool)
    if source.kind in FLOAT_WIDTHS:
        values = _integers_of_floats(values, dtype)
    else:
        whole = values if source.kind in _EXACT_KINDS else values.astype(np.int64)
        values = _scaled((dtype.scale or 0) - (source.scale or 0), whole)
    most = 10 ** int(dtype.precision or 38) - 1
    least, most = (-most, most) if dtype.kind == "decimal" else integer_bounds(dtype.kind)
    if len(values) and not least <= int(values.min()) <= int(values.max()) <= most:
        raise _beyond(dtype)
    return values.astype(np.int64) if values.dtype == object and most < 2**63 else values


def _integers_of_floats(values: np.ndarray, dtype: DType) -> np.ndarray:
    """As DuckDB casts: halves to even; to decimals after a nudge of 1e-9 units away from zero."""
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise _beyond(dtype)
    if dtype.kind == "decimal":
        numbers = numbers * 10.0 ** (dtype.scale or 0)
        numbers = numbers + 1e-9 * np.sign(numbers)
    whole = np.rint(numbers)
    if np.count_nonzero(np.abs(whole) >= 2.0**62):
        return np.array([int(number) for number in whole.tolist()], dtype=object)
    return whole.astype(np.int64)


def _beyond(dtype: DType) -> RequestError:
    return RequestError(f"a value that {dtype} cannot hold", where="the model", remedy="cast to a wider type")


_OPERATORS: dict[str, Callable[..., Column]] = {
    **dict.fromkeys((*_EXACT, *_FLOATS), _numbers),
    **dict.fromkeys(_COMPARISONS, _comparison),
    **dict.fromkeys(("and", "or"), _conjunction),
    **dict.fromkeys(("greatest", "least"), _extreme),
    **dict.fromkeys(("floor", "ceil", "round"), _rounding),
    "not": lambda node, part: _strict(_BOOL, np.logical_not, _cast(part, _BOOL)),
    "is null": lambda node, part: Column(part.null, np.zeros(len(part.null), dtype=bool), _BOOL),
    "cast": lambda node, part: _cast(part, parse_sql_type(node.value)),
    "nullif": _nullif,
    "sign": _sign,
}
