"""Tables of dbt sources with `meta.event_stream` → event sources."""

from dataclasses import dataclass
from typing import Any

from ..dbt.artifacts import Catalog, Node
from ..definitions.stream import EventSource, SourceColumn
from ..dtypes import DType
from .blocks import read_block
from .columns import Columns
from .report import META, Report

BLOCK = (*META, "event_stream")


@dataclass
class SourceDraft:
    """An event source whose definition may hold problems; then `source` is None."""

    node: Node
    source: EventSource | None


def read_sources(report: Report) -> dict[str, SourceDraft]:
    """Every event source by name, `<source>.<table>`, those with problems among them."""
    nodes = sorted(report.manifest.sources.values(), key=lambda node: node.unique_id)
    return {node.label: _read_source(node, report) for node in nodes if "event_stream" in node.meta}


def _read_source(node: Node, report: Report) -> SourceDraft:
    block = read_block(node, "event_stream", report)
    columns = Columns(node, Catalog(), report)
    found = [(name, columns.dtype(name)) for name in columns.names]
    types = dict(found)
    if not found:
        report.add(
            node, ("columns",), "an event source without columns",
            expected="every column of the source's table with its data_type: live events are checked against them",
        )  # fmt: skip
    roles = {key: block[key] for key in ("event_id", "event_timestamp", "created_timestamp") if key in block}
    fits = [_check_role(key, name, types, columns) for key, name in roles.items()]
    known = tuple(SourceColumn(name, dtype) for name, dtype in found if dtype is not None)
    if not all(fits) or not {"event_id", "event_timestamp"} <= roles.keys() or len(known) < len(found):
        return SourceDraft(node, None)
    relation = node.relation_name or ""
    return SourceDraft(
        node, EventSource(name=node.label, columns=known, relation=relation, path=node.original_file_path, **roles)
    )


def _check_role(key: str, name: str, types: dict[str, DType | None], columns: Columns) -> bool:
    """Whether the column named for event id or a timestamp is there and of a type that can be that."""
    if not types or not columns.expect(name, (*BLOCK, key), key):
        return False
    dtype: Any = types[name]
    if dtype is None:
        return False
    fits = dtype.kind in ("string", "uuid") or "int" in dtype.kind if key == "event_id" else dtype.is_timestamp
    if not fits:
        expected = "an integer, varchar or uuid" if key == "event_id" else "timestamp or timestamptz"
        columns.wrong_type(name, f"{key} {name!r} has a type that it cannot have", expected)
    return bool(fits)
