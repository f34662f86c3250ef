"""The keys that the blocks under `meta` (entity, feature_view…) may hold, and reading them strictly."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..dbt.artifacts import Node
from ..definitions.facts import parse_duration
from ..errors import nearest_name
from .report import META, Report

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # of entities, views and features: part of files' names and references
NAME_IN_WORDS = "letters, digits and underscores, a letter first"
REFRESH = ("hourly", "daily", "weekly", "manual")


@dataclass(frozen=True)
class Key:
    """One key of a block: `accepts` says whether a value can stand there, `expected` says it in words."""

    name: str
    accepts: Callable[[Any], bool]
    expected: str
    required: bool = False


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_name, value))


def _is_duration(value: Any) -> bool:
    try:
        return isinstance(value, str) and parse_duration(value) > 0
    except ValueError:
        return False


_COLUMN = "the name of a column"

BLOCKS: dict[str, tuple[Key, ...]] = {
    "entity": (
        Key("name", _is_name, "the name of the entity, e.g. customer", required=True),
        Key("join_keys", _is_list_of_names, "a list of columns, e.g. [customer_id]", required=True),
    ),
    "feature_view": (
        Key("entities", _is_list_of_names, "a list of entities, e.g. [customer]", required=True),
        Key("event_timestamp", _is_name, _COLUMN),
        Key("created_timestamp", _is_name, _COLUMN),
        Key("ttl", _is_duration, "a duration such as 30s, 15m, 6h, 30d or 2w"),
        Key("refresh", lambda value: value in REFRESH, f"one of {', '.join(REFRESH)}", required=True),
        Key("online", lambda value: isinstance(value, bool), "true or false"),
        Key("stream", _is_name, "the source whose events arrive live, e.g. payments.transactions"),
    ),
    "event_stream": (
        Key("event_id", _is_name, _COLUMN, required=True),
        Key("event_timestamp", _is_name, _COLUMN, required=True),
        Key("created_timestamp", _is_name, _COLUMN),
    ),
    "feature_service": (
        Key("features", _is_list_of_names, "a list of `view:feature`, e.g. [customer__profile:country]", required=True),
    ),
}  # fmt: skip


def read_block(node: Node, block: str, report: Report) -> dict[str, Any]:
    """The keys of `node`'s block that are right; every other one becomes a problem."""
    path = (*META, block)
    written = node.meta[block]
    keys = {key.name: key for key in BLOCKS[block]}
    if not isinstance(written, dict):
        expected = f"a mapping with the keys {', '.join(keys)}"
        report.add(node, path, f"{block} is not a mapping", expected=expected, got=show(written))
        return {}
    for name in written:
        if name not in keys:
            report.add(
                node, (*path, name), f"unknown key {name!r}",
                expected=f"one of {', '.join(keys)}", got=str(name), nearest=nearest_name(str(name), keys),
            )  # fmt: skip
    right = {}
    for name, key in keys.items():
        if name not in written:
            if key.required:
                close = nearest_name(name, (str(other) for other in written if other not in keys))
                report.add(node, path, f"{name} is missing", expected=key.expected, got=close)
        elif key.accepts(written[name]):
            right[name] = written[name]
        else:
            nearest = nearest_name(str(written[name]), REFRESH) if name == "refresh" else None
            report.add(
                node, (*path, name), f"{name} has a value that it cannot have",
                expected=key.expected, got=show(written[name]), nearest=nearest,
            )  # fmt: skip
    return right


def show(value: Any) -> str:
    """A value as the YAML's reader took it, with its type where that is not plain."""
    if isinstance(value, str):
        return repr(value)
    if value is None:
        return "nothing"
    return f"{value!r} ({type(value).__name__})"
