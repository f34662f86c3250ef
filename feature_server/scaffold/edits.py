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
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scanner import ScannerError
from ruamel.yaml.util import load_yaml_guess_indent

from ..durable import write_whole
from ..errors import FeatureStoreError

_BOM = "\ufeff"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LINE = re.compile(r"[^\n]*\n|[^\n]+")  # by line feeds alone, as patches have it
_NO_END = "\\ No newline at end of file"
_DEEPER = re.compile(r"^\S[^\n#]*:[ \t]*\n( +)[^\s#-]", re.MULTILINE)  # the first key under a key
_DEEPER_BY = (0, 2, 1, 4, 6)
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*?(?=\s*$)", re.MULTILINE)


class Edit(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the project in the folder `root`: what it is `before` and `after` (None: not there), and what for."""

    root: str
    path: str
    before: str | None
    after: str | None
    what: str

    def __str__(self) -> str:
        return f"{self.done} {self.path}: {self.what}"

    @property
    def done(self) -> str:
        return "wrote" if self.before is None else "removed" if self.after is None else "changed"

    def diff(self) -> str:
        """As `diff -u` has it, for `git apply`."""
        old, new = (_LINE.findall(text or "") for text in (self.before, self.after))
        one = "/dev/null" if self.before is None else f"a/{self.path}"
        other = "/dev/null" if self.after is None else f"b/{self.path}"
        lines = difflib.unified_diff(old, new, one, other)
        return "".join(line if line.endswith("\n") else f"{line}\n{_NO_END}\n" for line in lines)

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
        str(group[0]) if len(group) == 1 else _told(folder, what, Counter(edit.done for edit in group))
        for (folder, what), group in groups.items()
    ]


def _told(folder: str, what: str, files: Counter[str]) -> str:
    done = next(iter(files)) if len(files) == 1 else "changed"
    several = ", ".join(f"{name} {number}" for name, number in files.items())
    return f"{done} {folder}/: {what} ({f'{files.total()} files' if len(files) == 1 else f'{several} files'})"


def new_file(root: Path, path: str, text: str, what: str) -> list[Edit]:
    """A file, unless there is one of that name."""
    if (root / path).exists():
        return []
    return [Edit(root=str(root), path=path, before=None, after=text, what=what)]


def added_lines(root: Path, path: str, lines: Iterable[str], what: str) -> list[Edit]:
    """Lines at the end of a file that it lacks."""
    before = read_text(root / path) if (root / path).is_file() else None
    there = {line.strip().strip("/").removesuffix("/*") for line in (before or "").splitlines()}
    missing = [line for line in lines if line.strip("/") not in there]
    if not missing:
        return []
    begun = before or ""
    end = "\r\n" if "\r\n" in begun else "\n"
    begun += "" if not begun or begun.endswith("\n") else end
    return [Edit(root=str(root), path=path, before=before, after=begun + end.join([*missing, ""]), what=what)]


def changed_yaml(root: Path, path: str, change: Callable[[Any], bool], what: str) -> list[Edit]:
    """A file of YAML that `change`, given its content, has changed, if it says so.

    Lines that did not change stay as they are, with their comments; what the file means is what dbt, which reads YAML
    otherwise than the library that writes it, then reads. FeatureStoreError where that cannot be.
    """
    raw = read_text(root / path)
    before = raw.removeprefix(_BOM).replace("\r\n", "\n")
    wanted = _copied(_mapping(root / path, before))
    if not change(wanted):
        return []
    changed = list[str]()
    for split in (False, True):
        writer, content = _loaded(root / path, before)
        if split:
            _split_aliases(content)
        plain = "" if yaml.load(before, Loader=_LOADER) is None else _dumped(writer, content)
        change(content)
        text = _dumped(writer, content)
        texts = (*(_merged(before, plain, text, deeper) for deeper in _DEEPER_BY), text)
        if (whole := next((each for each in texts if _is_kept(before, each, wanted)), None)) is not None:
            after = whole.replace("\n", "\r\n") if "\r\n" in raw else whole
            mark = _BOM if raw.startswith(_BOM) else ""
            return [Edit(root=str(root), path=path, before=raw, after=mark + after, what=what)]
        changed = changed or [one for one in difflib.ndiff(plain.splitlines(), text.splitlines()) if one[:2] == "+ "]
    raise FeatureStoreError(
        "a file of the project cannot be changed without harm to its layout, so nothing is written",
        where=str(root / path), expected="these lines in it:\n    " + "\n    ".join(changed),
        remedy="write them yourself, then run the same command again",
    )  # fmt: skip


def _mapping(path: Path, text: str) -> dict[str, Any]:
    """What dbt reads in a file of YAML: nothing in an empty one."""
    if not isinstance(found := _read(path, text), dict | None):
        raise unreadable(path, ValueError("no mapping of keys"))
    return found or {}


def _read(path: Path, text: str) -> Any:
    try:
        return yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, ValueError) as error:
        raise unreadable(path, error) from None


def _copied(value: Any) -> Any:
    """A value as the writer has it, each alias a value of its own."""
    if isinstance(value, dict):
        return CommentedMap((key, _copied(each)) for key, each in value.items())
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _loaded(path: Path, text: str) -> tuple[YAML, Any]:
    writer = YAML()
    writer.preserve_quotes, writer.width = True, 10_000
    try:
        try:
            content, sequence, offset = _read_by(writer, text)
        except ScannerError:
            content, sequence, offset = _read_by(writer, text := _without_tabs(text))
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else "?"
        raise FeatureStoreError(
            "a key stands twice in a file of the project, so nothing is written", where=f"{path}:{line}",
            expected="each key once: dbt takes the last and warns that it will refuse it",
            got=str(error.problem).partition(" with value")[0], remedy="make one of the two",
        ) from None  # fmt: skip
    except YAMLError as error:
        raise unreadable(path, error) from None
    deeper = _DEEPER.search(text)
    mapping = len(deeper[1]) if deeper else 2
    writer.indent(mapping=mapping, sequence=sequence or 4, offset=2 if offset is None else offset)
    return writer, CommentedMap() if content is None else content


def _read_by(writer: YAML, text: str) -> tuple[Any, int | None, int | None]:
    _, sequence, offset = load_yaml_guess_indent(text)
    return writer.load(text), sequence, offset


def _without_tabs(text: str) -> str:
    """A text of YAML with spaces for the tabs between its words, which the writer does not read."""
    spaced, at = list[str](), 0
    for token in yaml.scan(text, Loader=_LOADER):
        if isinstance(token, yaml.ScalarToken):
            start, end = token.start_mark.index, token.end_mark.index
            spaced += [text[at:start].replace("\t", " "), text[start:end]]
            at = end
    return "".join([*spaced, text[at:].replace("\t", " ")])


def _split_aliases(content: Any, seen: set[int] | None = None) -> None:
    """Make each alias in a document a value of its own."""
    seen = set() if seen is None else seen
    for key in list(content) if isinstance(content, dict) else range(len(content)):
        value = content[key]
        if isinstance(value, CommentedMap | CommentedSeq):
            if id(value) in seen:
                content[key] = value = _plainly(value)
            seen.add(id(value))
            _split_aliases(value, seen)


def _plainly(value: Any) -> Any:
    """A copy of a value without the names by which it is an alias."""
    if isinstance(value, dict):
        return CommentedMap((key, _plainly(each)) for key, each in value.items())
    return CommentedSeq([_plainly(each) for each in value]) if isinstance(value, list) else value


def _dumped(writer: YAML, content: Any) -> str:
    out = StringIO()
    writer.dump(content, out)
    return out.getvalue()


def _merged(before: str, plain: str, changed: str, deeper: int) -> str:
    """The text with the lines that a change makes others; those of `plain` are its own, written by the same hand.

    New lines under a key are indented by so much more, for the file may indent by more there than where it begins.
    """
    own, one, other = (text.splitlines(keepends=True) for text in (before, plain, changed))
    if own and not own[-1].endswith("\n"):
        own[-1] += "\n"
    places = _places(one, own)

    def indented(line: str) -> str:
        return " " * deeper + line if line.startswith(" ") else line

    lines, last = list[str](), 0
    for kind, start, end, begin, stop in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        if (begins := places.get(start)) is None or (ends := places.get(end)) is None:
            return changed
        new = other[begin:stop] if kind == "replace" else [indented(line) for line in other[begin:stop]]
        lines += [*own[last:begins], *new]
        last = ends
    return "".join([*lines, *own[last:]])


def _places(one: list[str], own: list[str]) -> dict[int, int]:
    """Which line of the file each line is that the writer makes of it, as far as that can be told."""
    if len(one) == len(own):
        return {at: at for at in range(len(one) + 1)}
    found = {0: 0, len(one): len(own)}
    for block in difflib.SequenceMatcher(None, one, own, autojunk=False).get_matching_blocks():
        found |= {block.a + at: block.b + at for at in range(block.size + 1) if block.size}
    return found


def _is_kept(before: str, after: str, wanted: Any) -> bool:
    """Whether dbt reads in a text what is wanted, and all comments of the one before are there."""
    try:
        if yaml.load(after, Loader=_LOADER) != wanted:
            return False
    except (yaml.YAMLError, ValueError):
        return False
    one, other = (Counter(" ".join(each.split()) for each in _COMMENT.findall(text)) for text in (before, after))
    return not one - other


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a file of YAML, as dbt reads it; empty where there is no such file, or nothing in it."""
    found = _read(path, read_text(path).removeprefix(_BOM)) if path.is_file() else None
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
