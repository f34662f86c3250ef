"""All events of a stream view that are known anywhere: in its offline table, in landed files, in the log in Redis.

A DuckDB session with the relations `stored` (the offline table), `live` (files and log, by the view's own SQL) and
`known` (both, each version of an event once; the offline table's where both have it). What `known` has of `live` is
`unlanded`.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ..definitions.aggregates import is_ordered
from ..definitions.facts import FeatureView, event_view
from ..definitions.stream import EventSource
from ..dtypes import INTEGER_WIDTHS
from ..errors import OfflineStoreError, OnlineStoreError
from ..event_ids import event_id_numbers
from ..layout.events import bounded_us, plain_arguments, plan_of, retention_us
from ..offline.damage import check_present, reading
from ..offline.session import connect
from ..offline.sql import cast_list, columns, events_table, literal, quote, sql_type
from ..offline.store import OfflineTable
from ..online.store import OnlineStore
from .log import EntryId, last_id, live_files, logged

BATCH_ROWS = 50_000
LATER_PLACE = 2**62  # of a row that is in no file of the table


class History:
    """The events of one stream view in a DuckDB session; open it with `open_history`."""

    def __init__(self, connection: Any, view: FeatureView, known_by_us: int | None = None) -> None:
        self.connection, self.view, self.known_by_us = connection, view, known_by_us
        self.table: OfflineTable | None = None  # whose rows are `stored`
        self.columns = ", ".join(quote(column.name) for column in columns(event_view(view)))
        self.keys = ", ".join(quote(name) for name in view.key_names)
        self.present = " and ".join(f"{quote(name)} is not null" for name in view.key_names)
        self.order = f"order by {self.keys}, event_timestamp, created_timestamp"
        order = "order by created_timestamp desc, event_timestamp desc, place_ desc"
        self.latest_version = f"row_number() over (partition by {self.keys}, event_id {order}) = 1"
        self.in_force = f"({self.latest_version} and counts)"  # as in `windows.window`; for QUALIFY
        self.tie = self._tie()

    def _tie(self) -> str:
        """SQL, of a window function, for what orders a key's events of equal times: `event_ids`, where it matters."""
        plan = plan_of(self.view)
        if not (plain_arguments(plan) or any(is_ordered(aggregate.function) for aggregate in plan.aggregates)):
            return "0"
        if plan.event_id.kind in INTEGER_WIDTHS:
            return f"case when event_id < 0 then event_id::hugeint + {2**64} else event_id end"
        self.connection.create_function(
            "event_number", lambda ids: event_id_numbers(ids, plan.event_id), ["varchar"], "ubigint", type="arrow"
        )
        tied = f"count(*) over (partition by {self.keys}, event_timestamp, created_timestamp) > 1"
        return f"case when {tied} then event_number(event_id::varchar) else 0 end"

    def store(self, table: OfflineTable | None) -> None:
        """Make `stored`, `unlanded` and `known` from a version of the offline table, or from none."""
        self.table = table
        scan = (
            table.scan_sql(place="place_") if table is not None else f"select *, 0 as place_ from ({self._nothing()})"
        )
        self._view("stored", f"select {self.columns}, place_ from ({scan})")
        self._view(
            "unlanded",
            f"select {self.columns} from live anti join stored using ({self.keys}, event_id, created_timestamp) "
            f"where not {self.ahead}",
        )
        self.know("unlanded")

    def know(self, live: str) -> None:
        """Make `known` from the offline table and a relation of live events that it lacks.

        `place_` is a row's place in the table, where the last of equal versions counts.
        """
        later = f"select {self.columns}, {LATER_PLACE} as place_ from {live}"
        self._view("known", f"select {self.columns}, place_ from stored union all {later}")

    def _view(self, name: str, sql: str) -> None:
        self.connection.execute(f"create or replace temp view {name} as {sql}")

    def newest(self, relation: str, until: str) -> str:
        """A SELECT of each key's latest event in force up to a time: the join keys and `event_id`."""
        return (
            f"select {self.keys}, arg_max(event_id, (event_timestamp, created_timestamp, tie_)) as event_id "
            f"from (select *, {self.tie} as tie_ from {relation} qualify {self.in_force}) "
            f"where event_timestamp <= {until} group by {self.keys}"
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
        known = f"(select known.* from known semi join changed using ({self.keys}))" if changed else "known"
        cut = f"make_timestamptz({now_us - bounded_us(self.view) - grace_us})"
        recent = f"select event_id from {known} where event_timestamp >= {cut}"
        chosen = f"event_timestamp >= {cut} or event_id in ({recent})"
        if retention_us(self.view) is None:  # a plain column has its latest event's value, however old
            newest = self.newest(known, f"make_timestamptz({now_us})")
            chosen += f" or event_id in (select event_id from ({newest}))"
        return f"select {self.columns} from {known} where {self.present} and ({chosen}) {self.order}, place_"

    def find_changes(self, table: OfflineTable, before: Sequence[OfflineTable]) -> int:
        """Find the keys with rows that differ between the table and any version of it before; how many there are."""
        names = self.columns
        for name in ("removed", "added"):
            self.connection.execute(f"create temp table {name} as select {names} from ({self._nothing()})")
        for version in before:
            new, old = set(table.files()), set(version.files())
            added, removed = table.scan_sql(files=new - old), version.scan_sql(files=old - new)
            for name, one, other in (("added", added, removed), ("removed", removed, added)):
                with reading(table, old - new):
                    self.connection.execute(
                        f"insert into {name} select {names} from ({one}) except all select {names} from ({other})"
                    )
        keys = self.keys
        self.connection.execute(
            f"create temp table all_changed as select {keys}, row_number() over (order by {keys}) - 1 as n from "
            f"(select {keys} from added union select {keys} from removed) where {self.present}"
        )
        (count,) = self.connection.execute("select count(*) from all_changed").fetchone()
        return int(count)

    def choose_changed(self, start: int, count: int) -> None:
        """Make `changed`: some of the keys found to have changed."""
        self.connection.execute(
            f"create or replace temp table changed as select {self.keys} from all_changed "
            f"where n >= {start} and n < {start + count}"
        )

    def gone(self) -> str:
        """A SELECT of the rows that the table no longer has, of the keys in `changed`."""
        return f"select {self.columns} from removed semi join changed using ({self.keys}) {self.order}"

    def tables(self, sql: str) -> Iterator[pa.Table]:
        """The rows of a query, a part at a time."""
        with self._errors("the events of the view"), self.reading():
            for batch in self.connection.sql(sql).to_arrow_reader(BATCH_ROWS):
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

    def reading(self) -> AbstractContextManager[None]:
        """While `stored` is read: see `offline.damage.reading`."""
        return nullcontext() if self.table is None else reading(self.table)

    def _damaged(self, files: list[Path], error: Exception) -> OfflineStoreError:
        """The error that names the landed file which DuckDB cannot read; else their folder."""
        where = files[0].parent
        for path in files:
            try:
                self.connection.execute(f"from read_parquet({literal(str(path))})").fetchall()
            except duckdb.Error as of_this:
                where, error = path, of_this
                break
        return OfflineStoreError(
            "a file of landed events is damaged",
            where=str(where),
            expected="a Parquet file as `features stream` wrote it",
            got=str(error).splitlines()[0],
            remedy="put it back from a copy; without one delete it, and the next build goes without its events",
        )

    def _nothing(self) -> str:
        return f"select {cast_list(event_view(self.view), sql_type, 'null')} where false"

    def load(self, online: OnlineStore, source: EventSource, folder: Path, *, until: EntryId | None = None) -> None:
        """Make `live` from the log, up to an entry or all, and the files in `folder`; each version of an event once.

        The log is read before the files are listed: what moves to a file in between is found in both, or in the file.
        """
        newest = until or last_id(online, online.names.log(source.name))
        log = [] if newest is None else list(logged(online, source, until=newest))
        files = live_files(folder)
        known = ", ".join(literal(column.name) for column in source.columns)
        # Other columns are null, or gone.
        chosen = f"insert into events by name select columns(lambda name: name in ({known}))"
        self.connection.execute(f"create or replace temp {events_table(source)}")
        if files:
            paths = ", ".join(literal(str(path)) for path in files)
            try:
                self.connection.execute(f"{chosen} from read_parquet([{paths}], union_by_name = true)")
            except duckdb.Error as error:
                raise self._damaged(files, error) from None
        with self._errors("live events"):
            for table in log:
                self.connection.register("entry", table)
                self.connection.execute(f"{chosen} from entry")
                self.connection.unregister("entry")
            wanted = cast_list(event_view(self.view), sql_type)
            self.connection.execute(
                f"create or replace temp table live as select distinct on ({self.keys}, event_id, created_timestamp) "
                f"{wanted} from ({plan_of(self.view).row_sql}) where {self.present}"
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

    With `known_by_us` live events created later than that are not `known`. A damaged file of the table that makes the
    block fail is a DamagedFile.
    """
    with connect(spill) as connection:
        history = History(connection, view, known_by_us)
        if live is None:
            connection.execute(f"create temp table live as {history._nothing()}")
        else:
            history.load(*live)
        if table is None:
            history.store(None)
            yield history
            return
        with reading(table):
            check_present(table)
            history.store(table)
            yield history
