"""What a user gives as a spine, as an Arrow table: a DataFrame of pandas or polars, or anything of Arrow's."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from ..errors import NO_UTF8, RequestError

_NOT_CONVERTED = (pa.ArrowException, TypeError, ValueError, OverflowError)  # UnicodeEncodeError is a ValueError

_KINDS: tuple[tuple[str, tuple[type, ...], tuple[str, ...]], ...] = (  # the first that fits; the last are NumPy's
    ("truth", (bool,), ("bool", "bool_")),
    ("number", (int, float, Decimal), ("integer", "floating")),
    ("time", (datetime,), ()),
    ("date", (date,), ()),
    ("text", (str,), ()),
    ("list", (list, tuple), ("ndarray",)),
)


def as_table(given: Any) -> pa.Table:
    """The rows of a pandas or polars DataFrame, a LazyFrame, or what has Arrow's stream; RequestError for others."""
    if isinstance(given, pa.RecordBatch):
        return pa.Table.from_batches([given])
    if isinstance(given, pa.Table):
        return given
    if is_frame(given, "pandas", "DataFrame"):
        return _pandas_table(given)
    if is_frame(given, "polars", "DataFrame", "LazyFrame"):
        return _polars_table(given)
    if hasattr(given, "__arrow_c_stream__"):
        try:
            return pa.table(given)
        except _NOT_CONVERTED as error:
            raise _unreadable(given, str(error)) from None
    raise _unreadable(given)


def is_frame(given: Any, library: str, *names: str) -> bool:
    """Whether it is of one of these classes of a library, or of a subclass, wherever that is defined."""
    return is_of(type(given), library, *names)


def is_of(type_: type, library: str, *names: str) -> bool:
    """Whether it is one of these classes of a library, or a subclass: without loading that."""
    return any(kind.__module__.partition(".")[0] == library and kind.__name__ in names for kind in type_.__mro__)


def check_names(names: list[str]) -> None:
    """RequestError for a name that two columns have, or that has no UTF-8."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise RequestError(
            f"two columns have the same name: {', '.join(repeated)}", where="spine", remedy="rename one of them"
        )
    for name in names:
        if NO_UTF8.search(name):
            raise RequestError(
                "the name of a column has no UTF-8", where="spine", got=repr(name), remedy="rename the column"
            )


def _pandas_table(frame: Any) -> pa.Table:
    check_names([str(name) for name in frame.columns])
    for place, name in enumerate(frame.columns):
        if (mixed := _mixed(frame.iloc[:, place])) is not None:
            raise _no_type(str(name), mixed, 'give it one type, such as .astype("Int64") or .astype("string")')
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except _NOT_CONVERTED as error:
        for place, name in enumerate(frame.columns):
            column = frame.iloc[:, place]
            if type(column.dtype).__name__ == "SparseDtype":
                found, remedy = str(column.dtype), "make it dense: .sparse.to_dense()"
            elif (reason := _why_not(column)) is not None:
                found, remedy = reason, 'give it one type, such as .astype("Int64") or .astype("string")'
            else:
                continue
            raise _no_type(str(name), found, remedy) from None
        raise _unreadable(frame, str(error)) from None


def _mixed(column: Any) -> str | None:
    """What kinds of values stand together in a column of Python objects, of which Arrow would change some; else None.

    An integer would become a date, text bytes, a UUID an integer, and nanoseconds would be cut.
    """
    values = column.cat.categories if hasattr(column, "cat") else column
    if values.dtype != object:
        return None
    types = set(map(type, values))
    kinds = {_kind(type_) for type_ in types} - {None}
    if "number" in kinds and len(kinds) > 1 and types & {float} and not any(_is_number(value) for value in values):
        kinds.discard("number")  # it was NaN, which is how pandas writes null
    if "time" in kinds:
        moments = [value for value in values if _kind(type(value)) == "time"]
        kinds |= {"time without a zone" for moment in moments if moment.tzinfo is None}
        kinds -= {"time"} if all(moment.tzinfo is None for moment in moments) else set()
    if len(kinds) > 1:
        return "several kinds of values: " + ", ".join(sorted(map(str, kinds)))
    if any(getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0) for value in values):
        return "nanoseconds"
    return None


def _kind(type_: type) -> str | None:
    """The kind of values that Arrow keeps in one column; None for what stands for null."""
    if type_.__name__ in ("NoneType", "NAType", "NaTType"):
        return None
    for kind, types, of_numpy in _KINDS:
        if issubclass(type_, types) or is_of(type_, "numpy", *of_numpy):
            return kind
    return type_.__name__


def _is_number(value: Any) -> bool:
    return _kind(type(value)) == "number" and value == value


def _why_not(column: Any) -> str | None:
    """Why Arrow does not take a pandas column; None if it does."""
    try:
        pa.array(column, from_pandas=True)
    except _NOT_CONVERTED as error:
        reason = error.reason if isinstance(error, UnicodeEncodeError) else str(error).splitlines()[0]
        return f"dtype {column.dtype}: {reason}"
    return None


def _polars_table(frame: Any) -> pa.Table:
    import polars

    errors = (polars.exceptions.PolarsError, *_NOT_CONVERTED)
    try:
        frame = frame.collect() if isinstance(frame, polars.LazyFrame) else frame
    except (*errors, OSError) as error:  # the latter of what a scan reads
        raise _unreadable(frame, str(error)) from None
    check_names(frame.columns)
    columns = {}
    for name, dtype in frame.schema.items():
        reason = "Python objects, of which Arrow would take the addresses" if dtype == polars.Object else None
        try:
            columns[name] = frame.select(name).to_arrow().column(0)
        except errors as error:
            reason = str(error).splitlines()[0]
        if reason is not None:
            raise _no_type(name, f"dtype {dtype}: {reason}", "cast it to a type that Arrow has")
    return pa.table(columns)


def _no_type(name: str, found: str, remedy: str) -> RequestError:
    return RequestError(
        "the values of a column have no common type in Arrow",
        where=f"spine column {name!r}",
        expected="values of one type",
        got=found,
        remedy=remedy,
    )


def _unreadable(given: Any, reason: str = "") -> RequestError:
    kind = type(given).__name__
    return RequestError(
        "the spine cannot be read",
        where="spine",
        expected="a pandas or polars DataFrame, a LazyFrame, an Arrow table, the path of a Parquet file or a SQL query",
        got=f"{kind}: {reason.splitlines()[0]}" if reason else kind,
    )
