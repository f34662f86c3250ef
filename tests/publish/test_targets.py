"""Two targets of one project side by side: warehouses, stores and Redis; each refuses what the other one fills."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import ANY

import duckdb
import pytest

from tests.support.relations import Relations
from tests.support.typed import SHOP, Typed, view_yaml

ROWS = "select 1::bigint as customer_id, timestamptz '2013-01-01' as event_timestamp, 3 as spend_eur"
PROJECT = SHOP | {
    "dbt_project.yml": SHOP["dbt_project.yml"].rstrip()
    + """
        model-paths: [models]
        models: {+materialized: table}
        """,
    "profiles/profiles.yml": """
        shop:
          target: dev
          outputs:
            dev: {type: duckdb, path: .features/warehouse.duckdb, threads: 1, settings: {TimeZone: UTC}}
            prod:
              type: duckdb
              path: "{{ env_var('PROD_FOLDER', 'data') }}/prod.duckdb"
              schema: marts
              threads: 1
              settings: {TimeZone: UTC}
            marts:
              type: duckdb
              path: .features/warehouse.duckdb
              schema: marts
              threads: 1
              settings: {TimeZone: UTC}
        """,
    "models/spend.sql": """
        select 1::bigint as customer_id, timestamptz '2013-01-01' as event_timestamp,
            {{ 30 if target.name == 'prod' else 3 }}::integer as spend_eur
        """,
    "models/spend.yml": view_yaml("spend", "spend_eur", "integer"),
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    for name in (".features", "data"):
        (tmp_path / name).mkdir()
    return Typed(tmp_path, PROJECT, monkeypatch, capsys)


def spent(shop: Typed, home: str) -> list[tuple[int]]:
    return shop.published("spend", "spend_eur", home)


@pytest.mark.heavy
def test_two_targets_are_told_apart_and_the_remedy_given_reads_the_one_that_was_built(shop: Typed) -> None:
    features, dbt, tmp_path = shop.features, shop.dbt, shop.folder
    Relations(tmp_path / ".features").execute(f"create table spend as {ROWS}")  # a build of the target dev, long ago
    dbt("build", "--target", "prod")
    code, said = features("apply")
    assert code == 1
    assert 'expected: "warehouse"."main"."spend"\n  got: "prod"."marts"."spend", by `dbt build --target prod`' in said
    assert "remedy: give --target prod, to `features apply` first; or run `dbt build` for the target you mean" in said
    assert not (tmp_path / ".features" / "registry.json").exists()

    prod = ("--target", "prod")
    results = (tmp_path / "target" / "run_results.json").read_bytes()
    assert features("apply", *prod) == (0, ANY)
    assert features("publish", *prod) == (0, ANY)
    assert (tmp_path / "target" / "run_results.json").read_bytes() == results
    assert not (tmp_path / ".features" / "registry.json").exists()
    dbt("build")
    assert features("apply") == (0, ANY)
    assert features("publish") == (0, ANY)
    assert (spent(shop, ".features"), spent(shop, ".features/targets/prod")) == ([(3,)], [(30,)])

    code, said = features("publish", *prod)
    assert (code, "dbt's last build made this view elsewhere" in said) == (1, True), said
    assert "remedy: give --target dev, to `features apply` first; or run `dbt build` for the target you mean" in said
    shop.patch.setenv("FEATURES_WAREHOUSE", "data/prod.duckdb")
    code, said = features("publish")
    assert (code, "dbt makes this view in another database than is read" in said) == (1, True), said
    assert f"remedy: set FEATURES_WAREHOUSE={tmp_path}/.features/warehouse.duckdb; or run `dbt build`" in said
    shop.patch.delenv("FEATURES_WAREHOUSE")

    for command in ("run", "test"):
        dbt(command, "--target", "marts")  # another schema of the file that is read
    assert features("apply") == (0, ANY)
    code, said = features("publish")
    assert (code, "dbt's last run was for another schema than is read" in said) == (1, True), said
    assert "expected: main\n  got: marts, by `dbt test --target marts`" in said
    assert "remedy: give --target marts, to `features apply` first; or run" in said
    assert (spent(shop, ".features"), spent(shop, ".features/targets/prod")) == ([(3,)], [(30,)])


@pytest.mark.heavy
def test_two_targets_in_one_folder_share_a_redis_and_serve_their_own_values(shop: Typed, valkey: str) -> None:
    prod = ("--target", "prod")
    shop.patch.setenv("FEATURES_REDIS_URL", valkey)
    for target in ((), prod):
        shop.dbt("build", *target)
        assert shop.features("apply", *target) == (0, ANY)
        assert shop.features("publish", *target) == (0, ANY)
    assert shop.features("sync") == (0, ANY)
    refused = "this Redis holds the features of shop.dev, not of shop.prod"
    for command in (["sync"], ["get", "spend:spend_eur", "customer_id=1"], ["serve", "--port", "0"]):
        code, said = shop.features(*command, *prod)
        assert (code, refused in said, "remedy: add ?namespace=NAME to FEATURES_REDIS_URL" in said) == (1, True, True)

    shop.patch.setenv("FEATURES_REDIS_URL", f"{valkey}?namespace=prod")
    assert shop.features("sync", *prod) == (0, ANY)
    assert shop.features("sync")[0] == 1
    get = ("get", "spend:spend_eur", "customer_id=1", "--json")
    assert json.loads(shop.features(*get, *prod)[1])["features"]["spend_eur"]["value"] == 30
    shop.patch.setenv("FEATURES_REDIS_URL", valkey)
    assert json.loads(shop.features(*get)[1])["features"]["spend_eur"]["value"] == 3
    spine = "select 1::bigint as customer_id, timestamp '2013-01-02' as event_timestamp"
    for target, euros in (((), 3), (prod, 30)):
        train = ("train", "spend:spend_eur", "--spine", spine, "--out", "set.parquet")
        assert shop.features(*train, *target) == (0, ANY)
        with duckdb.connect() as connection:
            assert connection.sql("select spend_eur from 'set.parquet'").fetchall() == [(euros,)]

    shop.patch.setenv("FEATURES_HOME", ".features")  # one home for both
    for command in ("apply", "publish", "sync", "status", "verify"):
        code, said = shop.features(command, *prod)
        assert (code, ".features/registry.json holds the features of shop.dev, not of shop.prod" in said) == (1, True)
    shop.patch.delenv("FEATURES_HOME")
    shop.patch.setenv("FEATURES_OFFLINE", ".features/offline")
    code, said = shop.features("publish", *prod)
    assert (code, ".features/offline holds the features of shop.dev, not of shop.prod" in said) == (1, True), said
    shop.patch.delenv("FEATURES_OFFLINE")

    profiles = shop.folder / "profiles" / "profiles.yml"
    profiles.write_text(profiles.read_text().replace("dev", "local"))
    for command in (["publish"], [*get], [*train]):  # before dbt was asked which target that is now
        code, said = shop.features(*command)
        assert (code, "holds the features of shop.dev, not of shop.local" in said) == (1, True), said
    code, said = shop.features("apply")
    assert (code, "`features apply --adopt shop.dev`" in said) == (1, True), said
    shop.dbt("build")
    assert shop.features("apply", "--adopt", "shop.dev") == (0, ANY)
    for command in ("publish", "sync", "verify"):
        assert shop.features(command) == (0, ANY)
    assert json.loads(shop.features(*get)[1])["features"]["spend_eur"]["value"] == 3
