"""The product in Python: `FeatureStore().get_historical_features(…)`.

A request for features at a spine's times is checked before any work is done.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb

from ..definitions.bound import bound_views
from ..definitions.deprecation import deprecated_views, warn_deprecated
from ..definitions.facts import FeatureRef, FeatureView
from ..definitions.registry import Registry, column_names
from ..errors import OfflineStoreError, RequestError, UnknownNameError
from ..index.find import Notice
from ..offline.damage import check_present, reading
from ..offline.owned import read_in_force
from ..offline.session import connect
from ..offline.sql import quote
from ..offline.store import OfflineStore, OfflineTable
from ..offline.together import read_together
from ..settings import load_settings, local_path
from .query import sql_spine
from .record import Asked, Fingerprint, content_of, read_record
from .sets import Source, Sources, TrainingSet
from .spine import open_spine, parquet_spine


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
        self._told_deprecated = set[str]()
        self._sources = Sources(OfflineStore(self.settings.offline), self.settings.index_path, memory_limit)

    def table(self, view: str) -> OfflineTable:
        """A view's history in the offline store, at its latest version; by id or by name."""
        return self._sources.offline.table(self.registry.feature_view(view).id)

    @cached_property
    def registry(self) -> Registry:
        """The definitions in force, as `features apply` wrote them."""
        return read_in_force(self.settings)

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
        Views that a service binds (`consistent: run`) are read at versions of one run.
        `notice` is told what takes its time: building an index.

        Raises RequestError for a spine that does not fit, UnknownNameError for names the registry does not hold,
        OfflineStoreError for views that are not published.
        """
        refs = self.registry.resolve(features)
        views = {ref.view: self.registry.feature_view(ref.view) for ref in refs}
        warn_deprecated(deprecated_views(views.values()), self._told_deprecated)
        versions = dict(versions or {})
        for name in versions:
            if name not in views:
                raise UnknownNameError("feature_view", name, views, where="versions")
        columns = _columns(refs, full_feature_names)
        groups = bound_views(self.registry.feature_views, self.registry.feature_services)
        tables = read_together(self._sources.offline, views.keys() - versions.keys(), groups)
        reads = []
        for view in views.values():
            own, pinned = columns[view.id], view.id in versions
            table = self._sources.offline.table(view.id).at(versions[view.id]) if pinned else tables[view.id]
            reads.append(Source(_as_published(view, table, own, pinned=pinned), table, own))
        asked = Asked(
            service=features if isinstance(features, str) else None, features=refs,
            full_feature_names=full_feature_names, as_known=as_known,
        )  # fmt: skip
        opened = open_spine(spine, lambda sql: sql_spine(sql, self._connect))
        return TrainingSet(self._sources, opened, reads, asked, event_timestamp=event_timestamp, notice=notice)

    def reproduce(self, path: str | Path, *, notice: Notice = lambda text: None) -> TrainingSet:
        """The training set of a file that `write_parquet` wrote, made again from the definitions and table versions
        that its metadata names.

        Raises RequestError when the spine's columns in the file are no longer those it was made with, OfflineStoreError
        when a table version is gone or another.
        """
        path = local_path(Path(path), where="training set")
        record = read_record(path)
        spine = parquet_spine(path, record.spine.columns)
        fingerprint = Fingerprint(spine.schema)
        for chunk in spine.chunks(record.spine.chunk_rows):
            fingerprint.update(chunk)
        if fingerprint.hexdigest() != record.spine.fingerprint:
            raise RequestError(
                "the spine's columns are not those that the training set was made with",
                where=str(path),
                expected=f"{record.spine.rows} rows with fingerprint {record.spine.fingerprint}",
                got=f"{fingerprint.rows} rows with fingerprint {fingerprint.hexdigest()}",
                remedy="take the file as `features train` wrote it",
            )
        columns = _columns(record.features, record.full_feature_names)
        reads = []
        for view in record.views:
            name = view.definition.id
            table = self._sources.offline.table(name).at(view.table_version)
            if content_of(table) != view.content:
                raise OfflineStoreError(
                    f"version {view.table_version} is not the one that the training set was made from",
                    where=name,
                    expected=f"the files recorded in {path}",
                    got="a table that was made anew since",
                    remedy="restore the offline table, or train again",
                )
            reads.append(Source(view.definition, table, columns[name]))
        made = record.spine
        return TrainingSet(
            self._sources, spine, reads, record,
            event_timestamp=made.event_timestamp, chunk_rows=made.chunk_rows, notice=notice,
        )  # fmt: skip

    @contextmanager
    def _connect(self, sql: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """A DuckDB session in which the published views that the text of the query mentions can be read by name."""
        words = set(re.findall(r"\w+", sql.lower()))
        with ExitStack() as stack:
            connection = stack.enter_context(connect())
            for view in self.registry.feature_views:
                if view.name.lower() in words and self._sources.offline.exists(view.id):
                    table = self.table(view.id)
                    stack.enter_context(reading(table))
                    check_present(table)
                    for name in {view.id, view.name} if view.latest else {view.id}:
                        connection.execute(f"create view {quote(name)} as {table.scan_sql()}")
            yield connection


def _as_published(view: FeatureView, table: OfflineTable, features: Mapping[str, str], *, pinned: bool) -> FeatureView:
    """The definition by which to read the table: the one in force, or for a pinned version the one it was made by."""
    published = table.definition()
    if published.fingerprint == view.fingerprint:
        return view
    if not pinned:
        raise OfflineStoreError(
            "the view was published by another definition than the one in force",
            where=f"{view.id} version {table.version}",
            remedy=f"build it, then run `features publish {view.id}`",
        )
    for feature in features:
        if feature not in published.feature_names:
            raise UnknownNameError("feature", feature, published.feature_names, where=f"{view.id}@{table.version}")
    return published


def _columns(refs: Sequence[FeatureRef], full_feature_names: bool) -> dict[str, dict[str, str]]:
    """By view, each feature's name in the result."""
    columns: dict[str, dict[str, str]] = {}
    for ref, name in zip(refs, column_names(refs, full_feature_names), strict=True):
        columns.setdefault(ref.view, {})[ref.feature] = name
    return columns
