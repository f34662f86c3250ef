"""Which macros a model's SQL calls, itself or through others."""

import re
from collections.abc import Iterator

from ..dbt.artifacts import Manifest, Node

_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_STRING = r""""[^"]*"|'[^']*'"""
_BLOCK = re.compile(rf"""\{{[{{%](?:{_STRING}|[^"'])*?[}}%]\}}""", re.DOTALL)
_CALL = re.compile(r"(?:(\w+)\.)?(\w+)\s*\(")


def way_to_macro(node: Node, name: str, manifest: Manifest) -> tuple[str, ...] | None:
    """The macros from the one that a model's SQL calls to dbt's own macro `name`; None when there is no such way.

    Hooks are not the model's SQL, though dbt counts their macros among the model's.
    """
    goal = f"macro.dbt.{name}"
    ways: list[tuple[str, ...]] = [(macro,) for macro in _called(node, name, manifest)]
    seen = {way[-1] for way in ways}
    while ways:
        way = ways.pop(0)
        if way[-1] == goal:
            return tuple(unique_id.rpartition(".")[2] for unique_id in way)
        macro = manifest.macros.get(way[-1])
        below = [found for found in macro.depends_on.macros if found not in seen] if macro else []
        seen.update(below)
        ways += [(*way, found) for found in below]
    return None


def _called(node: Node, name: str, manifest: Manifest) -> Iterator[str]:
    """The macros that the model's Jinja may call; a name may be that of macros in several packages."""
    named: dict[str, list[str]] = {name: [f"macro.dbt.{name}"]}
    for unique_id in manifest.macros:
        named.setdefault(unique_id.rpartition(".")[2], []).append(unique_id)
    for block in _BLOCK.findall(_COMMENT.sub("", node.raw_code)):
        for package, called in _CALL.findall(re.sub(_STRING, "", block)):
            for unique_id in named.get(called, []):
                if not package or unique_id == f"macro.{package}.{called}":
                    yield unique_id
