"""Problems gathered on the way, each with the file, line and key path it stands at."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import msgspec
import yaml

from ..dbt.artifacts import Catalog, Manifest, Node
from ..errors import Problem, nearest_name
from ..project.package import LOADER

Step = str | int
_Finding = tuple[Node, tuple[Step, ...], Problem]
META = ("config", "meta")


class Report:
    """Every problem found so far in what dbt wrote; one in what all versions of a model share is reported once."""

    def __init__(
        self, project_dir: Path, manifest: Manifest, catalog: Catalog, attached: Iterable[str] | None = None
    ) -> None:
        self.project_dir, self.manifest, self.catalog, self.attached = project_dir, manifest, catalog, attached
        self._trees: dict[str, yaml.Node | None] = {}  # of YAML files, each read when first asked for
        self._findings: list[_Finding] = []
        self._warnings: list[_Finding] = []
        self._versions: dict[tuple[str, str], set[str]] = {}

    @cached_property
    def databases(self) -> list[str]:
        """The database of models that name none, dbt's own file, and those attached to it; empty if not known."""
        nodes = (node for node in self.manifest.nodes.values() if node.database and not node.config.get("database"))
        own = next((node.database for node in nodes), None)
        return [] if own is None or self.attached is None else [own, *self.attached]

    def add(
        self,
        node: Node,
        path: Iterable[Step],
        what: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        nearest: str | None = None,
        remedy: str | None = None,
        file: str | None = None,
        warning: bool = False,
    ) -> None:
        """A problem of `node` at the keys `path` below it; a name in `path` that follows `columns` is in brackets.

        `file` is where it stands if not in the file of the definition, such as the model's SQL. A `warning` is told,
        and does not keep the definitions from being in force.
        """
        path = tuple(path)
        own = node.package_name == self.manifest.metadata.project_name
        file = file or node.file
        problem = Problem(
            file=file if own else f"{node.package_name}://{file}",
            key_path=_key_path(node.section, node.label, path),
            what=what, expected=expected, got=got, nearest=nearest, remedy=remedy,
        )  # fmt: skip
        (self._warnings if warning else self._findings).append((node, path, problem))

    def unknown_name(
        self, node: Node, path: Iterable[Step], kind: str, name: str, known: Iterable[str], remedy: str | None = None
    ) -> None:
        """A problem: `name` is none of the `known` ones."""
        known = sorted(known)
        shown = ", ".join(known[:10]) + (f", … ({len(known)} in all)" if len(known) > 10 else "")
        self.add(
            node, path, f"unknown {kind} {name!r}",
            expected=f"one of {shown}" if known else f"a known {kind}; the project has none",
            got=name, nearest=nearest_name(name, known), remedy=remedy,
        )  # fmt: skip

    def check_description(self, node: Node, kind: str, says: str) -> None:
        """A problem where a definition says nothing of itself."""
        if not node.text:
            self.add(node, ("description",), f"the {kind} has no description", expected=f"a sentence: {says}")

    def saw_version(self, node: Node) -> None:
        """Note a version of a view, so that `problems` knows when a problem is of all of them."""
        self._versions.setdefault((node.package_name, node.name), set()).add(node.unique_id)

    def problems(self) -> list[Problem]:
        """All problems, in the order of files and lines."""
        return self._placed(self._findings)

    def warnings(self) -> list[Problem]:
        """All warnings, in that order."""
        return self._placed(self._warnings)

    def _placed(self, findings: list[_Finding]) -> list[Problem]:
        shared: dict[Problem, set[str]] = {}
        for node, _, problem in findings:
            shared.setdefault(problem, set()).add(node.unique_id)
        kept: dict[Problem, int] = {}
        for node, path, problem in findings:
            line = self._line(problem.file, node, path)
            of_some = shared[problem] < self._versions.get((node.package_name, node.name), set())
            if of_some and node.version is not None:
                named = _key_path(node.section, f"{node.name}@v{node.version}", path)
                problem = msgspec.structs.replace(problem, key_path=named)
            kept.setdefault(msgspec.structs.replace(problem, line=line), len(kept))
        return sorted(kept, key=lambda problem: (problem.file, problem.line or 0, kept[problem]))

    def _line(self, file: str, node: Node, path: tuple[Step, ...]) -> int | None:
        """The line of the key `path` of a definition, or of its nearest enclosing key that is there.

        What a version says of itself is preferred to what the model says of all. None when the file has no such
        definition, or is not YAML.
        """
        top, line, complete = _walk(self._tree(file), node.keys)
        if not complete:
            return None
        if node.version is not None and path:
            _, own, complete = _walk(top, ("versions", str(node.version), *path))
            if complete:
                return own
        _, nearest, _ = _walk(top, path)
        return nearest or line

    def keys(self, node: Node) -> list[str]:
        """The keys of a model's or exposure's definition, also those that dbt does not keep."""
        top, _, complete = _walk(self._tree(node.file), (node.section, node.name))
        return [str(key.value) for key, _ in top.value] if complete and isinstance(top, yaml.MappingNode) else []

    def column_names(self, node: Node) -> list[str]:
        """The names under `columns` of a model's definition, one that is listed twice occurring twice."""
        columns, _, complete = _walk(self._tree(node.file), (node.section, node.name, "columns"))
        listed = columns.value if complete and isinstance(columns, yaml.SequenceNode) else []
        items = (item for item in listed if isinstance(item, yaml.MappingNode))
        return [str(value.value) for item in items for key, value in item.value if key.value == "name"]

    def _tree(self, file: str) -> yaml.Node | None:
        if file not in self._trees:
            self._trees[file] = None
            if file.endswith((".yml", ".yaml")):
                try:
                    text = (self.project_dir / file).read_text(encoding="utf-8")
                    self._trees[file] = yaml.compose(text, Loader=LOADER)
                except (OSError, UnicodeDecodeError, yaml.YAMLError):
                    pass  # the problem is reported all the same, without a line
        return self._trees[file]


def duplicates(names: Iterable[str]) -> list[str]:
    """The names that occur more than once, in order."""
    return [name for name, times in Counter(names).items() if times > 1]


def _key_path(section: str, name: str, path: tuple[Step, ...]) -> str:
    text = f"{section}[{name}]"
    previous: Step = section
    for step in path:
        text += f"[{step}]" if isinstance(step, int) or previous == "columns" else f".{step}"
        previous = step
    return text


def _walk(node: yaml.Node | None, path: Sequence[Step]) -> tuple[yaml.Node | None, int | None, bool]:
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
