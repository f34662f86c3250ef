"""Arrow's types and arrays: the type of a feature, and arrays on NumPy's memory, without pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .dtypes import DType

if TYPE_CHECKING:
    import numpy as np

    from .point_in_time import Int64s

_ARROW_TYPES: dict[str, pa.DataType] = {
    "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "uint8": pa.uint8(), "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(),
    "float32": pa.float32(), "float64": pa.float64(), "bool": pa.bool_(), "string": pa.string(), "date": pa.date32(),
    "timestamp": pa.timestamp("us"), "timestamptz": pa.timestamp("us", "UTC"), "uuid": pa.string(),
}  # fmt: skip


def arrow_type(dtype: DType, *, uuid: pa.DataType | None = None) -> pa.DataType:
    """The Arrow type in which values are given; a UUID as its text if not as `uuid`."""
    if dtype.kind == "uuid" and uuid is not None:
        return uuid
    if dtype.kind == "decimal":
        return pa.decimal128(dtype.precision, dtype.scale)
    if dtype.kind == "list":
        return pa.list_(_ARROW_TYPES[str(dtype.item)])
    return _ARROW_TYPES[dtype.kind]


def one_chunk(column: Any) -> Any:
    """A chunked array, or an array, as one array."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def arrow_int64(values: Int64s) -> Any:
    """An Arrow array on the same memory; `pa.array` would import pandas, which takes longer than a small join."""
    return arrow_array(pa.int64(), values, None)


def numpy_integers(values: Any) -> np.ndarray:
    """An Arrow array of integers as NumPy, arbitrary where null; `to_numpy` would import pandas too."""
    import numpy as np

    dtype = f"{'u' if pa.types.is_unsigned_integer(values.type) else 'i'}{values.type.bit_width // 8}"
    if len(values) == values.null_count:
        return np.zeros(len(values), dtype=dtype)
    return np.frombuffer(values.buffers()[1], dtype=dtype)[values.offset : values.offset + len(values)]


def numpy_bools(values: Any) -> np.ndarray:
    """An Arrow array of booleans without nulls, for NumPy."""
    import numpy as np

    if len(values) == 0:
        return np.empty(0, dtype=bool)
    bits = np.unpackbits(np.frombuffer(values.buffers()[1], dtype=np.uint8), bitorder="little")
    return bits[values.offset : values.offset + len(values)].astype(bool)


def arrow_array(type_: pa.DataType, values: np.ndarray, valid: np.ndarray | None) -> Any:
    import numpy as np

    bits: Any = None if valid is None else np.packbits(valid, bitorder="little")
    data: Any = np.ascontiguousarray(values)
    return pa.Array.from_buffers(type_, len(values), [bits if bits is None else pa.py_buffer(bits), pa.py_buffer(data)])
