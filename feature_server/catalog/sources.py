"""What waits on its way into each event source, and what was refused: the part of `features status` on live events.

Reads see pushed events at once. They are late where they have not landed in files for twice the time between refreshes,
for then the last build lacked them. When something was pushed, and how long it waits, is told by Redis' own clock.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..definitions.facts import FeatureView
from ..definitions.stream import EventSource
from ..errors import OnlineStoreError
from ..history.live import entry_seconds, read_live
from ..history.log import landing_folder, last_logged, live_files, logged
from ..online.memory import lost_pushes
from ..online.registry import OnlineRegistry
from ..online.store import OnlineStore, redis_errors
from ..times import EPOCH, from_us, to_us
from .lateness import allowed_delay, span

COUNTED_PUSHES = 2_000  # up to so many entries of a log their events are counted, which means reading them


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One event source; `problems` is empty when all is well.

    Pushed and not landed yet: `pushes` entries of the log with `events` events, None where they are too many to count;
    the first came `oldest_seconds` ago. `unread` entries of the producers' stream are not taken in yet, the first of
    them `unread_seconds` old. `newest_event` is the latest event time in the log or, if it is empty, in the file that
    landed last, or in the offline tables of `views`.
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

    def with_published(self, newest: Mapping[str, datetime | None]) -> Self:
        """With the newest event offline of each view taken into account."""
        known = [self.newest_event, *(newest[view] for view in self.views)]
        found = max((moment for moment in known if moment is not None), default=None)
        return msgspec.structs.replace(self, newest_event=found)


def source_status(
    source: EventSource,
    views: Iterable[FeatureView],
    online: OnlineStore | None,
    project_dir: Path,
    registry: OnlineRegistry | None = None,
) -> SourceStatus:
    """The state of one source; without `online` nothing was ever pushed. `registry` is what is online."""
    views = [view for view in views if view.stream is not None and view.stream.source == source.name]
    names = tuple(view.id for view in views)
    if online is None:
        return SourceStatus(source=source.name, views=names)
    live = msgspec.structs.asdict(read_live(online, source.name))
    folder, problems = None, list[str]()
    try:
        folder = landing_folder(source, project_dir)
    except OnlineStoreError as error:
        problems.append(f"cannot land: {error}")
    last_push = live.pop("last_push_seconds")
    pushed_at = None if last_push is None else EPOCH + timedelta(seconds=last_push)
    events, newest = _logged_events(source, online, live["pushes"], folder)
    status = SourceStatus(views=names, events=events, last_pushed_at=pushed_at, newest_event=newest, **live)
    cadences = [view.refresh for view in views if allowed_delay(view.refresh) is not None]
    refresh = min(cadences, key=allowed_delay, default=None)  # type: ignore[arg-type]
    problems += [*_lost(status, online, registry, folder), *_late(status, refresh), *_dead_letters(status, online)]
    return msgspec.structs.replace(status, problems=tuple(problems))


def _logged_events(
    source: EventSource, online: OnlineStore, pushes: int, folder: Path | None
) -> tuple[int | None, datetime | None]:
    """How many events are in the log, None for too many; the newest event there, or of the file that landed last."""
    if pushes > COUNTED_PUSHES:
        last, events = last_logged(online, source), None
        tables = [last] if last is not None else []
    else:
        tables = list(logged(online, source))
        events = sum(table.num_rows for table in tables)
        tables = tables or _last_landed(folder, source.event_timestamp)
    times = (pc.max(table[source.event_timestamp]).as_py() for table in tables)
    newest = max((to_us(time) for time in times if time is not None), default=None)
    return events, None if newest is None else from_us(newest)


def _lost(
    status: SourceStatus, online: OnlineStore, registry: OnlineRegistry | None, folder: Path | None
) -> Iterator[str]:
    """What is wrong when the log went before it had landed: as it was noticed, else as what it left behind tells."""
    if registry is None:
        return
    if status.source in registry.lost:
        yield lost_pushes(status.source, registry.lost[status.source], online.names)
    elif any(map(registry.is_doubtful, status.views)):
        with redis_errors():
            begun = online.client.exists(online.names.landing(status.source))
            begun = begun or (folder is not None and live_files(folder))
            if begun and not online.client.exists(online.names.log(status.source)):
                yield lost_pushes(status.source, None, online.names)


def _late(status: SourceStatus, refresh: str | None) -> Iterator[str]:
    """What is wrong when something waits for longer than the cadence of the source's views allows."""
    limit = allowed_delay(refresh)
    if limit is None:
        return
    if status.oldest_seconds is not None and status.oldest_seconds > limit.total_seconds():
        waiting = f"{status.pushes:,} pushes" if status.events is None else _counted(status.events)
        late = f"{waiting} for up to {span(status.oldest_seconds)}, {refresh} allows {span(limit.total_seconds())}"
        remedy = f"run `features stream {status.source} --once`, and look at its worker or at the DAG's task stream"
        yield f"not landed: {late}, so builds lack them; {remedy}"
    if status.unread_seconds is not None and status.unread_seconds > limit.total_seconds():
        waiting = f"{_counted(status.unread)} of producers for up to {span(status.unread_seconds)}"
        remedy = f"start its worker, `features stream {status.source}`"
        yield f"not taken in: {waiting}, so reads do not see them; {remedy}"


def _dead_letters(status: SourceStatus, online: OnlineStore) -> Iterator[str]:
    with redis_errors():
        last = online.client.xrevrange(online.names.dead(status.source), count=1)
    for written, fields in last:
        at = EPOCH + timedelta(seconds=entry_seconds(written))
        reason = fields.get(b"reason", b"no reason").decode(errors="replace")
        refused = f"{_counted(status.dead_letters)} refused"
        command = f"features stream {status.source} --dead"
        remedy = f"`{command}` prints them; correct the producer, and once they are dealt with `{command} --drop`"
        yield f"dead letters: {refused}, the last at {at:%Y-%m-%d %H:%M} UTC: {reason}; {remedy}"


def _counted(events: int) -> str:
    return f"{events:,} event{'s' * (events != 1)}"


def _last_landed(folder: Path | None, event_timestamp: str) -> list[pa.Table]:
    """The event times of the file that landed last."""
    files = live_files(folder) if folder is not None else []
    newest = max(files, key=lambda path: path.stat().st_mtime, default=None)
    return [] if newest is None else [pq.read_table(newest, columns=[event_timestamp])]
