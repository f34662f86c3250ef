"""What a training set was made from, as it is written into the Parquet file's metadata."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import UNSET, UnsetType

from ..definitions.facts import FeatureRef, FeatureView
from ..errors import UNREADABLE, RequestError
from ..formats import check_format
from ..offline.store import OfflineTable

METADATA_KEY = b"feature_warehouse"
RECORD_FORMAT = 1


class SpineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The spine's columns, which are in the output itself, and a hash of their values, `chunk_rows` at a time."""

    columns: tuple[str, ...]
    event_timestamp: str
    rows: int
    chunk_rows: int
    fingerprint: str


class ViewRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A view as it was read: `content` is a hash of the names of the table's files, which are never used twice."""

    definition: FeatureView
    table_version: int
    content: str


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The features that are asked for, by the name of a service or one by one, and how they are given."""

    service: str | None
    features: tuple[FeatureRef, ...]
    full_feature_names: bool
    as_known: bool


class TrainingRecord(Asked, frozen=True, kw_only=True):
    """All that makes the same training set again: no clock and no path, so that equal sets are equal files.

    `format` is RECORD_FORMAT, or unset in one that was made before there was a number.
    """

    format: int | UnsetType = UNSET
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
            for part in column.chunks:
                self._add(part)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def _add(self, values: Any) -> None:
        """Values alone: no bytes under a null, after the last value or of parts sliced away."""
        if pa.types.is_string_view(values.type):
            values = values.cast(pa.large_string())
        if values.null_count:
            self._add(pc.is_valid(values))
            values = pc.drop_null(values.cast(pa.large_binary()) if pa.types.is_binary_view(values.type) else values)
        if len(values) == 0:
            return
        type_ = values.type
        if pa.types.is_boolean(type_):
            self._add(values.cast(pa.uint8()))
        elif pa.types.is_list(type_) or pa.types.is_large_list(type_):
            self._add(pc.list_value_length(values))
            self._add(pc.list_flatten(values))
        elif pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_binary(type_):
            self._add(pc.binary_length(values))
            values = values.cast(pa.large_binary())
            ends = _bytes(values.buffers()[1], values.offset, len(values) + 1, 8).view("i8")
            self._hash.update(_bytes(values.buffers()[2], int(ends[0]), int(ends[-1] - ends[0]), 1))
        elif pa.types.is_primitive(type_) or pa.types.is_decimal(type_):
            self._hash.update(_bytes(values.buffers()[1], values.offset, len(values), type_.bit_width // 8))
        else:
            self._hash.update(repr(values.to_pylist()).encode())


def _bytes(buffer: Any, start: int, count: int, width: int) -> Any:
    """`count` items of a buffer from the item `start` on."""
    if count == 0:  # such as the letters of empty strings, which may have no buffer
        return b""
    return np.frombuffer(buffer, dtype=np.uint8, offset=start * width, count=count * width)


def read_record(path: Path) -> TrainingRecord:
    """The record in a Parquet file that `features train` wrote."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except FileNotFoundError:
        raise RequestError("there is no such file", where=str(path)) from None
    except (pa.ArrowException, OSError) as error:
        raise RequestError("not a Parquet file", where=str(path), got=str(error).splitlines()[0]) from None
    try:
        stored = metadata[METADATA_KEY]
        check_format(
            stored, "the training set's record", RECORD_FORMAT, kind=RequestError, where=str(path),
            remedy="a newer version of feature-warehouse made it: use that one to make it again",
        )  # fmt: skip
        return msgspec.json.decode(stored, type=TrainingRecord)
    except (KeyError, *UNREADABLE):
        raise RequestError(
            "the file does not say what it was made from",
            where=str(path),
            expected=f"a Parquet file with the metadata key {METADATA_KEY.decode()!r}, as `features train` writes it",
        ) from None
