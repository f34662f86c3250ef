"""Events pushed live, after they were taken in: the log of each source in Redis, and the Parquet files it becomes.

A push adds its events to the Redis stream `features:log:<source>`, as Arrow's IPC stream in the field `events`. `land`
moves them to files `live-<first id>-<last id>.parquet` in the folder that the dbt source reads, named by the entries
they hold. Each entry ends in one file, whatever is killed: where the next file ends is written down in Redis before it
is made, a file appears whole or not at all, and entries are dropped from the log only once their file is there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from . import keys
from .durable import write_whole
from .errors import OnlineStoreError
from .online import OnlineStore, redis_errors
from .stream_plan import EventSource

EntryId: TypeAlias = tuple[int, int]  # milliseconds, sequence number
MAX_ENTRIES = 10_000
MAX_BYTES = 256 << 20
_PAGE = 200
_UNFINISHED_SECONDS = 3600
_FILE = re.compile(r"live-(\d+)_(\d+)-(\d+)_(\d+)\.parquet")
_LOCATION = re.compile(r"'((?:[^']|'')+\.parquet)'")
_WILDCARDS = re.compile(r"[*?\[]")


class Landed(msgspec.Struct, frozen=True, kw_only=True):
    """What one call of `land` moved from the log of a source to files."""

    source: str
    events: int
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return f"landed {self.source} events={self.events} files={len(self.files)}"


def log_key(source: str) -> bytes:
    return keys.LOG + source.encode()


def landing_folder(source: EventSource, project_dir: Path) -> Path:
    """Where the files of live events go: where the source's own files are, as its external location says."""
    found = _LOCATION.search(source.relation)
    location = Path(found[1].replace("''", "'")) if found else Path()
    if not found or not _WILDCARDS.search(location.name) or not Path("live-0_0-0_0.parquet").match(location.name):
        raise OnlineStoreError(
            "live events cannot be kept where the dbt source would read them",
            where=source.path or source.name,
            expected="meta.external_location with a pattern of Parquet files, e.g. landing/transactions/*.parquet",
            got=source.relation or "no relation",
        )
    parts = [part for part in location.parent.parts if part != "**"]
    return project_dir.joinpath(*("live" if _WILDCARDS.search(part) else part for part in parts)).absolute()


def live_files(folder: Path) -> list[Path]:
    """The files that live events have landed in, in the order the events were taken in."""
    found = [(_ids(path), path) for path in folder.glob("live-*.parquet")]
    return [path for ids, path in sorted((ids, path) for ids, path in found if ids is not None)]


def last_id(online: OnlineStore, source: str) -> EntryId | None:
    """The id of the newest entry of a source's log; None for an empty one."""
    with redis_errors():
        entries = online.client.xrevrange(log_key(source), count=1)
    return entry_id(entries[0][0]) if entries else None


def logged(online: OnlineStore, source: str, *, until: EntryId | None = None) -> Iterator[tuple[EntryId, pa.Table]]:
    """The entries of a source's log, oldest first, up to one of them (included)."""
    start, end = "-", "+" if until is None else _text(until)
    while True:
        with redis_errors():
            entries = online.client.xrange(log_key(source), start, end, count=_PAGE)
        for name, fields in entries:
            yield entry_id(name), _events(source, name, fields)
        if len(entries) < _PAGE:
            return
        start = "(" + entries[-1][0].decode()


def last_logged(online: OnlineStore, source: str) -> pa.Table | None:
    """The newest entry of a source's log; None for an empty one."""
    with redis_errors():
        entries = online.client.xrevrange(log_key(source), count=1)
    return _events(source, *entries[0]) if entries else None


def land(online: OnlineStore, source: EventSource, folder: Path, *, max_entries: int = MAX_ENTRIES) -> Landed:
    """Move what a source's log holds now to files. Several may run at once, and any may be killed at any moment."""
    folder.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(folder)
    until = last_id(online, source.name)
    files: list[Path] = []
    events = 0
    while until is not None:
        _drop_landed(online, source.name, folder)
        cut = _cut(online, source.name, until, max_entries)
        if cut is None:
            break
        path = folder / f"live-{cut[0][0]}_{cut[0][1]}-{cut[1][0]}_{cut[1][1]}.parquet"
        if not path.exists():
            entries = [entry for _, entry in logged(online, source.name, until=cut[1])]
            if not entries or not _is_current(online, source.name, cut):
                continue  # another process has landed these in the meantime
            table = pa.concat_tables(entries)
            write_whole(path, partial(pq.write_table, table))
            files.append(path)
            events += table.num_rows
        _finish(online, source.name, cut)
        if cut[1] >= until:
            break
    return Landed(source=source.name, events=events, files=tuple(files))


