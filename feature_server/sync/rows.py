"""The latest row of each key at an instant, read from an offline table's files newest first.

Files are parts of the event time, so a key found in one needs no older one. Each file is sorted by its join keys, event
and created timestamp: the last of a run of equal keys is the latest row of that file; files that overlap in time are
taken together, in the order of the table's files, so that of rows that tie in both timestamps the last counts
(`point_in_time`). What makes one key equal to another is decided by `layout.keys`: by the integers themselves where a
view has a single integer key, else by the text that names the entity in Redis.

What a batch view has online of them: each until its ttl and a grace have passed.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..definitions.facts import FeatureView
from ..dtypes import INTEGER_WIDTHS, DType
from ..errors import OfflineStoreError
from ..layout.parts import row_parts
from ..layout.rows import Column, RowPacker, pc
from ..offline.damage import open_file
from ..offline.store import DataFile
from ..online.registry import OnlineView
from ..online.store import Attempt
from .session import Progress, Session, Target
from .writer import FencedWriter, Transaction, delete_commands, write_part_commands

MAX_GRACE_US = 3_600_000_000
_PACK_ROWS = 40_000
Mask: TypeAlias = npt.NDArray[np.bool_]
Ids: TypeAlias = Any  # entities: an integer array, or Arrow strings
_NO_CREATED = np.iinfo(np.int64).min
_FIRST_CHUNK_ROWS = 200_000
_PIECE_ROWS = 100_000


class KeyReader:
    """Reads files of one view's history; `names` are the columns wanted beside keys and timestamps."""

    def __init__(self, view: FeatureView) -> None:
        self.view = view
        self.packer = RowPacker(view)
        self.rows_read = 0
        self.integer = len(view.join_keys) == 1 and view.join_keys[0].dtype.kind in INTEGER_WIDTHS
        self._order = [*view.key_names, view.event_timestamp, *filter(None, [view.created_timestamp])]

    def ids(self, rows: pa.Table) -> Ids:
        """What identifies the entity of each row."""
        if not self.integer:
            return self.packer.entities(rows)
        (key,) = self.view.join_keys
        return rows[key.name].cast(getattr(pa, key.dtype.kind)()).to_numpy()

    def rows(
        self,
        file: DataFile,
        names: Sequence[str],
        *,
        after_us: int | None = None,
        until_us: int,
        wanted: "KeySet | None" = None,
    ) -> Iterator[pa.Table]:
        """Rows with `after_us < event <= until_us` and no null key, the latest of each run of equal keys."""
        columns = [*self._order, *names]
        with open_file(file) as parquet:
            for group in range(parquet.num_row_groups):
                metadata = parquet.metadata.row_group(group)
                self.rows_read += metadata.num_rows
                if wanted is not None and not wanted.may_overlap(metadata.column(0).statistics):
                    continue
                rows = parquet.read_row_group(group, columns=columns)
                # Some files declare a column without nulls so, some do not.
                rows = pa.table(rows.columns, names=columns)
                rows = rows.filter(keep) if (keep := self._countable(rows, after_us, until_us)) is not None else rows
                yield self.last_of_runs(rows)

    def last_of_runs(self, rows: pa.Table) -> pa.Table:
        """The latest row of each run of rows with equal keys."""
        if rows.num_rows < 2:
            return rows
        same = np.ones(rows.num_rows - 1, dtype=np.bool_)
        for name in self.view.key_names:
            same &= _neighbours_equal(rows[name])
        if not same.any():
            return rows
        event, created = self.times(rows)
        step = (event[1:] < event[:-1]) | ((event[1:] == event[:-1]) & (created[1:] < created[:-1]))
        if bool((same & step).any()):  # null created timestamps are sorted behind the others; they are the earliest
            order = [(name, "ascending", "at_start") for name in self._order]
            return self.last_of_runs(rows.take(pc.sort_indices(rows, sort_keys=order)))
        return rows.filter(pa.array(np.append(~same, True)))

    def times(self, rows: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Event and created timestamps; a null created is the earliest, and so is that of a view without any."""
        event = self.packer.event_times(rows)
        if self.view.created_timestamp is None:
            return event, np.zeros(len(event), dtype=np.int64)
        created: Column = rows[self.view.created_timestamp].cast(pa.int64())
        return event, created.fill_null(_NO_CREATED).to_numpy()

    def _countable(self, rows: pa.Table, after_us: int | None, until_us: int) -> Column | None:
        """Which rows count, or None when all do."""
        event = self.packer.event_times(rows)
        keep = event <= until_us
        if after_us is not None:
            keep &= event > after_us
        for name in self.view.key_names:
            if rows[name].null_count:
                keep &= pc.is_valid(rows[name]).to_numpy()
        return None if keep.all() else pa.array(keep)


class KeySet:
    """A set of entities, all integers or all strings."""

    def __init__(self, ids: Iterable[Ids], *, integer: bool) -> None:
        self._integer = integer
        parts = list(ids)
        if integer:
            self.ids: Ids = np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
        else:
            chunks = [pc.unique(part) for part in parts]
            self.ids = pc.unique(pa.chunked_array(chunks, pa.large_string())).cast(pa.large_string())

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def entities(self) -> Column:
        """The entities' names in row keys."""
        return pa.array(self.ids).cast(pa.large_string()) if self._integer else self.ids

    def contains(self, ids: Ids) -> Mask:
        if len(self) == 0:
            return np.zeros(len(ids), dtype=np.bool_)
        if not self._integer:
            return pc.is_in(ids, value_set=self.ids).to_numpy(zero_copy_only=False)
        places = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        found: Mask = self.ids[places] == ids
        return found

    def may_overlap(self, keys: Any) -> bool:
        """False only when no integer of the set lies within the bounds that a row group's statistics of the key say."""
        if not self._integer or keys is None or not keys.has_min_max or not isinstance(keys.min, int):
            return True
        low, high = np.searchsorted(self.ids, keys.min), np.searchsorted(self.ids, keys.max, side="right")
        return bool(low < high)

    def add(self, ids: Ids) -> None:
        """Add entities that are not in the set."""
        if self._integer:
            self.ids = np.sort(np.concatenate([self.ids.astype(ids.dtype), ids]), kind="stable")
        else:
            self.ids = pa.concat_arrays([self.ids, ids])

    def discard(self, ids: Ids) -> None:
        """Take out entities, all of which are in the set."""
        self.ids = _filtered(self.ids, ~KeySet([ids], integer=self._integer).contains(self.ids))


def key_set(reader: KeyReader, files: Iterable[DataFile], *, after_us: int | None = None, until_us: int) -> KeySet:
    """The entities of rows with `after_us < event <= until_us`."""
    chosen = (
        file for file in files if file.min_event_us <= until_us and (after_us is None or file.max_event_us > after_us)
    )
    return KeySet(
        (reader.ids(rows) for file in chosen for rows in reader.rows(file, (), after_us=after_us, until_us=until_us)),
        integer=reader.integer,
    )


def latest_rows(
    reader: KeyReader, files: Iterable[DataFile], *, now_us: int, wanted: KeySet | None, progress: Progress
) -> Iterator[pa.Table]:
    """Latest rows, every key once: of all keys, or of those in `wanted`, which keeps those not found."""
    files = [file for file in files if file.min_event_us <= now_us]
    places = {file.path: place for place, file in enumerate(files)}
    total, before = sum(file.rows for file in files), reader.rows_read
    seen = KeySet([], integer=reader.integer)
    groups = list(_overlapping(files))
    while groups and (wanted is None or len(wanted)):
        chunk = groups.pop()
        # What a look at `seen` costs grows with it, for strings in full, so chunks grow too.
        least = max(_FIRST_CHUNK_ROWS, reader.rows_read - before) if not reader.integer else len(seen) // 20
        while groups and sum(file.rows for file in chunk) < least:
            chunk += groups.pop()
        chunk.sort(key=lambda file: places[file.path])
        found = []
        for parts in _pieces(reader, chunk, now_us, wanted):
            ids, latest = _latest_of(reader, parts)
            keep = wanted.contains(ids) if wanted is not None else ~seen.contains(ids)
            if not keep.all():
                ids, latest = _filtered(ids, keep), latest.filter(pa.array(keep))
            found.append(ids)
            progress(reader.rows_read - before, total)
            if latest.num_rows:
                yield latest
        for ids in found:
            if wanted is not None:
                wanted.discard(ids)
            elif groups:
                seen.add(ids)


def _pieces(
    reader: KeyReader, files: Sequence[DataFile], now_us: int, wanted: KeySet | None
) -> Iterator[list[pa.Table]]:
    """The rows of files in pieces that share no key: one, or several where a file alone has sorted integers as keys."""
    names = reader.view.feature_names
    parts = (part for file in files for part in reader.rows(file, names, until_us=now_us, wanted=wanted))
    if len(files) > 1 or not reader.integer:
        yield list(parts)
        return
    held: list[pa.Table] = []
    for part in parts:
        held.append(part)
        if sum(table.num_rows for table in held) < _PIECE_ROWS:
            continue
        rows = pa.concat_tables(held)
        ids = reader.ids(rows)
        if (ids[1:] < ids[:-1]).any():
            raise OfflineStoreError(
                "a file is not sorted by the view's join keys",
                where=str(files[0].path),
                remedy=f"run `features publish --full {reader.view.id}`",
            )
        last = int(np.searchsorted(ids, ids[-1]))  # the last key may go on in the next part
        yield [rows.slice(0, last)]
        held = [rows.slice(last)]
    yield held


def _overlapping(files: Sequence[DataFile]) -> Iterator[list[DataFile]]:
    """Files whose event times overlap, together; oldest first."""
    group: list[DataFile] = []
    for file in sorted(files, key=lambda file: file.min_event_us):
        if group and file.min_event_us > max(member.max_event_us for member in group):
            yield group
            group = []
        group.append(file)
    if group:
        yield group


def _latest_of(reader: KeyReader, parts: Sequence[pa.Table]) -> tuple[Ids, pa.Table]:
    """The latest row of each key among tables of several files."""
    if not parts:
        return (np.empty(0, dtype=np.int64) if reader.integer else pa.array([], pa.large_string())), pa.table({})
    rows = reader.last_of_runs(pa.concat_tables(parts).combine_chunks())
    ids = reader.ids(rows)
    if not reader.integer and isinstance(ids, pa.ChunkedArray):
        ids = pa.concat_arrays(ids.chunks)
    numbers = ids if reader.integer else pc.dictionary_encode(ids).indices.to_numpy()
    if bool((numbers[1:] > numbers[:-1]).all()):
        return ids, rows
    event, created = reader.times(rows)
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.append(True, numbers[order][1:] != numbers[order][:-1]))
    lengths = np.diff(np.append(starts, len(order)))
    newest = np.repeat(np.maximum.reduceat(event[order], starts), lengths) == event[order]
    known = np.where(newest, created[order], _NO_CREATED)
    newest &= np.repeat(np.maximum.reduceat(known, starts), lengths) == known
    places = np.maximum.reduceat(np.where(newest, np.arange(len(order)), -1), starts)
    chosen: Column = pa.array(order[places])
    return (ids[order[places]] if reader.integer else ids.take(chosen)), rows.take(chosen)


