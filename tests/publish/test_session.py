"""What a host or a profile sets changes no value unseen: the same SQL gives one value as a table and as a view."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from feature_server.dbt.session import VALUE_SETTINGS, check_session
from feature_server.errors import FeatureStoreError
from feature_server.settings import load_settings
from tests.support.tiny_project import DBT_PROJECT, write_project

# A naive time as an instant, a day in the session's zone, a quotient, what is first where no direction is given.
SQL = """
select
    customer_id,
    cast(local_time as timestamptz) as event_timestamp,
    date_trunc('day', timestamptz '2024-03-10 22:30:00+00') as day_start,
    amount / 2 as half,
    row_number() over (order by amount) as place,
    current_setting('TimeZone') in ('UTC', 'Etc/UTC') as in_utc
from (values (1::bigint, timestamp '2024-03-10 00:30:00', 3), (2, timestamp '2024-07-10 00:30:00', null))
    as given (customer_id, local_time, amount)
"""
YAML = """
groups: [{name: risk, owner: {name: Risk, email: risk@example.com}}]
models:
  - name: customers
    description: One row per customer.
    config: {meta: {entity: {name: customer, join_keys: [customer_id]}}}
    columns: [{name: customer_id, data_type: bigint, description: The customer.}]
"""
FEATURE_VIEW = """
  - name: customer__{how}
    description: A customer.
    config: {{materialized: {how}, group: risk, meta: {{feature_view: {{entities: [customer], refresh: manual}}}}}}
    columns:
      - {{name: customer_id, data_type: bigint, description: The customer.}}
      - {{name: event_timestamp, data_type: timestamptz, description: When.}}
      - {{name: day_start, data_type: timestamptz, description: The day.}}
      - {{name: half, data_type: double, description: A quotient.}}
      - {{name: place, data_type: bigint, description: A place.}}
      - {{name: in_utc, data_type: boolean, description: A zone.}}
