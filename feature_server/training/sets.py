"""A training set: each spine row with the features' values as they were at its time.

Every view is read in one pass through its index (`index`), by the rule in `point_in_time`; the columns are put side by
side. A spine of any length is worked through `chunk_rows` rows at a time.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .. import frames
from ..arrow import arrow_type
from ..definitions.facts import COUNTS, EVENT_ID, FeatureView
from ..definitions.stream import needs
from ..errors import OfflineStoreError, RequestError
from ..index.events import open_events
from ..index.find import Index, Notice, discard, open_index
from ..offline.store import OfflineStore, OfflineTable
from ..point_in_time import Int64s
from ..settings import local_path
from .fits import check_spine, key_values, time_values
from .made import Summary, as_pandas
from .record import (
    METADATA_KEY,
    RECORD_FORMAT,
    Asked,
    Fingerprint,
    SpineRecord,
    TrainingRecord,
    ViewRecord,
    content_of,
)
from .spine import Spine
from .stream import StreamReader

if TYPE_CHECKING:
    import pandas
    import polars


CHUNK_ROWS = 1 << 20
_UNREADABLE = (pa.ArrowException, OSError, ValueError, IndexError)
Found = TypeVar("Found")
LIST_CHUNK_ROWS = 1 << 16  # embeddings: a gigabyte of a thousand floats a row is too much at once


class Sources(NamedTuple):
    """Where training reads from: offline tables, and the folder of their indexes, built within `memory_limit`."""

    offline: OfflineStore
    index_path: Path
    memory_limit: str | None = None


class Source(NamedTuple):
    """One view's part in a training set: `columns` maps a feature to its name in the result."""

    view: FeatureView
    table: OfflineTable
    columns: dict[str, str]