def _filtered(ids: Ids, keep: Mask) -> Ids:
    return ids[keep] if isinstance(ids, np.ndarray) else ids.filter(pa.array(keep))


def _neighbours_equal(column: pa.ChunkedArray) -> Mask:
    whole = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if pa.types.is_integer(whole.type):
        values = whole.to_numpy()
        equal: Mask = values[1:] == values[:-1]
        return equal
    return pc.equal(whole.slice(1), whole.slice(0, len(whole) - 1)).to_numpy(zero_copy_only=False)


def newest_event(reader: KeyReader, files: Iterable[DataFile], *, now_us: int) -> int | None:
    """The latest event timestamp that is not after now."""
    newest: int | None = None
    for file in sorted(files, key=lambda file: -file.max_event_us):
        if newest is not None and file.max_event_us <= newest:
            break
        if file.max_event_us <= now_us:
            newest = file.max_event_us
        elif file.min_event_us <= now_us:
            for rows in reader.rows(file, (), until_us=now_us):
                if rows.num_rows:
                    newest = max(newest or _NO_CREATED, int(reader.packer.event_times(rows).max()))
    return newest


def grace_us(view: FeatureView) -> int | None:
    """How long after its event timestamp a row stays in Redis: its ttl, and the ttl or an hour more, whichever is less.

    The extra time lets a reader say OUTSIDE_MAX_AGE, and clocks differ.
    """
    return None if view.ttl_us is None else view.ttl_us + min(view.ttl_us, MAX_GRACE_US)


