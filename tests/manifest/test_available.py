"""`available_after` of a source: what `features check` says of one that nothing would read."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_server.dbt.parse import dbt_parse
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
