"""The parts of a row: each holds its features alone, and together they are the row."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_server.definitions.facts import holds_pii
from feature_server.layout.parts import PartsDecoder, is_pii_code, pii_code, row_parts
from feature_server.layout.row import RowDecoder
from feature_server.layout.rows import RowPacker
from feature_server.times import from_us
from tests.support.sync_project import make_view

FEATURES = {"spend": "float64", "email": "string", "orders": "int64", "phone": "string", "seen": "bool"}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "float64": st.none() | st.floats(allow_nan=False),
    "string": st.none() | st.text(),
    "int64": st.none() | st.integers(-(2**63), 2**63 - 1),
    "bool": st.none() | st.booleans(),
}
ARROW = {"float64": pa.float64(), "string": pa.string(), "int64": pa.int64(), "bool": pa.bool_()}


def test_a_view_without_pii_is_one_part_that_is_itself() -> None:
    view = make_view(features=FEATURES)
    assert not holds_pii(view)
    ((code, part),) = row_parts(view, "shop:b")
    assert code == "shop:b"
    assert part is view


def test_pii_lies_under_a_code_of_its_own_behind_the_namespace() -> None:
    view = make_view(features=FEATURES, pii={"email", "phone"})
    assert holds_pii(view)
    (code, others), (pii, theirs) = row_parts(view, "shop:b")
    assert (code, others.feature_names) == ("shop:b", ("spend", "orders", "seen"))
    assert (pii, theirs.feature_names) == ("shop:!b", ("email", "phone"))
    assert pii_code("b") == "!b"
    assert [is_pii_code(text) for text in ("b", "!b", "shop:b", "shop:!b")] == [False, True, False, True]


def test_a_view_of_pii_alone_has_no_other_part() -> None:
    ((code, part),) = row_parts(make_view(features={"email": "string"}, pii={"email"}), "b")
    assert (code, part.feature_names) == ("!b", ("email",))


@given(
    rows=st.lists(st.tuples(*(VALUES[kind] for kind in FEATURES.values())), min_size=1, max_size=5),
    pii=st.sets(st.sampled_from(sorted(FEATURES))),
    event_us=st.integers(-(2**55), 2**56),
)
@settings(deadline=None, max_examples=150)
def test_parts_put_together_are_the_whole_row(rows: list[tuple[Any, ...]], pii: set[str], event_us: int) -> None:
    columns: dict[str, Any] = {
        "customer_id": pa.array(range(len(rows)), pa.int64()),
        "event_timestamp": pa.array([event_us] * len(rows), pa.timestamp("us", "UTC")),
    }
    for place, (name, kind) in enumerate(FEATURES.items()):
        columns[name] = pa.array([row[place] for row in rows], ARROW[kind])
    table, view = pa.table(columns), make_view(features=FEATURES, pii=pii)
    whole = list(map(bytes, RowPacker(make_view(features=FEATURES)).pack(table)))
    packed = [list(map(bytes, RowPacker(part).pack(table))) for _, part in row_parts(view, "b")]
    decoder = PartsDecoder(view, "b")
    for row, *parts in zip(whole, *packed, strict=True):
        assert decoder.decode(parts) == RowDecoder(view.features).decode(row)


def test_parts_of_two_times_are_no_row() -> None:
    view = make_view(features={"spend": "float64", "seen": "bool"}, pii={"seen"})
    decoder = PartsDecoder(view, "b")
    table = pa.table(
        {
            "customer_id": [1, 1],
            "event_timestamp": pa.array([from_us(1), from_us(2)], pa.timestamp("us", "UTC")),
            "spend": [1.0, 2.0],
            "seen": [True, False],
        }
    )
    spend, seen = (list(map(bytes, RowPacker(part).pack(table))) for _, part in row_parts(view, "b"))
    assert decoder.decode([spend[1], seen[1]]) == (2, [2.0, False])
    with pytest.raises(ValueError, match=r"its parts are of 1970-01-01 00:00:00\.000001"):
        decoder.decode([spend[0], seen[1]])
    with pytest.raises(ValueError, match="a part of it is gone"):
        decoder.decode([spend[0], None])
