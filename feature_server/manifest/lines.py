"""Where in a YAML file a key stands."""

from collections.abc import Sequence
from pathlib import Path

import yaml


class YamlLines:
    """Line numbers of keys in a project's YAML files, each file read once when first asked for."""

    def __init__(self, project_dir: Path) -> None:
        self._project_dir = project_dir
        self._trees: dict[str, yaml.Node | None] = {}

    def find(
        self, file: str, definition: Sequence[str], version: str | int | float | None, path: Sequence[str | int]
    ) -> int | None:
        """The line of the key `path` of a definition, or of its nearest enclosing key that is there.

        `definition` are the keys that lead to it, such as `models` and its name.

        What a version says of itself is preferred to what the model says of all. None when the file has no such
        definition, or is not YAML.
        """
        top, line, complete = _walk(self._tree(file), definition)
        if not complete:
            return None
        if version is not None and path:
            _, own, complete = _walk(top, ("versions", str(version), *path))
            if complete:
                return own
        _, nearest, _ = _walk(top, path)
        return nearest or line

    def keys(self, file: str, section: str, name: str) -> list[str]:
        """The keys of the definition `name`, also those that dbt does not keep."""
        top, _, complete = _walk(self._tree(file), (section, name))
        return [str(key.value) for key, _ in top.value] if complete and isinstance(top, yaml.MappingNode) else []

    def column_names(self, file: str, section: str, name: str) -> list[str]:
        """The names under `columns` of the definition `name`, one that is listed twice occurring twice."""
        columns, _, complete = _walk(self._tree(file), (section, name, "columns"))
        if not complete or not isinstance(columns, yaml.SequenceNode):
            return []
        items = (item for item in columns.value if isinstance(item, yaml.MappingNode))
        return [str(value.value) for item in items for key, value in item.value if key.value == "name"]

    def _tree(self, file: str) -> yaml.Node | None:
        if file not in self._trees:
            self._trees[file] = None
            if file.endswith((".yml", ".yaml")):
                try:
                    text = (self._project_dir / file).read_text(encoding="utf-8")
                    self._trees[file] = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
                except (OSError, UnicodeDecodeError, yaml.YAMLError):
                    pass  # the problem is reported all the same, without a line
        return self._trees[file]


def _walk(node: yaml.Node | None, path: Sequence[str | int]) -> tuple[yaml.Node | None, int | None, bool]:
    """The deepest node that `path` leads to, the line it is named on, and whether that is all of the path."""
    line = None
    for step in path:
        found = None if node is None else _child(node, step)
        if found is None:
            return node, line, False
        node, mark = found
        line = int(mark.line) + 1
    return node, line, True


def _child(node: yaml.Node, step: str | int) -> tuple[yaml.Node, yaml.Mark] | None:
    """The value under a key, or the item of a list by position, name or version, and where it is named."""
    if isinstance(node, yaml.MappingNode):
        return next(((value, key.start_mark) for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode):
        if isinstance(step, int):
            return (node.value[step], node.value[step].start_mark) if step < len(node.value) else None
        for item in node.value:
            if isinstance(item, yaml.MappingNode) and any(
                key.value in ("name", "v") and value.value == step for key, value in item.value
            ):
                return item, item.start_mark
    return None
