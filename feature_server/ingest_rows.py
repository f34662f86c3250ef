"""The rows of a stream view from live events: its own SQL, run by DuckDB over the batch."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from .definitions import FeatureView
from .errors import OnlineStoreError
from .stream_records import plan_of


class RowQueries:
    """An in-memory DuckDB; one thread at a time may use it."""

    def __init__(self) -> None:
        self._duckdb = duckdb.connect(":memory:")
        self._duckdb.execute("set TimeZone = 'UTC'; set threads = 1; set preserve_insertion_order = true")
        # A left join keeps the order of the events unless its sides are exchanged.
        self._duckdb.execute("set disabled_optimizers = 'join_order,build_side_probe_side'")

    def rows(self, view: FeatureView, events: pa.Table) -> pa.Table:
        """One row an event, in order. Raises ValueError with DuckDB's reason when an expression fails."""
        self._duckdb.register("events", events)
        try:
            rows = self._duckdb.sql(plan_of(view).row_sql).to_arrow_table()
        except duckdb.Error as error:
            raise ValueError(str(error).partition("\n")[0]) from None
        finally:
            self._duckdb.unregister("events")
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
        self._duckdb.close()
