"""Columns that a caller gives, as Python values: what pandas, polars, NumPy or Arrow hold to be missing is None."""

import sys
from typing import Any


def python_values(column: Any) -> list[Any]:
    """The values of a list, or of a column of one of these libraries."""
    if hasattr(dtype := getattr(column, "dtype", None), "pyarrow_dtype"):  # one of Arrow's in pandas
        return column.array.__arrow_array__().to_pylist()
    if getattr(dtype, "time_unit", None) == "ns" and hasattr(column, "to_arrow"):
        return column.to_arrow().to_pylist()  # polars itself would cut off what is finer than a microsecond
    if hasattr(column, "isna"):  # pandas, whose missing values are NA, NaT or NaN
        missing = column.isna()
        if missing.any():
            return [None if gone else value for gone, value in zip(missing, column.astype(object), strict=True)]
    for name in ("to_pylist", "tolist", "to_list"):
        if hasattr(column, name):
            return getattr(column, name)()
    return list(column)


def without_na(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The same columns, or others with None for pandas' NA and NaT if there are any; NaN stays, as it is a number."""
    pandas = sys.modules.get("pandas")
    absent = {type(getattr(pandas, name, None)) for name in ("NA", "NaT")} if pandas else set()
    if all(absent.isdisjoint(map(type, values)) for values in columns.values()):
        return columns
    return {name: [None if type(value) in absent else value for value in values] for name, values in columns.items()}
