"""A copy of dbt's DuckDB file, in which something can be built for long, and what is moved from it into the file."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb

from ..definitions.models import Model
from ..errors import WarehouseError
from ..offline.session import connect
from ..offline.sql import literal, quote
from ..project.target import database_name
from .file import attach, name_parts, opened

_COPY = "features_rebuilt"  # what the copy is attached as
_NOTES = {  # of what a build leaves of itself beside relations: which rows are theirs
    "feature_builds": "model in ({names}) and invocation_id = {invocation}",
    "built_models": "model in ({models}) and rowid in (select max(rowid) from {table} group by model)",
}


def copied(path: Path, copy: Path, *, wait_seconds: float) -> None:
    """Copy the file while no build can change it; waits for one that holds it, then WarehouseError."""
    with connect() as connection:
        attach(connection, path, wait_seconds=wait_seconds)
        for suffix in ("", ".wal"):
            if (file := path.with_name(path.name + suffix)).is_file():
                shutil.copyfile(file, copy.with_name(copy.name + suffix))


def move(
    path: Path,
    copy: Path,
    models: Sequence[Model],
    *,
    invocation: str,
    wait_seconds: float,
) -> None:
    """Put the tables of models, whole as the copy has them, into the file, in one transaction.

    With them goes what the build `invocation` noted of them beside them, and the SQL that it ran, of other models under
    them too. WarehouseError where the copy has no such table.
    """
    with _writing(path, wait_seconds) as connection:
        connection.execute(f"attach {literal(str(copy))} as {_COPY} (read_only)")
        connection.execute("begin")
        schemas: dict[str, list[Model]] = {}
        for model in models:
            *_, schema, name = name_parts(model)
            schemas.setdefault(schema, []).append(model)
            _move_table(connection, path, schema, name)
        for schema, moved in schemas.items():
            _move_notes(connection, path, schema, moved, invocation)
        for schema in _in_both(connection, path, "built_sql"):
            own, copied = _own_and_copied(schema, "built_sql")
            connection.execute(f"insert into {own} by name from {copied} where hash not in (select hash from {own})")
        connection.execute("commit")


@contextmanager
def _writing(path: Path, wait_seconds: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """The file opened for writing, until the block ends; what was not committed is rolled back."""
    connection = opened(path, lambda: duckdb.connect(str(path)), wait_seconds=wait_seconds)
    try:
        connection.execute("set TimeZone = 'UTC'")
        yield connection
    except duckdb.Error as error:
        raise WarehouseError("a rebuilt relation cannot be moved", where=str(path), got=str(error)) from error
    finally:
        connection.close()


def _move_table(connection: duckdb.DuckDBPyConnection, path: Path, schema: str, name: str) -> None:
    at = f"database_name = {literal(_COPY)} and schema_name = {literal(schema)} and table_name = {literal(name)}"
    found = connection.execute(f"select sql from duckdb_tables() where {at}").fetchone()
    if found is None:
        raise WarehouseError(
            "the build in the copy made no such table", where=str(path), expected=f"{schema}.{name}, a table",
            remedy="`dbt build --full-refresh` for it",
        )  # fmt: skip
    relation = f"{quote(schema)}.{quote(name)}"
    connection.execute(f"create schema if not exists {quote(schema)}")
    kind = connection.execute(
        "select table_type from information_schema.tables where table_catalog = current_database() "
        f"and table_schema = {literal(schema)} and table_name = {literal(name)}"
    ).fetchone()
    if kind is not None:
        connection.execute(f"drop {'view' if kind[0] == 'VIEW' else 'table'} {relation}")
    connection.execute(found[0])
    connection.execute(f"insert into {relation} select * from {_COPY}.{relation}")
    for (sql,) in connection.execute(f"select sql from duckdb_indexes() where {at}").fetchall():
        connection.execute(sql)


def _move_notes(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    schema: str,
    models: Iterable[Model],
    invocation: str,
) -> None:
    names, ids = (
        ", ".join(map(literal, texts))
        for texts in zip(*((name_parts(one)[-1], one.unique_id) for one in models), strict=True)
    )
    for table, theirs in _NOTES.items():
        if schema in _in_both(connection, path, table):
            own, copied = _own_and_copied(schema, table)
            rows = theirs.format(names=names, models=ids, invocation=literal(invocation), table=copied)
            connection.execute(f"insert into {own} by name from {copied} where {rows}")
    if schema in _in_both(connection, path, "failed_tests"):
        own, _ = _own_and_copied(schema, "failed_tests")
        connection.execute(f"delete from {own} where model in ({names})")


def _own_and_copied(schema: str, table: str) -> tuple[str, str]:
    return f"{quote(schema)}.{table}", f"{_COPY}.{quote(schema)}.{table}"


def _in_both(connection: duckdb.DuckDBPyConnection, path: Path, table: str) -> list[str]:
    """The schemas in which both files have a table of this name."""
    found = connection.execute(
        f"select schema_name, database_name from duckdb_tables() where table_name = {literal(table)}"
    ).fetchall()
    return sorted({schema for schema, _ in found if {(schema, _COPY), (schema, database_name(path))} <= set(found)})
