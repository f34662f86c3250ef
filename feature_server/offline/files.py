"""Fingerprints of rows, and the Parquet files of the offline store that carry theirs in their name.

A fingerprint is the number of rows, and the sum modulo 2^64 and the exclusive or of the warehouse's 64-bit hash over
all columns of each row: it does not depend on the order of rows, and fingerprints of disjoint sets of rows add up. So a
bucket's fingerprint is the sum of its files', and files can be compared with the warehouse without being read. A zero's
sign counts, except within a list.
"""

import re
import uuid
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path

import duckdb
import msgspec

from ..definitions.facts import FeatureView
from ..durable import flush
from ..errors import OfflineStoreError
from .sql import columns, quote
from .store import DataFile

_NAME = re.compile(r"(\d+)-([0-9a-f]{16})([0-9a-f]{16})-[0-9a-f]{12}\.parquet")
_MASK = 2**64 - 1
_HASH_CHECK = """select hash(
    1::bigint, 'one', 1.5::double, true, date '2013-01-01', timestamptz '2013-01-01 00:00:00+00', 1.25::decimal(5, 2),
    1.25::decimal(30, 2), [1, null]::float[], null, 'a string longer than sixteen bytes',
    'c0ffee00-0000-4000-8000-000000000000'::uuid, signbit(-0.0), 255::utinyint, 18446744073709551615::ubigint)"""
_LENGTHS = {"year": 4, "month": 7, "day": 10}  # of a bucket's name: the beginning of an ISO day


class Fingerprint(msgspec.Struct, frozen=True):
    """What identifies a set of rows."""

    rows: int = 0
    total: int = 0
    mixed: int = 0

    def __add__(self, other: "Fingerprint") -> "Fingerprint":
        return Fingerprint(self.rows + other.rows, (self.total + other.total) & _MASK, self.mixed ^ other.mixed)

    def __str__(self) -> str:
        return f"{self.rows}-{self.total:016x}{self.mixed:016x}"


class Extent(msgspec.Struct, frozen=True):
    """A set of rows and the range of their event timestamps."""

    fingerprint: Fingerprint
    min_event_us: int
    max_event_us: int

    def __add__(self, other: "Extent") -> "Extent":
        return Extent(
            self.fingerprint + other.fingerprint,
            min(self.min_event_us, other.min_event_us),
            max(self.max_event_us, other.max_event_us),
        )


def row_hash(view: FeatureView) -> str:
    """The SQL expression of a row's hash: every column of the table, and the signs of floating-point numbers, for zeros
    (not of a NaN, which DuckDB's Parquet files do not keep).

    Hashed twice, because DuckDB takes the last column in by exclusive or alone: values swapped between rows would keep
    the rows' exclusive or.
    """
    names = [quote(column.name) for column in columns(view)]
    floats = [quote(feature.name) for feature in view.features if feature.dtype.kind in ("float32", "float64")]
    return f"hash(hash({', '.join([*names, *(f'signbit({name}) and not isnan({name})' for name in floats)])}))"


def hash_check(connection: duckdb.DuckDBPyConnection) -> str:
    """A text that changes when DuckDB's hash function does."""
    ((found,),) = connection.execute(_HASH_CHECK).fetchall()
    return f"{found:016x}"


def named_fingerprint(file: DataFile) -> Fingerprint | None:
    """The fingerprint that a file's name says; None when another program wrote it."""
    if (found := _NAME.fullmatch(file.path.name)) is None:
        return None
    return Fingerprint(int(found[1]), int(found[2], 16), int(found[3], 16))


def fingerprints(files: Iterable[DataFile]) -> dict[str, Fingerprint] | None:
    """The fingerprint of each bucket, by the names of its files; None when another program wrote one of them."""
    totals: dict[str, Fingerprint] = {}
    for file in files:
        if (fingerprint := named_fingerprint(file)) is None:
            return None
        totals[file.bucket] = totals.get(file.bucket, Fingerprint()) + fingerprint
    return totals


def bucket_of(day: str, grain: str) -> str:
    """The bucket of an ISO day: `2013`, `2013-02` or the day itself."""
    return day[: _LENGTHS[grain]]


def grain_of(bucket: str) -> str:
    return next(grain for grain, length in _LENGTHS.items() if length == len(bucket))


def bucket_days(bucket: str) -> tuple[str, str]:
    """The first day of a bucket, and the first that no longer belongs to it."""
    first = date.fromisoformat((bucket + "-01-01")[:10])
    after = first + timedelta(days={"year": 366, "month": 31, "day": 1}[grain_of(bucket)])
    return first.isoformat(), (after.isoformat()[: len(bucket)] + "-01-01")[:10]


def choose_grain(days: Iterable[tuple[str, int]], bucket_rows: int) -> str:
    """The longest bucket that holds at most `bucket_rows` rows on average, given the rows of each day that has any."""
    counts = list(days)
    rows = sum(count for _, count in counts)
    for grain in ("year", "month"):
        if rows <= bucket_rows * len({bucket_of(day, grain) for day, _ in counts}):
            return grain
    return "day"


def new_file(folder: Path, bucket: str, extent: Extent) -> DataFile:
    """A file to be written for the table at `folder`, its name saying which rows; its bucket's folder is made.

    No reader sees it before it is committed. OfflineStoreError where the folder cannot be made.
    """
    path = folder / f"_bucket={bucket}" / f"{extent.fingerprint}-{uuid.uuid4().hex[:12]}.parquet"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OfflineStoreError(
            "a folder of the offline table cannot be made", where=str(path.parent), got=error.strerror,
            remedy="move away what stands in its place, or give it room and the right to write; then publish again",
        ) from None  # fmt: skip
    return DataFile(path, extent.fingerprint.rows, extent.min_event_us, extent.max_event_us, bucket)


def keep(file: DataFile, rows: int, *, view_id: str) -> None:
    """Have a file that `rows` rows were written to survive a power cut; OfflineStoreError if it is to have others."""
    if rows != file.rows:
        file.path.unlink()
        raise OfflineStoreError(
            "the relation gave other rows when read twice",
            where=f"{view_id}, bucket {file.bucket}",
            expected=f"{file.rows} rows",
            got=f"{rows} rows",
            remedy="materialize the model as a table, and use nothing in it that changes from read to read",
        )
    for written in (file.path, file.path.parent, file.path.parents[1]):
        flush(written)
