"""All events of a stream view that are known anywhere: in its offline table, in landed files, in the log in Redis.

A DuckDB session with the relations `stored` (the offline table), `live` (files and log, by the view's own SQL) and
`known` (both, each version of an event once; the offline table's where both have it).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ..definitions.facts import FeatureView, event_view
from ..definitions.stream import EventSource
from ..errors import OnlineStoreError
from ..layout.events import bounded_us, plan_of, retention_us
from ..offline.sql import columns, literal, quote, sql_type
from ..offline.store import OfflineTable
from ..offline.warehouse import connect
from ..online.store import OnlineStore
from .log import EntryId, last_id, live_files, logged

BATCH_ROWS = 50_000


class History:
    """The events of one stream view in a DuckDB session; open it with `open_history`."""

    def __init__(self, connection: Any, view: FeatureView, known_by_us: int | None = None) -> None:
        self.connection, self.view, self.known_by_us = connection, view, known_by_us
        self.columns = [quote(column.name) for column in columns(event_view(view))]
        self.keys = [quote(name) for name in view.key_names]
        order = "order by created_timestamp desc, event_timestamp desc"
        self.version = f"row_number() over (partition by {', '.join(self.keys)}, event_id {order})"  # 1: in force

    def store(self, table: OfflineTable | None) -> None:
        """Make `stored` and `known` from a version of the offline table, or from none."""
        scan = table.scan_sql() if table is not None else self._nothing()
        names = ", ".join(self.columns)
        self.connection.execute(f"create or replace temp view stored as select {names} from ({scan})")
        same = " and ".join(f"s.{name} = l.{name}" for name in [*self.keys, "event_id", "created_timestamp"])
        self.connection.execute(
            f"create or replace temp view known as select {names} from stored union all select {names} from live l "
            f"where not {self.ahead} and not exists (select 1 from stored s where {same})"
        )

    @property
    def ahead(self) -> str:
        """SQL for whether an event says to be created after `known_by_us`: no build has it, no correction beats it."""
        known_by_us = self.known_by_us
        return "false" if known_by_us is None else f"created_timestamp > make_timestamptz({known_by_us})"

    def wanted(self, *, now_us: int, grace_us: int, changed: bool = False) -> str:
        """A SELECT of the events that reads from now on may need, lifetime windows aside (see `history.bases`).

        With `changed`, of the keys in relation `changed`.
        """
        known = "known"
        if changed:
            known = f"(select known.* from known semi join changed using ({', '.join(self.keys)}))"
        cut = f"make_timestamptz({now_us - bounded_us(self.view) - grace_us})"
        keys = ", ".join(self.keys)
        rank = f"row_number() over (partition by {keys} order by event_timestamp desc, created_timestamp desc)"
        newest = (
            f"select event_id from (select *, {self.version} as version from {known}) where version = 1 and counts "
            f"and event_timestamp <= make_timestamptz({now_us}) qualify {rank} = 1"
        )
        recent = f"select event_id from {known} where event_timestamp >= {cut}"
        chosen = f"event_timestamp >= {cut} or event_id in ({recent})"
        if retention_us(self.view) is None:  # a plain column has its latest event's value, however old
            chosen += f" or event_id in ({newest})"
        present = " and ".join(f"{name} is not null" for name in self.keys)
        return (
            f"select {', '.join(self.columns)} from {known} where {present} and ({chosen}) "
            f"order by {', '.join(self.keys)}, event_timestamp, created_timestamp"
        )

    def find_changes(self, table: OfflineTable, before: Sequence[OfflineTable]) -> int:
        """Find the keys with rows that differ between the table and any version of it before; how many there are."""
        names = ", ".join(self.columns)
        self.connection.execute(f"create temp table removed as select {names} from ({self._nothing()})")
        self.connection.execute(f"create temp table added as select {names} from ({self._nothing()})")
        for version in before:
            new, old = set(table.files()), set(version.files())
            added, removed = table.scan_sql(files=new - old), version.scan_sql(files=old - new)
            for name, one, other in (("added", added, removed), ("removed", removed, added)):
                self.connection.execute(
                    f"insert into {name} select {names} from ({one}) except all select {names} from ({other})"
                )
        keys = ", ".join(self.keys)
        present = " and ".join(f"{name} is not null" for name in self.keys)
        self.connection.execute(
            f"create temp table all_changed as select {keys}, row_number() over (order by {keys}) - 1 as n from "
            f"(select {keys} from added union select {keys} from removed) where {present}"
        )
        (count,) = self.connection.execute("select count(*) from all_changed").fetchone()
        return int(count)

    def choose_changed(self, start: int, count: int) -> None:
        """Make `changed`: some of the keys found to have changed."""
        self.connection.execute(
            f"create or replace temp table changed as select {', '.join(self.keys)} from all_changed "
            f"where n >= {start} and n < {start + count}"
        )

    def gone(self) -> str:
        """A SELECT of the rows that the table no longer has, of the keys in `changed`."""
        keys = ", ".join(self.keys)
        return (
            f"select {', '.join(self.columns)} from removed semi join changed using ({keys}) "
            f"order by {keys}, event_timestamp, created_timestamp"
        )

    def live_keys(self) -> str:
        """A SELECT of the keys of landed and logged events, once each, with the newest event time."""
        keys = ", ".join(self.keys)
        return f"select {keys} from live group by {keys}"

    def tables(self, sql: str) -> Iterator[pa.Table]:
        """The rows of a query, a part at a time."""
        with self._errors("the events of the view"):
            batches = iter(self.connection.sql(sql).to_arrow_reader(BATCH_ROWS))
        while True:
            with self._errors("the events of the view"):
                batch = next(batches, None)
            if batch is None:
                return
            if batch.num_rows:
                yield pa.Table.from_batches([batch])

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """DuckDB's refusals, such as of a sum too large for its type, as this product's."""
        try:
            yield
        except (duckdb.Error, pa.ArrowException) as error:
            raise OnlineStoreError(
                f"the SQL of the view fails on {what}", where=self.view.path or self.view.id,
                got=str(error).splitlines()[0], remedy="correct the model, then `features apply` and `dbt build`",
            ) from None  # fmt: skip

    def _nothing(self) -> str:
        nulls = ", ".join(
            f"cast(null as {sql_type(column.dtype)}) as {quote(column.name)}"
            for column in columns(event_view(self.view))
        )
        return f"select {nulls} where false"

    def load(self, online: OnlineStore, source: EventSource, folder: Path, *, until: EntryId | None = None) -> None:
        """Make `live` from the log, up to an entry or all of it, and the files in `folder`.

        The log is read before the files are listed: what moves to a file in between is found in both, or in the file.
        """
        newest = until or last_id(online, source.name)
        log = [] if newest is None else list(logged(online, source, until=newest))
        self._load_live(source, live_files(folder), log)

    def _load_live(self, source: EventSource, files: Iterable[Path], log: Iterable[pa.Table]) -> None:
        """Make `live`: the view's rows of landed files and of log entries, each version of an event once."""
        known = ", ".join(literal(column.name) for column in source.columns)
        chosen = (
            f"insert into events by name select columns(lambda name: name in ({known}))"  # others are null, or gone
        )
        listed = ", ".join(f"{quote(column.name)} {sql_type(column.dtype)}" for column in source.columns)
        self.connection.execute(f"create or replace temp table events ({listed})")
        paths = ", ".join(literal(str(path)) for path in files)
        with self._errors("live events"):
            if paths:
                self.connection.execute(f"{chosen} from read_parquet([{paths}], union_by_name = true)")
            for table in log:
                self.connection.register("entry", table)
                self.connection.execute(f"{chosen} from entry")
                self.connection.unregister("entry")
        wanted = ", ".join(
            f"cast({quote(column.name)} as {sql_type(column.dtype)}) as {quote(column.name)}"
            for column in columns(event_view(self.view))
        )
        once = ", ".join([*self.keys, "event_id", "created_timestamp"])
        present = " and ".join(f"{name} is not null" for name in self.keys)
        with self._errors("live events"):
            self.connection.execute(
                f"create or replace temp table live as select distinct on ({once}) {wanted} "
                f"from ({plan_of(self.view).row_sql}) where {present}"
            )
        self.connection.execute("drop table events")


@contextmanager
def open_history(
    view: FeatureView,
    table: OfflineTable | None,
    *,
    spill: Path,
    live: tuple[OnlineStore, EventSource, Path] | None = None,
    known_by_us: int | None = None,
) -> Iterator[History]:
    """The events of a view; `live` gives the online store, the source and the folder of landed files, if they count.

    With `known_by_us` live events created later than that are not `known`.
    """
    connection = connect(spill)
    try:
        history = History(connection, view, known_by_us)
        if live is None:
            connection.execute(f"create temp table live as {history._nothing()}")
        else:
            history.load(*live)
        history.store(table)
        yield history
    finally:
        connection.close()
