"""Live events → records in Redis that reads see at once, and a log of them that the warehouse is fed from.

A push is one transaction: the records of each key it touches are appended, the keys get their expiry, and the events go
to the source's log. It holds only while the online registry is the one the records are laid out for. An event that is
sent twice lies in Redis twice and counts once, so a push may be repeated.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeAlias

import hiredis
import msgspec
import numpy as np
import pyarrow as pa

from ..definitions.facts import holds_pii
from ..definitions.registry import Registry
from ..errors import RequestError, UnknownNameError, cut
from ..layout import keys
from ..layout.events import same_records
from ..layout.portions import portions
from ..online.memory import evicted_at
from ..online.registry import OnlineRegistry, OnlineView, Patience, needs_of, registry_of, with_views
from ..online.store import OnlineStore
from ..slices import Slices
from .begun import BegunKeys
from .link import Absent, Changed, Link
from .packing import Packed, View, of_keys, pack
from .reader import Batch, EventReader, give_back, refusal
from .rows import RowQueries

# Commands as Redis reads them; the key's and the other value's lengths and bytes are still to come.
_APPEND = b"*3\r\n$6\r\nAPPEND\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
_ADD = b"*5\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n$6\r\nevents\r\n$%d\r\n"
_EXPIRE = b"*3\r\n$9\r\nPEXPIREAT\r\n$%d\r\n%b\r\n"
Read: TypeAlias = Callable[[EventReader], list[Batch]]
Columns: TypeAlias = bytes | msgspec.Raw | Mapping[str, Slices]
PART_BYTES = 1 << 20  # of events that are packed together
MAX_ENTRY_BYTES = 4 << 20  # of events in one entry of the log, unless one event is larger
MAX_REASON = 1000  # characters


class PushResult(msgspec.Struct, kw_only=True):
    """How many events were taken in, and the index of and reason for each that was not."""

    accepted: int
    rejected: list[tuple[int, str]]


class _Source:
    """One event source and the stream views over it, as one version of the online registry has them."""

    def __init__(self, online: OnlineRegistry, name: str, names: keys.Names) -> None:
        found = {source.name: source for source in online.registry.sources}
        if name not in found:
            raise UnknownNameError("event source", name, found, where="push_source_name")
        self.reader = EventReader(found[name])
        self.log = names.log(name)
        self.log_refused = False  # by what else is under its key: looked at before records are appended once more
        doubtful = {entry.code for view_id, entry in online.views.items() if online.is_doubtful(view_id)}
        targets = [(target.definition, target.code) for target in online.stream_targets(name)]
        self.views = [View(view, code, code in doubtful) for view, code in targets]
        personal = any(column.pii for column in found[name].columns) or any(holds_pii(view) for view, _ in targets)
        self.queries = RowQueries(pii=personal)
        views = [view for view in online.registry.feature_views if view.online and view.id not in online.views]
        self.missing = [view.id for view in views if view.stream and view.stream.source == name]


class _Written(NamedTuple):
    """One view's part of a transaction; the first reply for each key is its new length."""

    keys: list[bytes]
    sizes: list[int]
    commands: bytes
    commands_a_key: int


