"""A spine that is a SQL query."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import duckdb
import pyarrow as pa

from ..errors import RequestError
from .spine import READ_ROWS, Spine

Connected = AbstractContextManager[duckdb.DuckDBPyConnection]


def sql_spine(sql: str, connect: Callable[[str], Connected]) -> Spine:
    """The rows that a query gives; `connect` opens the DuckDB session in which it runs."""

    @contextmanager
    def session() -> Iterator[duckdb.DuckDBPyConnection]:
        try:
            with connect(sql) as connection:
                yield connection
        except duckdb.Error as error:
            raise RequestError(
                "the query fails",
                where="spine",
                got=str(error).splitlines()[0],
                remedy="it may read files, and published feature views by their names",
            ) from None

    def read() -> Iterator[pa.RecordBatch]:
        with session() as connection:
            yield from connection.sql(sql).to_arrow_reader(READ_ROWS)

    with session() as connection:
        relation = connection.sql(sql)
        if relation is None:
            raise RequestError("the query gives no rows", where="spine", expected="a select", got=sql)
        schema = relation.limit(0).to_arrow_table().schema
    return Spine(sql, schema, None, read)
