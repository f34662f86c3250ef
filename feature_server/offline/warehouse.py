"""Reading dbt's DuckDB file: opened read-only, for as short as possible, never held against a build.

A build holds the file exclusively; while it does, opening fails with a WarehouseError that names the process.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from ..definitions.facts import FeatureView
from ..definitions.stream import EventSource, StreamPlan
from ..dtypes import DType, UnknownType, parse_sql_type
from ..errors import WarehouseError
from .sql import BUCKET, columns, literal, quote, sql_type

MISSING = "the warehouse does not exist"
_RETRY_SECONDS = 0.25
_LOCKED = re.compile(r"Could not set lock on file")
_HOLDER = re.compile(r"held in (.+?) \(PID (\d+)\)")
_EVENTS = "copied_events"
_TIME_TYPES = ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE")
_NAME_PART = re.compile(r'"((?:[^"]|"")*)"|([^".]+)')


class Build(msgspec.Struct, frozen=True):
    """An entry of the warehouse's build log: rows at or after `changed_from_us` may have changed, all if None."""

    invocation_id: str
    changed_from_us: int | None


class Warehouse:
    """An open, read-only connection to dbt's DuckDB file, in a session whose time zone is UTC."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path, sources: Sequence[EventSource] = ()) -> None:
        self.connection = connection
        self.path = path
        self.sources = {source.name: source for source in sources}
        self._copied: str | None = None  # the stream view whose events are copied
        self.name = database_name(path)  # as dbt names its database, so that the bodies of SQL views resolve

    def relation(self, view: FeatureView) -> str:
        """The view's relation as SQL; the name of dbt's database gives way to this session's.

        For a stream view, a copy of its events, for files may land while it is read again and again.
        """
        if view.stream is not None:
            if self._copied != view.id:
                self.connection.execute(f"create or replace temp table {_EVENTS} as {self._events(view, view.stream)}")
                self._copied = view.id
            return _EVENTS
        return ".".join(map(quote, [self.name, *name_parts(view)[-2:]]))

    def source(self, view: FeatureView, *, since: str | None = None, before: str | None = None) -> str:
        """A SELECT of the view's relation: the offline table's columns, with the types declared, times as UTC instants.

        Limited to event timestamps from day `since` (included) to day `before` (excluded), ISO dates. WarehouseError
        unless the relation has every column of the definition, with the type declared.
        """
        actual = self._checked_types(view)
        expressions = []
        for column in columns(view):
            name, wanted = quote(column.name), sql_type(column.dtype)
            same = actual[column.name.lower()] == wanted
            expressions.append(name if same else f"cast({name} as {wanted}) as {name}")
        event = quote(view.event_timestamp)
        time_type = actual[view.event_timestamp.lower()]
        bounds = [
            f"{event} {operator} {time_type} {literal(day)}"
            for operator, day in ((">=", since), ("<", before))
            if day is not None
        ]
        where = f" where {' and '.join(bounds)}" if bounds else ""
        return f"select {', '.join(expressions)} from {self.relation(view)}{where}"

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows a query gives; WarehouseError when it fails."""
        try:
            return self.connection.execute(sql).fetchall()
        except duckdb.Error as error:
            raise WarehouseError("a query failed", where=str(self.path), got=str(error)) from error

    def row_count(self, view: FeatureView) -> int:
        (count,) = self.rows(f"select count(*) from {self.relation(view)}")[0]
        return int(count)

    def builds(self, view: FeatureView) -> tuple[Build, ...]:
        """The view's entries of the build log `feature_builds` in its schema, oldest first; none without such a log."""
        rows = self._noted(view, "feature_builds", "invocation_id, epoch_us(changed_from)", "rowid")
        return tuple(Build(*row) for row in rows)

    def _events(self, view: FeatureView, plan: StreamPlan) -> str:
        """The SQL of a stream view's events: its plan's rows of the source, known by the build if the model says so."""
        source = self.sources.get(plan.source)
        if source is None:
            raise self._error("the registry lacks the view's event source", view, expected=plan.source)
        self._check_source(view, source)
        columns = ", ".join(
            f"cast({quote(column.name)} as {sql_type(column.dtype)}) as {quote(column.name)}"
            for column in source.columns
        )
        known = ""
        if plan.known_by_build and source.created_timestamp is not None and (as_of := self._built_as_of(view)):
            known = f" where {quote(source.created_timestamp)} <= timestamptz {literal(as_of)}"
        keyless = " or ".join(f"{quote(name)} is null" for name in view.key_names)
        return (
            f"with events as (select {columns} from {source.relation}{known}) "
            f"select * from ({plan.row_sql}) where counts or not ({keyless})"
        )

    def _check_source(self, view: FeatureView, source: EventSource) -> None:
        """WarehouseError unless the source's relation has every column listed, with the type listed."""
        try:
            rows = self.connection.execute(f"describe select * from {source.relation}").fetchall()
        except duckdb.Error as error:
            raise self._error(
                "the event source cannot be read", view, expected=source.relation, got=str(error).splitlines()[0]
            ) from None
        actual = {name.lower(): str(type_) for name, type_, *_ in rows}
        wrong = [
            (column.name, sql_type(column.dtype), actual.get(column.name.lower(), "no such column"))
            for column in source.columns
            if (found := _parsed(actual.get(column.name.lower(), ""))) != column.dtype
            and not (found is not None and found.is_timestamp and column.dtype.is_timestamp)
        ]
        if wrong:
            raise self._error(
                f"the relation of source {source.name} differs from its YAML",
                view,
                expected="; ".join(f"{name}: {wanted}" for name, wanted, _ in wrong),
                got="; ".join(f"{name}: {found}" for name, _, found in wrong),
                remedy=f"correct {source.path or 'the YAML of the source'}, then `features apply`",
            )

    def _built_as_of(self, view: FeatureView) -> str | None:
        """The instant that the view's last build spoke of, by the build log; None without one."""
        rows = self._noted(view, "feature_builds", "cast(as_of as varchar)", "rowid")
        return str(rows[-1][0]) if rows and rows[-1][0] is not None else None

    def failed_tests(self, view: FeatureView) -> tuple[str, ...]:
        """Names of the view's tests that failed when last run, from the table `failed_tests` in its schema if any."""
        return tuple(name for (name,) in self._noted(view, "failed_tests", "test", "test"))

    def _noted(self, view: FeatureView, table: str, columns: str, order: str) -> list[tuple[Any, ...]]:
        """What the project's macros have written about the view in a table beside it; nothing without such a table."""
        if not view.relation:
            return []
        *schema, identifier = name_parts(view)[-2:]
        notes = ".".join(map(quote, [self.name, *schema, table]))
        sql = f"select {columns} from {notes} where model = ? order by {order}"
        try:
            return self.connection.execute(sql, [identifier]).fetchall()
        except (duckdb.CatalogException, duckdb.BinderException):
            return []

    def _checked_types(self, view: FeatureView) -> dict[str, str]:
        actual = self._column_types(view)
        if not actual:
            raise self._error(
                "the warehouse has no such relation",
                view,
                expected=view.relation,
                remedy=f"run `dbt build --select {view.name}`",
            )
        problems = []
        if BUCKET in actual:
            problems.append((BUCKET, "no column of this name: the offline store uses it", actual[BUCKET]))
        for column in columns(view):
            found = actual.get(column.name.lower())
            is_time = column.name in (view.event_timestamp, view.created_timestamp)
            if found is None:
                problems.append((column.name, sql_type(column.dtype), "no such column"))
            elif found not in _TIME_TYPES if is_time else _parsed(found) != column.dtype:
                problems.append((column.name, " or ".join(_TIME_TYPES) if is_time else sql_type(column.dtype), found))
        if problems:
            raise self._error(
                "the relation differs from the view's definition",
                view,
                expected="; ".join(f"{name}: {wanted}" for name, wanted, _ in problems),
                got="; ".join(f"{name}: {found}" for name, _, found in problems),
                remedy="correct the model or its YAML, then `features apply` and `dbt build`",
            )
        return actual

    def _column_types(self, view: FeatureView) -> dict[str, str]:
        """Lower-case column name → type as DuckDB spells it; empty when there is no such relation."""
        try:
            rows = self.connection.execute(f"describe select * from {self.relation(view)}").fetchall()
        except duckdb.CatalogException:
            return {}
        return {name.lower(): type_ for name, type_, *_ in rows}

    def _error(self, what: str, view: FeatureView, **details: str) -> WarehouseError:
        return WarehouseError(what, where=f"{view.id} in {self.path}", **details)


