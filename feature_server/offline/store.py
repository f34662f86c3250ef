"""Reading the offline store: each feature view's history as a Delta Lake table, at any of its versions.

Readers take the list of files from here and open them with DuckDB (`OfflineTable.scan_sql`); nothing is locked, so dbt
may build and `publish` may commit meanwhile. Old versions stay readable: neither files nor log are ever cleaned up.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from ..definitions.facts import Feature, FeatureView
from ..definitions.models import Model
from ..errors import UNREADABLE, NotPublished, OfflineStoreError
from ..formats import check_format
from .log import check_recent_commits, commit_file, damaged_log
from .sql import BUCKET, cast_list, literal, quote, restore_list, stored_sql_type

# SQL of a row's place among all rows of the files that `scan_sql` reads, in the order of `OfflineTable.files()`.
FILE_SHIFT = 40
PLACE = f"(file_index::bigint << {FILE_SHIFT}) + file_row_number"
LOG_KEY = "feature_warehouse"  # of a commit's custom metadata: a PublishedState
PUBLISHED_FORMAT = 1


class DataFile(msgspec.Struct, frozen=True):
    """A Parquet file of an offline table; no row of it lies outside the event times given.

    `size` is its length in bytes; None until it is committed.
    """

    path: Path
    rows: int
    min_event_us: int
    max_event_us: int
    bucket: str
    size: int | None = None


class PublishedState(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit's metadata says beside its files.

    `view` is the definition published, `grain` (`year`, `month` or `day`) the length of a bucket, `hash_check` DuckDB's
    hash of some constant values (another result: fingerprints cannot be compared), `builds_seen` how many entries of
    the warehouse's build log were taken into account, `last_build` the invocation of the last build that is known.
    `newest_created_us` is the latest created timestamp of any row published so far. A stream view's rows are its
    events: `view` then has their columns, and `features` are those of the definition. `models` are what the view is
    built from, with their SQL.
    """

    format: int = PUBLISHED_FORMAT
    view: FeatureView
    grain: str
    hash_check: str
    builds_seen: int = 0
    last_build: str | None = None
    newest_created_us: int | None = None
    features: tuple[Feature, ...] = ()
    models: tuple[Model, ...] = ()


