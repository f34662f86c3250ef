"""Where in a YAML file a key stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml


class YamlLines:
    """Line numbers of keys in a project's YAML files, each file read once when first asked for."""

    def __init__(self, project_dir: Path) -> None:
        self._project_dir = project_dir
        self._trees: dict[str, yaml.Node | None] = {}

    def find(
        self, file: str, section: str, name: str, version: str | int | float | None, path: Sequence[str | int]
    ) -> int | None:
        """The line of the key `path` of the definition `name`, or of its nearest enclosing key that is there.

        What a version says of itself is preferred to what the model says of all. None when the file has no such
        definition, or is not YAML.
        """
        top, complete = _walk(self._tree(file), (section, name))
        if top is None or not complete:
            return None
        if version is not None:
            own, complete = _walk(top, ("versions", str(version), *path))
            if own is not None and complete and path:
                return _line(own)
        found, _ = _walk(top, path)
        return _line(found) if found is not None else None

    def _tree(self, file: str) -> yaml.Node | None:
        if file not in self._trees:
            self._trees[file] = None
            if file.endswith((".yml", ".yaml")):
                try:
                    text = (self._project_dir / file).read_text(encoding="utf-8")
                    self._trees[file] = yaml.compose(text, Loader=yaml.SafeLoader)
                except (OSError, UnicodeDecodeError, yaml.YAMLError):
                    pass  # the problem is reported all the same, without a line
        return self._trees[file]


def _walk(node: yaml.Node | None, path: Sequence[str | int]) -> tuple[yaml.Node | None, bool]:
    """The deepest node that `path` leads to, and whether that is all of it."""
    if node is None:
        return None, False
    for step in path:
        below = _child(node, step)
        if below is None:
            return node, False
        node = below
    return node, True


def _child(node: yaml.Node, step: str | int) -> yaml.Node | None:
    """The value under a key, the item of that name (or version) or position in a list."""
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode):
        if isinstance(step, int):
            return node.value[step] if step < len(node.value) else None
        for item in node.value:
            if isinstance(item, yaml.MappingNode) and any(
                key.value in ("name", "v") and value.value == step for key, value in item.value
            ):
                return item
    return None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
