"""Live events → records in Redis that reads see at once, and a log of them that the warehouse is fed from.

A push is one transaction: the records of each key it touches are appended, the keys get their expiry, and the events go
to the source's log. It holds only while the online registry is the one the records are laid out for. An event that is
sent twice lies in Redis twice and counts once, so a push may be repeated.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeAlias

import hiredis
import msgspec
import numpy as np
import pyarrow as pa

from ..definitions.facts import FeatureView
from ..definitions.registry import Registry
from ..errors import OnlineStoreUnavailable, RequestError, UnknownNameError, cut, shown
from ..layout import keys
from ..layout.events import COUNTS, CREATED, EVENT, EVENT_ID, GRACE_US, retention_us, same_records, window_us
from ..layout.records import EventPacker, PackedEvents
from ..online.memory import evicted_at
from ..online.registry import OnlineRegistry, OnlineView, registry_of, with_views
from ..online.store import OnlineStore
from .begun import BegunKeys
from .link import Absent, Changed, Link
from .reader import Batch, EventReader, by_halves, give_back, refusal
from .rows import RowQueries
from .trim import Trimmer

# Commands as Redis reads them; the key's and the other value's lengths and bytes are still to come.
_APPEND = b"*3\r\n$6\r\nAPPEND\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
_EXPIRE = b"*3\r\n$9\r\nPEXPIREAT\r\n$%d\r\n%b\r\n"
Read: TypeAlias = Callable[[EventReader], Batch]
MAX_ENTRY_BYTES = 64 << 20  # of events in one entry of the log, unless one event is larger: Redis takes 512 MB
MAX_REASON = 1000  # characters
ATTEMPTS = 8  # how often the online registry may change under one push


class PushResult(msgspec.Struct, kw_only=True):
    """How many events were taken in, and the index of and reason for each that was not."""

    accepted: int
    rejected: list[tuple[int, str]]


class _View:
    """Where and how the events of one stream view are written."""

    def __init__(self, view: FeatureView, code: str, doubtful: bool) -> None:
        self.view, self.code, self.doubtful = view, code.encode(), doubtful
        self.packer = EventPacker(view)
        retention = retention_us(view)
        self.retention_us = None if retention is None else retention + 2 * GRACE_US
        window = window_us(view)
        self.trimmer = Trimmer(view, None if window is None else window + GRACE_US)

    def key(self, entity: bytes) -> bytes:
        return b"%b{%b}" % (self.code, entity)


class _Source:
    """One event source and the stream views over it, as one version of the online registry has them."""

    def __init__(self, online: OnlineRegistry, name: str) -> None:
        found = {source.name: source for source in online.registry.sources}
        if name not in found:
            raise UnknownNameError("event source", name, found, where="push_source_name")
        self.reader = EventReader(found[name])
        self.queries = RowQueries()
        self.log = keys.LOG + name.encode()
        self.log_refused = False  # by what else is under its key: looked at before records are appended once more
        doubtful = {entry.code for view_id, entry in online.views.items() if online.is_doubtful(view_id)}
        targets = [(target.definition, target.code) for target in online.stream_targets(name)]
        self.views = [_View(view, code, code in doubtful) for view, code in targets]
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
        self._link = Link(redis_url, keys.EPOCH)
        self._lock = threading.Lock()
        self._epoch: bytes | None = None
        self._online: OnlineRegistry | None = None
        self._sources: dict[str, _Source] = {}
        self._begun = BegunKeys()

    def push(self, source: str, events: Sequence[Any]) -> PushResult:
        """Take in events given as mappings of the source's columns to Python values."""
        return self._push(source, lambda reader: reader.read(events, self._now_us()))

    def push_lines(self, source: str, lines: Sequence[bytes]) -> PushResult:
        """Take in events given as JSON objects."""
        return self._push(source, lambda reader: reader.read_lines(lines, self._now_us()))

    def push_columns(self, source: str, body: bytes | msgspec.Raw) -> PushResult:
        """Take in events given as a JSON object with a list of values for each column."""
        return self._push(source, self._columns(body))

    def push_together(self, source: str, bodies: Sequence[bytes | msgspec.Raw]) -> list[PushResult | RequestError]:
        """As `push_columns` for each, written as one push; a body whose columns are wrong gets its error."""
        return self._take_in(source, [self._columns(body) for body in bodies])

    def _columns(self, body: bytes | msgspec.Raw) -> Read:
        return lambda reader: reader.read_columns(body, self._now_us())

    def refresh(self) -> None:
        """Take up another version of the online registry now, where there is one, and not with the next push."""
        with self._lock:
            if self._epoch is not None and self._link.ask(b"GET", keys.EPOCH) != self._epoch:
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
            for _ in range(ATTEMPTS):
                source, found = self._source(name), list[Batch | RequestError]()
                for read in reads:
                    try:
                        found.append(read(source.reader))
                    except RequestError as error:
                        found.append(error)
                    except Exception as error:  # noqa: BLE001 - see `refusal`
                        found.append(RequestError("the events cannot be read", where="df", got=cut(refusal(error))))
                try:
                    self._commit(source, [batch for batch in found if isinstance(batch, Batch)])
                except Changed:
                    self._epoch = None
                else:
                    return [_result(batch) if isinstance(batch, Batch) else batch for batch in found]
        raise OnlineStoreUnavailable(
            "the online registry keeps changing", got="another version at each attempt", remedy="push again"
        )

    def _commit(self, source: _Source, batches: Sequence[Batch]) -> None:
        """Write the batches; Changed when the online registry is no longer the one they were read by."""
        now_us, tables = self._now_us(), [batch.table for batch in batches] or [source.reader.nothing]
        table = pa.concat_tables(tables).combine_chunks()
        whole = Batch(table, np.arange(table.num_rows), 0, [])
        packed = self._pack(source, whole)
        if not whole.table.num_rows:
            if self._link.ask(b"GET", keys.EPOCH) != self._epoch:
                raise Changed
        else:
            log = [
                hiredis.pack_command((b"XADD", source.log, b"*", b"events", entry)) for entry in _entries(whole.table)
            ]
            if source.log_refused:
                self._link.ask(b"XLEN", source.log)
                source.log_refused = False
            written, replies = self._push_all(packed, log, now_us)
            start, refused = 0, dict[int, str]()
            for (view, _), each in zip(packed, written, strict=True):
                stop = start + len(each.keys) * each.commands_a_key
                lengths = replies[start : stop : each.commands_a_key]
                if hiredis.ReplyError in set(map(type, lengths)):
                    replied = zip(each.keys, lengths, strict=True)
                    failed = {key: str(reply) for key, reply in replied if isinstance(reply, hiredis.ReplyError)}
                    refused |= self._of_keys(source, view, whole.table, failed)
                    lengths = [0 if key in failed else length for key, length in zip(each.keys, lengths, strict=True)]
                self._begun.add(each.keys, each.sizes, lengths)
                view.trimmer.grown(self._link, each.keys, lengths, now_us)
                start = stop
            source.log_refused = hiredis.ReplyError in set(map(type, replies[start:]))
            for reply in replies[start:]:
                self._link.check(reply)
            whole.refuse(refused)
        give_back(batches, dict(whole.rejected))

    def _push_all(
        self, packed: Sequence[tuple[_View, PackedEvents]], log: Sequence[bytes], now_us: int
    ) -> tuple[list[_Written], list[Any]]:
        """Write the records and the log in one transaction; what was written of each view, and the replies.

        A key of a doubtful view that is not there stays so, for it may have been evicted: a read of it is an error, and
        the full sync to come takes its events from the log.
        """
        absent = frozenset[bytes]()
        while True:
            written = [self._written(view, batch, now_us, absent) for view, batch in packed]
            needed = [
                key for (view, _), each in zip(packed, written, strict=True) if view.doubtful for key in each.keys
            ]
            count = len(log) + sum(len(each.keys) * each.commands_a_key for each in written)
            commands = b"".join([*(each.commands for each in written), *log])
            try:
                return written, self._link.push(self._epoch, commands, count, needed)
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
            source = _Source(self._online, name)
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
        epoch, stored = self._link.ask(b"MGET", keys.EPOCH, keys.REGISTRY)
        self._forget_sources()
        online = registry_of(epoch, stored, evicted_at(self._url) if None in (epoch, stored) else None)
        if self._online and online.evictions > self._online.evictions and (begun := self._begun.take()):
            self._link.ask(b"UNLINK", *begun)
        self._online, self._epoch = online, epoch

    def _forget_sources(self) -> None:
        for source in self._sources.values():
            source.queries.close()
        self._sources.clear()

    def _pack(self, source: _Source, batch: Batch) -> list[tuple[_View, PackedEvents]]:
        """The records of each view, after the events that any of them cannot take were refused."""
        packed: list[tuple[_View, PackedEvents]] = []
        while batch.table.num_rows:
            packed, wrong = [], dict[int, str]()
            for view in source.views:
                try:
                    packed.append((view, self._pack_view(source, view, batch.table)))
                except _Refused as refused:
                    wrong |= refused.reasons
                except Exception:  # noqa: BLE001 - see `refusal`; packing asks nothing of Redis
                    wrong |= self._find_wrong(source, view, batch.table)
            if not wrong:
                return packed
            batch.refuse(wrong)
        return []

    def _pack_view(self, source: _Source, view: _View, events: pa.Table) -> PackedEvents:
        rows = source.queries.rows(view.view, events)
        needed = (*view.view.key_names, EVENT, CREATED, EVENT_ID)
        if nulls := {name: rows[name].is_null().to_numpy() for name in needed if rows[name].null_count}:
            counts, wrong = rows[COUNTS].fill_null(pa.scalar(False)).to_numpy(), dict[int, str]()
            for name, null in nulls.items():
                for row in np.flatnonzero(null & counts).tolist():
                    wrong.setdefault(row, f"{name} of {view.view.id} is null")
            if wrong:
                raise _Refused(wrong)
            rows = rows.filter(pa.array(~np.any(list(nulls.values()), axis=0)))  # the model leaves these events out
        packed = view.packer.pack(rows)
        if moved := view.packer.moved(rows):
            raise _Refused(dict.fromkeys(moved, f"another version of the event has another key of {view.view.id}"))
        return packed

    def _find_wrong(self, source: _Source, view: _View, events: pa.Table) -> dict[int, str]:
        """Which events an expression of the view fails on."""

        def look(some: pa.Table) -> dict[int, str] | None:
            try:
                self._pack_view(source, view, some)
            except _Refused as refused:
                return refused.reasons
            except Exception as error:  # noqa: BLE001 - see `refusal`
                return {0: f"{view.view.id}: {refusal(error)}"} if some.num_rows == 1 else None
            return {}

        return by_halves(events, look)

    def _of_keys(self, source: _Source, view: _View, events: pa.Table, failed: dict[bytes, str]) -> dict[int, str]:
        """Which events belong to keys that Redis could not append to, such as one that another program wrote.

        They are in the log, and in what else was written with them: the key is right again when it is synced anew.
        """

        def look(some: pa.Table) -> dict[int, str] | None:
            here = failed.keys() & map(view.key, self._pack_view(source, view, some).entities)
            if not here or some.num_rows > 1:
                return None if here else {}
            key = here.pop()
            return {0: f"{view.view.id}: Redis cannot append to the key {shown(key)}: {failed[key]}; "
                       f"run `features sync --full {view.view.id}`, then send the event again"}  # fmt: skip

        return by_halves(events, look)

    def _written(self, view: _View, batch: PackedEvents, now_us: int, absent: Collection[bytes]) -> _Written:
        """Appends each key's records and renews its expiry."""
        keyed = zip(map(view.key, batch.entities), batch.records, strict=True)
        pairs = [(key, records) for key, records in keyed if key not in absent] if absent else list(keyed)
        row_keys, sizes = [key for key, _ in pairs], [len(records) for _, records in pairs]
        if not self._expire or view.retention_us is None:
            packed = [_APPEND % (len(key), key, len(records), records) for key, records in pairs]
            return _Written(row_keys, sizes, b"".join(packed), 1)
        until = b"%d" % -(-(now_us + view.retention_us) // 1000)
        command = _APPEND + _EXPIRE + b"$%d\r\n%b\r\n" % (len(until), until)
        packed = [command % (len(key), key, len(records), records, len(key), key) for key, records in pairs]
        return _Written(row_keys, sizes, b"".join(packed), 2)


def _result(batch: Batch) -> PushResult:
    return PushResult(
        accepted=batch.sent - len(batch.rejected),
        rejected=[(index, _readable(reason)) for index, reason in sorted(batch.rejected)],
    )


def _readable(reason: str) -> str:
    """A reason as any answer or dead letter can say it: short, though the value may not be, and in UTF-8."""
    return cut(reason, MAX_REASON).encode(errors="backslashreplace").decode()


class _Refused(Exception):
    """Events that a view cannot take: their position and why, `reasons`."""

    def __init__(self, reasons: dict[int, str]) -> None:
        self.reasons = reasons


def _entries(events: pa.Table) -> Iterator[bytes]:
    """Events as the log keeps them."""
    if events.nbytes > MAX_ENTRY_BYTES and events.num_rows > 1:
        half = events.num_rows // 2
        yield from _entries(events.slice(0, half))
        yield from _entries(events.slice(half))
        return
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, events.schema) as writer:
        writer.write_table(events)
    yield bytes(sink.getvalue())


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
            code = codes.get(view_id) or codes.setdefault(view_id, store.new_code())
            number = with_views(now, registry, online).format_of_new(view)
            online[view_id] = OnlineView(
                format=number, code=code, definition=view, table_version=0, synced_at_us=now_us, rows=0
            )
        return with_views(now, registry, online)

    return store.publish(change)
