"""Parts of the YAML of new definitions: columns, descriptions to fill in, and unit tests."""

import json
import re
from collections.abc import Sequence

from ..dtypes import parse_sql_type
from ..warehouse.columns import as_written
from .edits import quoted
from .relation import Relation

EVENT, CREATED = "event_timestamp", "created_timestamp"
_SAMPLES = {
    "bool": ("true", "false"), "string": ("a", "b"), "float32": ("1.5", "2.5"), "float64": ("1.5", "2.5"),
    "decimal": ("1", "2"), "date": ("2024-01-01", "2024-01-02"),
    "timestamp": ('"2024-01-01 10:00:00"', '"2024-01-02 10:00:00"'),
    "timestamptz": ('"2024-01-01 10:00:00+00"', '"2024-01-02 10:00:00+00"'),
    "uuid": ("00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"),
}  # fmt: skip


def column_yaml(relation: Relation, name: str, source: str) -> str:
    """The beginning of a column in YAML."""
    quote = "" if as_written(name) == name else ", quote: true"
    typed = f"data_type: {type_yaml(relation, source)}{quote}"
    return f"      - {{name: {quoted(name)}, {typed}, description: {to_say(name)}"


def to_say(what: str) -> str:
    return json.dumps(f"To describe: {what}.", ensure_ascii=False)


def type_yaml(relation: Relation, column: str) -> str:
    text = relation.columns[column]
    return f'"{text}"' if any(mark in text for mark in ",[] ") else text


def rows_unit_test(
    model: str, relation: Relation, columns: dict[str, str | None], expected: Sequence[str]
) -> list[str]:
    """A unit test of rows that are given as they are read."""
    read = {source or name for name, source in columns.items()}
    given = [name for name in relation.columns if name in read]
    rows = [{name: sample(relation, name, place) for name in given} for place in (0, 1)]
    wanted = [{name: row[columns[name] or name] for name in expected} for row in rows]
    is_source = relation.node is not None and relation.node.resource_type == "source"
    lines = _rows_sql(relation, rows) if is_source else rows_yaml(rows)
    return unit_test_yaml(f"{model}_has_each_row", model, relation.reading, lines, wanted)


def _rows_sql(relation: Relation, rows: Sequence[dict[str, str]]) -> list[str]:
    """Rows as SQL: of others dbt asks the warehouse for the columns, where a source that is files has none."""
    selects = [
        ", ".join(
            f"cast({_literal(value)} as {relation.columns[name]}) as {as_written(name)}" for name, value in row.items()
        )
        for row in rows
    ]
    listed = [line for select in selects for line in ("union all", f"select {select}")][1:]
    return ["        format: sql", "        rows: |", *(f"          {line}" for line in listed)]


def _literal(value: str) -> str:
    return "'" + value.strip('"').replace("'", "''") + "'"


def rows_yaml(rows: Sequence[dict[str, str]]) -> list[str]:
    """The rows that a unit test is given."""
    return ["        rows:", *(f"          - {_row(row)}" for row in rows)]


def unit_test_yaml(
    name: str, model: str, reading: str, given: Sequence[str], wanted: Sequence[dict[str, str]]
) -> list[str]:
    """A unit test of a model that reads one relation, of which it is `given` these lines."""
    return [
        "unit_tests:",
        f"  - name: {name}",
        f"    model: {model}",
        "    given:",
        f"      - input: {reading}",
        *given,
        "    expect:",
        "      rows:",
        *(f"        - {_row(row)}" for row in wanted),
    ]


def _row(row: dict[str, str]) -> str:
    return "{" + ", ".join(f"{quoted(name)}: {value}" for name, value in row.items()) + "}"


def sample(relation: Relation, column: str, place: int) -> str:
    """One of two values that a column may have, as YAML has it."""
    dtype = parse_sql_type(relation.columns[column])
    if dtype.kind == "list":
        length = re.search(r"\[(\d+)\]$", relation.columns[column])
        return str([place + 1] * int(length[1] if length else 1))
    return _SAMPLES.get(dtype.kind, ("1", "2"))[place]
