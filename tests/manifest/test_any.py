"""Whatever an analyst writes under meta, the answer is a registry or a list of problems, never a stack trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_server.dbt.parse import dbt_parse
from feature_server.definitions.registry import Registry
from feature_server.errors import DefinitionError
from feature_server.manifest.blocks import BLOCKS
from feature_server.manifest.load import load_registry
from tests.support.tiny_project import write_project

VISITS = "model.tiny.customer_shop__visits"
SHOPS = "model.tiny.shops"
FRAUD = "exposure.tiny.fraud_v1"

words = st.sampled_from(
    ["customer", "shop", "country", "minutes", "event_timestamp", "hourly", "30d", "customer_shop__visits:minutes",
     "customer__activity@v1:transactions_1h", "", " ", ":", "@v", "a:b:c", "\u00e9t\u00e9", "x" * 300]
)  # fmt: skip
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)


def blocks(name: str) -> st.SearchStrategy[Any]:
    keys = st.sampled_from([key.name for key in BLOCKS[name]]) | words
    return values | st.dictionaries(keys, values, max_size=5)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("tiny"))
    dbt_parse(folder, folder / "target")
    manifest = json.loads((folder / "target" / "manifest.json").read_text())
    (folder / "target" / "sound.json").write_text(json.dumps(manifest | {"macros": {}}))
    return folder / "target"


@settings(max_examples=150, deadline=None)
@given(
    view=blocks("feature_view"),
    entity=blocks("entity"),
    service=blocks("feature_service"),
    types=st.lists(st.none() | words | st.sampled_from(["bigint", "varchar", "timestamp", "double[]"]), max_size=5),
)
def test_any_meta_gives_a_registry_or_problems(
    target: Path, view: Any, entity: Any, service: Any, types: list[str | None]
) -> None:
    manifest = json.loads((target / "sound.json").read_text())
    manifest["nodes"][VISITS]["config"]["meta"]["feature_view"] = view
    manifest["nodes"][SHOPS]["config"]["meta"]["entity"] = entity
    manifest["exposures"][FRAUD]["config"]["meta"]["feature_service"] = service
    for column, data_type in zip(manifest["nodes"][VISITS]["columns"].values(), types, strict=False):
        column["data_type"] = data_type
    (target / "manifest.json").write_text(json.dumps(manifest))
    try:
        registry = load_registry(target.parent, target)
    except DefinitionError as error:
        problems = error.problems
    else:
        assert isinstance(registry, Registry)
        return
    assert problems
    assert all(problem.file and problem.key_path and problem.what and str(problem) for problem in problems)
