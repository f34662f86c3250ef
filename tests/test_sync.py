"""What is online after a sync: the latest row of each key at that moment, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from sync_project import Tables, at, expected_rows, make_view, online_rows, sync_one


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "offline")


def check(url: str, tables: Tables, view, now) -> None:  # type: ignore[no-untyped-def]
    assert online_rows(url, view) == expected_rows(view, tables.rows(view), now)


def test_the_latest_row_of_each_key_is_online(valkey: str, tables: Tables) -> None:
    view = make_view()
    tables.commit(view, [[(1, at(0), 1.0), (1, at(5), 2.0), (2, at(3), 3.0)], [(1, at(7), 4.0), (3, at(8), None)]])
    result = sync_one(valkey, tables, view, now=at(10))
    assert online_rows(valkey, view) == {
        ("1",): (1704067620000000, [4.0]),
        ("2",): (1704067380000000, [3.0]),
        ("3",): (1704067680000000, [None]),
    }
    assert (result.mode, result.rows, result.deleted, result.online) == ("full", 3, 0, 3)
    check(valkey, tables, view, at(10))
