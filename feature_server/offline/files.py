"""Fingerprints of rows, and the Parquet files of the offline store that carry theirs in their name.

A fingerprint is the number of rows, and the sum modulo 2^64 and the exclusive or of DuckDB's 64-bit hash over all
columns of each row: it does not depend on the order of rows, and fingerprints of disjoint sets of rows add up. So a
bucket's fingerprint is the sum of its files', and files can be compared with the warehouse without being read. A zero's
sign counts, except within a list.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ..definitions.facts import FeatureView
from ..durable import flush
from ..errors import OfflineStoreError
from .sql import Column, columns, literal, quote, stored_sql_type
from .store import DataFile
from .warehouse import Warehouse

ROW_GROUP_ROWS = 122_880
_NAME = re.compile(r"(\d+)-([0-9a-f]{16})([0-9a-f]{16})-[0-9a-f]{12}\.parquet")
_MASK = 2**64 - 1


class Fingerprint(msgspec.Struct, frozen=True):
    """What identifies a set of rows."""

    rows: int = 0
    total: int = 0
    mixed: int = 0

    def __add__(self, other: Fingerprint) -> Fingerprint:
        return Fingerprint(self.rows + other.rows, (self.total + other.total) & _MASK, self.mixed ^ other.mixed)


class Extent(msgspec.Struct, frozen=True):
    """A set of rows and the range of their event timestamps."""

    fingerprint: Fingerprint
    min_event_us: int
    max_event_us: int

    def __add__(self, other: Extent) -> Extent:
        return Extent(
            self.fingerprint + other.fingerprint,
            min(self.min_event_us, other.min_event_us),
            max(self.max_event_us, other.max_event_us),
        )


def row_hash(view: FeatureView) -> str:
    """The SQL expression of a row's hash: every column of the table, and the signs of floating-point zeros.

    Hashed twice, because DuckDB takes the last column in by exclusive or alone: values swapped between rows would keep
    the rows' exclusive or.
    """
    names = [quote(column.name) for column in columns(view)]
    floats = [quote(feature.name) for feature in view.features if feature.dtype.kind in ("float32", "float64")]
    return f"hash(hash({', '.join([*names, *(f'signbit({name})' for name in floats)])}))"


def hash_check(warehouse: Warehouse) -> str:
    """A text that changes when DuckDB's hash function does."""
    sql = """select hash(1::bigint, 'one', 1.5::double, true, date '2013-01-01', timestamptz '2013-01-01 00:00:00+00',
        1.25::decimal(5, 2), 1.25::decimal(30, 2), [1, null]::float[], null, 'a string longer than sixteen bytes',
        'c0ffee00-0000-4000-8000-000000000000'::uuid, signbit(-0.0), 255::utinyint, 18446744073709551615::ubigint)"""
    return f"{warehouse.rows(sql)[0][0]:016x}"


def fingerprint_of(file: DataFile) -> Fingerprint | None:
    """The fingerprint in a file's name; None for a file that another program wrote."""
    found = _NAME.fullmatch(file.path.name)
    return Fingerprint(int(found[1]), int(found[2], 16), int(found[3], 16)) if found else None


def fingerprints(files: Iterable[DataFile]) -> dict[str, Fingerprint] | None:
    """The fingerprint of each bucket; None when a file has none."""
    found: dict[str, Fingerprint] = {}
    for file in files:
        fingerprint = fingerprint_of(file)
        if fingerprint is None:
            return None
        found[file.bucket] = found.get(file.bucket, Fingerprint()) + fingerprint
    return found


def bucket_of(day: str, grain: str) -> str:
    """The bucket of an ISO day: `2013`, `2013-02` or the day itself."""
    return day[: {"year": 4, "month": 7, "day": 10}[grain]]


def choose_grain(days: Iterable[tuple[str, int]], bucket_rows: int) -> str:
    """The longest bucket that holds at most `bucket_rows` rows on average, given the rows of each day that has any."""
    counts = list(days)
    rows = sum(count for _, count in counts)
    for grain in ("year", "month"):
        if rows <= bucket_rows * len({bucket_of(day, grain) for day, _ in counts}):
            return grain
    return "day"


def write_file(
    warehouse: Warehouse, view: FeatureView, source: str, folder: Path, bucket: str, extent: Extent
) -> DataFile:
    """Write the rows of `source`, a SELECT of the table's columns, sorted, to a new file that survives a power cut.

    OfflineStoreError when they are not as many as `extent` says. No reader sees the file before it is committed.
    """
    expected = extent.fingerprint
    folder = folder / f"_bucket={bucket}"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{expected.rows}-{expected.total:016x}{expected.mixed:016x}-{uuid.uuid4().hex[:12]}.parquet"
    path = folder / name
    order = [*view.key_names, view.event_timestamp, *filter(None, [view.created_timestamp])]
    (rows,) = warehouse.rows(
        f"copy (select {', '.join(map(_store, columns(view)))} from ({source}) order by {', '.join(map(quote, order))})"
        f" to {literal(str(path))} (format parquet, compression snappy, row_group_size {ROW_GROUP_ROWS})"
    )[0]
    if rows != expected.rows:
        path.unlink()
        raise OfflineStoreError(
            "the relation gave other rows when read twice",
            where=f"{view.id}, bucket {bucket}",
            expected=f"{expected.rows} rows",
            got=f"{rows} rows",
            remedy="materialize the model as a table, and use nothing in it that changes from read to read",
        )
    for written in (path, folder, folder.parent):
        flush(written)
    return DataFile(path, rows, extent.min_event_us, extent.max_event_us, bucket)


def _store(column: Column) -> str:
    return f"cast({quote(column.name)} as {stored_sql_type(column.dtype)}) as {quote(column.name)}"