class Ingestor(AbstractContextManager["Ingestor"]):
    """Takes events into the online store of one Redis; threads may share one.

    `expire`: let keys expire by Redis' own clock; False where `now_us` stands still.
    """

    def __init__(self, redis_url: str, now_us: Callable[[], int], *, expire: bool = True) -> None:
        self._url, self._now_us, self._expire = redis_url, now_us, expire
        self._link = Link(redis_url)
        self._names = self._link.address.names
        self._lock = threading.Lock()
        self._epoch: bytes | None = None
        self._online: OnlineRegistry | None = None
        self._sources: dict[str, _Source] = {}
        self._begun = BegunKeys()

    def push(self, source: str, events: Sequence[Any]) -> PushResult:
        """Take in events given as mappings of the source's columns to Python values."""
        return self._push(source, lambda reader: [reader.read(events, self._now_us())])

    def push_lines(self, source: str, lines: Sequence[bytes]) -> PushResult:
        """Take in events given as JSON objects."""
        return self._push(source, lambda reader: [reader.read_lines(lines, self._now_us())])

    def push_columns(self, source: str, body: Columns) -> PushResult:
        """Take in events given as a JSON object with a list of values for each column."""
        return self._push(source, self._columns(body))

    def push_together(self, source: str, bodies: Sequence[Columns]) -> list[PushResult | RequestError]:
        """As `push_columns` for each, written as one push; a body whose columns are wrong gets its error."""
        return self._take_in(source, [self._columns(body) for body in bodies])

    def _columns(self, body: Columns) -> Read:
        if isinstance(body, bytes | msgspec.Raw):
            return lambda reader: [reader.read_columns(body, self._now_us())]
        return lambda reader: reader.read_slices(body, self._now_us())

    def prepare(self) -> None:
        """Have at hand what pushes need before one comes: each source with all its views online, and their SQL."""
        with self._lock:
            self._load()
            assert self._online is not None
            for name in [source.name for source in self._online.registry.sources]:
                source = _Source(self._online, name, self._names)
                if source.views and not source.missing:
                    for view in source.views:
                        source.queries.rows(view.view, source.reader.nothing)
                    self._sources[name] = source

    def refresh(self) -> None:
        """Take up another version of the online registry now, where there is one, and not with the next push."""
        with self._lock:
            if self._epoch is not None and self._link.ask(b"GET", self._names.epoch) != self._epoch:
                self._load()

    def close(self) -> None:
        self._link.close()
        self._forget_sources()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _push(self, source: str, read: Read) -> PushResult:
        (result,) = self._take_in(source, [read])
        if isinstance(result, RequestError):
            raise result
        return result

    def _take_in(self, name: str, reads: Sequence[Read]) -> list[PushResult | RequestError]:
        """Read and write batches as one push, by the definitions in force: what they refuse is refused for good."""
        with self._lock:
            patience = Patience()
            while True:
                patience.begin()
                source, found = self._source(name), list[list[Batch] | RequestError]()
                for read in reads:
                    try:
                        found.append(read(source.reader))
                    except RequestError as error:
                        found.append(error)
                    except Exception as error:  # noqa: BLE001 - see `refusal`
                        found.append(RequestError("the events cannot be read", where="df", got=cut(refusal(error))))
                try:
                    self._commit(source, [batch for each in found if isinstance(each, list) for batch in each])
                except Changed:
                    self._epoch = None
                else:
                    return [_result(each) if isinstance(each, list) else each for each in found]

    def _commit(self, source: _Source, batches: Sequence[Batch]) -> None:
        """Write the batches; Changed when the online registry is no longer the one they were read by."""
        now_us = self._now_us()
        members = list(portions(batches, lambda batch: batch.table.nbytes, len(batches), PART_BYTES))
        parts = list(map(_joined, members))
        packed = pack(source.queries, source.views, parts)
        if not any(part.table.num_rows for part in parts):
            if self._link.ask(b"GET", self._names.epoch) != self._epoch:
                raise Changed
        else:
            log = _entries(pa.concat_tables(part.table for part in parts))
            if source.log_refused:
                self._link.ask(b"XLEN", source.log)
                source.log_refused = False
            written, replies = self._push_all(source, [each for of_part in packed for each in of_part], log, now_us)
            rest = iter(written)
            for part, of_part in zip(parts, packed, strict=True):
                refused = dict[int, str]()
                for each in of_part:
                    count = len((done := next(rest)).keys) * done.commands_a_key
                    refused |= self._appended(source, each, part, done, replies[:count], now_us)
                    del replies[:count]
                part.refuse(refused)
            source.log_refused = hiredis.ReplyError in set(map(type, replies))
            for reply in replies:
                self._link.check(reply)
        for together, part in zip(members, parts, strict=True):
            give_back(together, dict(part.rejected))

    def _appended(
        self, source: _Source, packed: Packed, part: Batch, written: _Written, replies: list[Any], now_us: int
    ) -> dict[int, str]:
        """Look at the replies to what was written of a view; which events are not there, and why."""
        view, refused, lengths = packed.view, dict[int, str](), replies[:: written.commands_a_key]
        if hiredis.ReplyError in set(map(type, lengths)):
            replied = zip(written.keys, lengths, strict=True)
            failed = {key: str(reply) for key, reply in replied if isinstance(reply, hiredis.ReplyError)}
            refused = of_keys(source.queries, view, part.table, failed)
            lengths = [0 if key in failed else length for key, length in zip(written.keys, lengths, strict=True)]
        self._begun.add(written.keys, written.sizes, lengths)
        view.trimmer.grown(self._link, written.keys, lengths, now_us)
        return refused

    def _push_all(
        self, source: _Source, packed: Sequence[Packed], log: Sequence[memoryview], now_us: int
    ) -> tuple[list[_Written], list[Any]]:
        """Write the records and the log in one transaction; what was written of each view, and the replies.

        A key of a doubtful view that is not there stays so, for it may have been evicted: a read of it is an error, and
        the full sync to come takes its events from the log.
        """
        absent = frozenset[bytes]()
        while True:
            written = [self._written(each, now_us, absent) for each in packed]
            pairs = zip(packed, written, strict=True)
            needed = dict.fromkeys(key for each, done in pairs if each.view.doubtful for key in done.keys)
            count = len(log) + sum(len(each.keys) * each.commands_a_key for each in written)
            commands: list[bytes | memoryview] = [each.commands for each in written]
            for entry in log:
                commands += (_ADD % (len(source.log), source.log, len(entry)), entry, b"\r\n")
            try:
                return written, self._link.push(self._epoch, commands, count, list(needed))
            except Absent as found:
                absent |= found.keys

    def _source(self, name: str) -> _Source:
        """The source as the online registry has it; views that are not online yet are put there."""
        loaded_before = self._epoch is not None
        if self._epoch is None:
            self._load()
        assert self._online is not None
        if name in self._sources:
            return self._sources[name]
        try:
            source = _Source(self._online, name, self._names)
        except UnknownNameError:
            if not loaded_before:
                raise
        else:
            if not source.missing:
                return self._sources.setdefault(name, source)
            with OnlineStore(self._url) as store:
                put_streams_online(store, self._online.registry, source.missing, now_us=self._now_us())
        self._epoch = None  # the registry has just changed, or the source may have come since
        return self._source(name)

    def _load(self) -> None:
        """Load the online registry; where keys were found to be evicted since, take away those begun meanwhile."""
        epoch, stored = self._link.ask(b"MGET", *self._names.reload)
        self._forget_sources()
        online = registry_of(epoch, stored, evicted_at(self._url) if None in (epoch, stored) else None, self._names)
        if self._online and online.evictions > self._online.evictions and (begun := self._begun.take()):
            self._link.ask(b"UNLINK", *begun)
        self._online, self._epoch = online, epoch

    def _forget_sources(self) -> None:
        for source in self._sources.values():
            source.queries.close()
        self._sources.clear()

    def _written(self, packed: Packed, now_us: int, absent: Collection[bytes]) -> _Written:
        """Appends each key's records and renews its expiry."""
        view = packed.view
        keyed = zip(map(view.key, packed.events.entities), packed.events.records, strict=True)
        pairs = [(key, records) for key, records in keyed if key not in absent] if absent else list(keyed)
        row_keys, sizes = [key for key, _ in pairs], [len(records) for _, records in pairs]
        if not self._expire or view.retention_us is None:
            commands = [_APPEND % (len(key), key, len(records), records) for key, records in pairs]
            return _Written(row_keys, sizes, b"".join(commands), 1)
        until = b"%d" % -(-(now_us + view.retention_us) // 1000)
        command = _APPEND + _EXPIRE + b"$%d\r\n%b\r\n" % (len(until), until)
        commands = [command % (len(key), key, len(records), records, len(key), key) for key, records in pairs]
        return _Written(row_keys, sizes, b"".join(commands), 2)


def _joined(batches: Sequence[Batch]) -> Batch:
    """Their events as one batch of their own."""
    table = pa.concat_tables(batch.table for batch in batches).combine_chunks()
    return Batch(table, np.arange(table.num_rows), 0, [])


def _result(batches: Sequence[Batch]) -> PushResult:
    rejected = [each for batch in batches for each in sorted(batch.rejected)]
    return PushResult(
        accepted=sum(batch.sent for batch in batches) - len(rejected),
        rejected=[(index, _readable(reason)) for index, reason in rejected],
    )


def _readable(reason: str) -> str:
    """A reason as any answer or dead letter can say it: short, though the value may not be, and in UTF-8."""
    return cut(reason, MAX_REASON).encode(errors="backslashreplace").decode()


def _entries(events: pa.Table) -> list[memoryview]:
    """Events as the log keeps them."""
    if events.nbytes > MAX_ENTRY_BYTES and events.num_rows > 1:
        half = events.num_rows // 2
        return [*_entries(events.slice(0, half)), *_entries(events.slice(half))]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, events.schema) as writer:
        writer.write_table(events)
    return [memoryview(sink.getvalue())]


def put_streams_online(store: OnlineStore, registry: Registry, views: Sequence[str], *, now_us: int) -> OnlineRegistry:
    """Give each of these stream views a code, or a new one where its records are laid out anew."""
    codes: dict[str, str] = {}

    def change(now: OnlineRegistry | None) -> OnlineRegistry:
        online = dict(now.views) if now else {}
        for view_id in views:
            view, live = registry.feature_view(view_id), online.get(view_id)
            if live is not None and same_records(live.definition, view):
                online[view_id] = msgspec.structs.replace(live, definition=view)
                continue
            code = codes.get(view_id) or codes.setdefault(view_id, store.new_code(pii=holds_pii(view)))
            number = with_views(now, registry, online).format_of_new(view)
            online[view_id] = OnlineView(
                format=number, code=code, definition=view, table_version=0, synced_at_us=now_us, rows=0,
                needs=needs_of(view),
            )  # fmt: skip
        return with_views(now, registry, online)

    return store.publish(change)
