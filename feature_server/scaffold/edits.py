"""What is to be written into a project: shown as a diff, or done."""

import difflib
from collections.abc import Callable, Iterable
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.util import load_yaml_guess_indent

from ..durable import write_whole
from ..errors import FeatureStoreError


class Edit(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the project in `root`, what it is `before` (None: not there) and `after`, and what for."""

    root: Path
    path: str
    before: str | None
    after: str
    what: str

    def __str__(self) -> str:
        return f"{'wrote' if self.before is None else 'changed'} {self.path}: {self.what}"

    def diff(self) -> str:
        """As `diff -u` has it."""
        old, new = ([] if text is None else text.splitlines(keepends=True) for text in (self.before, self.after))
        names = ("/dev/null" if self.before is None else f"a/{self.path}", f"b/{self.path}")
        return "".join(difflib.unified_diff(old, new, *names))

    def write(self) -> None:
        path = self.root / self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(self.after.encode()))


def told(edits: Iterable[Edit]) -> list[str]:
    """What was written, a line for each file, but one for the files of one purpose in one folder."""
    groups = dict[tuple[str, str], list[Edit]]()
    for edit in edits:
        groups.setdefault((edit.path.partition("/")[0], edit.what), []).append(edit)
    return [
        str(group[0]) if len(group) == 1 else f"wrote {folder}/: {what} ({len(group)} files)"
        for (folder, what), group in groups.items()
    ]


def new_file(root: Path, path: str, text: str, what: str) -> list[Edit]:
    """A file, unless there is one of that name."""
    if (root / path).exists():
        return []
    return [Edit(root=root, path=path, before=None, after=text, what=what)]


def added_lines(root: Path, path: str, lines: Iterable[str], what: str) -> list[Edit]:
    """Lines at the end of a file that it lacks."""
    before = read_text(root / path) if (root / path).is_file() else None
    there = set(map(str.strip, (before or "").splitlines()))
    missing = [line for line in lines if line not in there and line.rstrip("/") not in there]
    if not missing:
        return []
    begun = before or ""
    end = "" if not begun or begun.endswith("\n") else "\n"
    return [Edit(root=root, path=path, before=before, after=begun + end + "\n".join(missing) + "\n", what=what)]


def changed_yaml(root: Path, path: str, change: Callable[[Any], bool], what: str) -> list[Edit]:
    """A file of YAML that `change`, given its content, has changed, if it says so; comments stay where they are."""
    before, yaml = read_text(root / path), YAML()
    yaml.preserve_quotes, yaml.width = True, 10_000
    try:
        _, sequence, offset = load_yaml_guess_indent(before)
        content = yaml.load(before)
    except YAMLError as error:
        raise unreadable(root / path, error) from None
    if not isinstance(content, dict):
        raise unreadable(root / path, ValueError("no mapping of keys"))
    if not change(content):
        return []
    yaml.indent(mapping=2, sequence=(sequence or 2) + (0 if sequence else 2), offset=2 if offset is None else offset)
    out = StringIO()
    yaml.dump(content, out)
    return [Edit(root=root, path=path, before=before, after=out.getvalue(), what=what)]


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a file of YAML; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = YAML(typ="safe", pure=True).load(read_text(path))
    except YAMLError as error:
        raise unreadable(path, error) from None
    return found if isinstance(found, dict) else {}


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> FeatureStoreError:
    return FeatureStoreError(
        "a file of the project cannot be read, so nothing is written", where=str(path), expected="YAML in UTF-8",
        got=" ".join(str(error).split())[:200], remedy="correct it until `dbt parse` succeeds",
    )  # fmt: skip
