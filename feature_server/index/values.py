"""Columns between Arrow and the arrays of `windows.window`.

Integers and floats are themselves, booleans booleans, a decimal its unscaled integer (int64, Python integers where that
is too small), dates days and timestamps microseconds since 1970. Strings and UUIDs are integers that order them as SQL
does, their places in a dictionary of sorted values; lists are their places in the column.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow import arrow_array, arrow_type
from ..dtypes import DType
from ..windows.reduce import Values


def encode(column: Any, dtype: DType) -> tuple[Values, pa.Array | None]:
    """An Arrow array of a declared type as values, and the dictionary they are places in where they are no numbers."""
    null = np.zeros(len(column), dtype=bool)
    if column.null_count:
        null = pc.is_null(column).to_numpy(zero_copy_only=False)
    if dtype.kind in ("string", "uuid"):
        return _encode_strings(column.cast(pa.string()), null)
    if dtype.kind == "list":
        return Values(np.arange(len(column)), null), column
    if dtype.kind == "decimal":
        return Values(_unscaled(column, null), null), None
    if dtype.kind == "date" or dtype.is_timestamp:
        column = column.cast(pa.int32() if dtype.kind == "date" else pa.int64())
    filled = pc.fill_null(column, False if dtype.kind == "bool" else 0) if column.null_count else column
    return Values(filled.to_numpy(zero_copy_only=False), null), None


def decode(values: Values, dtype: DType, dictionary: Any = None) -> Any:
    """An Arrow array of the declared type; OverflowError when an integer is too large for it."""
    target, valid = arrow_type(dtype), ~values.null if values.null.any() else None
    if dictionary is not None:
        places = pa.array(np.where(values.null, 0, values.values).astype(np.int64), mask=values.null)
        return dictionary.take(places).cast(target)
    if dtype.kind == "list":
        return pa.array([None if null else item for item, null in zip(values.values, values.null, strict=True)], target)
    if dtype.kind == "decimal":
        return arrow_array(target, to_halves(np.where(values.null, 0, values.values)), valid)
    numbers = values.values
    if dtype.kind == "bool":
        return pa.array(numbers.astype(bool), mask=values.null)
    if dtype.kind == "date" or dtype.is_timestamp:
        return pa.array(numbers.astype("i4" if dtype.kind == "date" else "i8"), mask=values.null).cast(target)
    wanted: Any = np.dtype(target.to_pandas_dtype())
    if numbers.dtype != wanted and wanted.kind in "iu":
        zeroed = np.where(values.null, 0, numbers)
        least, largest = np.iinfo(wanted).min, np.iinfo(wanted).max
        if len(zeroed) and (int(zeroed.min()) < least or int(zeroed.max()) > largest):
            raise OverflowError(f"a value beyond {dtype}")
        numbers = zeroed
    return arrow_array(target, numbers.astype(wanted), valid)


def to_halves(values: np.ndarray) -> np.ndarray:
    """Integers as 128-bit two's complement: n × 2 int64, the low half first."""
    halves = np.empty((len(values), 2), dtype=np.int64)
    if values.dtype != object:
        halves[:, 0] = values
        halves[:, 1] = values.astype(np.int64) >> 63
        return halves
    for row, value in enumerate(values.tolist()):
        halves[row] = np.frombuffer(int(value).to_bytes(16, "little", signed=True), dtype=np.int64)
    return halves


def from_halves(halves: np.ndarray) -> np.ndarray:
    """Python integers of 128-bit two's complement."""
    raw = np.ascontiguousarray(halves).tobytes()
    numbers = [int.from_bytes(raw[at : at + 16], "little", signed=True) for at in range(0, len(raw), 16)]
    found = np.empty(len(numbers), dtype=object)
    found[:] = numbers
    return found


def _unscaled(column: Any, null: np.ndarray) -> np.ndarray:
    data = column.buffers()[1]
    halves = np.frombuffer(data, dtype=np.int64)[2 * column.offset :][: 2 * len(column)].reshape(-1, 2)
    low = np.where(null, 0, halves[:, 0])
    if (np.where(null, 0, halves[:, 1]) == low >> 63).all():
        return low
    found = from_halves(halves)
    found[null] = 0
    return found


def _encode_strings(column: Any, null: np.ndarray) -> tuple[Values, pa.Array]:
    encoded = column.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    codes = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
    values = place[codes] if len(order) else np.zeros(len(column), dtype=np.int64)
    return Values(values, null), encoded.dictionary.take(pa.array(order))
