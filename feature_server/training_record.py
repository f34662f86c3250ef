"""What a training set was made from, as it is written into the Parquet file's metadata."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .definitions import FeatureRef, FeatureView
from .errors import RequestError
from .offline import OfflineTable

METADATA_KEY = b"feature_warehouse"


class SpineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The spine's columns, which are in the output itself, and a hash of their values."""

    columns: tuple[str, ...]
    event_timestamp: str
    rows: int
    fingerprint: str


class ViewRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A view as it was read: `content` is a hash of the names of the table's files, which are never used twice."""

    definition: FeatureView
    table_version: int
    content: str


class TrainingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All that makes the same training set again: no clock and no path, so that equal sets are equal files."""

    service: str | None
    features: tuple[FeatureRef, ...]
    full_feature_names: bool
    as_known: bool
    spine: SpineRecord
    views: tuple[ViewRecord, ...]


def content_of(table: OfflineTable) -> str:
    digest = hashlib.sha256()
    for file in table.files():
        digest.update(f"{file.path.relative_to(table.path)}\n".encode())
    return digest.hexdigest()


class Fingerprint:
    """A hash of a table's names, types and values, fed in chunks; where the chunks end is part of it."""

    def __init__(self, schema: pa.Schema) -> None:
        names = "".join(f"{field.name}\0{field.type}\0" for field in schema)
        self._hash = hashlib.blake2b(names.encode(), digest_size=32)
        self.rows = 0

    def update(self, chunk: pa.Table) -> None:
        self.rows += chunk.num_rows
        for column in chunk.columns:
            if column.null_count:
                self._add(pc.is_valid(column))
                column = pc.drop_null(column)  # the bytes under a null are arbitrary
            self._add(column)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def _add(self, values: Any) -> None:
        table = pa.Table.from_arrays([values], names=["values"]).combine_chunks()
        sink: Any = _HashSink(self._hash)
        with pa.ipc.new_stream(sink, table.schema) as writer:  # gives buffers one same form
            writer.write_table(table)


class _HashSink:
    """A file to write to that keeps nothing but a hash."""

    closed = False

    def __init__(self, digest: hashlib.blake2b) -> None:
        self._digest = digest

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def read_record(path: Path) -> TrainingRecord:
    """The record in a Parquet file that `features train` wrote."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except FileNotFoundError:
        raise RequestError("there is no such file", where=str(path)) from None
    except (pa.ArrowException, OSError) as error:
        raise RequestError("not a Parquet file", where=str(path), got=str(error).splitlines()[0]) from None
    try:
        return msgspec.json.decode(metadata[METADATA_KEY], type=TrainingRecord)
    except (KeyError, msgspec.DecodeError):
        raise RequestError(
            "the file does not say what it was made from",
            where=str(path),
            expected=f"a Parquet file with the metadata key {METADATA_KEY.decode()!r}, as `features train` writes it",
        ) from None
