"""The columns of any relation that dbt has built or reads."""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import duckdb

from ..errors import WarehouseError
from ..offline.sql import quote
from .relations import Warehouse, open_warehouse

_WAIT_SECONDS = 10.0  # for a build that is about to end
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


def as_written(name: str) -> str:
    """A column's name as SQL has it: quoted where it has to be, or means something to DuckDB."""
    with duckdb.connect() as connection:
        found = connection.execute("select 1 from duckdb_keywords() where keyword_name = ?", [name]).fetchone()
    return name if _PLAIN.fullmatch(name) and found is None else quote(name)


def _opened(path: Path, project_dir: Path, attached: Mapping[str, Path]) -> AbstractContextManager[Warehouse]:
    return open_warehouse(path, wait_seconds=_WAIT_SECONDS, project_dir=project_dir, attached=attached)


def columns_of(
    relation: str, path: Path, project_dir: Path, attached: Mapping[str, Path], *, name: str
) -> dict[str, str]:
    """The columns of a relation, with their types as YAML is to have them; WarehouseError where it is not there."""
    with _opened(path, project_dir, attached) as warehouse:
        try:
            found = warehouse.rows(f"describe select * from {relation}")
        except WarehouseError as error:
            raise WarehouseError(
                "the warehouse has no such relation", where=f"{name} in {path}", expected=relation,
                got=str(error.got).splitlines()[0],
                remedy=f"run `dbt build --select {name}`; of a source, load its table",
            ) from None  # fmt: skip
    zoned = "timestamp with time zone"
    return {str(column): str(type_).lower().replace(zoned, "timestamptz") for column, type_, *_ in found}


def count_rows(
    relation: str, column: str, path: Path, project_dir: Path, attached: Mapping[str, Path]
) -> tuple[int, int, int]:
    """How many rows a relation has, in how many a column has a value, and how many values those are."""
    with _opened(path, project_dir, attached) as warehouse:
        counted = f"count(*), count({quote(column)}), count(distinct {quote(column)})"
        rows, known, distinct = warehouse.rows(f"select {counted} from {relation}")[0]
        return int(rows), int(known), int(distinct)
