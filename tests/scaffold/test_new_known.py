"""`features new` over rows of which it is said when they were known, and over a source that is files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from feature_server.project.process import dbt_command
from tests.support.typed import Typed

O2 = ("new", "view", "customer__o2", "--from", "ref(stg_orders)", "--entity", "customer", "--time", "ordered_at")
PLAIN = "select order_id, customer_id, amount_eur, ordered_at from {{ ref('stg_orders') }}\n"
TWICE = "select *, landed_at + interval 1 hour as checked_at from {{ ref('stg_orders') }}\n"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """The shop that `features init shop` makes: its orders are files, which say when they landed."""
    shop = Typed(tmp_path, {}, monkeypatch, capsys)
    good(shop, "init", "shop")
    shop.folder = tmp_path / "shop"
    monkeypatch.chdir(shop.folder)
    return shop


def good(shop: Typed, *arguments: str) -> str:
    code, said = shop.features(*arguments)
    assert code == 0, said
    return said


def build(shop: Typed) -> None:
    run = subprocess.run(
        [*dbt_command(), "build", "--quiet"], cwd=shop.folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout


@pytest.mark.heavy
def test_what_is_written_passes_over_rows_that_landed_and_over_files(shop: Typed) -> None:
    build(shop)
    said = good(shop, *O2)
    assert "took landed_at as --created: when rows of shop.orders were known" in said
    files = ("--from", "source(shop, orders)")
    good(shop, "new", "view", "customer__amounts", *files, "--entity", "customer", "--time", "ordered_at")
    good(shop, "new", "entity", "order", *files, "--key", "order_id")
    for name in ("customer__o2", "customer__amounts"):
        said_of = yaml.safe_load((shop.folder / "models" / "features" / f"{name}.yml").read_text())["models"][0]
        assert said_of["config"]["meta"]["feature_view"]["created_timestamp"] == "created_timestamp"
    build(shop)
    assert "2 entities, 1 event source, 4 feature views" in good(shop, "check")


@pytest.mark.heavy
def test_a_view_that_check_would_refuse_is_not_written(shop: Typed) -> None:
    for name, sql in (("bare_orders", PLAIN), ("checked_orders", TWICE)):
        (shop.folder / "models" / "staging" / f"{name}.sql").write_text(sql)
    build(shop)
    before = sorted((shop.folder / "models").rglob("*"))
    for start, remedy in (
        ((*O2, "--created", "ordered_at"), "add --created with landed_at"),
        (("new", "view", "customer__o2", "--from", "bare_orders", *O2[5:]), "have a model carry that column"),
        (
            ("new", "view", "customer__o2", "--from", "checked_orders", *O2[5:]),
            "add --created with landed_at or checked",
        ),
    ):
        code, said = shop.features(*start)
        assert (code, remedy in said, "shop.orders landed" in said) == (1, True, True), said
    assert sorted((shop.folder / "models").rglob("*")) == before


def test_a_clone_is_told_to_install_the_packages(shop: Typed) -> None:
    shutil.rmtree(shop.folder / "dbt_packages")
    code, said = shop.features("check")
    assert (code, "remedy: run `dbt deps`" in said) == (1, True), said
    subprocess.run([*dbt_command(), "deps", "--quiet"], cwd=shop.folder, check=True, capture_output=True)
    good(shop, "check")
