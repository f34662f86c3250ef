"""Problems gathered on the way, each with the file, line and key path it stands at."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ..dbt.artifacts import Node
from ..errors import Problem, nearest_name
from .lines import YamlLines

Step = str | int
META = ("config", "meta")


class Report:
    """Every problem found so far; a mistake in the part that all versions of a model share is reported once."""

    def __init__(self, project_dir: Path, project_name: str) -> None:
        self._project_name = project_name
        self.project_dir = project_dir
        self.lines = YamlLines(project_dir)
        self._findings: list[tuple[Node, tuple[Step, ...], Problem]] = []
        self._versions: dict[tuple[str, str], set[str]] = {}

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
    ) -> None:
        """A problem of `node` at the keys `path` below it; a name in `path` that follows `columns` is in brackets.

        `file` is where it stands if not in the file of the definition, such as the model's SQL.
        """
        path = tuple(path)
        own = node.package_name == self._project_name
        file = file or node.file
        problem = Problem(
            file=file if own else f"{node.package_name}://{file}",
            key_path=_key_path(node.section, node.label, path),
            what=what, expected=expected, got=got, nearest=nearest, remedy=remedy,
        )  # fmt: skip
        self._findings.append((node, path, problem))

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
        shared: dict[Problem, set[str]] = {}
        for node, _, problem in self._findings:
            shared.setdefault(problem, set()).add(node.unique_id)
        kept: dict[Problem, int] = {}
        for node, path, problem in self._findings:
            line = self.lines.find(problem.file, node.keys, node.version, path)
            of_some = shared[problem] < self._versions.get((node.package_name, node.name), set())
            if of_some and node.version is not None:
                named = _key_path(node.section, f"{node.name}@v{node.version}", path)
                problem = msgspec.structs.replace(problem, key_path=named)
            kept.setdefault(msgspec.structs.replace(problem, line=line), len(kept))
        return sorted(kept, key=lambda problem: (problem.file, problem.line or 0, kept[problem]))


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
