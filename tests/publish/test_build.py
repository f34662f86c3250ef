"""Publishing reads the relations that dbt's last build wrote, or says which those are and what to set."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from feature_server.dbt.build import check_target
from feature_server.errors import WarehouseError
from feature_server.offline.store import OfflineStore
from feature_server.publish.batch import publish_all
from feature_server.settings import Settings, load_settings
from tests.support.relations import Relations, view_of
from tests.support.tiny_project import PROFILES, write_project

BEGAN = "2026-11-26T05:22:42.510444Z"
VIEW = replace(
    view_of("spend", {"customer_id": "bigint"}, {"spend_eur": "integer"}),
    relation='"warehouse"."main"."spend"', unique_id="model.shop.spend",
)  # fmt: skip
ROWS = "select 1::bigint as customer_id, timestamptz '2013-01-01' as event_timestamp, 3 as spend_eur"


class Built:
    """A project whose dbt has written `warehouse.duckdb` at 05:22:43 and says so in run_results.json."""

    def __init__(self, folder: Path) -> None:
        self.settings: Settings = load_settings({}, project_dir=folder, home=folder)
        Relations(folder).execute(f"create table spend as {ROWS}")
        self.settings.target_path.mkdir()
        write_project(folder, {"profiles/profiles.yml": PROFILES})
        self.changed("2026-11-26T05:22:43+00:00")

    def changed(self, at: str) -> None:
        seconds = datetime.fromisoformat(at).timestamp()
        os.utime(self.settings.warehouse, (seconds, seconds))

    def ran(self, which: str, relation: str | None = VIEW.relation, **args: Any) -> None:
        """What dbt leaves behind of a run, as far as it is read."""
        result = {
            "unique_id": VIEW.unique_id if relation else "test.shop.x", "status": "success", "relation_name": relation,
            "timing": [{"name": "compile", "started_at": BEGAN, "completed_at": BEGAN}], "adapter_response": {},
        }  # fmt: skip
        self.write("run_results", {"metadata": {}, "args": {"which": which} | args, "results": [result]})

    def materialized(self, how: str, relation: str | None = None) -> None:
        node = {
            "unique_id": VIEW.unique_id, "resource_type": "model", "name": "spend", "package_name": "shop",
            "original_file_path": "models/spend.sql", "config": {"materialized": how},
            "relation_name": relation,
        }  # fmt: skip
        version = "https://schemas.getdbt.com/dbt/manifest/v12.json"
        self.write(
            "manifest", {"metadata": {"dbt_schema_version": version}, "nodes": {VIEW.unique_id: node}},
        )  # fmt: skip

    def write(self, name: str, content: dict[str, Any]) -> None:
        (self.settings.target_path / f"{name}.json").write_text(json.dumps(content))

    def refused(self, **changes: Any) -> WarehouseError:
        """What `publish` says instead of publishing."""
        with pytest.raises(WarehouseError) as raised:
            publish_all([replace(VIEW, **changes)], self.settings)
        assert not OfflineStore(self.settings.offline).exists("spend")
        return raised.value


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path)


def test_what_the_last_build_wrote_is_published(built: Built) -> None:
    built.ran("build")
    assert [done.rows for done in publish_all([VIEW], built.settings)[0]] == [1]


def test_a_view_that_was_built_in_another_schema_is_refused(built: Built) -> None:
    built.ran("run", '"warehouse"."prod"."spend"', target="prod")
    for error in (built.refused(), _raised(built)):
        assert (error.what, error.where) == ("dbt's last build made this view elsewhere", "spend")
        assert error.expected == '"warehouse"."main"."spend"'
        assert error.got == '"warehouse"."prod"."spend", by `dbt run --target prod` of 2026-11-26 05:22:42 UTC'


def _raised(built: Built) -> WarehouseError:
    with pytest.raises(WarehouseError) as raised:
        check_target([VIEW], built.settings)
    return raised.value


def test_a_view_of_another_database_is_refused_also_where_nothing_says_what_was_built(built: Built) -> None:
    error = built.refused(relation='"prod"."main"."spend"')
    assert error.expected == "the DuckDB file of database prod"
    assert error.got == "warehouse.duckdb"
    assert error.remedy == "set FEATURES_WAREHOUSE to the `path` that the target built has in profiles.yml"


def test_an_older_file_of_the_same_name_is_refused(built: Built) -> None:
    built.ran("build")
    built.materialized("table")
    built.changed("2026-11-26T05:22:40+00:00")
    error = built.refused()
    assert error.what == "dbt's last run was on another warehouse"
    assert error.got == ("`dbt build` of 2026-11-26 05:22:42 UTC; this file was last changed 2026-11-26 05:22:40 UTC")


def test_a_missing_file_is_not_said_to_need_a_build_right_after_one(built: Built) -> None:
    built.settings.warehouse.unlink()
    assert built.refused().remedy == "run `dbt build` first"
    built.ran("build", target="local")
    error = built.refused()
    assert error.what == "the warehouse does not exist"
    assert error.got == "no such file after `dbt build --target local` of 2026-11-26 05:22:42 UTC"
    assert error.remedy == "set FEATURES_WAREHOUSE to the `path` that the target built has in profiles.yml"


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("empty", True, "rows are missing"), ("sample", "3 days", "rows are missing"),
        ("defer", True, "rows may be another environment's"),
    ],
)  # fmt: skip
def test_a_build_that_is_not_whole_is_not_published(built: Built, option: str, value: object, why: str) -> None:
    built.ran("build", **{option: value})
    error = built.refused()
    assert error.what == f"dbt's last build was made with --{option}: {why}"
    assert error.remedy == f"run `dbt build` without --{option}"


def test_a_file_of_dbt_that_is_damaged_is_named(built: Built) -> None:
    (built.settings.target_path / "run_results.json").write_text('{"results": 3')
    with pytest.raises(Exception, match="a file of dbt is not what dbt writes") as raised:
        publish_all([VIEW], built.settings)
    assert "run_results.json" in str(raised.value)


def test_a_run_of_a_named_target_that_made_no_view_tells_of_the_target_by_dbts_manifest(built: Built) -> None:
    built.materialized("table", relation='"warehouse"."marts"."spend"')
    built.ran("test", None, target="prod")  # after `dbt run --target prod`, into the same file
    for error in (built.refused(), _raised(built)):
        assert (error.what, error.where) == ("dbt's last run was for another target than is read", VIEW.unique_id)
        assert (error.expected, error.got) == (
            VIEW.relation, '"warehouse"."marts"."spend", by `dbt test --target prod` of 2026-11-26 05:22:42 UTC',
        )  # fmt: skip
    other = replace(VIEW, unique_id="model.shop.other")
    built.materialized("table", relation=VIEW.relation)  # what features has dbt parse since is of the default target
    built.ran("run", '"warehouse"."marts"."spend"', target="prod")
    with pytest.raises(WarehouseError) as raised:
        check_target([other], built.settings)
    assert (raised.value.where, raised.value.expected) == (VIEW.unique_id, VIEW.relation)
