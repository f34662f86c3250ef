"""The dbt package in a project that is not this one's: its hooks, its instant, the project's shim, and its version."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import duckdb
import pytest

from feature_server.project.package import SHIPPED, check_package, package_version
from tests.support.example import INSTALLED, ROOT, package_files
from tests.support.typed import SHOP, Typed, view_yaml

SPEND = """
        {{ config(materialized='incremental') }}
        select customer_id, landed_at as event_timestamp, {{ price('euros') }} as spend_eur
        from {{ ref('orders') }}
        where landed_at <= {{ feature_warehouse.as_of() }} and landed_at > {{ feature_warehouse.known_after() }}
        """
PROJECT = SHOP | {
    "dbt_project.yml": SHOP["dbt_project.yml"]
    + """
        model-paths: [transform]
        macro-paths: [jinja]
        target-path: build
        models:
          +pre-hook: "{{ feature_warehouse.before_model() }}"
          +post-hook: "{{ feature_warehouse.after_model() }}"
        """,
    "packages.yml": f"packages: [{{local: {INSTALLED}}}]",
    "jinja/should_full_refresh.sql": (ROOT / "macros" / "should_full_refresh.sql").read_text(),
    "jinja/price.sql": "{% macro price(column) %}{{ column }}{% endmacro %}",
    **{name.replace("models/", "transform/"): text for name, text in SHOP.items() if name.startswith("models/")},
    "transform/orders.sql": """
        select 1::bigint as customer_id, 5 as euros, timestamptz '2024-01-01' as landed_at
        union all
        select 1::bigint, 7, timestamptz '2024-01-02'
        """,
    "transform/spend.sql": SPEND,
    "transform/spend.yml": view_yaml("spend", "spend_eur", "integer"),
    **package_files(),
}
PROJECT = {name: text for name, text in PROJECT.items() if not name.startswith("models/")}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(tmp_path, PROJECT, monkeypatch, capsys)


def appended(shop: Typed) -> list[bool]:
    """Of each build of the view, whether it appended."""
    with duckdb.connect(str(shop.folder / "own.duckdb"), read_only=True) as warehouse:
        log = warehouse.execute(
            "select changed_from is not null from feature_builds where model = 'spend' order by rowid"
        )
        return [appended for (appended,) in log.fetchall()]


def rows(shop: Typed) -> list[tuple[object, ...]]:
    with duckdb.connect(str(shop.folder / "own.duckdb"), read_only=True) as warehouse:
        return warehouse.execute("select spend_eur from spend order by all").fetchall()


def test_a_view_is_appended_to_and_made_anew_when_a_macro_of_the_project_changes(shop: Typed) -> None:
    assert shop.features("apply")[0] == 0
    shop.dbt("build", "--vars", "as_of: '2024-01-01T00:00:00Z'")
    assert rows(shop) == [(5,)]
    shop.dbt("build")  # as of now
    assert (rows(shop), appended(shop)) == ([(5,), (7,)], [False, True])
    assert shop.features("publish")[0] == 0
    price = shop.folder / "jinja" / "price.sql"
    price.write_text(price.read_text().replace("{{ column }}", "{{ column }} * 2"))
    assert shop.features("apply")[0] == 0
    shop.dbt("build")
    assert (rows(shop), appended(shop)) == ([(10,), (14,)], [False, True, False])
    assert shop.features("publish")[0] == 0
    assert shop.published("spend", "spend_eur") == [(10,), (14,)]


def test_the_package_is_of_the_version_of_the_program(shop: Typed) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert package_version(SHIPPED) == project["project"]["version"]
    assert check_package(shop.folder) is None
    named = shop.folder / INSTALLED / "dbt_project.yml"
    named.write_text(named.read_text().replace(f'version: "{package_version(SHIPPED)}"', 'version: "0.0.1"'))
    code, said = shop.features("check")
    assert code == 1
    assert f"{INSTALLED}/dbt_project.yml" in said
    assert f"expected: {package_version(SHIPPED)}\n  got: 0.0.1" in said
    assert "features init --upgrade" in said


def test_an_instant_that_is_none_is_refused(shop: Typed) -> None:
    project = shop.folder / "dbt_project.yml"
    project.write_text(project.read_text() + "vars: {as_of: yesterday}\n")
    with pytest.raises(subprocess.CalledProcessError) as raised:
        shop.dbt("build")
    assert b"expected an ISO UTC timestamp such as 2013-12-31T23:00:00Z, or now, got 'yesterday'" in raised.value.stdout
