"""Models in a DuckDB file that the profile attaches beside the target's own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from unittest.mock import ANY

import pytest

from tests.support.example import ROOT, package_files
from tests.support.typed import SHOP, Typed, view_yaml

PROJECT = SHOP | {
    "profiles/profiles.yml": """
        shop:
          target: dev
          outputs:
            dev:
              type: duckdb
              path: own.duckdb
              attach: [{path: data/marts.duckdb, alias: marts}]
              settings: {TimeZone: UTC}
        """,
    "data/.keep": "",
    "models/paid.sql": """
        {{ config(database='marts', materialized='table') }}
        select 1::bigint as customer_id, timestamptz '2013-01-01' as event_timestamp, 3::integer as euros
        """,
    "models/spend.sql": """
        {{ config(database='marts', materialized='incremental') }}
        select customer_id, event_timestamp, euros as spend_eur from {{ ref('paid') }}
        {% if is_incremental() %} where event_timestamp > (select max(event_timestamp) from {{ this }}) {% endif %}
        """,
    "models/half.sql": "select customer_id, event_timestamp, euros / 2 as half_eur from {{ ref('paid') }}",
    "models/spend.yml": view_yaml("spend", "spend_eur", "integer"),
    "models/half.yml": view_yaml("half", "half_eur", "double"),
}


LOGGED = {
    "dbt_project.yml": PROJECT["dbt_project.yml"] + """
        vars: {as_of: "2024-01-01T00:00:00Z"}
        models:
          +pre-hook: "{{ feature_warehouse.before_model() }}"
          +post-hook: "{{ feature_warehouse.after_model() }}"
        """,
    "macros/should_full_refresh.sql": (ROOT / "macros" / "should_full_refresh.sql").read_text(),
    **package_files(),
}  # fmt: skip


@pytest.mark.heavy
@pytest.mark.parametrize("more", [{}, LOGGED], ids=["plain", "with a build log"])
def test_models_in_an_attached_database_are_published(
    more: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Typed(tmp_path, PROJECT | more, monkeypatch, capsys)
    shop.dbt("build")
    assert shop.features("apply") == (0, ANY)
    assert shop.features("publish") == (0, ANY)
    assert (shop.published("spend", "spend_eur"), shop.published("half", "half_eur")) == ([(3,)], [(1.5,)])
    paid = tmp_path / "models" / "paid.sql"
    paid.write_text(f"{paid.read_text()} union all select 2, timestamptz '2013-01-02', 4")
    assert shop.features("apply") == (0, ANY)
    shop.dbt("build", *([] if more else ["--full-refresh"]))  # the build log has it made anew
    assert shop.features("publish") == (0, ANY)
    assert (shop.published("spend", "spend_eur"), shop.published("half", "half_eur")) == ([(3,), (4,)], [(1.5,), (2,)])
    (tmp_path / "data" / "marts.duckdb").unlink()
    code, said = shop.features("publish")
    assert code == 1
    assert f"got: {tmp_path / 'data' / 'marts.duckdb'}" in said
    assert "correct its path under `attach` in profiles.yml" in said


@pytest.mark.heavy
@pytest.mark.parametrize("schema", ["", "+schema: feat"], ids=["of the target", "of its own"])
def test_what_a_build_notes_is_found_in_any_schema(
    schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed test, also one that is taken out again, and SQL that was not applied, of models in two databases."""
    configured = f"{LOGGED['dbt_project.yml'].rstrip()}\n          {schema}\n"
    shop = Typed(tmp_path, PROJECT | LOGGED | {"dbt_project.yml": configured}, monkeypatch, capsys)
    models, half = tmp_path / "models" / "half.yml", tmp_path / "models" / "half.sql"
    before, column = models.read_text(), "data_type: double,"
    assert before.count(column) == 1
    models.write_text(before.replace(column, f"{column} data_tests: [{{accepted_values: {{values: [7]}}}}],"))
    assert shop.features("apply") == (0, ANY)
    with pytest.raises(subprocess.CalledProcessError):
        shop.dbt("build")
    shop.dbt("build", "--select", "customers")  # what failed is not in dbt's last run any more
    code, said = shop.features("publish", "half")
    assert (code, "accepted_values_half" in said) == (3, True), said
    models.write_text(before)
    shop.dbt("build")
    assert shop.features("publish", "half") == (0, ANY)
    half.write_text(half.read_text().replace("/ 2", "/ 4"))
    shop.dbt("run")
    shop.dbt("build", "--select", "customers")
    code, said = shop.features("publish")
    assert (code, "built by other SQL" in said, "spend" in said) == (3, True, True), said
    assert (shop.published("half", "half_eur"), shop.published("spend", "spend_eur")) == ([(1.5,)], [(3,)])
    assert shop.features("apply") == (0, ANY)
    shop.dbt("build", "--select", "half")
    assert shop.features("publish") == (0, ANY)
    assert shop.published("half", "half_eur") == [(0.75,)]
