"""What waits on its way into each event source, and what was refused: the part of `features status` on live events.

Reads see pushed events at once. They are late where they have not landed in files for twice the time between refreshes,
for then the last build lacked them. When something was pushed, and how long it waits, is told by Redis' own clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .definitions import FeatureView
from .errors import OnlineStoreError
from .ingest_worker import DEAD, EVENTS, GROUP
from .online import OnlineStore, redis_errors
from .online_log import entry_id, landing_folder, last_logged, live_files, log_key, logged
from .settings import EPOCH
from .status_periods import allowed_delay, span
from .stream_plan import EventSource

COUNTED_PUSHES = 2_000  # up to so many entries of a log their events are counted, which means reading them
_PAGE = 1000


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One event source; `problems` is empty when all is well.

    Pushed and not landed yet: `pushes` entries of the log with `events` events, None where they are too many to count;
    the first came `oldest_seconds` ago. `unread` entries of the producers' stream are not taken in yet, the first of
    them `unread_seconds` old. `newest_event` is the latest event time in the log or, if it is empty, in the file that
    landed last.
    """

    source: str
    views: tuple[str, ...]
    pushes: int = 0
    events: int | None = 0
    oldest_seconds: float | None = None
    unread: int = 0
    unread_seconds: float | None = None
    dead_letters: int = 0
    last_pushed_at: datetime | None = None
    newest_event: datetime | None = None
    problems: tuple[str, ...] = ()


def source_status(
    source: EventSource, views: Iterable[FeatureView], online: OnlineStore | None, project_dir: Path
) -> SourceStatus:
    """The state of one source; without `online` nothing was ever pushed."""
    views = [view for view in views if view.stream is not None and view.stream.source == source.name]
    status = SourceStatus(source=source.name, views=tuple(view.id for view in views))
    if online is None:
        return status
    with redis_errors():
        seconds, microseconds = online.client.time()
    now = seconds + microseconds / 1e6
    try:
        folder = landing_folder(source, project_dir)
    except OnlineStoreError as error:
        folder, status = None, _add(status, f"cannot land: {error}")
    cadences = [view.refresh for view in views if allowed_delay(view.refresh) is not None]
    refresh = min(cadences, key=allowed_delay, default=None)  # type: ignore[arg-type]
    status = _add_log(status, source, online, now, refresh, folder)
    status = _add_unread(status, online, now, refresh)
    return _add_dead_letters(status, online)


def _add_log(
    status: SourceStatus, source: EventSource, online: OnlineStore, now: float, refresh: str | None, folder: Path | None
) -> SourceStatus:
    name = log_key(source.name)
    with redis_errors():
        pushes = int(online.client.xlen(name))
        first = online.client.xrange(name, count=1)
        last_id = online.client.xinfo_stream(name)["last-generated-id"] if online.client.exists(name) else None
    tables = [table for _, table in logged(online, source.name)] if 0 < pushes <= COUNTED_PUSHES else None
    events = sum(table.num_rows for table in tables) if tables is not None else 0 if not pushes else None
    last = last_logged(online, source.name)
    if tables is None:
        tables = [last] if last is not None else _last_landed(folder, source.event_timestamp)
    times = [pc.max(table[source.event_timestamp]).as_py() for table in tables if table.num_rows]
    age = max(0.0, now - _seconds(first[0][0])) if first else None
    status = msgspec.structs.replace(
        status,
        pushes=pushes,
        events=events,
        oldest_seconds=age,
        last_pushed_at=EPOCH + timedelta(seconds=_seconds(last_id)) if last_id and _seconds(last_id) else None,
        newest_event=max((time for time in times if time is not None), default=None),
    )
    limit = allowed_delay(refresh)
    if age is not None and limit is not None and age > limit.total_seconds():
        waiting = f"{pushes:,} pushes" if events is None else f"{events:,} event{'s' * (events != 1)}"
        problem = (
            f"not landed: {waiting} for up to {span(age)}, {refresh} allows {span(limit.total_seconds())}, so builds "
            f"lack them; run `features stream {source.name} --once`, look at its worker or at the DAG's task stream"
        )
        return _add(status, problem)
    return status


def _add_unread(status: SourceStatus, online: OnlineStore, now: float, refresh: str | None) -> SourceStatus:
    """Entries of the producers' stream that no worker has acknowledged."""
    name = EVENTS + status.source.encode()
    with redis_errors():
        if not online.client.exists(name):
            return status
        groups = {group["name"]: group for group in online.client.xinfo_groups(name)}
        group = groups.get(GROUP)
        after = b"(" + group["last-delivered-id"] if group else b"-"
        next_one = online.client.xrange(name, after, count=1)
        pending = online.client.xpending(name, GROUP) if group else {"pending": 0, "min": None}
        lag = group["lag"] if group and group["lag"] is not None else _count(online.client, name, after)
    firsts = [_seconds(found) for found in (next_one and next_one[0][0], pending["min"]) if found]
    unread = int(lag) + int(pending["pending"])
    age = max(0.0, now - min(firsts)) if firsts else None
    status = msgspec.structs.replace(status, unread=unread, unread_seconds=age)
    limit = allowed_delay(refresh)
    if age is not None and limit is not None and age > limit.total_seconds():
        waiting = f"{unread:,} event{'s' * (unread != 1)} of producers for up to {span(age)}"
        remedy = f"start its worker, `features stream {status.source}`"
        problem = f"not taken in: {waiting}, so reads do not see them; {remedy}"
        return _add(status, problem)
    return status


def _add_dead_letters(status: SourceStatus, online: OnlineStore) -> SourceStatus:
    name = DEAD + status.source.encode()
    with redis_errors():
        letters = int(online.client.xlen(name))
        last = online.client.xrevrange(name, count=1)
    if not letters:
        return status
    written, fields = last[0]
    at = EPOCH + timedelta(seconds=_seconds(written))
    reason = fields.get(b"reason", b"no reason").decode(errors="replace")
    refused = f"{letters:,} refused event{'s' * (letters != 1)}"
    remedy = f"read {name.decode()}, correct the producer, and once they are dealt with XTRIM {name.decode()} MAXLEN 0"
    problem = f"dead letters: {refused}, the last at {at:%Y-%m-%d %H:%M} UTC: {reason}; {remedy}"
    return _add(msgspec.structs.replace(status, dead_letters=letters), problem)


def _last_landed(folder: Path | None, event_timestamp: str) -> list[pa.Table]:
    """The event times of the file that landed last."""
    files = live_files(folder) if folder is not None else []
    return [pq.read_table(files[-1], columns=[event_timestamp])] if files else []


def _count(client: Any, name: bytes, after: bytes) -> int:
    """Entries of a stream after an id."""
    count = 0
    while entries := client.xrange(name, after, count=_PAGE):
        count, after = count + len(entries), b"(" + entries[-1][0]
    return count


def _seconds(name: bytes) -> float:
    """When an entry was added, by Redis' clock, in seconds since 1970."""
    return entry_id(name)[0] / 1000


def _add(status: SourceStatus, problem: str) -> SourceStatus:
    return msgspec.structs.replace(status, problems=(*status.problems, problem))
