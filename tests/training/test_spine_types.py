"""Every type that pandas, polars, NumPy and Arrow have, as a key, a time and a label: taken as it is, or refused."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from feature_server.errors import RequestError
from feature_server.training.sets import TrainingSet
from tests.support.published import Project, make_view

T0 = datetime(2024, 3, 10, tzinfo=UTC)
U = uuid.UUID(int=7)
KEYS: dict[str, Any] = {"bigint": 1, "varchar": "a", "uuid": str(U), "date": date(2024, 3, 1), "boolean": True}
VALUES: dict[str, Any] = {
    "int": 1, "big": 2**63, "huge": 2**70, "text": "a", "half": "\ud800", "date": date(2024, 3, 1), "bool": True,
    "naive": datetime(2024, 3, 10), "aware": T0, "float": 1.0, "nan": float("nan"), "uuid": U, "length": timedelta(1),
    "decimal": Decimal("1.50"), "whole": Decimal(1), "bytes": b"\xff", "clock": time(1), "list": [1], "texts": ["a"],
    "struct": {"a": 1}, "object": object(), "datetime64": np.datetime64("2024-03-10"), "array": np.array([1, 2]),
}  # fmt: skip
KEY_LIKE = {"uuid": "uuid", "date": "date", "bool": "boolean"}
PANDAS = [
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex128", "bool", "object", "str", "category", "datetime64[s]", "datetime64[ms]", "datetime64[us]",
    "datetime64[ns]", "datetime64[us, UTC]", "datetime64[ns, Europe/Paris]", "timedelta64[s]", "timedelta64[ns]",
    "Int8", "Int64", "UInt8", "UInt64", "Float32", "Float64", "boolean", "string", "string[python]", "string[pyarrow]",
    "Sparse[int64]", "Sparse[float64]", "period[D]", "interval[int64]",
]  # fmt: skip
ARROW: list[Any] = [
    pa.null(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(),
    pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.time32("s"), pa.time64("us"), pa.time64("ns"),
    pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("us", "UTC"),
    pa.timestamp("ns", "Europe/Paris"), pa.timestamp("us", "+05:30"), pa.timestamp("us", "Nowhere/Else"), pa.date32(),
    pa.date64(), pa.duration("us"), pa.month_day_nano_interval(), pa.binary(), pa.binary(1), pa.large_binary(),
    pa.binary_view(), pa.string(), pa.large_string(), pa.string_view(), pa.decimal32(5, 0), pa.decimal64(5, 2),
    pa.decimal128(5, 0), pa.decimal128(5, 2), pa.decimal256(50, 0), pa.decimal256(50, 2), pa.decimal128(5, -2),
    pa.list_(pa.int64()), pa.large_list(pa.string()), pa.list_(pa.int64(), 1), pa.list_view(pa.int64()),
    pa.large_list_view(pa.int64()), pa.struct([("a", pa.int64())]), pa.struct([]), pa.map_(pa.string(), pa.int64()),
    pa.uuid(), pa.json_(), pa.bool8(), pa.opaque(pa.int64(), "kind", "vendor"),
]  # fmt: skip
POLARS: list[Any] = [
    pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64,
    pl.Boolean, pl.String, pl.Categorical, pl.Enum(["a", "b"]), pl.Binary, pl.Date, pl.Time, pl.Datetime("ms"),
    pl.Datetime("us", "UTC"), pl.Datetime("ns", "Europe/Paris"), pl.Duration, pl.Decimal(10, 0), pl.Decimal(38, 2),
    pl.List(pl.Int64), pl.List(pl.Categorical), pl.Array(pl.Int64, 1), pl.Struct({"a": pl.Int64}), pl.Object, pl.Null,
]  # fmt: skip
MIXED: list[Any] = [
    1, 1.5, "a", b"a", True, T0, datetime(2024, 3, 10), date(2024, 3, 1), Decimal("1.5"), timedelta(1), U, [1.5],
    pd.Timestamp("2024-03-10 00:00:00.000000001"), pd.NA, pd.NaT,
]  # fmt: skip
Column = Any  # of pandas, polars or Arrow: two values, the second of them null where the type has null


def columns() -> Iterator[tuple[str, Callable[[], Column]]]:
    """Each type with each kind of value that it takes, and each of Arrow's once in other wrappings."""
    for name, value in VALUES.items():
        for dtype in PANDAS:
            yield f"pandas {dtype} {name}", lambda d=dtype, v=value: _pandas(d, v)
        for arrow in ARROW:
            yield f"arrow {arrow} {name}", lambda t=arrow, v=value: _arrow(t, v)
        for dtype in POLARS:
            yield f"polars {dtype} {name}", lambda d=dtype, v=value: pl.Series([v, None], dtype=d)
        yield f"numpy {name}", lambda v=value: np.array([v, v])
    for arrow in ARROW:
        array = lambda t=arrow: _any_value(t)  # noqa: E731
        yield f"arrow-backed {arrow}", lambda a=array, t=arrow: pd.Series(a(), dtype=pd.ArrowDtype(t))
        yield f"dictionary {arrow}", lambda a=array: a().dictionary_encode()
        yield f"runs {arrow}", lambda a=array: pa.RunEndEncodedArray.from_arrays([1, 2], a())


def mixed() -> Iterator[tuple[str, Callable[[], Column]]]:
    """Python objects of two kinds in one column."""
    for name, value in VALUES.items():
        for other in MIXED:
            yield f"object {name}", lambda v=value, o=other: pd.Series([v, o], dtype=object)
            yield f"category {name}", lambda v=value, o=other: pd.Series([v, o], dtype=object).astype("category")


