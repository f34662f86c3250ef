"""Live events for a table: pushed, counted at once, landed beside the table, built, trained on, and counted once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from tests.scaffold.shop import write_shop
from tests.support.typed import Typed

SOURCES = """\
sources:
  - name: raw
    tables:
      - name: orders
        config:
          meta:
            event_stream: {event_id: id, event_timestamp: ordered_at, landing: landing/orders/*.parquet}
        columns:
          - {name: id, data_type: integer}
          - {name: customer, data_type: bigint}
          - {name: amount, data_type: bigint}
          - {name: ordered_at, data_type: timestamptz}
"""
STAGING = """\
select id as order_id, customer as customer_id, amount, ordered_at
from {{ feature_warehouse.with_live(source('raw', 'orders')) }}
qualify row_number() over (partition by id order by ordered_at desc) = 1
"""
VIEW = """\
{{ config(materialized='table') }}
select customer_id, ordered_at as event_timestamp, count(*) over hour as orders_1h
from {{ ref('stg_orders') }}
window
    hour as (partition by customer_id order by ordered_at range between interval 1 hour preceding and current row)
"""
YAML = """\
models:
  - name: customers
    description: Customers.
    config: {meta: {entity: {name: customer, join_keys: [customer_id]}}}
    columns: [{name: customer_id, data_type: bigint, description: The customer.}]
  - name: customer__orders
    description: Orders of a customer as of this second.
    config: {group: jaffle, meta: {feature_view: {entities: [customer], refresh: hourly, stream: raw.orders}}}
    columns:
      - {name: customer_id, data_type: bigint, description: The customer.}
      - {name: event_timestamp, data_type: timestamptz, description: When it was ordered.}
      - {name: orders_1h, data_type: bigint, description: Orders in the last hour.}
unit_tests:
  - name: an_order_that_came_twice_is_one
    model: stg_orders
    given:
      - input: source('raw', 'orders')
        rows:
          - {id: 1, customer: 2, amount: 3, ordered_at: "2024-01-01 10:00:00+00"}
          - {id: 1, customer: 2, amount: 4, ordered_at: "2024-01-01 11:00:00+00"}
    expect: {rows: [{order_id: 1, customer_id: 2, amount: 4, ordered_at: "2024-01-01 11:00:00+00"}]}
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    shop = Typed(write_shop(tmp_path), {}, monkeypatch, capsys)
    assert shop.features("init")[0] == 0
    folder = shop.folder / "transform"
    (folder / "staging" / "sources.yml").write_text(SOURCES)
    (folder / "staging" / "stg_orders.sql").write_text(STAGING)
    (folder / "customers.sql").write_text("select distinct customer_id from {{ ref('stg_orders') }}")
    (folder / "customer__orders.sql").write_text(VIEW)
    (folder / "views.yml").write_text(YAML)
    return shop


def read(shop: Typed) -> dict[str, object]:
    code, said = shop.features("get", "customer__orders:orders_1h", "customer_id=3", "--json")
    assert code == 0, said
    return {name: one["value"] for name, one in json.loads(said)["features"].items()}


def good(shop: Typed, *arguments: str) -> str:
    code, said = shop.features(*arguments)
    assert code == 0, said
    return said


def test_an_order_that_is_pushed_counts_at_once_and_lands_beside_the_table(shop: Typed) -> None:
    good(shop, "run")
    assert read(shop) == {"orders_1h": 0}
    at = datetime.now(UTC) - timedelta(minutes=1)
    order = {"id": 1000, "customer": 3, "amount": 7, "ordered_at": at.isoformat()}
    (shop.folder / "order.jsonl").write_text(json.dumps(order))
    good(shop, "push", "raw.orders", "order.jsonl")
    assert read(shop) == {"orders_1h": 1}
    good(shop, "run")
    assert list((shop.folder / "landing" / "orders").glob("live-*.parquet"))
    assert read(shop) == {"orders_1h": 1}
    with duckdb.connect(str(shop.folder / "data" / "jaffle.duckdb")) as connection:
        connection.execute(f"set file_search_path = '{shop.folder}'")
        count = "select count(*), max(orders_1h) from customer__orders where event_timestamp > '2025-01-01'"
        assert connection.execute(count).fetchall() == [(1, 1)]
        assert connection.execute("select count(*) from raw.orders").fetchall() == [(200,)]
        connection.execute("insert into raw.orders values (1000, 3, 7, ?)", [at])  # the shop's system has it too now
    good(shop, "run")
    assert read(shop) == {"orders_1h": 1}
    spine = f"select 3::bigint as customer_id, timestamptz '{datetime.now(UTC).isoformat()}' as event_timestamp"
    good(shop, "train", "customer__orders:orders_1h", "--spine", spine, "--out", "train.parquet")
    with duckdb.connect() as connection:
        assert connection.execute(f"select orders_1h from '{shop.folder}/train.parquet'").fetchall() == [(1,)]


def test_a_model_that_would_not_see_landed_events_is_refused(shop: Typed) -> None:
    staging = shop.folder / "transform" / "staging" / "stg_orders.sql"
    plain = "source('raw', 'orders')"
    staging.write_text(STAGING.replace(f"feature_warehouse.with_live({plain})", plain))
    code, said = shop.features("check")
    assert (code, "do not read the events where they land" in said) == (1, True), said
    assert "expected: feature_warehouse.with_live(source('raw', 'orders'))" in said
    sources = shop.folder / "transform" / "staging" / "sources.yml"
    sources.write_text(SOURCES.replace(", landing: landing/orders/*.parquet", ""))
    code, said = shop.features("check")
    assert (code, "live events cannot be kept where the dbt source would read them" in said) == (1, True), said
