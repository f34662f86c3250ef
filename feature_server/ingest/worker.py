"""The worker of an event source: events that producers put in a Redis stream go online, those pushed land in files.

Producers add events to `features:events:<source>`, each as JSON in the field `event`. The worker reads them as a member
of the consumer group `features`, pushes them, and acknowledges them together with what it writes about those refused to
`features:dead:<source>`: an event that was read by a worker that was killed is pushed again, which counts once. Those
refused are kept there with the reason until somebody has dealt with them (`dead_letters`).

No two workers share a consumer name: each would take in again what the other has just read. A worker's own name says
which process it is (`processes`), so that the next one on its machine takes up at once what a killed one had read; what
one elsewhere had read is taken up after CLAIM_MS.
"""

import socket
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeAlias

import msgspec

from ..definitions.stream import EventSource
from ..errors import CannotLand, FeatureStoreError, KeysEvicted, NotSynced, OnlineStoreError, UnknownNameError
from ..history.live import entry_seconds
from ..history.log import entry_id, land, last_id, pages
from ..layout.keys import GROUP
from ..layout.portions import portions
from ..online.store import OnlineStore, once_more, redis_errors
from ..processes import parse_process, this_process
from ..times import EPOCH
from .transaction import Ingestor

BATCH_EVENTS = 1000
CLAIM_MS = 60_000  # how long another worker may keep an event before it is taken to be dead
LAND_SECONDS = 300.0
RETRY_SECONDS = 2.0
Entry: TypeAlias = tuple[bytes, dict[bytes, bytes] | None]  # None for one that was deleted before it was read


class Streamed(msgspec.Struct, kw_only=True):
    """What a worker has done: events taken in, refused, and landed in files."""

    source: str
    accepted: int = 0
    rejected: int = 0
    landed: int = 0
    files: int = 0

    def __str__(self) -> str:
        return (
            f"streamed {self.source} accepted={self.accepted} rejected={self.rejected} "
            f"landed={self.landed} files={self.files}"
        )


