"""Events pushed live, after they were taken in: the log of each source in Redis, and the Parquet files it becomes.

A push adds its events to the Redis stream `features:log:<source>`, as Arrow's IPC stream in the field `events`. `land`
moves them to files `live-<first id>-<last id>-<digest>.parquet` in the folder that the dbt source reads. Each entry
ends in one file, whatever is killed: where the next file ends is written down in Redis before it is made, a file
appears whole or not at all, and entries are dropped from the log only once their file is there.

Ids are Redis' clock: one that came back empty, or as an older copy, may give ids again that files have, or lower ones.
So whether an entry has landed is told by what it is, never by the order of ids: each file lists the digests of its
entries, and those that it may hold are looked up there. Its own name ends in the digest of them all. Beside them it has
a checksum of the whole file, which `features verify --files` compares.
"""

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ..definitions.stream import PATTERN, EventSource
from ..durable import write_whole
from ..errors import CannotLand, OnlineStoreError
from ..online.store import OnlineStore, redis_errors
from ..settings import local_path
from . import checksum

EntryId: TypeAlias = tuple[int, int]  # milliseconds, sequence number
Fields: TypeAlias = tuple[bytes, dict[bytes, bytes]]  # of an entry: its name, and what it holds
MAX_ENTRIES = 10_000
MAX_BYTES = 256 << 20
_PAGE = 200
_UNFINISHED_SECONDS = 3600
_FILE = re.compile(r"live-(\d+)_(\d+)-(\d+)_(\d+)(?:-[0-9a-f]+)?\.parquet")  # before, names had no digest
_ENTRIES = "features_log_entries"  # a landed file's metadata: the digests of its entries, one after another
_DIGEST_CHARACTERS = 16
_WILDCARDS = re.compile(r"[*?\[]")


class Landed(msgspec.Struct, frozen=True, kw_only=True):
    """What one call of `land` moved from the log of a source to files."""

    source: str
    events: int
    files: tuple[Path, ...]
    refused: int = 0  # entries that cannot be read: dead letters now

    def __str__(self) -> str:
        refused = f" refused={self.refused}" if self.refused else ""
        return f"landed {self.source} events={self.events} files={len(self.files)}{refused}"


class _Entry(NamedTuple):
    """An entry of the log; where its events cannot be read, `reason` says why."""

    name: bytes
    fields: dict[bytes, bytes]
    events: pa.Table | None
    reason: str = ""

    @property
    def digest(self) -> str:
        return _digest(self.name + b" " + self.fields[b"events"])


def landing_folder(source: EventSource, project_dir: Path) -> Path:
    """Where the files of live events go: where the source's own files are, as its external location says."""
    if (pattern := source.pattern) is None:
        raise OnlineStoreError(
            "live events cannot be kept where the dbt source would read them",
            where=source.path or source.name,
            expected=PATTERN,
            got=source.relation or "no relation",
        )
    location = local_path(pattern, where=source.path or source.name)
    parts = [part for part in location.parent.parts if part != "**"]
    return project_dir.joinpath(*("live" if _WILDCARDS.search(part) else part for part in parts)).absolute()


def live_files(folder: Path) -> list[Path]:
    """The files that live events have landed in."""
    return sorted(path for path in folder.glob("live-*.parquet") if _FILE.fullmatch(path.name))


def last_id(online: OnlineStore, stream: bytes) -> EntryId | None:
    """The id of the newest entry of a Redis stream; None for an empty one."""
    return entry_id(newest[0]) if (newest := _newest(online, stream)) else None


def logged(online: OnlineStore, source: EventSource, *, until: EntryId | None = None) -> Iterator[pa.Table]:
    """The entries of a source's log that can be read, oldest first, up to one of them (included)."""
    for entry in _entries(online, source, end=b"+" if until is None else b"%d-%d" % until):
        if entry.events is not None:
            yield entry.events


def last_logged(online: OnlineStore, source: EventSource) -> pa.Table | None:
    """The newest entry of a source's log; None for an empty one."""
    return _read(source, *newest).events if (newest := _newest(online, online.names.log(source.name))) else None


