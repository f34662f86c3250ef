"""`features init NAME`: a new project that goes all the way."""

from __future__ import annotations

import compileall
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from feature_server.project.process import dbt_command
from feature_server.scaffold.fresh import TEMPLATES, plan_project
from tests.support.typed import Typed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(tmp_path, {}, monkeypatch, capsys)


def test_a_new_project_goes_from_build_to_train_and_takes_live_events(folder: Typed) -> None:
    code, said = folder.features("init", "shop")
    assert code == 0, said
    folder.folder = folder.folder / "shop"
    folder.patch.chdir(folder.folder)
    assert folder.features("lint") == (0, "2 feature views, 3 models: 0 findings\n")
    subprocess.run([*dbt_command(), "build", "--quiet"], check=True, capture_output=True)
    for command in (["apply"], ["publish"], ["sync"], ["verify"]):
        code, said = folder.features(*command)
        assert code == 0, said
    code, said = folder.features("get", "reorder_v1", "customer_id=7", "--json")
    before = json.loads(said)["features"]
    assert {feature["status"] for feature in before.values()} == {"PRESENT"}
    spine = "select customer_id, ordered_at as event_timestamp from 'landing/orders/orders.parquet'"
    code, said = folder.features("train", "reorder_v1", "--spine", spine, "--out", "train.parquet")
    assert (code, (folder.folder / "train.parquet").is_file()) == (0, True), said
    at = datetime.now(UTC) - timedelta(seconds=5)
    order = {
        "order_id": 999_999, "customer_id": 7, "amount_eur": "12.50", "ordered_at": at.isoformat(),
        "landed_at": at.isoformat(),
    }  # fmt: skip
    (folder.folder / "order.jsonl").write_text(json.dumps(order) + "\n")
    code, said = folder.features("push", "shop.orders", "order.jsonl")
    assert code == 0, said
    code, said = folder.features("get", "customer__orders:orders_7d", "customer_id=7", "--json")
    assert json.loads(said)["features"]["orders_7d"]["value"] == before["orders_7d"]["value"] + 1


def test_what_python_compiles_beside_the_templates_is_no_template(
    folder: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    compileall.compile_dir(TEMPLATES, quiet=1)
    assert not [edit for edit in plan_project(folder.folder / "shop") if "pycache" in edit.path]


@pytest.mark.parametrize("name", ["Shop", "1shop", "a-b", "sh op"])
def test_a_name_that_dbt_does_not_take_is_refused(folder: Typed, name: str) -> None:
    code, said = folder.features("init", name)
    assert (code, "a project cannot have this name" in said) == (1, True), said
    assert list(folder.folder.iterdir()) == []


@pytest.mark.parametrize("option", [["--project-dir", "."], ["--upgrade"]])
def test_options_of_a_project_that_there_is_are_refused_for_a_new_one(folder: Typed, option: list[str]) -> None:
    code, said = folder.features("init", "shop", *option)
    assert (code, option[0] in said) == (2, True), said
    assert list(folder.folder.iterdir()) == []


def test_variables_that_mean_another_project_are_told(folder: Typed) -> None:
    folder.patch.setenv("DBT_PROFILE", "others")
    code, said = folder.features("init", "shop", "--dry-run")
    assert (code, "left to you: unset DBT_PROFILE: it is 'others'" in said) == (0, True), said
    assert list(folder.folder.iterdir()) == []


def test_a_folder_with_something_in_it_stays_as_it_is(folder: Typed) -> None:
    (folder.folder / "shop").mkdir()
    (folder.folder / "shop" / "notes.txt").write_text("mine")
    code, said = folder.features("init", "shop")
    assert (code, "there is something in the new project's place" in said) == (1, True), said
    assert [path.name for path in (folder.folder / "shop").iterdir()] == ["notes.txt"]
