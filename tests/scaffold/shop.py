"""A dbt project of somebody who never heard of feature views: orders in a table, folders and names of its own."""

from __future__ import annotations

from pathlib import Path

import duckdb

from tests.support.tiny_project import write_project

FILES = {
    "dbt_project.yml": """\
# The jaffle shop's models.
name: jaffle
version: "1.0"
profile: jaffle   # in profiles.yml beside this

model-paths: [transform]
macro-paths: ["jinja"]
target-path: build
flags:
  send_anonymous_usage_stats: false

vars:
  cents: 100  # to the euro

models:
  jaffle:
    +materialized: view # cheap
    staging:
      +schema: staging
    +post-hook:
      - "select 1"   # of our own
""",
    "profiles.yml": """\
jaffle:
  target: dev
  outputs:
    # Everybody's own file.
    dev: {type: duckdb, path: data/jaffle.duckdb, threads: 2}
    prod:
      type: duckdb
      path: data/prod.duckdb
      settings:
        memory_limit: 1GB
""",
    "transform/staging/sources.yml": """\
sources:
  - name: raw
    tables:
      - name: orders  # a table that the shop's system writes
""",
    "transform/staging/stg_orders.sql": """\
select id as order_id, customer as customer_id, amount / {{ var('cents') }} as euros, ordered_at
from {{ source('raw', 'orders') }}
""",
    "jinja/cents.sql": "{% macro cents(column) %}{{ column }} * 100{% endmacro %}\n",
    "data/.keep": "",
    ".gitignore": "build/\n",
}
ORDERS = """
    create schema raw;
    create table raw.orders as
    select i::integer as id, 1 + i % 5 as customer, 100 * i as amount,
        timestamptz '2024-01-01' + to_hours(i::int) as ordered_at
    from range(200) as numbers (i)
"""


def write_shop(folder: Path) -> Path:
    """The project, and its table."""
    write_project(folder, FILES)
    with duckdb.connect(str(folder / "data" / "jaffle.duckdb")) as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(ORDERS)
    return folder