class OfflineStore:
    """The offline tables under one folder, one for each view id."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, view_id: str) -> Path:
        return self.root / view_id

    def exists(self, view_id: str) -> bool:
        """Whether the view has a table; DamagedLog where that cannot be told, because the log cannot be read."""
        path = self.path(view_id)
        try:
            return (path / "_delta_log").is_dir() and DeltaTable.is_deltatable(str(path))
        except (DeltaError, OSError) as error:
            raise damaged_log(view_id, path, got=str(error).splitlines()[0]) from None

    def ids(self) -> tuple[str, ...]:
        """The views that have a table, sorted."""
        if not self.root.is_dir():
            return ()
        return tuple(sorted(path.name for path in self.root.iterdir() if self.exists(path.name)))

    def table(self, view_id: str) -> "OfflineTable":
        """The table at its latest version; NotPublished when the view never was."""
        if not self.exists(view_id):
            raise NotPublished(
                f"feature view {view_id!r} has no offline table",
                where=str(self.path(view_id)),
                remedy=f"run `features publish {view_id}` after a green build",
            )
        return OfflineTable(view_id, self.path(view_id))


class OfflineTable:
    """One version of a view's history."""

    def __init__(self, view_id: str, path: Path, version: int | None = None) -> None:
        self.view_id = view_id
        self.path = path
        try:
            self.delta = DeltaTable(str(path), version=version)
        except (DeltaError, OSError, ValueError) as error:
            got = str(error).splitlines()[0]
            if version is None or not _can_be_opened(path):
                raise damaged_log(view_id, path, got=got) from None
            raise OfflineStoreError(
                f"version {version} cannot be read",
                where=str(path),
                expected="one of the table's versions",
                got=got,
                remedy="`features status` says which version is the latest",
            ) from None
        self.version: int = self.delta.version()
        check_recent_commits(view_id, path, self.version)

    def __repr__(self) -> str:
        return f"OfflineTable({self.view_id!r}, version={self.version})"

    def at(self, version: int) -> "OfflineTable":
        """The same table as it was at `version`."""
        return self if version == self.version else OfflineTable(self.view_id, self.path, version)

    @property
    def id(self) -> str:
        """The Delta table's own id: another one when it was made anew."""
        return str(self.delta.metadata().id)

    @cached_property
    def state(self) -> PublishedState:
        """What the commit of this version says beside its files."""
        stored = self._commit_info[LOG_KEY]
        try:
            check_format(
                stored, "the table's commit", PUBLISHED_FORMAT, kind=OfflineStoreError,
                where=f"version {self.version} of {self.path}",
                remedy="a newer version of feature-warehouse published it: use that one here too",
            )  # fmt: skip
            return msgspec.convert(stored, PublishedState)
        except UNREADABLE as error:
            raise damaged_log(self.view_id, self.path, got=str(error)) from None

    @property
    def published_at_us(self) -> int:
        """When this version was committed, by the clock of the machine that did."""
        return int(self._commit_info["timestamp"]) * 1000

    def view(self) -> FeatureView:
        """The rows as published with this version: the definition or, of a stream view, its events."""
        return self.state.view

    def definition(self) -> FeatureView:
        """The definition as published with this version."""
        state = self.state
        return state.view if state.view.stream is None else msgspec.structs.replace(state.view, features=state.features)

    def files(self) -> tuple[DataFile, ...]:
        """The files that make up this version, sorted by bucket and path."""
        return self._files

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self._files)

    @property
    def newest_event_us(self) -> int | None:
        """The latest event timestamp; None for an empty table."""
        return max((file.max_event_us for file in self._files), default=None)

    def changes_since(self, version: int) -> tuple[tuple[DataFile, ...], tuple[DataFile, ...]] | None:
        """The files added and removed since `version`: its rows, less those removed, plus those added, are this one's.

        A row may be both in a removed and in an added file (its bucket was rewritten). None when everything must be
        taken as changed: that version cannot be read, or was published for a definition with another fingerprint.
        """
        if version == self.version:
            return (), ()
        try:
            before = self.at(version)
            if before.view().fingerprint != self.view().fingerprint:
                return None
        except OfflineStoreError:
            return None
        old, new = {file.path: file for file in before.files()}, {file.path: file for file in self.files()}
        added = tuple(file for path, file in new.items() if path not in old)
        return added, tuple(file for path, file in old.items() if path not in new)

    def scan_sql(
        self, names: Sequence[str] | None = None, files: Iterable[DataFile] | None = None, *, place: str | None = None
    ) -> str:
        """A SELECT over the files (default: all of this version) of the columns in `names` (default: all).

        Columns have their declared types, event and created timestamps are TIMESTAMP WITH TIME ZONE in UTC. `place`
        names a further column with each row's place.
        """
        view = self.view()
        paths = [literal(str(file.path)) for file in (self._files if files is None else files)]
        if paths:
            numbered = "" if place is None else ", file_row_number = true"
            source = f"read_parquet([{', '.join(paths)}], hive_partitioning = false{numbered})"
        else:
            source = f"(select {cast_list(view, stored_sql_type, 'null')} where false)"
        more = "" if place is None else f", {PLACE if paths else '0::bigint'} as {quote(place)}"
        return f"select {restore_list(view, names)}{more} from {source}"

    @cached_property
    def _files(self) -> tuple[DataFile, ...]:
        event = self.view().event_timestamp
        # Not pa.table(…): that looks whether it was given a DataFrame, and imports pandas to know.
        actions = pa.RecordBatchReader.from_stream(self.delta.get_add_actions(flatten=True)).read_all()
        names = ("path", "num_records", f"min.{event}", f"max.{event}", f"partition.{BUCKET}", "size_bytes")
        if lacking := [name for name in names if name not in actions.schema.names or actions[name].null_count]:
            got = f"a file without {', '.join(lacking)}"
            raise damaged_log(self.view_id, self.path, got=got)
        times = {name: actions[name].cast(pa.int64()) for name in names if pa.types.is_timestamp(actions[name].type)}
        facts: list[list[Any]] = [times.get(name, actions[name]).to_pylist() for name in names]
        files = (DataFile(self.path / unquote(path), *rest) for path, *rest in zip(*facts, strict=True))
        return tuple(sorted(files, key=lambda file: (file.bucket, str(file.path))))

    @cached_property
    def _commit_info(self) -> dict[str, Any]:
        log = commit_file(self.path, self.version)
        try:
            for line in log.read_bytes().splitlines():
                info = msgspec.json.decode(line).get("commitInfo")
                if info is not None and LOG_KEY in info:
                    return info
        except (OSError, AttributeError, *UNREADABLE) as error:
            raise damaged_log(self.view_id, self.path, got=str(error)) from None
        raise OfflineStoreError(
            "a version that this product did not publish",
            where=str(log),
            expected=f"a commit with {LOG_KEY!r} in its metadata",
            remedy=f"run `features publish {self.view_id}`, which writes it anew",
        )


def _can_be_opened(path: Path) -> bool:
    try:
        DeltaTable(str(path))
    except (DeltaError, OSError, ValueError):
        return False
    return True