class TrainingSet:
    """The spine's columns, then the features in the order asked for; the spine's rows, all of them, in its order.

    Raises RequestError for a spine that does not fit, and builds the indexes that are missing, of which `notice` is
    told. Computed when it is asked for, each time anew: whole by `to_arrow`, `to_pandas` and `to_polars`, in pieces by
    `write_parquet`.
    """

    def __init__(
        self,
        sources: Sources,
        spine: Spine,
        reads: Sequence[Source],
        asked: Asked,
        *,
        event_timestamp: str,
        chunk_rows: int | None = None,
        notice: Notice = lambda text: None,
    ) -> None:
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
            read_index(sources, read, lambda opened: None, notice)
        self._sources, self._spine, self._reads, self._asked = sources, spine, reads, asked
        self._event_timestamp = event_timestamp
        by_view = {read.view.id: read for read in reads}
        self.feature_columns = tuple(by_view[ref.view].columns[ref.feature] for ref in asked.features)
        dtypes = {
            read.columns[feature.name]: feature.dtype
            for read in reads
            for feature in read.view.features
            if feature.name in read.columns
        }
        fields = [pa.field(name, arrow_type(dtypes[name])) for name in self.feature_columns]
        self.schema = pa.schema([*spine.schema, *fields])
        has_lists = any(dtype.kind == "list" for dtype in dtypes.values())
        self.chunk_rows = chunk_rows or (LIST_CHUNK_ROWS if has_lists else CHUNK_ROWS)
        self._missing = {read.view.id: 0 for read in reads}

    @property
    def versions(self) -> dict[str, int]:
        """The offline table version of each view, by view id."""
        return {read.view.id: read.table.version for read in self._reads}

    def to_arrow(self) -> pa.Table:
        """One table; its schema's metadata says what it was made from."""
        fingerprint = Fingerprint(self._spine.schema)
        table = pa.concat_tables(list(self._chunks(fingerprint)))
        return table.replace_schema_metadata({METADATA_KEY.decode(): self._record(fingerprint)})

    def to_polars(self) -> polars.DataFrame:
        return frames.to_polars(self.to_arrow())

    def to_pandas(self) -> pandas.DataFrame:
        """A spine's own pandas columns and index as they are, and features in the types of docs/types.md."""
        return as_pandas(self._spine.given, self.to_arrow(), self.feature_columns)

    def write_parquet(
        self,
        path: str | Path,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
        views: Callable[[int, int], None] = lambda done, total: None,
    ) -> Summary:
        """Writes a Parquet file, in the memory of one chunk of rows; it appears when it is complete.

        The same definitions, table versions and spine give the same bytes. `progress` is told of rows, `views` of the
        views that the chunk in hand has the features of.
        """
        started = time.monotonic()
        path = local_path(path, where="training set")
        scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
        fingerprint = Fingerprint(self._spine.schema)
        try:
            with pq.ParquetWriter(scratch, self.schema, compression="zstd") as writer:
                progress(0, self._spine.rows or 0)
                for chunk in self._chunks(fingerprint, views):
                    writer.write_table(chunk, row_group_size=self.chunk_rows)
                    progress(fingerprint.rows, self._spine.rows or 0)
                writer.add_key_value_metadata({METADATA_KEY.decode(): self._record(fingerprint)})
            os.replace(scratch, path)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise RequestError("the file cannot be written", where=str(path), got=str(error.strerror)) from None
        finally:
            scratch.unlink(missing_ok=True)
        rows = fingerprint.rows
        return Summary(
            path=str(path),
            rows=rows,
            features=len(self.feature_columns),
            versions=self.versions,
            null_share={view: missing / rows if rows else 0.0 for view, missing in self._missing.items()},
            seconds=time.monotonic() - started,
        )

    def _chunks(
        self, fingerprint: Fingerprint, views: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[pa.Table]:
        self._missing = {read.view.id: 0 for read in self._reads}
        for chunk in self._spine.chunks(self.chunk_rows):
            fingerprint.update(chunk)
            at_us, no_time = time_values(chunk, self._event_timestamp)
            columns: dict[str, pa.Array] = {}
            for done, read in enumerate(self._reads):
                views(done, len(self._reads))
                columns |= self._features(read, chunk, at_us, no_time)
            yield pa.table([*chunk.columns, *(columns[name] for name in self.feature_columns)], schema=self.schema)

    def _features(self, read: Source, chunk: pa.Table, at_us: Int64s, no_time: np.ndarray) -> dict[str, pa.Array]:
        as_known = self._asked.as_known
        keys = [key_values(chunk, key) for key in read.view.join_keys]

        def found(opened: Index | StreamReader) -> tuple[list[pa.Array], np.ndarray]:
            if isinstance(opened, StreamReader):
                return opened.at(keys, at_us, no_time, as_known=as_known)
            view = read.view
            positions = opened.find(
                keys, at_us, ttl_us=view.ttl_us, as_known=as_known, known_after_us=view.known_after_us or 0
            )
            positions[no_time] = -1
            return opened.take(list(read.columns), positions), positions >= 0

        values, known = read_index(self._sources, read, found)
        self._missing[read.view.id] += int(np.count_nonzero(~known))
        return dict(zip(read.columns.values(), values, strict=True))

    def _record(self, fingerprint: Fingerprint) -> str:
        spine = SpineRecord(
            columns=tuple(self._spine.schema.names),
            event_timestamp=self._event_timestamp,
            rows=fingerprint.rows,
            chunk_rows=self.chunk_rows,
            fingerprint=fingerprint.hexdigest(),
        )
        views = tuple(
            ViewRecord(definition=read.view, table_version=read.table.version, content=content_of(read.table))
            for read in self._reads
        )
        asked = {name: getattr(self._asked, name) for name in Asked.__struct_fields__}
        number = getattr(self._asked, "format", RECORD_FORMAT)  # a set that is made again says what the first one said
        record = TrainingRecord(format=number, spine=spine, views=views, **asked)
        return msgspec.json.encode(record).decode()


def read_index(
    sources: Sources,
    read: Source,
    use: Callable[[Index | StreamReader], Found],
    notice: Notice = lambda text: None,
) -> Found:
    """What `use` gives of the opened index; one that cannot be read, or that another process has just removed to make
    room, is built anew once."""
    try:
        return use(_opened(sources, read, notice))
    except FileNotFoundError:
        return use(_opened(sources, read, notice))
    except _UNREADABLE as error:
        discard(sources.index_path, read.view.id, error)
    try:
        return use(_opened(sources, read, notice))
    except _UNREADABLE as error:
        raise OfflineStoreError(
            "the index cannot be read",
            where=str(sources.index_path / read.view.id),
            got=str(error).splitlines()[0],
            remedy="remove this folder; it is built again when needed",
        ) from None


def _opened(sources: Sources, read: Source, notice: Notice) -> Index | StreamReader:
    """The index with the columns that a training set takes from a view, built where it is not there yet.

    Of a stream view those are the columns of its events, and it is read through them.
    """
    names, plan = list(read.columns), read.view.stream
    arguments = [] if plan is None else needs(plan, names).arguments
    columns = names if plan is None else [COUNTS, EVENT_ID, *(plan.arguments[n].name for n in arguments)]
    index = open_index(read.table, columns, sources.index_path, memory_limit=sources.memory_limit, notice=notice)
    if plan is None:
        return index
    return StreamReader(read.view, names, open_events(index, plan, arguments, sources.index_path / read.view.id))
