"""`available_after` of a source: what `features check` says of one that nothing would read."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_server.dbt.parse import dbt_parse
from feature_server.definitions.changes import plan
from feature_server.errors import DefinitionError, Problem
from feature_server.manifest.load import load_registry
from tests.support.tiny_project import FILES, write_project

SOURCES = """
sources:
  - name: bank
    tables:
      - name: payments
        config:
          meta:
            {said}
"""


def problems(folder: Path, said: str, **files: str) -> list[Problem]:
    write_project(folder, FILES | {"models/bank.yml": SOURCES.format(said=said)} | files)
    dbt_parse(folder, folder / "target")
    try:
        load_registry(folder, folder / "target")
    except DefinitionError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("said", "what", "nearest"),
    [
        ("available_after: 2h", None, None),
        ("available_after: 2", "available_after has a value that it cannot have", None),
        ("available_after: two hours", "available_after has a value that it cannot have", None),
        ("availble_after: 2h", "unknown key 'availble_after'", "available_after"),
        ("available_again: 2h", None, None),
    ],
)
def test_a_duration_under_its_own_name_is_right(
    tmp_path: Path, said: str, what: str | None, nearest: str | None
) -> None:
    found = problems(tmp_path, said)
    assert [(one.what, one.nearest) for one in found] == ([] if what is None else [(what, nearest)])
    assert [(one.file, one.line) for one in found] == ([] if what is None else [("models/bank.yml", 7)])


def test_a_model_cannot_hold_it(tmp_path: Path) -> None:
    model = {
        "models/one.sql": "select 1 as a",
        "models/one.yml": "models: [{name: one, config: {meta: {available_after: 2h}}}]",
    }
    (found,) = problems(tmp_path, "owner: us", **model)
    assert found.what == "a model cannot hold available_after"


def test_an_event_stream_has_its_own_time(tmp_path: Path) -> None:
    said = "{available_after: 2h, event_stream: {event_id: a, event_timestamp: b}}"
    found = [one for one in problems(tmp_path, said) if "when it was known" in one.what]
    assert [(one.line, one.got) for one in found] == [(7, "available_after: 2h")]


def test_a_view_without_created_timestamps_knows_its_rows_by_the_latest_of_its_sources(tmp_path: Path) -> None:
    source = (
        SOURCES.format(said="available_after: 2h") + "      - {name: rates, config: {meta: {available_after: 1d}}}\n"
    )
    reading = {
        "models/bank.yml": source,
        "models/staged.sql": "select * from {{ source('bank', 'payments') }}, {{ source('bank', 'rates') }}",
        "models/customer_shop__visits.sql": "select 1 from {{ ref('staged') }}",
        "models/customer__activity_v2.sql": "select 1 from {{ ref('staged') }}",
    }
    write_project(tmp_path, FILES | reading)
    dbt_parse(tmp_path, tmp_path / "target")
    registry = load_registry(tmp_path, tmp_path / "target")
    known = {view.id: view.known_after_us or None for view in registry.feature_views}
    assert known == {
        "customer__activity@v1": None, "customer__activity@v2": None,  # it has created timestamps
        "customer_shop__visits": 24 * 3600 * 10**6,
    }  # fmt: skip
    write_project(tmp_path, {"models/bank.yml": source.replace("1d", "1h")})
    dbt_parse(tmp_path, tmp_path / "target")
    (change,) = plan(registry, load_registry(tmp_path, tmp_path / "target"))
    assert (change.name, change.details) == ("customer_shop__visits", ("known after its event time by: 1d → 2h",))
    assert not change.new_rows
