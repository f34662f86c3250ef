"""Training sets as pandas DataFrames, without turning an integer or a boolean that is null into a float."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

_NULLABLE: dict[pa.DataType, Any] = {
    pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(), pa.uint16(): pd.UInt16Dtype(), pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(), pa.bool_(): pd.BooleanDtype(), pa.float32(): pd.Float32Dtype(),
    pa.float64(): pd.Float64Dtype(),
}  # fmt: skip


def to_pandas(table: pa.Table, spine: Any, features: Sequence[str]) -> pd.DataFrame:
    """The table's columns in nullable types; those of a spine that is a DataFrame are its own, and so is the index."""
    if not isinstance(spine, pd.DataFrame):
        return table.to_pandas(types_mapper=_nullable, ignore_metadata=True)
    frame = table.select(list(features)).to_pandas(types_mapper=_nullable, ignore_metadata=True)
    return pd.concat([spine, frame.set_index(spine.index)], axis=1)


def _nullable(type_: pa.DataType) -> Any:
    if type_ in _NULLABLE:
        return _NULLABLE[type_]
    if pa.types.is_timestamp(type_) or pa.types.is_string(type_):
        return None  # pandas' own types keep null
    return pd.ArrowDtype(type_)
