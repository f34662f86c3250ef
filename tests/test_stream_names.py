"""Columns named like SQL keywords, in upper case or with spaces: pushed, landed, published, trained on and verified."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa

from feature_server.client.features import FeatureClient
from feature_server.compiler.layers import EVENTS
from feature_server.compiler.model import CompiledModel, compile_stream_view
from feature_server.definitions.facts import Entity, Feature, FeatureView, JoinKey
from feature_server.definitions.registry import Registry
from feature_server.definitions.stream import EventSource, SourceColumn
from feature_server.dtypes import parse_sql_type
from feature_server.history.log import land
from feature_server.ingest.transaction import Ingestor
from feature_server.manifest.views import fingerprint
from feature_server.offline.session import event_types
from feature_server.offline.store import OfflineStore
from feature_server.online.store import OnlineStore
from feature_server.publish.run import publish
from feature_server.settings import load_settings
from feature_server.sync.run import SyncOptions, sync
from feature_server.times import to_us
from feature_server.verify.events import verify_events
from feature_server.verify.explain import explain
from feature_server.warehouse.relations import open_warehouse
from tests.support.published import training_store

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SOURCE = EventSource(
    name="shop.orders",
    columns=tuple(
        SourceColumn(name, parse_sql_type(text))
        for name, text in {
            "order": "bigint", "group": "varchar", "User": "varchar", "Amount EUR": "decimal(12,2)",
            "select": "varchar", "Paid At": "timestamptz", "table": "timestamptz",
        }.items()
    ),
    event_id="order",
    event_timestamp="Paid At",
    created_timestamp="table",
    relation="'landing/*.parquet'",
)  # fmt: skip
STAGING = """
with orders as (select * from shop_orders where "User" <> 'test')
select *, "User" = 'staff' as "is staff" from orders
qualify row_number() over (partition by "order" order by "table" desc) = 1
"""
MODEL = """
select
    "group",
    "Paid At" as event_timestamp,
    count(*) filter (where not "is staff") over hour as orders_1h,
    sum("Amount EUR") over hour as "Spent_1H",
    "select" as last_select
from stg_orders
where "Amount EUR" > 0
window hour as (partition by "group" order by "Paid At" range between interval 1 hour preceding and current row)
"""
TYPES = {"orders_1h": "bigint", "Spent_1H": "decimal(38,2)", "last_select": "varchar"}


def view() -> FeatureView:
    model = CompiledModel(
        sql=MODEL, join_keys=("group",), event_timestamp="event_timestamp", created_timestamp=None,
        features=tuple(TYPES), types={name: parse_sql_type(text) for name, text in TYPES.items()},
    )  # fmt: skip
    upstream = {"stg_orders": STAGING, "shop_orders": EVENTS}
    with event_types(SOURCE) as session:
        plan = compile_stream_view(model, SOURCE, lambda table: upstream[table.name], session)
    found = FeatureView(
        name="team__orders", entities=("team",), join_keys=(JoinKey("group", parse_sql_type("varchar")),),
        features=tuple(Feature(name=name, dtype=parse_sql_type(text)) for name, text in TYPES.items()),
        stream=plan, relation='"warehouse"."main"."team__orders"', identifier="team__orders",
    )  # fmt: skip
    return msgspec.structs.replace(found, fingerprint=fingerprint(found))


def order(number: int, user: str, amount: str, minutes_ago: int) -> dict[str, object]:
    at = NOW - timedelta(minutes=minutes_ago)
    return {
        "order": number, "group": "a|b", "User": user, "Amount EUR": amount, "select": f"menu {number}",
        "Paid At": at.isoformat(), "table": (at + timedelta(seconds=1)).isoformat(),
    }  # fmt: skip


def test_any_column_name_goes_all_the_way(tmp_path: Path, valkey: str) -> None:
    team = view()
    registry = Registry(
        project="test",
        entities=(Entity(name="team", join_keys=team.join_keys),),
        sources=(SOURCE,),
        feature_views=(team,),
    )
    offline = OfflineStore(tmp_path / "offline")
    landing = tmp_path / "landing"
    landing.mkdir()
    duckdb.connect(str(tmp_path / "warehouse.duckdb")).close()
    duckdb.sql(
        'select 1::bigint as "order", \'a|b\' as "group", \'x\' as "User", 5.00::decimal(12,2) as "Amount EUR", '
        "'menu 1' as \"select\", timestamptz '2026-03-01 11:30:00+00' as \"Paid At\", "
        "timestamptz '2026-03-01 11:30:01+00' as \"table\""
    ).write_parquet(str(landing / "first.parquet"))

    def publish_and_sync() -> None:
        with open_warehouse(tmp_path / "warehouse.duckdb", sources=[SOURCE], project_dir=tmp_path) as warehouse:
            publish(team, warehouse, offline)
        with OnlineStore(valkey) as online:
            options = SyncOptions(expire=False, project_dir=tmp_path)
            assert not sync(online, offline, registry, now_us=lambda: to_us(NOW), options=options).failures

    publish_and_sync()
    with Ingestor(valkey, lambda: to_us(NOW), expire=False) as ingestor:
        events = [order(2, "staff", "7.00", 10), order(3, "x", "1.50", 5), order(4, "test", "9.00", 4)]
        assert ingestor.push(SOURCE.name, events).rejected == []
    expected = {"orders_1h": 2, "Spent_1H": Decimal("13.50"), "last_select": "menu 3"}
    features = [f"team__orders:{name}" for name in TYPES]
    with FeatureClient(valkey, settings=load_settings({})) as client:
        client._reader.now_us = lambda: to_us(NOW)
        assert dict(client.get(features=features, group="a|b").values) == expected
    with OnlineStore(valkey) as online:
        assert verify_events(team, online, offline, now_us=to_us(NOW), project_dir=tmp_path, sample=0).differences == ()
        assert land(online, SOURCE, landing)
        assert verify_events(team, online, offline, now_us=to_us(NOW), project_dir=tmp_path, sample=0).differences == ()
    publish_and_sync()
    spine = pa.table({"group": ["a|b"], "event_timestamp": pa.array([NOW], pa.timestamp("us", "UTC"))})
    found = training_store(tmp_path, registry).get_historical_features(spine, features)
    assert found.to_arrow().drop_columns(["group", "event_timestamp"]).to_pylist() == [expected]
    with OnlineStore(valkey) as online:
        why = explain(
            "team__orders:Spent_1H", {"group": "a|b"}, online, offline,
            at_us=to_us(NOW), now_us=to_us(NOW), project_dir=tmp_path,
        )  # fmt: skip
    assert why.value == expected["Spent_1H"]
