"""The rows of a stream view from live events: its own SQL, run by DuckDB over the batch."""

from typing import Any

import duckdb
import pyarrow as pa

from ..definitions.facts import FeatureView
from ..errors import OnlineStoreError
from ..layout.events import plan_of


class RowQueries:
    """The SQL of the views over one event source, as long as its columns are the same; for one thread at a time.

    A view's query is parsed and bound once: it reads whatever table `_Batch` holds then. With `pii` reasons are not
    DuckDB's own: it names the values that it cannot reckon with.
    """

    def __init__(self, *, pii: bool = False) -> None:
        self._pii = pii
        self._duckdb: Any = None
        self._batch = _Batch()
        self._relations: dict[str, Any] = {}

    def _open(self) -> Any:
        connection = duckdb.connect(":memory:")
        connection.execute("set TimeZone = 'UTC'; set threads = 1; set preserve_insertion_order = true")
        # A left join keeps the order of the events unless its sides are exchanged.
        connection.execute("set disabled_optimizers = 'join_order,build_side_probe_side'")
        return connection.register("events", self._batch)

    def rows(self, view: FeatureView, events: pa.Table) -> pa.Table:
        """One row an event, in order. Raises ValueError with DuckDB's reason when an expression fails."""
        self._batch.table, sql = events, plan_of(view).row_sql
        self._duckdb = self._duckdb or self._open()
        try:
            if sql not in self._relations:
                self._relations[sql] = self._duckdb.sql(sql)
            rows = self._relations[sql].to_arrow_table()
        except duckdb.Error as error:
            if not isinstance(error, duckdb.DataError | duckdb.ProgrammingError):
                self.close()  # a session may refuse whatever comes after such an error
            reason = str(error).partition("\n")[0]
            if self._pii:
                kind = reason.partition(":")[0]
                reason = f"{kind} in the SQL of {view.id}; the source has pii, so its values are not shown"
            raise ValueError(reason) from None
        if rows.num_rows != events.num_rows:
            raise OnlineStoreError(
                f"the SQL of {view.id!r} gives not one row an event",
                where=view.path or view.id,
                expected=f"{events.num_rows} rows",
                got=str(rows.num_rows),
                remedy="run `features check`, then `features apply` and `features sync`",
            )
        return rows

    def close(self) -> None:
        self._relations.clear()
        if self._duckdb is not None:
            self._duckdb.close()
            self._duckdb = None


class _Batch:
    """The relation `events`: the table of the moment, in Arrow's C interface."""

    table: pa.Table

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self.table.schema.__arrow_c_schema__()
