"""dbt's DuckDB file: opened read-only, for as short as possible, never held against a build.

A build holds the file exclusively; while it does, opening fails with a WarehouseError that names the process.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import duckdb

from ..definitions.facts import FeatureView
from ..definitions.models import Model
from ..errors import WarehouseError
from ..offline.sql import literal, quote
from ..project.target import database_name

MISSING = "the warehouse does not exist"
_RETRY_SECONDS = 0.25
_HELD_REMEDY = "end that process or wait for it, then try again (`features publish --wait SECONDS` waits itself)"
_LOCKED = "Could not set lock on file"
_HOLDER = re.compile(r"held in (.+?) \(PID (\d+)\)")
Opened = TypeVar("Opened")
_NAME_PART = re.compile(r'"((?:[^"]|"")*)"|([^".]+)')


def name_parts(view: FeatureView | Model) -> list[str]:
    """Database, schema and identifier of the relation of a view or model, as far as it names them."""
    return [quoted.replace('""', '"') or plain for quoted, plain in _NAME_PART.findall(view.relation)]


def attach(connection: duckdb.DuckDBPyConnection, path: Path, *, wait_seconds: float, name: str = "") -> None:
    """Open the file, read-only, by the name of its database or another one; waits for a build, then WarehouseError."""
    sql = f"attach {literal(str(path))} as {quote(name or database_name(path))} (read_only)"
    opened(path, lambda: connection.execute(sql), wait_seconds=wait_seconds)


def held(path: Path, error: duckdb.Error, remedy: str) -> WarehouseError | None:
    """What is wrong where another process holds the file; None where the error is another one."""
    if _LOCKED not in str(error):
        return None
    holder = _HOLDER.search(str(error))
    return WarehouseError(
        f"the warehouse is being built by process {holder[2]}" if holder else "the warehouse is being built",
        where=str(path), expected="a file that no other process has opened to write",
        got=f"lock held by {holder[1]}" if holder else str(error).splitlines()[0], remedy=remedy,
    )  # fmt: skip


def opened(path: Path, open_file: Callable[[], Opened], *, wait_seconds: float) -> Opened:
    """What opens the file, once no build holds it; WarehouseError where one still does after `wait_seconds`."""
    if not path.is_file():
        raise WarehouseError(MISSING, where=str(path), remedy="run `dbt build` first")
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return open_file()
        except duckdb.Error as error:
            locked = held(path, error, _HELD_REMEDY)
            if locked is None:
                raise WarehouseError(
                    "the warehouse cannot be opened",
                    where=str(path),
                    expected="a DuckDB database file",
                    got=str(error).splitlines()[0],
                    remedy="remove the file and run `dbt build`",
                ) from None
            if time.monotonic() >= deadline:
                raise locked from None
        time.sleep(min(_RETRY_SECONDS, max(0.0, deadline - time.monotonic())))
