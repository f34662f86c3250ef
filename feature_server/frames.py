"""Features as Arrow, pandas and polars: one type for each feature type, of training sets and of reads (docs/types.md).

What pandas lacks, it has from Arrow. A null is never a value: integers and booleans stay what they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib import import_module
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa

from .arrow import arrow_type
from .dtypes import DType
from .errors import RequestError

if TYPE_CHECKING:
    import pandas
    import polars

# In pandas; every type of Arrow that is not here is a `pandas.ArrowDtype`.
_PANDAS = {
    pa.int8(): "Int8", pa.int16(): "Int16", pa.int32(): "Int32", pa.int64(): "Int64",
    pa.uint8(): "UInt8", pa.uint16(): "UInt16", pa.uint32(): "UInt32", pa.uint64(): "UInt64",
    pa.float32(): "Float32", pa.float64(): "Float64", pa.bool_(): "boolean",
    pa.string(): "str", pa.large_string(): "str", pa.string_view(): "str",
}  # fmt: skip


def to_arrow(columns: Mapping[str, Sequence[Any]], types: Mapping[str, DType]) -> pa.Table:
    """Columns of Python values, None for null, as a table."""
    arrays = {}
    for name, values in columns.items():
        plain, found = _FROM_PYTHON.get(types[name].kind), values
        if plain is not None:
            found = [None if value is None else plain(value) for value in values]
        arrays[name] = pa.array(found, arrow_type(types[name]))
    return pa.table(arrays)


# Keys are as the caller gave them: a UUID or its text in any form, a date or its ISO text.
_FROM_PYTHON: dict[str, Callable[[Any], Any]] = {
    "uuid": lambda value: str(value if isinstance(value, UUID) else UUID(value)),
    "date": lambda value: date.fromisoformat(value) if isinstance(value, str) else value,
}


def to_pandas(table: pa.Table) -> pandas.DataFrame:
    """A DataFrame in pandas' nullable types."""
    pandas = _library("pandas")

    def dtype(type_: pa.DataType) -> Any:
        if pa.types.is_timestamp(type_):
            return None  # pandas' own keep null, unit and zone
        name = _PANDAS.get(type_)
        if name == "str":
            return pandas.StringDtype(na_value=math.nan)  # what `str` means in pandas 3, whatever its options are
        return pandas.ArrowDtype(type_) if name is None else pandas.api.types.pandas_dtype(name)

    return table.to_pandas(types_mapper=dtype, ignore_metadata=True)


def to_polars(table: pa.Table) -> polars.DataFrame:
    """A DataFrame of polars; RequestError for a column of a type that it lacks."""
    polars = _library("polars")
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        type_ = column.type
        if pa.types.is_list_view(type_) or pa.types.is_large_list_view(type_):
            column = column.cast(pa.large_list(type_.value_type))
        if "decimal256" in str(type_):
            raise _lacks(name, str(type_))
        try:
            columns[name] = polars.from_arrow(column)
        except (polars.exceptions.PolarsError, pa.ArrowException, TypeError, ValueError) as error:
            raise _lacks(name, f"{type_}: {str(error).splitlines()[0]}") from None
    return polars.DataFrame(columns)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise RequestError(
            f"{name} is not installed", where=f"to_{name}()", got=str(error), remedy=f"pip install {name}"
        ) from None


def _lacks(name: str, found: str) -> RequestError:
    return RequestError(
        "polars has no such type", where=f"column {name!r}", got=found,
        remedy="give the spine's column another type, or take the training set with to_arrow()",
    )  # fmt: skip
