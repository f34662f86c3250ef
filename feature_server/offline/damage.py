"""Data files of an offline table that are gone, cannot be read or hold other rows than were published.

A reader that fails asks here which file it was. What is not told by reading, a changed value, is told by the
fingerprint in the file's name.
"""

import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import OfflineStoreError
from .files import Fingerprint, hash_check, named_fingerprint, row_hash
from .session import connect
from .sql import quote
from .store import DataFile, OfflineTable

_FAILURES = (duckdb.Error, pa.ArrowException, OSError, ValueError, RuntimeError, MemoryError, OfflineStoreError)


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a file."""

    file: DataFile
    what: str
    expected: str | None = None
    got: str | None = None

    def __str__(self) -> str:
        told = [f"{name} {text}" for name, text in (("expected", self.expected), ("got", self.got)) if text is not None]
        return f"{self.file.path}: {self.what}{': ' if told else ''}{', '.join(told)}"


class DamagedFile(OfflineStoreError):
    """A file that a version of an offline table cannot be read without."""

    def __init__(self, table: OfflineTable, damage: Damage) -> None:
        self.file = damage.file
        remedy = f"run `features publish --full {table.view_id}`, which writes its rows anew"
        if self.file not in OfflineTable(table.view_id, table.path).files():
            remedy = "restore the file, or use the latest version, which does without it"
        super().__init__(
            damage.what, where=f"{table.view_id} version {table.version}: {self.file.path}",
            expected=damage.expected, got=damage.got, remedy=remedy,
        )  # fmt: skip


@contextmanager
def reading(table: OfflineTable, more: Iterable[DataFile] = ()) -> Iterator[None]:
    """While a table's files, and `more` of other versions of it, are read: DamagedFile for what a damaged one causes.

    Any other failure passes; one of the disk or of rights is an OfflineStoreError.
    """
    try:
        yield
    except DamagedFile:
        raise
    except _FAILURES as error:
        files = {file.path: file for file in (*table.files(), *more)}
        text = str(error)
        likely = sorted(files.values(), key=lambda file: str(file.path) not in text)
        for damage in damages(table, likely):
            raise DamagedFile(table, damage) from None
        if isinstance(error, duckdb.IOException | OSError):
            raise OfflineStoreError(
                "the offline table cannot be read, though none of its files is damaged",
                where=f"{table.view_id} version {table.version}", got=text.splitlines()[0],
                remedy="see that the disk has room and that the files may be read",
            ) from None  # fmt: skip
        raise


def open_file(file: DataFile) -> pq.ParquetFile:
    """The file, opened within `reading`; OfflineStoreError for one with another length."""
    if (damage := _absent(file)) is not None:
        raise OfflineStoreError(damage.what, where=str(file.path), expected=damage.expected, got=damage.got)
    return pq.ParquetFile(file.path)


def check_present(table: OfflineTable) -> None:
    """DamagedFile for the first file that is gone or has another length: what can be told without reading."""
    for damage in absent(table):
        raise DamagedFile(table, damage)


def absent(table: OfflineTable) -> Iterator[Damage]:
    """The table's files that are gone or have another length."""
    return (damage for file in table.files() if (damage := _absent(file)) is not None)


def damages(table: OfflineTable, files: Iterable[DataFile] | None = None) -> Iterator[Damage]:
    """The damaged files of the table, or of those given: all of each is read."""
    connection = connect()
    with connection:
        same_hash = hash_check(connection) == table.state.hash_check
    for file in table.files() if files is None else files:
        if (found := _absent(file) or _damage(table, file, same_hash)) is not None:
            yield found


def _absent(file: DataFile) -> Damage | None:
    try:
        status = file.path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Damage(file=file, what="a data file is missing")
    except OSError as error:
        return Damage(file=file, what="a data file cannot be read", got=error.strerror)
    if not stat.S_ISREG(status.st_mode):
        return Damage(file=file, what="a data file is no file", got="a folder or a device")
    if file.size is not None and file.size != status.st_size:
        what, got = "a data file has another length than was published", f"{status.st_size} bytes"
        return Damage(file=file, what=what, expected=f"{file.size} bytes", got=got)
    return None


def _damage(table: OfflineTable, file: DataFile, same_hash: bool) -> Damage | None:
    """What is wrong with a file that is there; values are compared only where DuckDB's hash is still the same."""
    view = table.view()
    event = quote(view.event_timestamp)
    try:
        with connect() as connection:  # of its own: some failures end a session
            rows = (
                f"select {row_hash(view)} as hash, epoch_us({event}) as event_us from ({table.scan_sql(files=[file])})"
            )
            found: Any = connection.execute(
                f"select count(*), sum(hash), bit_xor(hash), min(event_us), max(event_us) from ({rows})"
            ).fetchone()
        with pq.ParquetFile(file.path) as parquet:  # as the sync reads it
            for group in range(parquet.num_row_groups):
                parquet.read_row_group(group)
    except (duckdb.Error, pa.ArrowException, OSError, ValueError, RuntimeError, MemoryError) as error:
        return Damage(file=file, what="a data file cannot be read", got=str(error).splitlines()[0])
    count, total, mixed, oldest_us, newest_us = found
    content = Fingerprint(count, int(total or 0) % 2**64, mixed or 0)
    named = named_fingerprint(file)
    what = "a data file holds other rows than were published"
    if count != file.rows:
        return Damage(file=file, what=what, expected=f"{file.rows} rows", got=f"{count} rows")
    if named is not None and same_hash and named != content:
        return Damage(file=file, what=what, expected=f"fingerprint {named}", got=f"fingerprint {content}")
    if count and (oldest_us < file.min_event_us or newest_us > file.max_event_us):
        return Damage(file=file, what=what, got="event times outside those that the table's log says")
    return None
