"""The keys that the blocks under `meta` (entity, feature_view…) may hold, and reading them strictly.

Definitions that dbt lets through in a place where nothing reads them, or under a misspelt key, are reported too.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..dbt.artifacts import ColumnNode, Node
from ..definitions.facts import LONGEST_DAYS, duration_us
from ..definitions.schedule import CADENCES
from ..definitions.stream import is_pattern
from ..errors import nearest_name, shown
from .report import META, Report, duplicates

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # of entities, views and features: part of files' names and references
NAME_IN_WORDS = "letters, digits and underscores, a letter first"
REFRESH = (*CADENCES, "manual")


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


def is_duration(value: Any) -> bool:
    return bool(duration_us(value))


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
        Key("ttl", is_duration, f"a duration such as 30s, 15m, 6h, 30d or 2w, of at most {LONGEST_DAYS}d"),
        Key("refresh", lambda value: value in REFRESH, f"one of {', '.join(REFRESH)}", required=True),
        Key("online", lambda value: isinstance(value, bool), "true or false"),
        Key("freshness", lambda value: isinstance(value, dict), "a mapping such as {warn: 2h, error: 6h}"),
        Key("stream", _is_name, "the source or seed whose events arrive live, e.g. payments.transactions"),
    ),
    "event_stream": (
        Key("event_id", _is_name, _COLUMN, required=True),
        Key("event_timestamp", _is_name, _COLUMN, required=True),
        Key("created_timestamp", _is_name, _COLUMN),
        Key("landing", is_pattern, "for a table or seed, where its live events land, e.g. landing/orders/*.parquet"),
    ),
    "feature_service": (
        Key("features", _is_list_of_names, "a list of `view:feature`, e.g. [customer__profile:country]", required=True),
        Key("consistent", lambda value: value == "run", "run: the views of one cadence change together"),
    ),
}  # fmt: skip

PII, PII_REASON = PII_KEYS = ("pii", "pii_reason")  # of a column: whether it tells of a person, and why not
AVAILABLE_AFTER = "available_after"  # of a source: how long after its event time a row can be known

_BELONGS = {
    "entity": "a model",
    "feature_view": "a model",
    "feature_service": "an exposure",
    "event_stream": "a source's table or a seed",
}
_KIND = {"exposure": "an exposure", "source": "a source's table"}
_CLOSE = 0.86  # takes feature_veiw and entitiy, leaves identity and feature_view_note alone


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
        return shown(value)
    if value is None:
        return "nothing"
    return f"{shown(value)} ({type(value).__name__})"


def report_stray_keys(report: Report) -> None:
    manifest = report.manifest
    for node in (*manifest.nodes.values(), *manifest.sources.values(), *manifest.exposures.values()):
        _report_meta(node, report)
        outside: list[tuple[str, ...]] = [("config", key) for key in node.config]
        if node.resource_type in ("model", "exposure"):
            outside += [(key,) for key in report.keys(node)]
        for path in outside:
            if (block := _meant(path[-1])) is not None:
                report.add(
                    node, path, f"{path[-1]} stands outside meta, where nothing reads it",
                    expected=f"config.meta.{block}", got=".".join(path), remedy=f"move it to config.meta.{block}",
                )  # fmt: skip
        if not BLOCKS.keys().isdisjoint(node.meta):
            for name in duplicates(report.column_names(node)):
                report.add(node, ("columns", name), f"column {name!r} is listed twice", expected="each column once")
        for column in node.columns.values():
            _report_pii(node, column, report)
            for key in column.meta:
                if (block := _meant(key)) is not None:
                    report.add(
                        node, ("columns", column.name, *META, key), f"a column cannot hold {key}",
                        expected=f"{block} in config.meta of {_BELONGS[block]}",
                        remedy=f"move it to config.meta.{block} of {_BELONGS[block]}",
                    )  # fmt: skip


def _report_meta(node: Node, report: Report) -> None:
    meta: Any = node.config.get("meta")
    if meta is not None and not isinstance(meta, dict):
        report.add(node, META, "meta is not a mapping", expected="a mapping", got=shown(meta))
    kind = _KIND.get(node.resource_type, f"a {node.resource_type}")
    for key, value in node.meta.items():
        if _looks_like(key, AVAILABLE_AFTER):
            _report_available(node, key, value, report)
            continue
        if key in PII_KEYS:
            report.add(
                node, (*META, key), f"{key} is said of columns", expected="config.meta of a column",
                got=f"config.meta of {kind}", remedy="say of each column whether it is pii, under `columns`",
            )  # fmt: skip
        block = _meant(key)
        if block is None:
            continue
        if key != block:
            report.add(
                node, (*META, key), f"unknown key {key!r}",
                expected=f"{block}, which it looks like", got=str(key), nearest=block,
            )  # fmt: skip
        elif kind not in _BELONGS[block].split(" or "):
            report.add(
                node, (*META, key), f"{kind} cannot hold {key}",
                expected=f"{key} in config.meta of {_BELONGS[block]}",
                remedy=f"move it to {_BELONGS[block]}",
            )  # fmt: skip


@cache  # every model has the same few
def _meant(key: Any) -> str | None:
    """The block that a key is, or is a misspelling of; None for a key that is somebody else's."""
    if key in BLOCKS:
        return str(key)
    return next((block for block in BLOCKS if _looks_like(key, block)), None)


