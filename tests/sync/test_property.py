"""Whatever happened before, what is online after a sync equals a brute force over the history at that moment."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.sync_project import Row, Tables, at, expected_rows, make_view, online_rows, rows_of, sync_one

MINUTES = st.integers(0, 40)
CREATED = st.none() | st.integers(0, 3)
KEYS: dict[tuple[str, ...], list[tuple[Any, ...]]] = {
    ("int64",): [(-3,), (5,), (12,), (2**60,)],
    ("uint64",): [(0,), (7,), (2**64 - 1,)],
    ("string",): [("",), ("a|b",), ("{%}",), ("é",)],
    ("string", "int8"): [("a", 1), ("a", 2), ("", 1)],
}


@st.composite
def file_rows(draw: st.DrawFn, keys: list[tuple[Any, ...]], created: bool) -> list[Row]:
    """Rows of one file, each key and times once."""
    facts = st.tuples(st.sampled_from(keys), MINUTES, CREATED if created else st.none())
    chosen = draw(st.lists(facts, min_size=1, max_size=14, unique=True))
    rows = []
    for key, minute, known in chosen:
        times = (at(minute), None if known is None else at(minute + known)) if created else (at(minute),)
        rows.append((*key, *times, draw(st.none() | st.integers(0, 99).map(float))))
    return rows


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_history_published_and_synced_step_by_step(valkey_server: str, data: st.DataObject) -> None:
    with redis.Redis.from_url(valkey_server) as client:
        client.flushall()
    types, created = data.draw(st.sampled_from(list(KEYS))), data.draw(st.booleans())
    view = make_view(
        keys={f"k{i}": name for i, name in enumerate(types)},
        created=created,
        ttl=data.draw(st.sampled_from([None, "5m"])),
    )
    with tempfile.TemporaryDirectory() as folder:
        tables, now, before = Tables(Path(folder)), 0, -100
        for step in itertools.count():
            if step == 0 or data.draw(st.booleans(), label="publish"):
                files = tables.store.table(view.id).files() if step else ()
                removed = [file for file in files if data.draw(st.integers(0, 3)) == 0]
                taken = {_facts(row, types, created) for file in files if file not in removed for row in rows_of(file)}
                added = []
                for rows in data.draw(st.lists(file_rows(KEYS[types], created), min_size=1, max_size=2)):
                    rows = [row for row in rows if _facts(row, types, created) not in taken]
                    taken |= {_facts(row, types, created) for row in rows}
                    added += [rows] if rows else []
                tables.commit(view, added, removed)
            now += data.draw(st.integers(-2, 12), label="minutes")
            full = data.draw(st.integers(0, 9)) == 0
            result = sync_one(valkey_server, tables, view, now=at(now), full=full)
            if not full:
                now = max(now, before)
            before = now
            expected = expected_rows(view, tables.rows(view), at(now))
            assert online_rows(valkey_server, view) == expected
            assert result.online == len(expected)
            assert result.newest_event_us == max((event for event, _ in expected.values()), default=None)
            if step >= 5 or not data.draw(st.booleans(), label="go on"):
                break


def _facts(row: Row, types: tuple[str, ...], created: bool) -> Row:
    return row[: len(types) + 1 + created]
