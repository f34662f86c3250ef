"""A small dbt project in a folder: two entities, three feature views (one in two versions), one feature service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DBT_PROJECT = """
name: tiny
version: "1.0"
profile: tiny
model-paths: [models]
flags: {send_anonymous_usage_stats: false}
"""

PROFILES = """
tiny:
  target: local
  outputs:
    local: {type: duckdb, path: tiny.duckdb, threads: 1, settings: {TimeZone: UTC}}
"""

ENTITIES = """
groups:
  - name: risk
    owner: {name: Risk, email: risk@example.com}

models:
  - name: customers
    description: Customers. One row per customer.
    config:
      meta:
        entity: {name: customer, join_keys: [customer_id]}
    columns:
      - {name: customer_id, data_type: bigint, description: The customer.}
  - name: shops
    description: Shops. One row per country and number.
    config:
      meta:
        entity: {name: shop, join_keys: [country, shop_number]}
    columns:
      - {name: country, data_type: varchar, description: ISO code of the country.}
      - {name: shop_number, data_type: integer, description: Number of the shop in its country.}
"""

FEATURES = """
models:
  - name: customer__activity
    description: Card activity of a customer. One row per transaction.
    latest_version: 2
    config:
      group: risk
      tags: [cards]
      contract: {enforced: true}
      meta:
        lint: {allow: no_grain_test, reason: a project without data tests}
        feature_view:
          entities: [customer]
          event_timestamp: occurred_at
          created_timestamp: ingested_at
          ttl: 30d
          refresh: hourly
    columns:
      - {name: customer_id, data_type: bigint, description: The customer.}
      - {name: occurred_at, data_type: timestamp, description: When the transaction happened.}
      - {name: ingested_at, data_type: timestamptz, description: When it was known.}
      - name: transactions_1h
        data_type: bigint
        description: Transactions in the last hour; 0 when there were none.
        config: {tags: [window]}
      - name: amount_eur_sum_1h
        data_type: decimal(18,2)
        description: Euros spent in the last hour; 0 when there were no transactions.
    versions:
      - v: 1
        columns:
          - include: all
            exclude: [amount_eur_sum_1h]
      - v: 2
  - name: customer_shop__visits
    description: Visits of a customer to a shop. One row per visit.
    config:
      group: risk
      meta:
        lint: {allow: no_grain_test, reason: a project without data tests}
        feature_view: {entities: [customer, shop], refresh: manual, online: false}
    columns:
      - {name: customer_id, data_type: bigint, description: The customer.}
      - {name: country, data_type: varchar, description: ISO code of the country.}
      - {name: shop_number, data_type: integer, description: Number of the shop in its country.}
      - {name: event_timestamp, data_type: timestamp, description: When the visit ended.}
      - {name: minutes, data_type: double, description: Length of the visit in minutes.}
"""

SERVICES = """
exposures:
  - name: fraud_v1
    type: ml
    owner: {name: Risk models, email: models@example.com}
    description: Scores a payment.
    depends_on:
      - ref('customer__activity')
      - ref('customer__activity', v=1)
    config:
      meta:
        feature_service:
          features:
            - customer__activity:amount_eur_sum_1h
            - customer__activity@v1:transactions_1h
"""

FILES = {
    "dbt_project.yml": DBT_PROJECT,
    "profiles/profiles.yml": PROFILES,
    "models/customers.sql": "select 1::bigint as customer_id",
    "models/shops.sql": "select 'NL' as country, 1 as shop_number",
    "models/customer__activity_v1.sql": "select 1",
    "models/customer__activity_v2.sql": "select 1",
    "models/customer_shop__visits.sql": "select 1",
    "models/entities.yml": ENTITIES,
    "models/features.yml": FEATURES,
    "models/services.yml": SERVICES,
}


def write_project(folder: Path, files: dict[str, str] | None = None) -> Path:
    """Write the files of a project; those of the tiny project by default."""
    for name, text in (FILES if files is None else files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"), encoding="utf-8")
    return folder


def features(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command line as a user of a project would run it, without settings of this environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FEATURES_", "DBT_"))}
    return subprocess.run(
        [sys.executable, "-m", "feature_server", *arguments],
        cwd=cwd, env=env | {"PYTHONPATH": str(Path(__file__).parents[2])}, capture_output=True, text=True, check=False,
    )  # fmt: skip
