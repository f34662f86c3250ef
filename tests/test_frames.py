"""One feature, one type: training sets and reads give the same tables, as docs/types.md has them."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from feature_server import FeatureClient
from feature_server.dtypes import FLOAT_WIDTHS, INTEGER_WIDTHS, integer_bounds, parse_sql_type
from feature_server.offline.sql import sql_type
from tests.support.online_rows import NOW, OnlineRows, view
from tests.support.published import Project, make_view
from tests.support.serving_cases import AT_NOW

DOCS = Path(__file__).parents[1] / "docs" / "types.md"
NUMBERS = [*INTEGER_WIDTHS, *FLOAT_WIDTHS]
OTHERS: dict[str, list[Any]] = {
    "decimal(12,2)": [Decimal("-0.01"), Decimal("9999999999.99")],
    "bool": [True, False],
    "string": ["", "é\U0001f600"],
    "uuid": [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)],
    "date": [date(1, 1, 1), date(9999, 12, 31)],
    "timestamp": [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)],
    "timestamptz": [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)],
}


def extremes(kind: str) -> list[Any]:
    return list(integer_bounds(kind)) if kind in INTEGER_WIDTHS else [math.inf, -0.0]


def rows_of_the_table() -> list[list[str]]:
    """SQL type, feature type, and the names in Arrow, pandas and polars: the table, with each type of list."""
    lines = re.findall(r"^\| `(.+?)` \| `(.+?)` \| `(.+?)` \| `(.+?)` \| `(.+?)` \|", DOCS.read_text(), re.MULTILINE)
    rows = [list(line) for line in lines]
    numbers = [row for row in rows if row[1] in NUMBERS]
    (lists,) = (row for row in rows if row[1] == "list<numbers>")
    rows.remove(lists)
    rows += [
        [cell.replace("numbers", row[2 if place == 3 else place]) for place, cell in enumerate(lists)]
        for row in numbers
    ]  # a list in pandas is one of Arrow's numbers
    return rows


TABLE = rows_of_the_table()


def values_of(feature_type: str) -> list[Any]:
    if feature_type.startswith("list"):
        item = feature_type[5:-1]
        return [[*extremes(item), None], []]
    return OTHERS[feature_type] if feature_type in OTHERS else extremes(feature_type)


FEATURES = {f"f{i}": row for i, row in enumerate(TABLE)}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def test_the_table_has_every_type() -> None:
    assert len(TABLE) == 2 * len(NUMBERS) + len(OTHERS)
    for sql, feature_type, arrow, *_ in TABLE:
        assert str(parse_sql_type(sql)) == feature_type
        assert sql_type(parse_sql_type(sql)).lower().startswith(sql.partition("(")[0][:4].replace("real", "floa"))
        assert arrow


@pytest.mark.parametrize("case", ["values", "nulls", "nothing"])
def test_training_sets_and_reads_have_each_feature_in_the_type_of_the_table(
    project: Project, valkey: str, case: str
) -> None:
    types = {name: row[0] for name, row in FEATURES.items()}
    columns = {name: [*values_of(row[1]), None] for name, row in FEATURES.items()}
    stored = list(zip(*columns.values(), strict=True))
    keys = {"values": [0, 1], "nulls": [0, 2, 9, None], "nothing": []}[case]

    sql = {name: [str(v) if isinstance(v, uuid.UUID) else v for v in column] for name, column in columns.items()}
    project.publish(
        make_view("things", {"k": "bigint"}, types),
        [(i, NOW, *row) for i, row in enumerate(zip(*sql.values(), strict=True))],
    )
    times = pa.array([NOW] * len(keys), pa.timestamp("us"))
    spine = pa.table({"k": pa.array(keys, pa.int64()), "event_timestamp": times})
    trained = project.store.get_historical_features(spine, [f"things:{name}" for name in types])

    rows = OnlineRows(valkey)
    rows.define(view("thing__all", {"k": "int64"}, {name: row[1] for name, row in FEATURES.items()}))
    for i, values in enumerate(stored):
        rows.put("thing__all", i, NOW, *values)
    with FeatureClient(valkey, settings=AT_NOW) as client:
        read = client.get_many(features=[f"thing__all:{name}" for name in types], k=keys)

    wanted = ["k", *types]
    arrow, frame, polars = trained.to_arrow().select(wanted), trained.to_pandas()[wanted], trained.to_polars()[wanted]
    assert read.to_arrow().equals(arrow.replace_schema_metadata(None))
    pd.testing.assert_frame_equal(read.to_pandas(), frame)
    assert read.to_polars().equals(polars, null_equal=True)
    assert read.to_polars().schema == polars.schema
    names = [[str(arrow.schema.field(name).type), str(frame[name].dtype), str(polars[name].dtype)] for name in types]
    assert names == [row[2:5] for row in FEATURES.values()]
    for name, column in columns.items():
        expected = [column[k] if k in (0, 1) else None for k in keys]
        assert read[name] == expected
        assert arrow.column(name).to_pylist() == [str(v) if isinstance(v, uuid.UUID) else v for v in expected]
        assert frame[name].isna().tolist() == polars[name].is_null().to_list() == [value is None for value in expected]


def test_nan_is_no_null_but_in_pandas(project: Project) -> None:
    project.publish(make_view("things", {"k": "bigint"}, {"f": "double"}), [(0, NOW, math.nan), (1, NOW, None)])
    spine = pa.table({"k": [0, 1], "event_timestamp": [NOW, NOW]})
    trained = project.store.get_historical_features(spine, ["things:f"])
    assert trained.to_arrow().column("f").is_null().to_pylist() == [False, True]
    assert trained.to_polars()["f"].is_null().to_list() == [False, True]
    assert trained.to_pandas()["f"].isna().tolist() == [True, True]


def test_keys_are_in_the_types_of_the_table_however_they_are_given(valkey: str) -> None:
    kinds = {"string": "a", "uuid": uuid.UUID(int=0xABC), "date": date(2024, 2, 29), "bool": True}
    rows = OnlineRows(valkey)
    rows.define(*(view(f"by__{kind}", {f"k_{kind}": kind}, {f"n_{kind}": "int8"}) for kind in kinds))
    with FeatureClient(valkey, settings=AT_NOW) as client:
        given = {**{f"k_{kind}": [key] for kind, key in kinds.items()}, "k_uuid": [str(kinds["uuid"]).upper()]}
        found = client.get_many(
            features=[f"by__{kind}:n_{kind}" for kind in kinds], **given | {"k_date": ["2024-02-29"]}
        )
    table = found.to_arrow()
    for kind, key in kinds.items():
        assert table.column(f"k_{kind}").to_pylist() == [str(key) if kind == "uuid" else key]
    assert found.to_polars().schema["k_date"] == pl.Date


def test_the_light_client_loads_no_library_of_tables_until_it_is_asked_for_one() -> None:
    check = """
import sys, feature_server
from feature_server.client.result import FeatureVectors
from feature_server.dtypes import DType
vectors = FeatureVectors(entities={"k": [1]}, values={}, statuses={}, event_timestamps={}, types={"k": DType("int64")})
assert not {"pandas", "pyarrow", "polars", "numpy"} & set(sys.modules)
sys.modules["pyarrow"] = None
try:
    vectors.to_pandas()
except feature_server.errors.RequestError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert "tables need pyarrow" in found.stdout
