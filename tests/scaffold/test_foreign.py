"""Foreign projects after `features init`: an incremental view made anew when a macro changes; and one without it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import duckdb
import pytest

from feature_server.project.process import dbt_command
from tests.scaffold.shop import write_shop
from tests.support.tiny_project import write_project
from tests.support.typed import Typed

pytestmark = pytest.mark.heavy
YAML = """\
groups: [{name: risk, owner: {name: Risk, email: risk@example.com}}]
models:
  - name: customers
    description: Customers.
    config: {meta: {entity: {name: customer, join_keys: [customer_id]}}}
    columns: [{name: customer_id, data_type: bigint, description: The customer.}]
  - name: customer__spending
    description: Spending.
    config: {group: risk, meta: {feature_view: {entities: [customer], refresh: manual}}}
    columns:
      - {name: customer_id, data_type: bigint, description: The customer.}
      - {name: event_timestamp, data_type: timestamptz, description: When.}
      - name: spent
        data_type: bigint
        description: Cents.
        data_tests: [{accepted_values: {arguments: {values: [7]}}}]
"""
DUCKDB = "{type: duckdb, path: own.duckdb, settings: {TimeZone: UTC}}"
PLAIN = "select 1::bigint as customer_id, timestamptz '2024-01-01' as event_timestamp, 7::bigint as spent"
INCREMENTAL = """\
{{ config(materialized='incremental') }}
select customer_id::bigint as customer_id, ordered_at as event_timestamp, ({{ cents('7') }})::bigint as spent
from {{ ref('stg_orders') }}
where ordered_at <= {{ feature_warehouse.as_of() }} and ordered_at > {{ feature_warehouse.known_after() }}
"""


def good(project: Typed, *arguments: str) -> str:
    code, said = project.features(*arguments)
    assert code == 0, said
    return said


def dbt(project: Typed, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*dbt_command(), *arguments], cwd=project.folder, capture_output=True, text=True, check=False)


def test_a_macro_of_her_own_that_changes_makes_an_incremental_view_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Typed(write_shop(tmp_path), {}, monkeypatch, capsys)
    good(shop, "init")
    models = shop.folder / "transform"
    (models / "views.yml").write_text(
        YAML.partition("\n")[2].replace("group: risk", "group: jaffle").replace("7", "700, 1400")
    )
    (models / "customers.sql").write_text(
        "select distinct customer_id::bigint as customer_id from {{ ref('stg_orders') }}"
    )
    (models / "customer__spending.sql").write_text(INCREMENTAL)

    def seen() -> tuple[list[tuple[int]], list[tuple[bool]]]:
        with duckdb.connect(str(shop.folder / "data" / "jaffle.duckdb"), read_only=True) as warehouse:
            log = "select changed_from is null from feature_builds where model = 'customer__spending' order by rowid"
            values = warehouse.execute("select distinct spent from customer__spending").fetchall()
            return values, warehouse.execute(log).fetchall()

    good(shop, "run")
    good(shop, "run")
    assert seen() == ([(700,)], [(True,), (False,)])
    cents = shop.folder / "jinja" / "cents.sql"
    cents.write_text(cents.read_text().replace("* 100", "* 200"))
    good(shop, "run")
    assert seen() == ([(1400,)], [(True,), (False,), (True,)])
    assert '"spent"' in good(shop, "get", "customer__spending:spent", "customer_id=3", "--json")


def test_a_project_of_dbt_init_alone_needs_no_package_hook_or_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Typed(tmp_path, {}, monkeypatch, capsys)
    made = dbt(project, "init", "shop", "--skip-profile-setup", "--profiles-dir", str(tmp_path))
    assert made.returncode == 0, made.stdout
    project.folder = tmp_path / "shop"
    monkeypatch.chdir(project.folder)
    view = project.folder / "models" / "customer__spending.sql"
    write_project(project.folder, {
        "profiles.yml": f"shop: {{target: dev, outputs: {{dev: {DUCKDB}}}}}",
        "models/views.yml": YAML,
        "models/customers.sql": "select 1::bigint as customer_id",
        "models/customer__spending.sql": PLAIN,
    })  # fmt: skip
    assert "1 feature view" in good(project, "check")
    mine = ("--select", "customers", "customer__spending")
    built = dbt(project, "build", "--quiet", *mine)
    assert built.returncode == 0, built.stdout
    for command in ("apply", "publish", "sync"):
        good(project, command)
    read = ("get", "customer__spending:spent", "customer_id=1", "--json")
    assert json.loads(good(project, *read))["features"]["spent"]["value"] == 7
    spine = "select 1::bigint as customer_id, timestamptz '2024-02-01' as event_timestamp"
    good(project, "train", "customer__spending:spent", "--spine", spine, "--out", "train.parquet")
    assert duckdb.sql(f"select spent from '{project.folder}/train.parquet'").fetchall() == [(7,)]
    view.write_text(view.read_text().replace("7::", "8::"))
    good(project, "apply")
    assert dbt(project, "build", "--quiet", *mine).returncode == 1  # the test of its values fails
    code, said = project.features("publish")
    assert (code, "last build or a test of it failed" in said) == (3, True), said
    assert project.published("customer__spending", "spent") == [(7,)]
    assert not (project.folder / "packages.yml").exists()