def _cut(online: OnlineStore, source: str, until: EntryId, max_entries: int) -> tuple[EntryId, EntryId] | None:
    """The first and last entry of the next file, agreed upon by all that land this source; None for an empty log."""
    name = _cut_key(source)
    with redis_errors():
        if (agreed := online.client.get(name)) is None:
            first = last = None
            size = 0
            for place, (found, table) in enumerate(logged(online, source, until=until)):
                first, last, size = first or found, found, size + table.nbytes
                if place + 1 >= max_entries or size >= MAX_BYTES:
                    break
            if first is None or last is None:
                return None
            online.client.set(name, _agreement((first, last)), nx=True)
            agreed = online.client.get(name)
            if agreed is None:
                return _cut(online, source, until, max_entries)
    begin, end = agreed.split()
    return entry_id(begin), entry_id(end)


def _is_current(online: OnlineStore, source: str, cut: tuple[EntryId, EntryId]) -> bool:
    """Whether the log still begins with the entries of the file to be made, so that what was read is all of them."""
    with redis_errors():
        entries = online.client.xrange(log_key(source), count=1)
        agreed = online.client.get(_cut_key(source))
    return bool(entries) and entry_id(entries[0][0]) == cut[0] and agreed == f"{_text(cut[0])} {_text(cut[1])}".encode()


def _finish(online: OnlineStore, source: str, cut: tuple[EntryId, EntryId]) -> None:
    """Drop from the log what its file holds, and the agreement on that file, if it is still the one in force."""
    name = _cut_key(source)
    with redis_errors():
        online.client.xtrim(log_key(source), minid=_text((cut[1][0], cut[1][1] + 1)), approximate=False)
        with online.client.pipeline() as pipeline:
            pipeline.watch(name)
            if pipeline.get(name) == _agreement(cut):
                pipeline.multi()
                pipeline.delete(name)
                with suppress(redis.WatchError):  # another process did
                    pipeline.execute()


def _drop_landed(online: OnlineStore, source: str, folder: Path) -> None:
    """Drop entries that a file holds: they are in the log again where Redis came back from an older snapshot."""
    newest = max((ids[1] for path in folder.glob("live-*.parquet") if (ids := _ids(path)) is not None), default=None)
    if newest is None:
        return
    with redis_errors():
        entries = online.client.xrange(log_key(source), count=1)
        if entries and entry_id(entries[0][0]) <= newest:
            online.client.xtrim(log_key(source), minid=_text((newest[0], newest[1] + 1)), approximate=False)
        agreed = online.client.get(_cut_key(source))
        if agreed is not None and entry_id(agreed.split()[1]) <= newest:
            online.client.delete(_cut_key(source))


def _remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed left behind."""
    for path in folder.glob(".live-*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _UNFINISHED_SECONDS:
                path.unlink()


def _events(source: str, name: bytes, fields: dict[bytes, bytes]) -> pa.Table:
    try:
        table: pa.Table = pa.ipc.open_stream(fields[b"events"]).read_all()
        return table
    except (KeyError, pa.ArrowException) as error:
        raise OnlineStoreError(
            "an entry of the log cannot be read", where=f"{log_key(source).decode()} {name.decode()}", got=str(error),
            expected="a field `events` with an Arrow IPC stream", remedy="see who else writes to this Redis stream",
        ) from None  # fmt: skip


def _cut_key(source: str) -> bytes:
    return b"features:landing:" + source.encode()


def _agreement(cut: tuple[EntryId, EntryId]) -> bytes:
    return f"{_text(cut[0])} {_text(cut[1])}".encode()


def _ids(path: Path) -> tuple[EntryId, EntryId] | None:
    found = _FILE.fullmatch(path.name)
    if found is None:
        return None
    numbers: Any = tuple(map(int, found.groups()))
    return numbers[:2], numbers[2:]


def entry_id(name: bytes) -> EntryId:
    milliseconds, _, sequence = name.partition(b"-")
    return int(milliseconds), int(sequence)


def _text(entry: EntryId) -> str:
    return f"{entry[0]}-{entry[1]}"
