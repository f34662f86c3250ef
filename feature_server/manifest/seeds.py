"""A seed's CSV file: where it is, its columns, and a hash of its rows, whatever its size (dbt hashes a large one by its
path)."""

import csv
from hashlib import md5
from pathlib import Path

import msgspec

from ..dbt.artifacts import ColumnNode, Node
from ..kept import short_digest
from .columns import COLUMN_TYPES
from .report import Report


def seed_path(node: Node, report: Report) -> Path:
    path = report.project_dir / node.original_file_path
    if not path.exists() and node.root_path is not None:  # of another package
        return Path(node.root_path) / node.original_file_path
    return path


def seed_rows(node: Node, report: Report) -> tuple[str, str]:
    """Two hashes of its rows as they are written: that of definitions, and the one that builds leave.

    Empty where there is no such file, which dbt tells when it loads it.
    """
    try:
        text = seed_path(node, report).read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return "", ""
    return short_digest(text.split("\n")), md5(text.encode(), usedforsecurity=False).hexdigest()


def seed_columns(node: Node, report: Report) -> list[str]:
    """The columns that the file names; OSError or UnicodeDecodeError where it cannot be read."""
    with seed_path(node, report).open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file, delimiter=str(node.config.get("delimiter") or ",")), [])
    return [name.strip() for name in names]


def untyped(names: list[str], node: Node) -> tuple[str, str] | None:
    """The first column whose type dbt would guess, and what to write; None where `column_types` has them all."""
    types = node.config.get("column_types") or {}
    if not (missing := [name for name in names if name not in types]):
        return None
    wanted = ", ".join(f"{name}: {types.get(name, 'varchar')}" for name in names)
    return missing[0], f"config: {{column_types: {{{wanted}}}}} for seed {node.name}, with the types that fit"


def typed_seed(node: Node, report: Report) -> Node:
    """A seed with the columns of its file, of the types by which dbt loads them; a problem where one has none."""
    try:
        names = seed_columns(node, report)
    except (OSError, UnicodeDecodeError) as error:
        report.add(
            node, COLUMN_TYPES, "the seed's file cannot be read", got=str(error), expected="a CSV file in UTF-8",
            file=node.original_file_path,
        )  # fmt: skip
        names = []
    if (wrong := untyped(names, node)) is not None:
        report.add(
            node, COLUMN_TYPES, f"an event source with a column {wrong[0]!r} whose type dbt would guess",
            expected="every column of the seed with its type: live events are checked against them",
            remedy=f"write {wrong[1]}",
        )  # fmt: skip
        names = []
    types = node.config.get("column_types") or {}
    columns = {name: ColumnNode(name, data_type=str(types[name])) for name in names}
    return msgspec.structs.replace(node, columns=columns)
