"""The project as dbt sees it: what a schedule selects, what a bad row stops, what a bad argument says."""

from __future__ import annotations

import json

import duckdb

from tests.dbt_project.conftest import STEPS
from tests.dbt_project.world import World

END = STEPS[-1]


def test_a_schedule_selects_its_views_and_what_they_are_made_from(full: World) -> None:
    listed = full.dbt("ls", "--quiet", "-s", "+config.meta.feature_view.refresh:hourly", as_of=END)
    assert listed.returncode == 0, listed.stdout
    names = {line.rsplit(".", 1)[-1] for line in listed.stdout.splitlines()}
    assert {"customers", "customer__transactions", "airport__departures", "stg_payments__latest_transactions"} <= names
    assert not {"customer__visits", "merchant__risk", "stg_payments__visits"} & names


def test_a_bad_row_stops_the_views_made_from_it_and_no_others(world: World) -> None:
    landed = next((world.home / "landing" / "transactions").glob("2013-12-10.parquet"))
    duckdb.sql(
        f"copy (select * replace (-amount_eur as amount_eur) from '{landed}') to '{landed}.bad' (format parquet)"
    )
    landed.with_name(landed.name + ".bad").replace(landed)
    only = ("-s", "+customer__transactions", "+customer__visits")
    built = world.dbt("build", *only, as_of=END)
    assert built.returncode == 1
    failed = [line.split()[6] for line in built.stdout.splitlines() if " FAIL " in line or " ERROR " in line]
    assert failed == ["feature_warehouse_in_range_stg_payments__latest_transactions_amount_eur__0_01"]
    with world.connect() as connection:
        tables = {name for (name,) in connection.sql("select table_name from duckdb_tables()").fetchall()}
        noted = connection.sql("select test from failed_tests where model = 'customer__transactions'").fetchall()
        others = connection.sql("select count(*) from failed_tests where model = 'customer__visits'").fetchall()
    assert "customer__visits" in tables
    assert "customer__transactions" not in tables
    assert (noted, others) == ([("build: skipped",)], [(0,)])


def test_a_failed_test_is_noted_with_its_view_until_it_passes(world: World) -> None:
    def noted() -> list[tuple[str, str]]:
        with world.connect() as connection:
            return connection.sql("from failed_tests order by all").fetchall()

    assert world.dbt("build", "-s", "+plane__registration", as_of=END).returncode == 0
    assert noted() == []
    with duckdb.connect(str(world.warehouse)) as connection:
        connection.execute("update plane__registration set seats = -5 where tail_number = 'N10156'")
    tested = world.dbt("test", "-s", "plane__registration", as_of=END)
    assert tested.returncode == 1, tested.stdout
    assert [model for model, _ in noted()] == ["plane__registration"]
    assert world.dbt("build", "-s", "plane__registration", as_of=END).returncode == 0
    assert noted() == []


def test_an_instant_that_is_not_utc_is_refused(full: World) -> None:
    parsed = full.dbt("parse", as_of="2013-12-26 00:00")
    assert parsed.returncode != 0
    assert (
        "var as_of: expected an ISO UTC timestamp such as 2013-12-31T23:00:00Z, or now, got '2013-12-26 00:00'"
        in parsed.stdout
    )


def test_every_feature_is_described_and_typed(full: World) -> None:
    manifest = json.loads((full.home / "target" / "manifest.json").read_text())
    views = [node for node in manifest["nodes"].values() if "feature_view" in node["config"].get("meta", {})]
    assert len(views) == 13
    for view in views:
        assert view["contract"]["enforced"], view["name"]
        assert view["group"], view["name"]
        for column in view["columns"].values():
            assert column["description"].strip().endswith("."), (view["name"], column["name"])
            assert column["data_type"], (view["name"], column["name"])
