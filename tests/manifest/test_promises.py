"""The `freshness` of a feature view, and each mistake in it: a sound manifest by dbt is changed in one place."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from feature_server.dbt.parse import dbt_parse
from feature_server.definitions.changes import plan
from feature_server.definitions.facts import Freshness
from feature_server.definitions.registry import Registry
from feature_server.errors import DefinitionError
from feature_server.manifest.load import load_registry
from tests.support.tiny_project import write_project

VISITS = "model.tiny.customer_shop__visits"
V1, V2 = "model.tiny.customer__activity.v1", "model.tiny.customer__activity.v2"
HOUR_US = 3_600_000_000
PATH = "models[customer_shop__visits].config.meta.feature_view.freshness"
WRONG = "has a value that it cannot have"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("tiny"))
    dbt_parse(folder, folder / "target")
    return folder


def load(project: Path, target: Path, promises: dict[str, Any]) -> Registry:
    manifest = copy.deepcopy(json.loads((project / "target" / "manifest.json").read_text()) | {"macros": {}})
    for unique_id, promise in promises.items():
        manifest["nodes"][unique_id]["config"]["meta"]["feature_view"]["freshness"] = promise
    (target / "manifest.json").write_text(json.dumps(manifest))
    return load_registry(project, target)


def test_a_promise_is_written_in_our_words_or_dbts(project: Path, tmp_path: Path) -> None:
    after = {"warn_after": {"count": 120, "period": "minute"}, "error_after": {"count": 1, "period": "day"}}
    before = load(project, tmp_path, {})
    promised = load(project, tmp_path, {V1: {"warn": "2h", "error": "1d"}, V2: after})
    first, second, without = promised.feature_views
    assert first.freshness == second.freshness == Freshness(warn_us=2 * HOUR_US, error_us=24 * HOUR_US)
    assert b"freshness" not in msgspec.json.encode(without)
    assert [view.fingerprint for view in before.feature_views] == [view.fingerprint for view in promised.feature_views]
    change, _ = plan(before, promised)
    assert (change.details, change.new_rows) == (("freshness: none → warn after 2h, error after 1d",), False)


@pytest.mark.parametrize(
    ("promise", "problems"),
    [
        ("2h", [f"{PATH}: freshness {WRONG}"]),
        ({}, [f"{PATH}: the promise has no limit"]),
        ({"warn": 2, "eror": "6h"}, [f"{PATH}.eror: unknown key 'eror'", f"{PATH}.warn: warn {WRONG}"]),
        ({"warn": "6h", "error": "2h"}, [f"{PATH}: the warning would come after the error"]),
        ({"warn": "2h", "warn_after": {"count": 2, "period": "hour"}}, [f"{PATH}: warn is said twice"]),
        *(
            ({"error_after": after}, [f"{PATH}.error_after: error_after {WRONG}"])
            for after in (
                "2h",
                {"count": 2},
                {"count": True, "period": "hour"},
                {"count": 0, "period": "day"},
                {"count": 2, "period": "week"},
                {"count": 2, "period": ["day"]},
            )
        ),
    ],
)
def test_a_mistake_in_a_promise_is_reported(project: Path, tmp_path: Path, promise: Any, problems: list[str]) -> None:
    with pytest.raises(DefinitionError) as raised:
        load(project, tmp_path, {VISITS: promise})
    assert [f"{problem.key_path}: {problem.what}" for problem in raised.value.problems] == problems