@contextmanager
def open_warehouse(
    path: Path,
    *,
    wait_seconds: float = 0,
    spill: Path | None = None,
    sources: Sequence[EventSource] = (),
    project_dir: Path | None = None,
) -> Iterator[Warehouse]:
    """The warehouse, read-only, until the block ends.

    Waits up to `wait_seconds` for a build that holds the file. `spill` is the folder for data that exceeds memory.
    `sources` are the event sources that stream views read, their files' paths as seen from `project_dir`.
    """
    connection = connect(spill)
    try:
        if project_dir is not None:
            connection.execute(f"set file_search_path = {literal(str(project_dir))}")
        _attach(connection, path, time.monotonic() + wait_seconds)
        yield Warehouse(connection, path, sources)
    finally:
        connection.close()


def connect(spill: Path | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB session in UTC, whose results are independent of the environment's time zone."""
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    if spill is not None:
        spill.parent.mkdir(parents=True, exist_ok=True)  # DuckDB makes the last folder alone, when it first spills
        connection.execute(f"set temp_directory = {literal(str(spill))}")
    return connection


class EventTypes:
    """A session with an empty relation `events`; called with a query it gives the query's column types.

    WarehouseError, with DuckDB's own words, for a query that it refuses.
    """

    def __init__(self, source: EventSource) -> None:
        self.connection = connect()
        listed = ", ".join(f"{quote(column.name)} {sql_type(column.dtype)}" for column in source.columns)
        self.connection.execute(f"create table events ({listed})")

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
    types = EventTypes(source)
    try:
        yield types
    finally:
        types.connection.close()


def _attach(connection: duckdb.DuckDBPyConnection, path: Path, deadline: float) -> None:
    if not path.is_file():
        raise WarehouseError(MISSING, where=str(path), remedy="run `dbt build` first")
    while True:
        try:
            connection.execute(f"attach {literal(str(path))} as {quote(database_name(path))} (read_only)")
            return
        except duckdb.Error as error:
            if not _LOCKED.search(str(error)):
                raise WarehouseError(
                    "the warehouse cannot be opened",
                    where=str(path),
                    expected="a DuckDB database file",
                    got=str(error).splitlines()[0],
                    remedy="remove the file and run `dbt build`",
                ) from None
            if time.monotonic() >= deadline:
                raise _locked(path, str(error)) from None
        time.sleep(min(_RETRY_SECONDS, max(0.0, deadline - time.monotonic())))


def _locked(path: Path, message: str) -> WarehouseError:
    holder = _HOLDER.search(message)
    return WarehouseError(
        f"the warehouse is being built by process {holder[2]}" if holder else "the warehouse is being built",
        where=str(path),
        got=f"lock held by {holder[1]}" if holder else message.splitlines()[0],
        remedy="wait for the build to end, or give --wait SECONDS",
    )


def database_name(path: Path) -> str:
    """The name that dbt and DuckDB give the database of a file."""
    return path.name.lstrip(".").split(".")[0]


def name_parts(view: FeatureView) -> list[str]:
    """Database, schema and identifier of the view's relation, as far as it names them."""
    return [quoted.replace('""', '"') or plain for quoted, plain in _NAME_PART.findall(view.relation)]


def _parsed(found: str) -> DType | None:
    try:
        return parse_sql_type(found)
    except UnknownType:
        return None
