"""Rows that tie in key, event and created timestamp: training, online and verify give the same one of them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_server.index.find import open_index
from feature_server.online.store import OnlineStore
from feature_server.times import to_us
from feature_server.verify.rows import verify
from tests.support.sync_project import Tables, make_view, online_rows, rows_of, run_sync

NOW = datetime(2024, 1, 2, tzinfo=UTC)
Row = tuple[Any, ...]


def rows_with_ties(rng: random.Random, keys: list[Any], *, created: bool) -> list[Row]:
    """Rows of few keys and times, each with another value."""
    hours = [NOW - timedelta(hours=rng.randrange(4)) for _ in range(rng.randrange(1, 30))]
    known = [None, NOW - timedelta(hours=2), NOW - timedelta(hours=1)]
    return [
        (rng.choice(keys), at, *([rng.choice(known)] if created else []), float(rng.randrange(10**9))) for at in hours
    ]


def expected(tables: Tables, view: Any, *, created: bool) -> dict[Any, float]:
    """By hand: of the rows of the table's files, one after the other, the last of the latest."""
    latest: dict[Any, tuple[Any, float]] = {}
    never = datetime.min.replace(tzinfo=UTC)
    for file in tables.store.table(view.id).files():
        for row in rows_of(file):
            rank = (row[1], (row[2] or never) if created else never)
            if row[0] not in latest or rank >= latest[row[0]][0]:
                latest[row[0]] = (rank, row[-1])
    return {key: value for key, (_, value) in latest.items()}


@pytest.mark.parametrize("created", [True, False], ids=["created", "no created"])
@pytest.mark.parametrize("dtype", ["int64", "string"])
def test_the_last_in_the_tables_files_is_taken_everywhere(
    tmp_path: Path, valkey: str, dtype: str, created: bool
) -> None:
    rng = random.Random(11)
    keys: list[Any] = [1, 2, 3] if dtype == "int64" else ["a", "b", "c"]
    view = make_view(keys={"customer_id": dtype}, created=created)
    tables = Tables(tmp_path / "offline")
    for number in range(12):
        old = tables.store.table(view.id).files() if tables.store.exists(view.id) else ()
        removed = rng.sample(old, min(len(old), 2)) if number % 3 == 2 else ()
        tables.commit(view, [rows_with_ties(rng, keys, created=created) for _ in range(3)], removed)
        wanted = expected(tables, view, created=created)
        index = open_index(tables.store.table(view.id), ["spend"], tmp_path / "index")
        asked = pa.array(list(wanted))
        found = index.take(["spend"], index.find([asked], np.full(len(asked), to_us(NOW))))
        assert dict(zip(wanted, found[0].to_pylist(), strict=True)) == wanted
        run_sync(valkey, tables, view, now=NOW, full=number % 4 == 3)
        online = {key[0]: values[0] for key, (_, values) in online_rows(valkey, view).items()}
        assert online == {str(key): value for key, value in wanted.items()}
        with OnlineStore(valkey) as store:
            assert verify(view, store, tables.store, now_us=to_us(NOW), sample=0).differences == ()