def _any_value(type_: Any) -> Any:
    for value in VALUES.values():
        with suppress(Exception):
            return _arrow(type_, value)
    raise TypeError


def _pandas(dtype: str, value: Any) -> pd.Series:
    try:
        return pd.Series([value, None], dtype=dtype)
    except (TypeError, ValueError):
        return pd.Series([value, value], dtype=dtype)


def _arrow(type_: Any, value: Any) -> Any:
    if type_ == pa.uuid():
        return pa.array([value.bytes, None], type_)
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, pa.array([value, None], type_.storage_type))
    return pa.array([value, None], type_)


def spine_with(column: Column, name: str, key: Any) -> Any:
    """A spine of two rows in which the column stands under a name."""
    rest = {"key": [key, key], "event_timestamp": [T0, T0]}
    if isinstance(column, pd.Series | np.ndarray):
        frame = pd.DataFrame(rest | {"event_timestamp": pd.to_datetime([T0, T0])})
        frame[name] = column
        return frame
    if isinstance(column, pl.Series):
        return pl.DataFrame(rest).with_columns(column.alias(name)).lazy()
    return pa.table({n: pa.array(values) for n, values in rest.items()} | {name: column})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("types") / "project")
    for sql, value in KEYS.items():
        project.publish(make_view(f"by_{sql}", {"key": sql}, {"n": "integer"}), [(value, T0, 1)])
    return project


def plain(value: Any) -> Any:
    """A value of any library as Python has it, with times as instants in UTC, so that equal ones are equal."""
    if value is pd.NaT:
        return None
    if isinstance(value, pd.Period):
        return value.ordinal
    if isinstance(value, np.ndarray | list | tuple | set | pl.Series):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, pd.Timestamp | pd.Timedelta | np.datetime64 | np.timedelta64) and not pd.isna(value):
        value = pd.Timestamp(value) if isinstance(value, pd.Timestamp | np.datetime64) else pd.Timedelta(value)
        value = value.to_pydatetime() if isinstance(value, pd.Timestamp) else value.to_pytimedelta()
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, np.generic):
        value = value.item()
    return None if value is None or (not isinstance(value, uuid.UUID) and pd.isna(value)) else value


def held(column: Column) -> list[Any]:
    """What a column holds, as its own library says it."""
    return [plain(value) for value in (column.to_pylist() if hasattr(column, "to_pylist") else list(column))]


def cases(role: str) -> Iterator[tuple[str, Column]]:
    seen: set[str] = set()
    for label, make in [*columns(), *(mixed() if role == "label" else ())]:
        try:
            column = make()
            assert getattr(column, "ndim", 1) == 1
            spine_with(column, role, 1)
            known = f"{role} {type(column)} {getattr(column, 'dtype', getattr(column, 'type', None))} {list(column)!r}"
        except Exception:  # noqa: BLE001 - the library itself has no such column, or cannot show it
            continue
        if known not in seen:
            seen.add(known)
            yield label, column


@pytest.mark.parametrize("role", ["key", "event_timestamp", pytest.param("label", marks=pytest.mark.heavy)])
@pytest.mark.filterwarnings("ignore")
def test_a_column_of_any_type_is_taken_with_its_values_or_refused_by_name(
    project: Project, role: str, tmp_path: Path
) -> None:
    wrong, taken, refused = [], set(), set()
    for label, column in cases(role):
        like = label.rpartition(" ")[2]
        for sql in {"bigint", *({"varchar", KEY_LIKE.get(like, "bigint")} if role == "key" else ())}:
            try:
                training = project.store.get_historical_features(spine_with(column, role, KEYS[sql]), [f"by_{sql}:n"])
                table = training.to_arrow()
            except RequestError as error:
                refused.add(label)
                if f"'{role}'" not in str(error) or not str(error).encode():
                    wrong.append(f"{label} as {role}: {error}")
                continue
            except BaseException as error:  # noqa: BLE001 - a panic of polars is one
                wrong.append(f"{label} as {role}: {type(error).__name__}: {error}")
                continue
            taken.add(label)
            found, n = ([plain(value) for value in table.column(name).to_pylist()] for name in (role, "n"))
            if found != held(column):
                wrong.append(f"{label} as {role}: {found} for {held(column)}")
            if role == "key" and n != [1 if str(value) == str(KEYS[sql]) else None for value in found]:
                wrong.append(f"{label} as {role} {sql}: {n} for {found}")
            if role == "label":
                wrong += [f"{label}: {reason}" for reason in differences(project, training, table, tmp_path)]
    assert not wrong, "\n".join(wrong)
    assert len(taken) > 20, "what takes nothing shows nothing"
    assert len(refused) > 20


def differences(project: Project, training: TrainingSet, table: pa.Table, folder: Path) -> Iterator[str]:
    """What is not as in the Arrow table in the other forms of a training set."""
    path = folder / "set.parquet"
    training.write_parquet(path)
    if repr(project.store.reproduce(path).to_arrow().to_pylist()) != repr(table.to_pylist()):  # NaN is equal to itself
        yield "made again, it differs"
    try:
        if training.to_pandas().shape != (2, 4):
            yield "pandas lacks something"
        if training.to_polars().shape != (2, 4):
            yield "polars lacks something"
    except RequestError as error:
        if "polars has no such type" not in str(error):
            yield str(error)
    except BaseException as error:  # noqa: BLE001 - a panic of polars is one
        yield f"{type(error).__name__}: {error}"