def _newest(online: OnlineStore, stream: bytes) -> Fields | None:
    with redis_errors():
        return next(iter(online.client.xrevrange(stream, count=1)), None)


def land(online: OnlineStore, source: EventSource, folder: Path, *, max_entries: int = MAX_ENTRIES) -> Landed:
    """Move what a source's log holds now to files. Several may run at once, and any may be killed at any moment.

    An entry that cannot be read becomes a dead letter. Raises CannotLand where the folder cannot be written or is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(folder)
        return _land(online, source, folder, max_entries)
    except OSError as error:
        raise CannotLand(
            "live events cannot be written to files", where=str(folder), got=str(error),
            remedy="give the folder room and the right to write; until then they stay in Redis",
        ) from None  # fmt: skip


def _land(online: OnlineStore, source: EventSource, folder: Path, max_entries: int) -> Landed:
    with redis_errors():
        left = int(online.client.xlen(online.names.log(source.name)))
    files: list[Path] = []
    events = refused = 0
    while left > 0 and (cut := _cut(online, source, max_entries)) is not None:
        entries = list(_entries(online, source, *cut.split()))
        if not _is_current(online, source.name, cut):
            continue  # another process has landed these in the meantime, or the log is a new one
        left -= len(entries)
        readable = [entry for entry in entries if entry.events is not None]
        landed = _landed(folder, readable)
        new = [entry for entry in readable if entry.digest not in landed]
        if new:
            files.append(_write(folder, new))
            events += sum(entry.events.num_rows for entry in new if entry.events is not None)
        refused += _finish(online, source.name, cut, entries)
    return Landed(source=source.name, events=events, files=tuple(files), refused=refused)


def _cut(online: OnlineStore, source: EventSource, max_entries: int) -> bytes | None:
    """The first and the last entry of the next file, agreed upon by all that land this source; None for an empty log.

    All entries of a file have the same columns.
    """
    name = online.names.landing(source.name)
    with redis_errors():
        agreed: bytes | None = online.client.get(name)
        if agreed is None:
            names, schema, size = list[bytes](), None, 0
            for entry in _entries(online, source):
                if entry.events is not None:
                    if schema is not None and entry.events.schema != schema:
                        break
                    schema, size = entry.events.schema, size + entry.events.nbytes
                names.append(entry.name)
                if len(names) >= max_entries or size >= MAX_BYTES:
                    break
            if not names:
                return None
            agreed = names[0] + b" " + names[-1]
            if not online.client.set(name, agreed, nx=True):
                return _cut(online, source, max_entries)
    return agreed


def _is_current(online: OnlineStore, source: str, cut: bytes) -> bool:
    """Whether the log still begins with the entries of the file to be made, so that what was read is all of them.

    An agreement on entries that the log does not begin with is that of a log which is gone: it is withdrawn.
    """

    def look(pipeline: Any) -> bool:
        if pipeline.get(online.names.landing(source)) != cut:
            return False
        entries = pipeline.xrange(online.names.log(source), count=1)
        current = bool(entries) and entries[0][0] == cut.split()[0]
        pipeline.multi()
        if not current:
            pipeline.delete(online.names.landing(source))
        return current

    with redis_errors():
        return bool(online.client.transaction(look, online.names.landing(source), value_from_callable=True))


def _landed(folder: Path, entries: list[_Entry]) -> set[str]:
    """The digests of what the files hold that may hold any of these entries, as the ids in their names tell."""
    found: set[str] = set()
    if not entries:
        return found
    first, last = entry_id(entries[0].name), entry_id(entries[-1].name)
    for path in live_files(folder):
        numbers = tuple(map(int, _FILE.fullmatch(path.name).groups()))  # type: ignore[union-attr]
        if numbers[:2] <= last and first <= numbers[2:]:
            with suppress(FileNotFoundError, pa.ArrowException):
                listed = (pq.read_metadata(path).metadata or {}).get(_ENTRIES.encode(), b"").decode()
                found |= {listed[i : i + _DIGEST_CHARACTERS] for i in range(0, len(listed), _DIGEST_CHARACTERS)}
    return found


def _write(folder: Path, entries: list[_Entry]) -> Path:
    """The file of some entries; whoever writes these writes the same."""
    listed = "".join(entry.digest for entry in entries)
    ids = "-".join(entry.name.decode().replace("-", "_") for entry in (entries[0], entries[-1]))
    path = folder / f"live-{ids}-{_digest(listed.encode())}.parquet"
    table = pa.concat_tables(entry.events for entry in entries if entry.events is not None)

    content = BytesIO()
    with pq.ParquetWriter(content, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_ENTRIES: listed, checksum.KEY: checksum.BLANK})
    write_whole(path, lambda file: file.write(checksum.sealed(content.getvalue())))
    return path


def landed_damage(path: Path) -> tuple[bool, str | None]:
    """Whether a file of landed events tells if it has changed, as those of earlier versions do not; what is wrong."""
    try:
        content = path.read_bytes()
        if (whole := checksum.is_whole(content)) is None:
            pq.read_table(pa.BufferReader(content))
    except (OSError, pa.ArrowException, ValueError) as error:
        return False, f"a file of landed events cannot be read: {str(error).splitlines()[0]}"
    return whole is not None, None if whole in (True, None) else "a file of landed events has changed since it landed"


def _finish(online: OnlineStore, source: str, cut: bytes, entries: list[_Entry]) -> int:
    """Drop from the log what its file holds, and the agreement on that file, if it is still the one in force; those
    that cannot be read become dead letters: how many."""
    unreadable = [entry for entry in entries if entry.events is None]

    def finish(pipeline: Any) -> int:
        if pipeline.get(online.names.landing(source)) != cut:
            return 0  # another process did
        pipeline.multi()
        for entry in unreadable:
            reason = f"an entry of {online.names.log(source).decode()} that cannot be read: {entry.reason}"
            pipeline.xadd(online.names.dead(source), {**entry.fields, b"id": entry.name, b"reason": reason})
        pipeline.xdel(online.names.log(source), *[entry.name for entry in entries])
        pipeline.delete(online.names.landing(source))
        return len(unreadable)

    with redis_errors():
        return int(online.client.transaction(finish, online.names.landing(source), value_from_callable=True))


def _remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed left behind."""
    for path in folder.glob(".live-*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _UNFINISHED_SECONDS:
                path.unlink()


def _entries(online: OnlineStore, source: EventSource, start: bytes = b"-", end: bytes = b"+") -> Iterator[_Entry]:
    """The entries of a source's log from one to another, oldest first."""
    for page in pages(online, online.names.log(source.name), start, end):
        yield from (_read(source, name, fields) for name, fields in page)


def pages(online: OnlineStore, stream: bytes, start: bytes = b"-", end: bytes = b"+") -> Iterator[list[Fields]]:
    """The entries of a Redis stream from one to another, oldest first, some at a time."""
    while True:
        with redis_errors():
            page: list[Fields] = online.client.xrange(stream, start, end, count=_PAGE)
        if page:
            yield page
        if len(page) < _PAGE:
            return
        start = b"(" + page[-1][0]


def _read(source: EventSource, name: bytes, fields: dict[bytes, bytes]) -> _Entry:
    if b"events" not in fields:
        return _Entry(name, fields, None, "no field `events`")
    try:
        table = pa.ipc.open_stream(fields[b"events"]).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        return _Entry(name, fields, None, f"no Arrow IPC stream in `events`: {str(error).splitlines()[0]}")
    for column in (source.event_id, source.event_timestamp, source.created_timestamp):
        if column is not None and column not in table.column_names:
            return _Entry(name, fields, None, f"no column {column!r}")
    return _Entry(name, fields, table)


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=_DIGEST_CHARACTERS // 2).hexdigest()


def entry_id(name: bytes) -> EntryId:
    milliseconds, _, sequence = name.partition(b"-")
    return int(milliseconds), int(sequence)
