"""Whether a spine fits the views, and its keys and times in exact form."""

from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow import arrow_type, numpy_bools, numpy_integers
from ..definitions.facts import FeatureView, JoinKey
from ..dtypes import INTEGER_WIDTHS, integer_bounds
from ..errors import RequestError, shown
from ..point_in_time import Int64s
from .spine import STRINGS, Spine


def check_spine(spine: Spine, views: Sequence[FeatureView], event_timestamp: str) -> None:
    """RequestError unless the spine has a time column and each view's join keys, of types that compare exactly."""
    names = spine.schema.names
    if event_timestamp not in names:
        raise RequestError(
            f"no column {event_timestamp!r}, the time of each row",
            where="spine",
            expected=f"a timestamp column {event_timestamp!r}",
            got=f"columns {', '.join(names)}",
            remedy="name it so, or give event_timestamp=(--event-timestamp)",
        )
    time_type = spine.schema.field(event_timestamp).type
    if not pa.types.is_timestamp(time_type) and not pa.types.is_date(time_type):
        raise RequestError(
            "the time of each row is not a timestamp",
            where=f"spine column {event_timestamp!r}",
            expected="a timestamp, one without a time zone in UTC, or a date, whose first instant in UTC is meant",
            got=str(time_type),
            remedy="convert it, e.g. with pandas.to_datetime(…, utc=True) or cast(… as timestamptz)",
        )
    wanted = {key.name: (key, view) for view in reversed(views) for key in view.join_keys}
    missing = [name for name in wanted if name not in names]
    if missing:
        needed_by = ", ".join(f"{name} (for {wanted[name][1].id})" for name in sorted(missing))
        raise RequestError(
            f"join keys are missing: {needed_by}",
            where="spine",
            expected=f"columns {', '.join(sorted(wanted))}",
            got=f"columns {', '.join(names)}",
            remedy="name the columns so; a pandas index is no column: reset_index()",
        )
    for key, view in wanted.values():
        _check_key_type(key, view, spine.schema.field(key.name).type)


def _check_key_type(key: JoinKey, view: FeatureView, found: pa.DataType) -> None:
    integer = pa.types.is_integer(found) or (pa.types.is_decimal(found) and found.scale == 0)
    text = any(is_string(found) for is_string in STRINGS)
    others = {
        "string": (text, "cast it to a string"),
        "uuid": (text or isinstance(found, pa.UuidType), "give UUIDs, or their text"),
        "date": (pa.types.is_date(found), "cast it to a date"),
        "bool": (pa.types.is_boolean(found), "cast it to a boolean"),
    }
    remedy = "cast it to an integer without passing through floats; in pandas use the dtype Int64"
    fits, remedy = others.get(key.dtype.kind, (integer, remedy))
    if not fits and not pa.types.is_null(found):
        raise RequestError(
            "the join key has another type than in the feature view",
            where=f"spine column {key.name!r}",
            expected=f"{key.dtype}, as in {view.id}",
            got=str(found),
            remedy=remedy,
        )


def key_values(chunk: pa.Table, key: JoinKey) -> pa.Array:
    """A join key's column in exactly the type of the view; null where the view's type cannot hold the value."""
    values: Any = chunk.column(key.name).combine_chunks()
    target = arrow_type(key.dtype)
    if key.dtype.kind == "uuid":
        return _uuid_text(values, key.name)
    try:
        return values.cast(target)
    except pa.ArrowInvalid:
        if key.dtype.kind not in INTEGER_WIDTHS:
            raise
        low, high = integer_bounds(key.dtype.kind)  # some value is out of range, so no row can have it
        wide = values.cast(pa.decimal256(76, 0))
        fits = pc.and_(
            pc.greater_equal(wide, pa.scalar(low, wide.type)),
            pc.less_equal(wide, pa.scalar(high, wide.type)),
        )
        return pc.if_else(fits, values, pa.scalar(None, values.type)).cast(target)


def _uuid_text(values: pa.Array, name: str) -> pa.Array:
    with duckdb.connect() as connection:
        connection.register("spine", pa.table({"key": values}))
        wrong = connection.execute(
            "select key from spine where key is not null and try_cast(key as uuid) is null limit 1"
        ).fetchone()
        if wrong is not None:
            raise RequestError(
                "a join key is not a UUID", where=f"spine column {name!r}", expected="a UUID", got=shown(wrong[0])
            )
        text = connection.sql("select cast(cast(key as uuid) as varchar) from spine").to_arrow_table()
        return text.column(0).combine_chunks()


def time_values(chunk: pa.Table, name: str) -> tuple[Int64s, np.ndarray]:
    """The times in microseconds since 1970 UTC, arbitrary where null, and which of them are null."""
    values: Any = chunk.column(name).combine_chunks()
    try:
        exact: Any = values.cast(pa.timestamp("us", getattr(values.type, "tz", None)))
    except pa.ArrowInvalid:
        raise RequestError(
            "times finer than a microsecond, or beyond its range",
            where=f"spine column {name!r}",
            expected="times of whole microseconds",
            got=str(values.type),
            remedy='round them, e.g. with pandas: .dt.floor("us")',
        ) from None
    return numpy_integers(exact.cast(pa.int64())), numpy_bools(pc.is_null(exact))
