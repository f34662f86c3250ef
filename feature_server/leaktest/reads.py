"""What the SQL of models reads, and why a model cannot be tested for what lies under it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..asof.scratch import SUCCESS, Answer, Built, Input
from ..offline.session import connect
from ..offline.sql import literal, quote
from .claims import Claim, Project

NO_LANDING = (
    "source {} says of no row when it landed, so what was overwritten in it cannot be told: declare `loaded_at_field`, "
    "or add --landed {}=COLUMN"
)
SNAPSHOT = (
    "snapshot {} holds what former runs saw, which no build makes again: what reads every change from a source with "
    "`loaded_at_field` can be tested"
)
_HOOK = "-on-run-start-"
_HINT = (
    " (a build as of another time reads sources, seeds and models, and writes to its own folder:"
    " declare a file that is read as a source)"
)


class Reads:
    """What was built, and which sources each model reads, by the SQL that ran and not by what a comment names."""

    def __init__(self, project: Project, answer: Answer) -> None:
        self.project, self.inputs = project, answer.inputs
        self.built: dict[str, Built] = {}
        for builds in answer.built.values():
            for unique_id, one in builds.items():
                if unique_id not in self.built or one.sql is not None:
                    self.built[unique_id] = one
        self.relations = {one.relation: unique_id for unique_id, one in self.inputs.items()} | {
            ".".join(map(quote, (one.database, one.schema, one.table))): unique_id
            for unique_id, one in self.built.items()
            if one.table
        }

    def reasons(self, claim: Claim) -> list[str]:
        """Why a view without differences would still not be clean."""
        found: dict[str, None] = {}
        waiting = [claim.unique_id]
        for unique_id in waiting:  # the list grows
            if unique_id in self.project.sources:
                found |= dict.fromkeys(self._of_source(unique_id))
                continue
            node = self.project.nodes[unique_id]
            if node.language == "python":
                found[f"{node.id} is a Python model: what it reads, and its clock, cannot be told"] = None
            if node.resource_type == "snapshot":
                found[SNAPSHOT.format(node.id)] = None
            waiting += [each for each in self._read_by(unique_id) if each not in waiting]
        return list(found)

    def _of_source(self, unique_id: str) -> Iterator[str]:
        name, one = self.project.sources[unique_id].id, self.inputs.get(unique_id, Input(relation=""))
        if one.failure is not None:
            yield f"source {name} cannot be read: {one.failure}"
        elif one.landed is None:
            yield NO_LANDING.format(name, name) if one.rows else f"source {name} has no rows: land some, then test"
        elif one.unknown:
            yield f"{one.unknown:,} of {one.rows:,} rows of source {name} do not say when they landed"

    def _read_by(self, unique_id: str) -> list[str]:
        above = self.project.nodes[unique_id].depends_on.nodes
        above = tuple(each for each in above if each in self.project.nodes or each in self.project.sources)
        one = self.built.get(unique_id)
        tables = None if one is None or not one.sql else tables_of(one.sql)
        if one is None or not one.sql or tables is None:
            return list(above)
        names = {unique_id: relation for relation, unique_id in self.relations.items()}
        # What the text does not name at all was asked by Jinja; what only the text names stands in a comment.
        asked = [each for each in above if each not in names or names[each] not in one.sql]
        read = [self.relations[name] for name in self.relations if name.lower() in tables]
        return [*dict.fromkeys([*asked, *read])]


def failures(built: Mapping[str, Built], claim: Claim, project: Project) -> Iterator[str]:
    """Why a model is not there after a build, in dbt's words of the first that failed; and of a hook before it."""
    own = built.get(claim.unique_id)
    if own is None or own.status != SUCCESS:
        bad = [each for each in reversed(project.under([claim.unique_id])) if each in built and _failed(built[each])]
        yield _words(bad[0], built[bad[0]]) if bad else f"{claim.id} was not built"
    for unique_id, one in built.items():
        if _HOOK in unique_id and _failed(one):
            yield _words(unique_id, one)


def _failed(one: Built) -> bool:
    return one.status not in (SUCCESS, "skipped")


def _words(unique_id: str, one: Built) -> str:
    words = " ".join(one.message.split())
    hint = _HINT if "file system operations are disabled" in words else ""
    return f"{unique_id.split('.')[-1]} failed: {words}{hint}"


def tables_of(sql: str) -> set[str] | None:
    """The relations that a query reads, each as three quoted names in lower case; None where DuckDB cannot say."""
    with connect() as connection:
        text = connection.execute(f"select json_serialize_sql({literal(sql)})").fetchall()[0][0]
    tree = json.loads(text)
    if tree.get("error"):
        return None
    return {name.lower() for name in _tables(tree)}


def _tables(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get("type") == "BASE_TABLE" and node.get("schema_name"):
            names = (node.get("catalog_name"), node.get("schema_name"), node.get("table_name"))
            yield ".".join(quote(str(name)) for name in names)
        for value in node.values():
            yield from _tables(value)
    elif isinstance(node, list):
        for value in node:
            yield from _tables(value)
