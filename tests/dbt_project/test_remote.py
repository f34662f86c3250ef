"""A feature server makes the training sets of the example, the bytes of a local call, of each of its services."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from feature_server import FeatureStore
from tests.dbt_project.conftest import STEPS
from tests.dbt_project.world import ROOT, World
from tests.support.own_valkey import own_valkey, url_of
from tests.support.served import served


@pytest.mark.heavy
def test_each_service_is_made_as_it_is_here(full: World, store: FeatureStore, tmp_path: Path) -> None:
    places = {
        "FEATURES_PROJECT_DIR": str(ROOT), "FEATURES_HOME": str(full.home), "FEATURES_WAREHOUSE": str(full.warehouse)
    }  # fmt: skip
    with own_valkey(tmp_path / "redis") as redis, served(url_of(redis), **places) as server:
        remote = FeatureStore(server.address)
        for service in store.registry.feature_services:
            views = [store.registry.feature_view(view) for view in dict.fromkeys(ref.view for ref in service.features)]
            tables = {key.name: store.table(view.id) for view in views for key in view.join_keys}
            with duckdb.connect() as connection:
                columns = [
                    f"(select list({key}) from (select distinct {key} from ({table.scan_sql()}) order by 1 limit 40))"
                    for key, table in tables.items()
                ]
                keys = connection.execute(f"select {', '.join(columns)}").fetchone()
            assert keys is not None
            rows = {name: [found[i % len(found)] for i in range(400)] for name, found in zip(tables, keys, strict=True)}
            times = pa.array([STEPS[i % 4] for i in range(400)]).cast(pa.timestamp("us", "UTC"))
            spine = pa.table(rows | {"event_timestamp": times})
            for as_known in (False, True):
                here = store.get_historical_features(spine, service.name, as_known=as_known)
                there = remote.get_historical_features(spine, service.name, as_known=as_known)
                here.write_parquet(tmp_path / "local")
                there.write_parquet(tmp_path / "remote")
                assert (tmp_path / "remote").read_bytes() == (tmp_path / "local").read_bytes(), service.name
                features = here.to_arrow().select(list(here.feature_columns))
                assert any(features.column(name).null_count < 400 for name in features.column_names), service.name
        assert "Traceback" not in server.stop()