"""
FILES = {
    "dbt_project.yml": DBT_PROJECT,
    "models/customers.sql": "select 1::bigint as customer_id",
    "models/customer__table.sql": SQL,
    "models/customer__view.sql": SQL,
    "models/all.yml": YAML + "".join(FEATURE_VIEW.format(how=how) for how in ("table", "view")),
}
EXPECTED = [
    (1, "2024-03-10 00:30:00+00", "2024-03-10 00:00:00+00", 1.5, 1, True),
    (2, "2024-07-10 00:30:00+00", "2024-03-10 00:00:00+00", None, 2, True),
]
ABROAD = {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "7", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


class Shop:
    """The project in a folder, with these settings in its profile, on a host with this environment."""

    def __init__(self, folder: Path, settings: dict[str, Any], **environment: str) -> None:
        self.folder = folder
        target = {"type": "duckdb", "path": ".features/warehouse.duckdb", "settings": settings}
        profiles = json.dumps({"tiny": {"target": "local", "outputs": {"local": target}}})
        write_project(folder, FILES | {"profiles/profiles.yml": profiles, ".features/.keep": ""})
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FEATURES_")}
        self.environment |= environment

    def run(self, *command: str) -> tuple[int, str]:
        program = Path(sys.executable).with_name(command[0])
        found = subprocess.run(
            [str(program), *command[1:]], cwd=self.folder, env=self.environment, capture_output=True, check=False
        )
        return found.returncode, (found.stdout + found.stderr).decode()

    def build(self) -> None:
        code, said = self.run("dbt", "--quiet", "build", "--profiles-dir", "profiles")
        assert code == 0, said

    def published(self, view: str) -> list[tuple[Any, ...]]:
        files = self.folder / ".features" / "offline" / view / "**" / "*.parquet"
        with duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'")
            return connection.execute(f"""
                select customer_id, event_timestamp::varchar, day_start::varchar, half, place, in_utc
                from read_parquet('{files}') order by customer_id
            """).fetchall()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "shop"
    shutil.rmtree(tmp_path / "shop", ignore_errors=True)


@pytest.mark.heavy
def test_a_table_and_a_view_have_the_same_values_on_a_host_of_any_zone_and_locale(folder: Path) -> None:
    shop = Shop(folder, {"TimeZone": "UTC", "threads": 1, "preserve_insertion_order": False}, **ABROAD)
    shop.build()
    for command in (["apply"], ["publish"], ["sync"]):
        code, said = shop.run("features", *command)
        assert code == 0, said
    assert shop.published("customer__table") == shop.published("customer__view") == EXPECTED
    spine = "select 1::bigint as customer_id, timestamp '2024-03-10 00:30:00' as event_timestamp"
    day = "customer__view:day_start"
    code, said = shop.run("features", "train", day, "--spine", spine, "--out", "set.parquet")
    assert code == 0, said
    with duckdb.connect() as connection:
        trained = connection.execute(f"select epoch_us(day_start) from '{shop.folder / 'set.parquet'}'").fetchall()
    assert trained == [(1_710_028_800_000_000,)]
    code, said = shop.run("features", "get", day, "customer_id=1", "--json")
    assert code == 0, said
    assert "2024-03-10T00:00:00" in said


@pytest.mark.heavy
def test_a_build_in_the_zone_of_its_host_is_refused_with_what_to_set(folder: Path) -> None:
    shop = Shop(folder, {}, **ABROAD)
    code, said = shop.run("features", "apply")
    assert code == 1
    assert "TimeZone 'Asia/Kathmandu', the time zone of this host: the profile sets none" in said
    assert "settings: {TimeZone: UTC}" in said
    by_chance = Shop(folder, {}, TZ="UTC")
    code, said = by_chance.run("features", "apply")
    assert code == 1
    assert "got: TimeZone 'UTC', the time zone of this host: the profile sets none" in said
    home = Shop(folder, {"TimeZone": "UTC"}, TZ="UTC")
    assert home.run("features", "apply")[0] == 0
    shop = Shop(folder, {"integer_division": True}, TZ="UTC")
    shop.build()
    code, said = shop.run("features", "publish")
    assert code == 1, said
    assert "integer_division 'true', set by the profile" in said


def profile(folder: Path, text: str) -> None:
    write_project(folder, {"dbt_project.yml": DBT_PROJECT, "profiles/profiles.yml": text})


def asked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> str | None:
    """What is said of the session; None when it is good. A profile that can be read asks no dbt."""
    monkeypatch.setenv("TZ", os.environ.get("TZ", "UTC"))
    try:
        check_session(load_settings({}, project_dir=folder, home=folder))
    except FeatureStoreError as error:
        return str(error)
    return None


GOOD = ["TimeZone: UTC", "TimeZone: Etc/UTC", "timezone: GMT", "threads: 4", "default_null_order: nulls_last",
        "integer_division: false", "memory_limit: 1GB", "default_order: asc"]  # fmt: skip
OTHER = {
    "TimeZone": "Europe/Amsterdam", "Calendar": "buddhist", "default_collation": "NOCASE", "default_order": "desc",
    "default_null_order": "nulls_first", "null_order": "nulls_first", "integer_division": "true",
    "ieee_floating_point_ops": "false", "error_on_division_by_zero": "false", "order_by_non_integer_literal": "true",
    "scalar_subquery_error_on_multiple_rows": "false", "old_implicit_casting": "true", "binary_as_string": "true",
    "file_search_path": "/tmp", "legacy_disable_null_type": "true",
}  # fmt: skip


@pytest.mark.parametrize("setting", GOOD)
def test_a_profile_that_changes_no_value_is_taken_without_asking_dbt(
    folder: Path, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(folder, f"tiny: {{outputs: {{local: {{type: duckdb, settings: {{TimeZone: UTC, {setting}}}}}}}}}")
    monkeypatch.setattr("feature_server.dbt.session.target_of", None)
    assert asked(monkeypatch, folder) is None


@pytest.mark.parametrize(
    "hook",
    [
        "/* Tokyo */ set TimeZone = 'Asia/Tokyo'", "-- Tokyo\nset TimeZone = 'Asia/Tokyo'", "{{ tz() }}",
        "{# Tokyo #}{{ tz(1) }}", "{% if true %}set TimeZone = 'Asia/Tokyo'{% endif %}", "{{ around() }}",
    ],
)  # fmt: skip
def test_a_hook_is_seen_behind_comments_and_in_the_macros_that_it_calls(
    folder: Path, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feature_server.project.target import Target

    profile(folder, "tiny: {outputs: {local: {type: duckdb, settings: {TimeZone: UTC}}}}")
    macros = {
        "macro.tiny.tz": {
            "package_name": "tiny", "macro_sql": "{% macro tz(a=0) %}\n  set TimeZone = 'Asia/Tokyo'\n{% endmacro %}",
        },
        "macro.tiny.around": {
            "package_name": "tiny", "macro_sql": "{% macro around() %}{{ tz() }}{% endmacro %}",
            "depends_on": {"macros": ["macro.tiny.tz"]},
        },
    }  # fmt: skip
    node = {
        "unique_id": "model.tiny.a", "resource_type": "model", "name": "a", "package_name": "tiny",
        "original_file_path": "models/a.sql", "config": {"pre-hook": [{"sql": hook}]},
    }  # fmt: skip
    metadata = {"dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v12.json"}
    manifest = {"metadata": metadata, "nodes": {"model.tiny.a": node}, "macros": macros}
    write_project(folder, {"target/manifest.json": json.dumps(manifest)})
    target = Target(profile="tiny", name="local", kind="duckdb", path="", settings={"TimeZone": "UTC"})
    monkeypatch.setattr("feature_server.dbt.session.target_of", lambda *_: target)
    said = asked(monkeypatch, folder)
    assert said is not None
    assert "set by a hook of a" in said


@pytest.mark.parametrize("where", ["settings", "config_options", "a hook"])
def test_each_setting_that_changes_values_is_refused_by_name(
    folder: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feature_server.project.target import Target

    assert set(OTHER) | {"dialect_compatibility_mode", "regex_match_operator_semantics"} == set(VALUE_SETTINGS)
    for name, value in OTHER.items():
        given = {name: value}
        hooks = [f"SET {name} = '{value}';"] if where == "a hook" else []
        options = given if where == "config_options" else {}
        settings = given if where == "settings" else {}
        profile(folder, json.dumps({"tiny": {"outputs": {"local": {
            "type": "duckdb", "settings": {"TimeZone": "UTC"} | settings, "config_options": options}}}}))  # fmt: skip
        write_project(folder, {"target/manifest.json": json.dumps({
            "metadata": {"dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v12.json"},
            "nodes": {f"operation.tiny.{i}": {
                "unique_id": f"operation.tiny.{i}", "resource_type": "operation", "name": "tiny-on-run-start-0",
                "package_name": "tiny", "original_file_path": "./dbt_project.yml", "raw_code": hook,
            } for i, hook in enumerate(hooks)},
        })})  # fmt: skip
        target = Target(
            profile="tiny", name="local", kind="duckdb", path="", settings={"TimeZone": "UTC"} | settings,
            config_options=options,
        )  # fmt: skip
        monkeypatch.setattr("feature_server.dbt.session.target_of", lambda *_, target=target: target)
        said = asked(monkeypatch, folder)
        if name == "TimeZone" and where == "config_options":
            assert said is None  # the settings are what a cursor has
            continue
        wanted = "default_null_order" if name == "null_order" else name
        assert said is not None, name
        assert wanted in said
        assert ("a hook of tiny-on-run-start-0" if where == "a hook" else "set by the profile") in said
