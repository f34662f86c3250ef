"""What is to be written into a project: shown as a diff, or done."""

import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from io import StringIO
from pathlib import Path
from typing import IO, Any

import msgspec
import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.util import load_yaml_guess_indent

from ..durable import write_whole
from ..errors import FeatureStoreError

_BOM = "\ufeff"
_DEEPER = re.compile(r"^\S[^\n#]*:[ \t]*\n( +)[^\s#-]", re.MULTILINE)  # the first key under a key
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*?(?=\s*$)", re.MULTILINE)


class Edit(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the project in the folder `root`: what it is `before` and `after` (None: not there), and what for."""

    root: str
    path: str
    before: str | None
    after: str | None
    what: str

    def __str__(self) -> str:
        done = "wrote" if self.before is None else "removed" if self.after is None else "changed"
        return f"{done} {self.path}: {self.what}"

    def diff(self) -> str:
        """As `diff -u` has it."""
        old, new = ([] if text is None else text.splitlines(keepends=True) for text in (self.before, self.after))
        one, other = (f"{side}/{self.path}" if text else "/dev/null" for side, text in (("a", old), ("b", new)))
        lines = difflib.unified_diff(old, new, one, other)
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)

    def write(self) -> None:
        """Do it: through a link, and with the rights that the file has."""
        path = Path(self.root, self.path).resolve()
        if self.after is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode if path.exists() else None
        after = self.after.encode()

        def write(file: IO[bytes]) -> None:
            if mode is not None:
                os.fchmod(file.fileno(), mode & 0o7777)  # before there is anything in it
            file.write(after)

        write_whole(path, write)


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
    return [Edit(root=str(root), path=path, before=None, after=text, what=what)]


def added_lines(root: Path, path: str, lines: Iterable[str], what: str) -> list[Edit]:
    """Lines at the end of a file that it lacks."""
    before = read_text(root / path) if (root / path).is_file() else None
    there = set(map(str.strip, (before or "").splitlines()))
    missing = [line for line in lines if line not in there and line.rstrip("/") not in there]
    if not missing:
        return []
    begun = before or ""
    end = "" if not begun or begun.endswith("\n") else "\n"
    return [Edit(root=str(root), path=path, before=before, after=begun + end + "\n".join(missing) + "\n", what=what)]


def changed_yaml(root: Path, path: str, change: Callable[[Any], bool], what: str) -> list[Edit]:
    """A file of YAML that `change`, given its content, has changed, if it says so.

    Lines that did not change stay as they are, with their comments; FeatureStoreError where that cannot be.
    """
    raw = read_text(root / path)
    before = raw.removeprefix(_BOM).replace("\r\n", "\n")
    writer, content = _loaded(root / path, before)
    plain = _dumped(writer, content)
    if not change(content):
        return []
    changed = _dumped(writer, content)
    wanted = _plain(changed)
    whole = next((text for text in (_merged(before, plain, changed), changed) if _is_kept(before, text, wanted)), None)
    if whole is None:
        lines = [line for line in difflib.ndiff(plain.splitlines(), changed.splitlines()) if line.startswith("+ ")]
        raise FeatureStoreError(
            "a file of the project cannot be changed without harm to its layout, so nothing is written",
            where=str(root / path), expected="these lines in it:\n    " + "\n    ".join(lines),
            remedy="write them yourself, then run the same command again",
        )  # fmt: skip
    after = whole.replace("\n", "\r\n") if "\r\n" in raw else whole
    mark = _BOM if raw.startswith(_BOM) else ""
    return [Edit(root=str(root), path=path, before=raw, after=mark + after, what=what)]


def _loaded(path: Path, text: str) -> tuple[YAML, Any]:
    writer = YAML()
    writer.preserve_quotes, writer.width = True, 10_000
    try:
        _, sequence, offset = load_yaml_guess_indent(text)
        content = writer.load(text)
    except YAMLError as error:
        raise unreadable(path, error) from None
    if not isinstance(content, dict):
        raise unreadable(path, ValueError("no mapping of keys"))
    deeper = _DEEPER.search(text)
    mapping = len(deeper[1]) if deeper else 2
    writer.indent(mapping=mapping, sequence=sequence or 4, offset=2 if offset is None else offset)
    return writer, content


def _dumped(writer: YAML, content: Any) -> str:
    out = StringIO()
    writer.dump(content, out)
    return out.getvalue()


def _plain(text: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return None


def _merged(before: str, plain: str, changed: str) -> str:
    """The text with the lines that a change makes others; those of `plain` are its own, written by the same hand."""
    own, one, other = (text.splitlines(keepends=True) for text in (before, plain, changed))
    if len(own) != len(one):
        return changed
    if own and not own[-1].endswith("\n"):
        own[-1] += "\n"
    lines = list[str]()
    for kind, start, end, begin, stop in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        lines += own[start:end] if kind == "equal" else other[begin:stop]
    return "".join(lines)


def _is_kept(before: str, after: str, wanted: Any) -> bool:
    """Whether a text means what is wanted and has all comments of the one before."""
    if wanted is None or _plain(after) != wanted:
        return False
    return not Counter(_COMMENT.findall(before)) - Counter(_COMMENT.findall(after))


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a file of YAML; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = YAML(typ="safe", pure=True).load(read_text(path))
    except YAMLError as error:
        raise unreadable(path, error) from None
    return found if isinstance(found, dict) else {}


def quoted(text: str) -> str:
    """A text as YAML has it: in quotes unless it is a plain word that means itself."""
    is_word = re.fullmatch(r"[A-Za-z_][\w-]*", text) and yaml.safe_load(text) == text  # by YAML 1.1, as dbt reads it
    return text if is_word else json.dumps(text, ensure_ascii=False)


def read_text(path: Path) -> str:
    """A file of text as it is, its ends of lines too."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> FeatureStoreError:
    return FeatureStoreError(
        "a file of the project cannot be read, so nothing is written", where=str(path), expected="YAML in UTF-8",
        got=" ".join(str(error).split())[:200], remedy="correct it until `dbt parse` succeeds",
    )  # fmt: skip
