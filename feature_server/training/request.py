"""From a request for features at a spine's times to a training set, checked before any work is done."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from ..definitions.facts import FeatureRef, FeatureView
from ..definitions.registry import Registry
from ..errors import OfflineStoreError, RequestError, UnknownNameError
from ..index.find import Notice
from ..offline.sql import quote
from ..offline.store import OfflineStore, OfflineTable
from ..settings import local_path
from .record import Asked, Fingerprint, TrainingRecord, content_of, read_record
from .sets import Source, Sources, TrainingSet, open_read
from .spine import Spine, check_spine, open_spine, parquet_spine


def get_historical_features(
    spine: Any,
    features: str | Sequence[str],
    *,
    registry: Registry,
    sources: Sources,
    as_known: bool = False,
    full_feature_names: bool = False,
    event_timestamp: str = "event_timestamp",
    versions: Mapping[str, int] | None = None,
    notice: Notice = lambda text: None,
) -> TrainingSet:
    """The features (of a service by name, or a list of `view:feature`) at each spine row's time.

    `versions` pins tables, by view id, to earlier versions. Raises RequestError for a spine that does not fit,
    UnknownNameError for names the registry does not hold, OfflineStoreError for views that are not published.
    """
    refs = registry.resolve(features)
    views = {ref.view: registry.feature_view(ref.view) for ref in refs}
    versions = dict(versions or {})
    for name in versions:
        if name not in views:
            raise UnknownNameError("feature_view", name, views, where="versions")
    columns = _column_names(refs, full_feature_names)
    reads = []
    for view in views.values():
        table = sources.offline.table(view.id)
        pinned = versions.get(view.id)
        table = table if pinned is None else table.at(pinned)
        own = {ref.feature: column for ref, column in zip(refs, columns, strict=True) if ref.view == view.id}
        reads.append(Source(_as_published(view, table, own, pinned=pinned is not None), table, own))
    opened = open_spine(spine, lambda sql: _connect(sql, registry, sources.offline))
    asked = Asked(
        service=features if isinstance(features, str) else None, features=refs, full_feature_names=full_feature_names,
        as_known=as_known,
    )  # fmt: skip
    return _training_set(opened, reads, asked, sources=sources, event_timestamp=event_timestamp, notice=notice)


def reproduce(path: Path, *, sources: Sources, notice: Notice = lambda text: None) -> TrainingSet:
    """The training set in `path`, made again from the definitions and table versions that its metadata names.

    Raises RequestError when the spine's columns in the file are no longer those it was made with, OfflineStoreError
    when a table version is gone or another.
    """
    path = local_path(path, where="training set")
    record = read_record(path)
    spine = parquet_spine(path, record.spine.columns)
    _check_unchanged(spine, record, path)
    columns = _column_names(record.features, record.full_feature_names)
    reads = []
    for view in record.views:
        name = view.definition.id
        table = sources.offline.table(name).at(view.table_version)
        if content_of(table) != view.content:
            raise OfflineStoreError(
                f"version {view.table_version} is not the one that the training set was made from",
                where=name,
                expected=f"the files recorded in {path}",
                got="a table that was made anew since",
                remedy="restore the offline table, or train again",
            )
        own = {ref.feature: column for ref, column in zip(record.features, columns, strict=True) if ref.view == name}
        reads.append(Source(view.definition, table, own))
    return _training_set(
        spine, reads, record, sources=sources, event_timestamp=record.spine.event_timestamp, notice=notice,
        chunk_rows=record.spine.chunk_rows,
    )  # fmt: skip


def _training_set(
    spine: Spine,
    reads: Sequence[Source],
    asked: Asked,
    *,
    sources: Sources,
    event_timestamp: str,
    notice: Notice,
    chunk_rows: int | None = None,
) -> TrainingSet:
    check_spine(spine, [read.view for read in reads], event_timestamp)
    for read in reads:
        clash = sorted(set(read.columns.values()) & set(spine.schema.names))
        if clash:
            raise RequestError(
                f"the spine already has columns named like features: {', '.join(clash)}",
                where="spine",
                expected="other names than the features'",
                remedy="rename the spine's columns"
                + ("" if asked.full_feature_names else ", or give full_feature_names=True (--full-feature-names)"),
            )
    for read in reads:
        open_read(sources, read, notice)
    return TrainingSet(sources, spine, reads, asked, event_timestamp=event_timestamp, chunk_rows=chunk_rows)


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


def _column_names(refs: Sequence[FeatureRef], full_feature_names: bool) -> list[str]:
    """The name of each feature in the result: its own, or `view__feature` with the view as the request names it."""
    if full_feature_names:
        return [ref.text.replace(":", "__") for ref in refs]
    taken: dict[str, str] = {}
    for ref in refs:
        if ref.feature in taken:
            raise RequestError(
                f"two columns of the result would be named {ref.feature!r}",
                where="features",
                got=f"{taken[ref.feature]} and {ref.text}",
                remedy="give full_feature_names=True (--full-feature-names)",
            )
        taken[ref.feature] = ref.text
    return [ref.feature for ref in refs]


def _check_unchanged(spine: Spine, record: TrainingRecord, path: Path) -> None:
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


def _connect(sql: str, registry: Registry, offline: OfflineStore) -> duckdb.DuckDBPyConnection:
    """A DuckDB session in which the published views that the text of the query mentions can be read by name."""
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    words = set(re.findall(r"\w+", sql.lower()))
    for view in registry.feature_views:
        if view.name.lower() in words and offline.exists(view.id):
            scan = offline.table(view.id).scan_sql()
            for name in {view.id, view.name} if view.latest else {view.id}:
                connection.execute(f"create view {quote(name)} as {scan}")
    return connection