@cache
def _looks_like(key: Any, name: str) -> bool:
    """Whether a key is a name, or a misspelling or plural of it."""
    letters, plain = re.sub(r"[^a-z]", "", str(key).lower()), name.replace("_", "")
    singular = re.sub(r"s$", "", re.sub(r"ies$", "y", letters))
    return singular == plain or difflib.SequenceMatcher(None, singular, plain).ratio() >= _CLOSE


def _report_pii(node: Node, column: ColumnNode, report: Report) -> None:
    """Problems where what a column's meta says of pii is not what is read."""
    path, meta = ("columns", column.name, *META), column.meta
    for key in meta:
        if key not in PII_KEYS and (near := next((name for name in PII_KEYS if _looks_like(key, name)), None)):
            report.add(node, (*path, key), f"unknown key {key!r}", expected=near, got=str(key), nearest=near)
    if PII in meta and not isinstance(meta[PII], bool):
        report.add(
            node, (*path, PII), "pii has a value that it cannot have", expected="true or false", got=show(meta[PII])
        )
    if PII_REASON in meta and PII not in meta:
        report.add(node, (*path, PII_REASON), f"{PII_REASON} without pii", expected=f"pii: false beside {PII_REASON}")
    elif PII_REASON in meta and not _is_name(meta[PII_REASON]):
        report.add(
            node, (*path, PII_REASON), f"{PII_REASON} has a value that it cannot have",
            expected="why the column tells of nobody", got=show(meta[PII_REASON]),
        )  # fmt: skip


def pii_of(column: ColumnNode) -> bool | None:
    """What a column's meta says of it: that it is pii, that it is none and why, or nothing."""
    value = column.meta.get(PII)
    return True if value is True else False if value is False and _is_name(column.meta.get(PII_REASON)) else None


def _report_available(node: Node, key: str, value: Any, report: Report) -> None:
    """A problem where it is misspelt, not a duration, or not of a source: nothing would read it."""
    path, expected = (*META, key), f"{AVAILABLE_AFTER}: a duration such as 15m, 2h or 1d, in config.meta of a source"
    if key != AVAILABLE_AFTER:
        report.add(node, path, f"unknown key {key!r}", expected=expected, got=str(key), nearest=AVAILABLE_AFTER)
    elif node.resource_type != "source":
        report.add(node, path, f"a {node.resource_type} cannot hold {key}", expected=expected)
    elif not is_duration(value):
        report.add(node, path, f"{key} has a value that it cannot have", expected=expected, got=show(value))
    elif "event_stream" in node.meta:
        report.add(
            node, path, "an event stream says of each event when it was known", got=f"{key}: {value}",
            expected="created_timestamp in event_stream", remedy=f"take {key} out of this table",
        )  # fmt: skip
