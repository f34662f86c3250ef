"""A model's compiled SQL, read for the columns of it that are pii by those that it reads."""

from collections.abc import Mapping, Sequence

import msgspec
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from .personal import RECURSIONS, Tracing
from .told import THROUGH, Read, Told

_OF_FILES = ("read_", "parquet_", "glob", "sniff_")  # how DuckDB's functions that read files begin
_OF_NONE = ("json_each", "json_tree", "repeat", "duckdb_", "pragma_")
_FOLLOWED = (exp.Select, exp.SetOperation, exp.Subquery, exp.Values)
Parts = tuple[str, ...]


def traced(
    texts: Sequence[str], read: Sequence[Read], elsewhere: Mapping[str, Told], label: str, own: str = ""
) -> Told:
    """What is known of the columns of a model, of whose rows each of `texts` gives some; `read` is what it reads.

    `elsewhere` has the relations of which columns are said to be pii: SQL may name one that dbt does not know of. `own`
    is the model's own relation, of which an incremental run may read what it gave before.
    """
    name = _parts(own)[-1] if own else ""
    if not name or not any(name in text.lower() for text in texts):
        return _of_all(texts, read, elsewhere, label)
    found = Told()
    for _ in range(RECURSIONS):
        before = found
        found = _of_all(texts, (Read(own, before), *read), elsewhere, label)
        if found == before:
            return found
    return Told(every=f"{found.any}{THROUGH}{label}, which reads itself" if found.any else "")


def _of_all(texts: Sequence[str], read: Sequence[Read], elsewhere: Mapping[str, Told], label: str) -> Told:
    found = [_traced(text, read, elsewhere, label) for text in texts]
    together = found[0]
    for told in found[1:]:
        columns = told.columns if told.columns == together.columns else None
        together = msgspec.structs.replace(together.both(told), columns=columns)
    return together


def _traced(text: str, read: Sequence[Read], elsewhere: Mapping[str, Told], label: str) -> Told:
    try:
        query = sqlglot.parse_one(text, dialect="duckdb")
        if isinstance(query, _FOLLOWED):
            return Tracing(_Relations(query, read, elsewhere).known).told(query)
    except (SqlglotError, RecursionError):
        pass
    reached = next((one.told.any for one in read if one.told.any), "")
    return Told(every=reached and f"{reached}{THROUGH}{label}, whose SQL cannot be followed")


class _Relations:
    """The relations that a query names, as what the model reads.

    A source in files has no name in SQL but its location: what is none of the others is one of the sources left.
    """

    def __init__(self, query: exp.Expr, read: Sequence[Read], elsewhere: Mapping[str, Told]) -> None:
        self._named = {_parts(one.name): one.told for one in read}
        self._elsewhere = {_parts(name): told for name, told in elsewhere.items()}
        self._every = _any([one.told for one in read])
        tables = [_parts_of(table) for table in query.find_all(exp.Table) if isinstance(table.this, exp.Identifier)]
        named = {parts for parts in self._named for table in tables if _fits(table, parts)}
        self._rest = _any([one.told for one in read if one.in_files and _parts(one.name) not in named])

    def known(self, node: exp.Expr) -> Told | None:
        if not isinstance(node, exp.Table):
            return None
        if not isinstance(node.this, exp.Identifier):
            return self._by_function(node.this)
        table = _parts_of(node)
        for relations in (self._named, self._elsewhere):
            for parts, told in relations.items():
                if _fits(table, parts):
                    return told
        return self._rest

    def _by_function(self, function: exp.Expr) -> Told:
        """What a function in FROM reads: a macro, or query(…), whatever it will."""
        name = function.name.lower()
        if isinstance(function, exp.ReadCSV | exp.ReadParquet) or name.startswith(_OF_FILES):
            return self._rest
        return self._every if isinstance(function, exp.Anonymous) and not name.startswith(_OF_NONE) else Told()


def _any(found: Sequence[Told]) -> Told:
    """What is known of the columns of a relation that is one of these."""
    if len(found) == 1:
        return found[0]
    together = Told()
    for told in found:
        together = together.both(told)
    return together


def _fits(table: Parts, relation: Parts) -> bool:
    """Whether SQL may name a relation so: it may leave out where it is."""
    named = bool(table) and relation[-len(table) :] == table
    return named or (len(table) == 2 and len(relation) == 3 and (relation[0], relation[2]) == table)


def _parts(name: str) -> Parts:
    return _parts_of(exp.to_table(name, dialect="duckdb")) if name else ()


def _parts_of(table: exp.Table) -> Parts:
    return tuple(part.name.lower() for part in table.parts)
