"""A warehouse of hand-made relations, the views on them, and what the offline store should then hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from feature_server.dbt.build import LastRun
from feature_server.definitions.facts import Feature, FeatureView, JoinKey
from feature_server.definitions.models import Model
from feature_server.dtypes import parse_sql_type
from feature_server.offline.store import OfflineStore, OfflineTable
from feature_server.publish.built import BuiltBy
from feature_server.publish.run import Published, publish
from feature_server.warehouse.relations import open_warehouse

BUILD_LOG = (
    "create table feature_builds(model varchar, built_at timestamptz, as_of timestamptz, changed_from timestamptz, "
    "invocation_id varchar)"
)


def view_of(
    name: str,
    keys: dict[str, str],
    features: dict[str, str],
    *,
    event: str = "event_timestamp",
    created: str | None = None,
    ttl_us: int | None = None,
    refresh: str | None = None,
) -> FeatureView:
    """A view on relation `main.<name>`, with SQL types given by name."""
    return FeatureView(
        name=name,
        entities=("thing",),
        join_keys=tuple(JoinKey(key, parse_sql_type(type_)) for key, type_ in keys.items()),
        event_timestamp=event,
        created_timestamp=created,
        ttl_us=ttl_us,
        refresh=refresh,
        features=tuple(Feature(name=feature, dtype=parse_sql_type(type_)) for feature, type_ in features.items()),
        relation=f'"warehouse"."main"."{name}"',
        identifier=name,
        fingerprint=f"{keys} {event} {created} {features}",
    )


def run_of(sql: dict[str, str], invocation: str = "last", failed: dict[str, str] | None = None, **args: Any) -> LastRun:
    """A run of dbt that made models by this SQL, and what failed in it."""
    results = [
        {"unique_id": name, "status": "success", "relation_name": name, "compiled_code": text}
        for name, text in sql.items()
    ] + [{"unique_id": name, "status": status} for name, status in (failed or {}).items()]
    metadata = {"invocation_id": invocation}
    return msgspec.convert({"results": results, "args": {"which": "build", **args}, "metadata": metadata}, LastRun)


class Relations:
    """A DuckDB file as dbt would leave it, and an offline store beside it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "warehouse.duckdb"
        self.store = OfflineStore(folder / "offline")
        self.execute("select 1")

    def execute(self, *statements: str) -> None:
        with duckdb.connect(str(self.path)) as connection:
            connection.execute("set TimeZone = 'UTC'")
            for statement in statements:
                connection.execute(statement)

    def publish(self, view: FeatureView, *, models: Mapping[str, Model] | None = None, **options: Any) -> Published:
        options = {"built_by": BuiltBy(models or {})} | options
        with open_warehouse(self.path) as warehouse:
            return publish(view, warehouse, self.store, **options)

    def differences(self, table: OfflineTable, relation: str) -> list[tuple[Any, ...]]:
        """Rows that only one of table and relation has, each as often as it has it more often, as text."""
        with open_warehouse(self.path) as warehouse:
            names = [row[0] for row in warehouse.rows(f"describe {table.scan_sql()}")]
            columns = ", ".join(f'"{name}"' for name in names)
            warehouse.rows(f"create temp table published as {table.scan_sql()}")
            warehouse.rows(f"create temp table expected as select {columns} from warehouse.main.{relation}")
            return warehouse.rows(
                "select 'published', columns(*)::varchar from (from published except all from expected) union all "
                "select 'expected', columns(*)::varchar from (from expected except all from published)"
            )

    def assert_published(self, view: FeatureView) -> OfflineTable:
        """The view's offline table, which equals its relation row for row."""
        table = self.store.table(view.id)
        assert self.differences(table, view.identifier) == []
        return table


SPEND = view_of("spend", {"customer_id": "bigint"}, {"spend_eur": "double", "city": "varchar"}, created="ingested_at")
