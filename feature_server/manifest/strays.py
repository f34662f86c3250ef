"""Definitions that dbt lets through in a place where nothing reads them, or under a misspelt key."""

import difflib
import re
from functools import cache
from typing import Any

from ..dbt.artifacts import Node
from .blocks import BLOCKS
from .report import META, Report, duplicates

_BELONGS = {
    "entity": "a model",
    "feature_view": "a model",
    "feature_service": "an exposure",
    "event_stream": "a source's table",
}
_KIND = {"model": "a model", "exposure": "an exposure", "source": "a source's table"}
_CLOSE = 0.86  # takes feature_veiw and entitiy, leaves identity and feature_view_note alone


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
        report.add(node, META, "meta is not a mapping", expected="a mapping", got=repr(meta))
    kind = _KIND.get(node.resource_type, f"a {node.resource_type}")
    for key in node.meta:
        block = _meant(key)
        if block is None:
            continue
        if key != block:
            report.add(
                node, (*META, key), f"unknown key {key!r}",
                expected=f"{block}, which it looks like", got=str(key), nearest=block,
            )  # fmt: skip
        elif _BELONGS[block] != kind:
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
    letters = re.sub(r"[^a-z]", "", str(key).lower())
    singular = re.sub(r"s$", "", re.sub(r"ies$", "y", letters))
    for block in BLOCKS:
        plain = block.replace("_", "")
        if singular == plain or difflib.SequenceMatcher(None, singular, plain).ratio() >= _CLOSE:
            return block
    return None
