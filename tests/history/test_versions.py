"""Which version of an event is in force: the same in NumPy, in SQL, of records, and by brute force."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_server.definitions.facts import Feature, FeatureView, JoinKey
from feature_server.definitions.stream import Aggregate, Argument, Frame, StreamPlan
from feature_server.dtypes import parse_dtype
from feature_server.history.events import open_history
from feature_server.layout.decode import EventDecoder
from feature_server.layout.events import record_view
from feature_server.layout.records import Records, in_force
from feature_server.times import EPOCH
from feature_server.windows.reduce import Values
from feature_server.windows.window import Events, evaluate
from feature_server.windows.window import in_force as events_in_force
from tests.support.packed import RowCodec
from tests.support.versions import CASES, Case, Version

INTEGER, INTEGERS = parse_dtype("int64"), parse_dtype("list<int64>")
VIEW = FeatureView(
    name="customer__events",
    entities=("customer",),
    join_keys=(JoinKey("customer_id", INTEGER),),
    features=(Feature(name="marks", dtype=INTEGERS),),
    stream=StreamPlan(
        source="s.events", row_sql="", arguments=(Argument(name="a0", dtype=INTEGER, sql="mark"),),
        frames=(Frame(None),), outputs=(),
        aggregates=(
            Aggregate(name="g0", function="list", arguments=(0,), frame=0, parameter=99, dtype=INTEGERS),
        ),
    ),
)  # fmt: skip


def by_hand(versions: tuple[Version, ...], as_known: int | None) -> set[int]:
    """Each version looked at alone: known, and beaten by no other of its event that is known."""
    known = [version for version in versions if as_known is None or version.created_us <= as_known]
    return {
        one.mark for one in known
        if one.counts and not any(
            (other.key, other.event_id) == (one.key, one.event_id)
            and (other.created_us, other.event_us) > (one.created_us, one.event_us) for other in known
        )
    }  # fmt: skip


def arrays(versions: tuple[Version, ...]) -> Events:
    rows = sorted(versions, key=lambda version: (version.key, version.event_us, version.created_us))
    keys = sorted({version.key for version in versions})
    starts = np.searchsorted([row.key for row in rows], [*keys, 1 << 40]) if keys else np.zeros(2, dtype=int)

    def column(name: str, kind: Any = np.int64) -> np.ndarray:
        return np.array([getattr(row, name) for row in rows], dtype=kind)

    return Events(
        starts=starts, event_us=column("event_us"), created_us=column("created_us"), event_id=column("event_id"),
        counts=column("counts", np.bool_), arguments=[Values(column("mark"), np.zeros(len(rows), dtype=bool))],
    )  # fmt: skip


def by_windows(case: Case) -> set[int]:
    """The marks in a lifetime of each key, at a time after all events."""
    events = arrays(case.versions)
    groups = np.arange(len(events.starts) - 1)
    at_us = np.full(len(groups), 1 << 40 if case.as_known is None else case.as_known)
    found = evaluate(VIEW.stream, events, groups, at_us, as_known=case.as_known is not None).aggregates[0]  # type: ignore[arg-type]
    return {mark for marks in found.values.tolist() for mark in marks}


def by_sql(case: Case, folder: Path) -> set[int]:
    with open_history(VIEW, None, spill=folder, known_by_us=case.as_known) as history:
        moments = [
            (row.key, EPOCH + timedelta(microseconds=row.event_us), EPOCH + timedelta(microseconds=row.created_us),
             row.event_id, row.counts, row.mark)
            for row in case.versions
        ]  # fmt: skip
        insert = (
            "insert into live (customer_id, event_timestamp, created_timestamp, event_id, counts, a0) "
            "values (?, ?, ?, ?, ?, ?)"
        )
        if moments:
            history.connection.executemany(insert, moments)
        found = history.connection.execute(f"select a0 from known qualify {history.in_force}").fetchall()
    return {mark for (mark,) in found}


def stored(versions: tuple[Version, ...]) -> bytes:
    codec = RowCodec(record_view(VIEW).features)
    return b"".join(
        codec.encode(row.event_us, [EPOCH + timedelta(microseconds=row.created_us), row.event_id, row.counts, row.mark])
        for row in versions
    )


def of_keys(case: Case) -> list[tuple[Version, ...]]:
    """The versions of each key that were known."""
    known = [v for v in case.versions if case.as_known is None or v.created_us <= case.as_known]
    return [tuple(v for v in known if v.key == key) for key in sorted({version.key for version in known})]


def by_records(case: Case) -> set[int]:
    records, found = Records(VIEW), set()
    for versions in of_keys(case):
        facts = [records.facts(record) for record in records.split(stored(versions))]
        marks = {fact: version.mark for fact, version in zip(facts, versions, strict=True)}
        found |= {marks[fact] for fact in in_force(facts)}
    return found


def by_decoder(case: Case) -> set[int]:
    """From the bytes of each key, whole and without what no read needs."""
    decoder, found = EventDecoder(VIEW), [set[int](), set[int]()]
    for versions in of_keys(case):
        value = stored(versions)
        for marks, part in zip(found, (value, decoder.trimmed(value, None)), strict=True):
            marks.update(events_in_force(decoder.decode([part])[0]).argument(0).values.tolist())
    assert found[0] == found[1]
    return found[0]


def check(case: Case, folder: Path) -> None:
    assert by_hand(case.versions, case.as_known) == case.in_force
    assert by_windows(case) == case.in_force
    assert by_sql(case, folder) == case.in_force
    assert by_records(case) == case.in_force
    assert by_decoder(case) == case.in_force


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_version_in_force(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def test_the_version_in_force_among_many(tmp_path: Path) -> None:
    """Times that tie often, but no two versions of an event that tie in both."""
    chance = random.Random(5)
    for _ in range(30):
        rows: dict[Any, Version] = {}
        for mark in range(chance.randrange(40)):
            event_us = chance.randrange(9)
            row = Version(mark, chance.randrange(2), chance.randrange(5), event_us, event_us + chance.randrange(4),
                          chance.random() < 0.7)  # fmt: skip
            rows.setdefault(row[1:5], row)
        for as_known in (None, 12, 8):
            versions = tuple(rows.values())
            check(Case("", versions, by_hand(versions, as_known), as_known), tmp_path)
