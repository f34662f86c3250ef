"""The product in Python: `FeatureStore().get_historical_features(…)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..definitions.registry import Registry, read_registry
from ..index.find import Notice
from ..offline.store import OfflineStore, OfflineTable
from ..settings import load_settings
from .request import get_historical_features, reproduce
from .sets import Sources, TrainingSet


class FeatureStore:
    """A project's definitions in force and its offline store.

    `project_dir` is the folder of dbt_project.yml (default: FEATURES_PROJECT_DIR, else the current folder); `settings`
    are those of `settings.Settings` that shall differ from the environment. `memory_limit`, such as `2GB`, bounds what
    building an index may take; the default is DuckDB's, 80 % of the machine's memory.
    """

    def __init__(
        self, project_dir: str | Path | None = None, *, memory_limit: str | None = None, **settings: Any
    ) -> None:
        self.settings = load_settings(project_dir=project_dir, **settings)
        self._sources = Sources(OfflineStore(self.settings.offline), self.settings.index_path, memory_limit)

    def table(self, view: str) -> OfflineTable:
        """A view's history in the offline store, at its latest version; by id or by name."""
        return self._sources.offline.table(self.registry.feature_view(view).id)

    @cached_property
    def registry(self) -> Registry:
        """The definitions in force, as `features apply` wrote them."""
        return read_registry(self.settings.registry_path)

    def get_historical_features(
        self,
        spine: Any,
        features: str | Sequence[str],
        *,
        as_known: bool = False,
        full_feature_names: bool = False,
        event_timestamp: str = "event_timestamp",
        versions: Mapping[str, int] | None = None,
        notice: Notice = lambda text: None,
    ) -> TrainingSet:
        """The features of a service (by name), or of a list of `view:feature`, as they were at each row's time.

        `spine` is a pandas or polars DataFrame, an Arrow table, the path of a Parquet file, or a SQL query that may
        read files and published views. It has every view's join keys and the time `event_timestamp` (naive: UTC). All
        its rows come back, in its order. `as_known` leaves out what was created after the row's time;
        `full_feature_names` names columns `view__feature`; `versions` pins tables to earlier versions.
        `notice` is told what takes its time: building an index.
        """
        return get_historical_features(
            spine,
            features,
            registry=self.registry,
            sources=self._sources,
            as_known=as_known,
            full_feature_names=full_feature_names,
            event_timestamp=event_timestamp,
            versions=versions,
            notice=notice,
        )

    def reproduce(self, path: str | Path, *, notice: Notice = lambda text: None) -> TrainingSet:
        """The training set of a file that `write_parquet` wrote, made again from the same table versions."""
        return reproduce(Path(path), sources=self._sources, notice=notice)