class Worker:
    """One worker; several may run for a source, on one machine or many that share the landing folder."""

    def __init__(
        self, online: OnlineStore, ingestor: Ingestor, source: EventSource, folder: Path, *, consumer: str = ""
    ) -> None:
        self.online, self.ingestor, self.source, self.folder = online, ingestor, source, folder
        self.consumer = consumer or f"{socket.gethostname()} {uuid.uuid4().hex[:8]} {this_process() or ''}"
        self._is_named = bool(consumer)
        self.done = Streamed(source=source.name)
        self._events, self._dead = online.names.events(source.name), online.names.dead(source.name)
        self._last_read = (0, 0)

    def run(
        self,
        *,
        once: bool = False,
        land_seconds: float = LAND_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        stopped: Callable[[], bool] = lambda: False,
        report: Callable[[str], None] = lambda line: None,
    ) -> Streamed:
        """Take in events and land them until `stopped`, or, with `once`, what there is now.

        Events of a source that is not online yet stay in the stream until it is. Without `once` it waits for a Redis
        that does not answer, or refuses, and goes on; it takes in events also while the files cannot be written.
        """
        if once:
            once_more(self._join)
            try:
                once_more(partial(self._take_all, stopped))
            except (NotSynced, KeysEvicted, UnknownNameError) as error:  # a sync may come next
                report(self._waiting(error))
            once_more(partial(self._land, report))
            once_more(self._leave)
            return self.done
        next_landing, trouble = time.monotonic() + land_seconds, "not begun"
        while not stopped():
            try:
                if trouble:
                    self._join()
                    self._take_pending()
                    trouble = ""
                self.take(block_ms=500)
                if time.monotonic() >= next_landing:
                    next_landing = time.monotonic() + land_seconds
                    self._land(report)
            except CannotLand as error:
                report(f"not landed: {error.what} in {error.where} ({error.got}): {error.remedy}")
            except (UnknownNameError, OnlineStoreError) as error:
                if trouble != self._waiting(error):
                    trouble = self._waiting(error)
                    report(trouble)
                self.online.client.connection_pool.disconnect()  # the address may be another server's by now
                time.sleep(retry_seconds)
        once_more(partial(self._land, report))
        once_more(self._leave)
        return self.done

    def _take_all(self, stopped: Callable[[], bool]) -> None:
        """Take in what this worker had read when it was stopped, and what is in the stream now."""
        newest = last_id(self.online, self._events)
        self._take_pending()
        while newest and not stopped() and self.take() and self._last_read < newest:
            pass

    def _waiting(self, error: FeatureStoreError) -> str:
        if isinstance(error, NotSynced | UnknownNameError):
            return (
                f"{self.source.name} is not online yet, its events wait in {self._events.decode()}: run `features sync`"
            )
        return f"waiting for Redis: {error.what} ({error.got}): {error.remedy}"

    def take(self, *, block_ms: int | None = None) -> int:
        """Take in a batch of events that nobody has read, or that a worker read and then kept; how many."""
        with redis_errors():
            claimed = self.online.client.xautoclaim(
                self._events, GROUP, self.consumer, min_idle_time=CLAIM_MS, count=BATCH_EVENTS
            )[1]
            if not claimed:
                claimed = self._read(">", block_ms)
                self._last_read = entry_id(claimed[-1][0]) if claimed else self._last_read
        self._push(claimed)
        return len(claimed)

    def _take_pending(self) -> None:
        """Take in what this worker had read when it was stopped."""
        while entries := self._read("0"):
            self._push(entries)

    def _read(self, after: str, block_ms: int | None = None) -> list[Entry]:
        """Entries of the producers' stream for this worker: those that nobody has read (`>`), or its own again."""
        with redis_errors():
            found = self.online.client.xreadgroup(
                GROUP, self.consumer, {self._events: after}, count=BATCH_EVENTS, block=block_ms
            )
        return found[0][1] if found else []

    def _push(self, entries: list[Entry]) -> None:
        """Push events in order, a portion at a time; acknowledge each and keep what it refuses, both or neither."""
        for portion in portions(entries, lambda entry: sum(map(len, (entry[1] or {}).values())), BATCH_EVENTS):
            present = [(name, fields) for name, fields in portion if fields]
            events = [(name, fields[b"event"]) for name, fields in present if b"event" in fields]
            reasons = {name: "no field `event`" for name, fields in present if b"event" not in fields}
            if events:
                result = self.ingestor.push_lines(self.source.name, [event for _, event in events])
                reasons |= {events[index][0]: reason for index, reason in result.rejected}
                self.done.accepted += result.accepted
            with redis_errors(), self.online.client.pipeline() as pipeline:
                for name, fields in present:
                    if name in reasons:
                        pipeline.xadd(self._dead, {**fields, b"id": name, b"reason": reasons[name].encode()})
                pipeline.xack(self._events, GROUP, *[name for name, _ in portion])
                pipeline.execute()
            self.done.rejected += len(reasons)

    def _land(self, report: Callable[[str], None]) -> None:
        landed = land(self.online, self.source, self.folder)
        self.done.landed += landed.events
        self.done.files += len(landed.files)
        self.done.rejected += landed.refused
        if landed.events or landed.refused:
            report(str(landed))
        self._trim()

    def _trim(self) -> None:
        """Drop what has been taken in from the producers' stream, where no other group reads it."""
        with redis_errors():
            groups = self.online.client.xinfo_groups(self._events)
            pending = self.online.client.xpending(self._events, GROUP)
            if len(groups) == 1:
                milliseconds, sequence = entry_id(groups[0]["last-delivered-id"])
                first = pending["min"] or f"{milliseconds}-{sequence + 1}"
                self.online.client.xtrim(self._events, minid=first, approximate=False)

    def _join(self) -> None:
        """Make the consumer group where there is none, and take over from workers known to have ended."""
        try:
            with redis_errors():
                self.online.client.xgroup_create(self._events, GROUP, id="0", mkstream=True)
        except OnlineStoreError as error:
            if "BUSYGROUP" not in (error.got or ""):
                raise
        with redis_errors():
            consumers = self.online.client.xinfo_consumers(self._events, GROUP)
        for name in (consumer["name"] for consumer in consumers):
            process = parse_process(" ".join(name.decode(errors="replace").split(" ")[2:]))
            if process is not None and process.has_ended:
                self._take_over(name)

    def _take_over(self, consumer: bytes) -> None:
        """Make this worker's what another had read and not acknowledged, and forget that one."""
        client, stream = self.online.client, self._events
        with redis_errors():
            while left := client.xpending_range(stream, GROUP, "-", "+", BATCH_EVENTS, consumername=consumer):
                client.xclaim(stream, GROUP, self.consumer, 0, [entry["message_id"] for entry in left], justid=True)
            client.xgroup_delconsumer(stream, GROUP, consumer)

    def _leave(self) -> None:
        """Forget this worker's own name, where nothing waits under it."""
        with redis_errors():
            if not self._is_named and not self.online.client.xpending_range(
                self._events, GROUP, "-", "+", 1, consumername=self.consumer
            ):
                self.online.client.xgroup_delconsumer(self._events, GROUP, self.consumer)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event as its producer wrote it, None for an entry without one; `id` is that of the producers' stream.

    Bytes that are not UTF-8 are shown as `\\xff`.
    """

    id: str
    refused_at: datetime
    reason: str
    event: str | None


def dead_letters(online: OnlineStore, source: str, *, drop: bool = False) -> Iterator[DeadLetter]:
    """The refused events of a source, oldest first; with `drop` those that were given are deleted."""
    name = online.names.dead(source)
    for entries in pages(online, name):
        for entry, fields in entries:
            event = fields.get(b"event")
            yield DeadLetter(
                id=fields.get(b"id", b"").decode(errors="replace"),
                refused_at=EPOCH + timedelta(seconds=entry_seconds(entry)),
                reason=fields.get(b"reason", b"").decode(errors="replace"),
                event=None if event is None else event.decode(errors="backslashreplace"),
            )
        if drop:
            with redis_errors():
                online.client.xdel(name, *[entry for entry, _ in entries])
