"""A store with feature views published from rows written in the test itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from feature_server.definitions.facts import Feature, FeatureRef, FeatureService, FeatureView, JoinKey
from feature_server.definitions.registry import Registry, write_registry
from feature_server.dtypes import parse_sql_type
from feature_server.offline.sql import columns as offline_columns
from feature_server.offline.sql import quote, sql_type
from feature_server.offline.store import OfflineStore
from feature_server.publish.run import publish
from feature_server.training.store import FeatureStore
from feature_server.warehouse.relations import open_warehouse


def make_view(
    name: str,
    keys: dict[str, str],
    features: dict[str, str],
    *,
    created: bool = False,
    ttl_us: int | None = None,
    version: str | None = None,
) -> FeatureView:
    """A view on the warehouse relation of the same name; `keys` and `features` map names to SQL types."""
    identifier = name if version is None else f"{name}_v{version}"
    return FeatureView(
        name=name,
        version=version,
        entities=("thing",),
        join_keys=tuple(JoinKey(key, parse_sql_type(sql)) for key, sql in keys.items()),
        created_timestamp="created_timestamp" if created else None,
        ttl_us=ttl_us,
        features=tuple(Feature(name=feature, dtype=parse_sql_type(sql)) for feature, sql in features.items()),
        relation=f'"warehouse"."main"."{identifier}"',
        identifier=identifier,
        fingerprint=f"{keys} {features} {created}",
    )


def training_store(home: Path, registry: Registry) -> FeatureStore:
    """What trains from the offline store in a folder by a registry that is in force there."""
    write_registry(home / "registry.json", registry)
    return FeatureStore(home, home=home)


class Project:
    """A folder with a warehouse, an applied registry and an offline store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / ".features"
        self.home.mkdir(parents=True)
        self.offline = OfflineStore(self.home / "offline")
        self.views: dict[str, FeatureView] = {}
        self.services: list[FeatureService] = []

    @property
    def store(self) -> FeatureStore:
        return FeatureStore(self.folder)

    def apply(self, view: FeatureView) -> None:
        self.views[view.id] = view
        registry = Registry(
            project="test", feature_views=tuple(self.views.values()), feature_services=tuple(self.services)
        )
        (self.home / "registry.json").write_bytes(registry.to_json())

    def publish(self, view: FeatureView, rows: str | Sequence[Sequence[Any]]) -> int:
        """Apply a view and publish its rows, given as SQL or as tuples in the order keys, times, features."""
        self.apply(view)
        columns = [f"{quote(column.name)} {sql_type(column.dtype)}" for column in offline_columns(view)]
        with duckdb.connect(str(self.home / "warehouse.duckdb")) as connection:
            connection.execute("set TimeZone = 'UTC'")
            connection.execute(f'create or replace table "{view.identifier}" ({", ".join(columns)})')
            if isinstance(rows, str):
                connection.execute(f'insert into "{view.identifier}" {rows}')
            elif rows:
                marks = ", ".join(f"({', '.join('?' for _ in columns)})" for _ in rows)
                connection.execute(f'insert into "{view.identifier}" values {marks}', [v for row in rows for v in row])
        with open_warehouse(self.home / "warehouse.duckdb") as warehouse:
            return publish(view, warehouse, self.offline).version

    def add_service(self, name: str, features: Sequence[str]) -> None:
        refs = tuple(FeatureRef(*text.split(":"), text) for text in features)
        self.services.append(FeatureService(name=name, features=refs))
        self.apply(next(iter(self.views.values())))
