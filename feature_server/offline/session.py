"""Sessions of DuckDB, the engine that reads the offline store: in memory, their results the same in every time zone."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from ..definitions.stream import EventSource
from ..errors import WarehouseError
from .sql import events_table, literal


def connect(spill: Path | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB session in UTC, whose results are independent of the environment's time zone."""
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    if spill is not None:
        spill.parent.mkdir(parents=True, exist_ok=True)  # DuckDB makes the last folder alone, when it first spills
        connection.execute(f"set temp_directory = {literal(str(spill))}")
    return connection


def settings_after(statements: Iterable[str], names: Sequence[str]) -> Iterator[Any]:
    """Settings as text by name, in a session that only the host sets up: at first, and after each statement; None where
    DuckDB refuses it."""
    listed = ", ".join(f"current_setting({literal(name)})::varchar" for name in names)
    with duckdb.connect() as connection:
        for statement in ("select 1", *statements):
            try:
                connection.execute(statement)
            except duckdb.Error:
                yield None
            else:
                yield dict(zip(names, connection.execute(f"select {listed}").fetchall()[0], strict=True))


class EventTypes:
    """A session with an empty relation `events`; called with a query it gives the query's column types.

    WarehouseError, with DuckDB's own words, for a query that it refuses.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, source: EventSource) -> None:
        self.connection = connection
        self.connection.execute(f"create {events_table(source)}")

    def __call__(self, sql: str, /) -> dict[str, str]:
        return {name: str(type_) for name, type_, *_ in self.rows(f"describe {sql}")}

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a statement gives."""
        try:
            return self.connection.execute(sql).fetchall()
        except duckdb.Error as error:
            raise WarehouseError("DuckDB refuses the query", got=str(error).splitlines()[0]) from None


@contextmanager
def event_types(source: EventSource) -> Iterator[EventTypes]:
    """The column types of queries over a relation `events` with the source's columns."""
    with connect() as connection:
        yield EventTypes(connection, source)
