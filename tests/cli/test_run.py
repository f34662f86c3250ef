"""`features run`: apply, land, build, publish, sync, verify; a view that fails keeps what it had."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.typed import SHOP, Typed, view_yaml

TEST = " data_tests: [{accepted_values: {arguments: {values: [7], quote: false}}}],"
PROJECT = SHOP | {
    "models/spend.sql": "select 1::bigint as customer_id, timestamptz '2024-01-01' as event_timestamp, 5 as spend_eur",
    "models/spend.yml": view_yaml("spend", "spend_eur", "integer"),
    "models/half.sql": "select 1::bigint as customer_id, timestamptz '2024-01-01' as event_timestamp, 7 as half_eur",
    "models/half.yml": view_yaml("half", "half_eur", "integer"),
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(tmp_path, PROJECT, monkeypatch, capsys)


def value(shop: Typed, feature: str) -> str:
    return shop.features("get", feature, "customer_id=1")[1].split()[1]


def test_all_of_it_is_one_command_and_a_view_that_fails_keeps_what_it_had(shop: Typed) -> None:
    code, said = shop.features("run")
    assert code == 0, said
    did = ("built", "published", "synced", "verified")
    steps = [line.split()[0] for line in said.splitlines() if line.startswith(did)]
    assert steps == ["built", "published", "published", "synced", "synced", "verified", "verified"]
    assert (value(shop, "spend:spend_eur"), value(shop, "half:half_eur")) == ("5", "7")
    model, described = (shop.folder / "models" / f"spend.{kind}" for kind in ("sql", "yml"))
    model.write_text(model.read_text().replace("5 as", "6 as"))
    described.write_text(described.read_text().replace("data_type: integer,", f"data_type: integer,{TEST}"))
    other = shop.folder / "models" / "half.sql"
    other.write_text(other.read_text().replace("7 as", "8 as"))
    code, said = shop.features("run")
    assert (code, "failed `dbt build`" in said, "failed spend:" in said) == (3, True, True), said
    assert (value(shop, "spend:spend_eur"), value(shop, "half:half_eur")) == ("5", "8")


def test_a_view_alone_is_built_with_what_is_upstream_of_it(shop: Typed) -> None:
    code, said = shop.features("run", "spend")
    assert (code, "built by `dbt build --select +spend`" in said, "published half" in said) == (0, True, False), said
    code, said = shop.features("run", "spent")
    assert (code, "did you mean" in said) == (1, True), said


def test_definitions_with_a_mistake_end_it_before_anything_is_built(shop: Typed) -> None:
    described = shop.folder / "models" / "spend.yml"
    described.write_text(described.read_text().replace("entities: [customer]", "entities: [custmer]"))
    code, said = shop.features("run")
    assert (code, "did you mean: customer" in said, "built" in said) == (1, True, False), said
    assert not (shop.folder / "own.duckdb").exists()