class RowFilling:
    """Fills a view with rows."""

    def __init__(self, session: Session, target: Target) -> None:
        self.session, self.target = session, target
        self.reader = KeyReader(target.view)
        self.grace_us = grace_us(target.view)

    def same_layout(self, live: OnlineView) -> bool:
        """Whether what is online can be brought up to date key by key."""
        view, other = self.target.view, live.definition
        names = ("fingerprint", "join_keys", "event_timestamp", "created_timestamp", "ttl_us")
        return (
            all(getattr(view, name) == getattr(other, name) for name in names)
            and _stored_as(view) == _stored_as(other)
            and (view.ttl_us is None or live.expires == self.session.options.expire)
        )

    def fill(self, code: str) -> int:
        """Write everything under a new code: how many rows."""
        return self._write(code, None)[0]

    def merge(self, live: OnlineView, wanted: KeySet, attempts: tuple[Attempt, ...]) -> tuple[int, int]:
        """Bring the keys that changed since `attempts` up to date: rows written, and rows deleted."""
        return self._write(live.code, wanted)

    def _write(self, code: str, wanted: KeySet | None) -> tuple[int, int]:
        session, now_us = self.session, self.target.now_us
        parts = [(of, RowPacker(view)) for of, view in row_parts(self.target.view, code)]
        with FencedWriter(session.online, session.fence, code) as writer:
            for rows in latest_rows(
                self.reader, self.target.table.files(), now_us=now_us, wanted=wanted, progress=session.progress
            ):
                for start in range(0, rows.num_rows, _PACK_ROWS):
                    part = rows.slice(start, _PACK_ROWS)
                    writer.put(self._commands(parts, part, count_existing=wanted is not None))
            if wanted is not None:
                writer.put(delete_commands([of for of, _ in parts], wanted.entities, count_existing=True))
        return writer.written, writer.deleted

    def _commands(
        self, parts: Sequence[tuple[str, RowPacker]], rows: pa.Table, *, count_existing: bool
    ) -> Iterator[Transaction]:
        """What writes rows that have not expired, and deletes those that have."""
        entities, expire_ms = self.reader.packer.entities(rows), None
        if self.grace_us is not None:
            events = self.reader.packer.event_times(rows)
            alive = events > self.target.now_us - self.grace_us
            if not alive.all():
                if count_existing:
                    gone = entities.filter(pa.array(~alive))
                    yield from delete_commands([of for of, _ in parts], gone, count_existing=True)
                kept = pa.array(alive)
                rows, entities, events = rows.filter(kept), entities.filter(kept), events[alive]
            if self.session.options.expire:
                expire_ms = -(-(events + self.grace_us) // 1000)
        if rows.num_rows:
            packed = [(of, packer.pack(rows)) for of, packer in parts]
            yield from write_part_commands(packed, entities, expire_ms=expire_ms, count_existing=count_existing)


def _stored_as(view: FeatureView) -> list[tuple[str, DType, bool]]:
    return [(feature.name, feature.dtype, bool(feature.pii)) for feature in view.features]
