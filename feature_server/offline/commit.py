"""Committing files to an offline table: one atomic Delta commit, or none."""

import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pyarrow as pa
from deltalake import CommitProperties, Schema
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from ..arrow import arrow_type
from ..definitions.facts import FeatureView
from ..dtypes import DType
from ..durable import flush
from ..errors import OfflineStoreError
from ..times import from_us
from .log import CHECKPOINT_INTERVAL, commit_file
from .sql import BUCKET, columns, stored
from .store import LOG_KEY, DataFile, OfflineTable, PublishedState

# Training sets name table versions and must be reproducible, so the log that old versions need is never cleaned up.
_CONFIGURATION = {"delta.enableExpiredLogCleanup": "false", "delta.checkpointInterval": f"{CHECKPOINT_INTERVAL}"}


class CommitConflict(OfflineStoreError):
    """Another process committed to the same table first."""


def commit(
    path: Path,
    state: PublishedState,
    *,
    base: OfflineTable | None,
    added: Iterable[DataFile],
    removed: Iterable[DataFile] = (),
    replace: bool = False,
) -> None:
    """Make the next version of the table at `path`: that of `base` less `removed` plus `added`.

    `base` None creates the table. `replace` writes table, schema and all anew, old versions staying readable. Raises
    CommitConflict, with nothing changed, when the table is no longer at `base`'s version.
    """
    adds = [_add_action(path, state, file) for file in added]
    schema = Schema.from_arrow(arrow_schema(state.view))
    properties = CommitProperties(custom_metadata={LOG_KEY: msgspec.to_builtins(state)}, max_commit_retries=0)
    try:
        if base is not None and not replace:
            removes = [RemoveAction(_relative(path, file), True, _now_ms()) for file in removed]
            base.delta.create_write_transaction(
                [*adds, *removes], "append", schema, partition_by=[BUCKET], commit_properties=properties
            )
        else:
            if base is not None and OfflineTable(base.view_id, path).version != base.version:
                raise _conflict(path)
            create_table_with_add_actions(
                str(path),
                schema,
                adds,
                mode="error" if base is None else "overwrite",
                partition_by=[BUCKET],
                name=state.view.id,
                configuration=_CONFIGURATION,
                commit_properties=properties,
            )
    except DeltaError as error:
        if type(error).__name__ == "CommitFailedError" or "already exists" in str(error):
            raise _conflict(path) from error
        raise OfflineStoreError(
            "the commit failed", where=str(path), got=str(error), remedy="run `features publish` again"
        ) from error
    log = commit_file(path, 0 if base is None else base.version + 1)
    flush(log)
    flush(log.parent)


def _conflict(path: Path) -> CommitConflict:
    return CommitConflict(
        "another process is publishing to this table", where=str(path), remedy="run `features publish` again"
    )


def _add_action(path: Path, state: PublishedState, file: DataFile) -> AddAction:
    event = state.view.event_timestamp
    stats = {
        "numRecords": file.rows,
        "minValues": {event: _iso(file.min_event_us)},
        "maxValues": {event: _iso(file.max_event_us)},
        "nullCount": {event: 0},
    }
    return AddAction(
        _relative(path, file),
        file.path.stat().st_size,
        {BUCKET: file.bucket},
        _now_ms(),
        True,
        msgspec.json.encode(stats).decode(),
    )


def _relative(path: Path, file: DataFile) -> str:
    return file.path.relative_to(path).as_posix()


def _iso(event_us: int) -> str:
    return from_us(event_us).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def arrow_schema(view: FeatureView) -> pa.Schema:
    """The Arrow schema of a view's offline table as stored, the partition column last."""
    fields = [pa.field(column.name, _stored_arrow_type(column.dtype)) for column in columns(view)]
    return pa.schema([*fields, pa.field(BUCKET, pa.string())])


def _stored_arrow_type(dtype: DType) -> pa.DataType:
    if dtype.kind == "list":
        return pa.list_(_stored_arrow_type(DType(str(dtype.item))))
    return arrow_type(stored(dtype))
