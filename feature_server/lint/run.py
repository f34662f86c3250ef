"""Looks at every feature view of a project and at what is under it."""

import difflib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from sqlglot import ErrorLevel, exp

from ..errors import FeatureStoreError, Problem
from ..queries.rows import Rows
from ..written.described import Described
from ..written.project import ProjectFiles, read_project
from .models import Compiled, Looked, Models, Unread
from .rules import RULES, UNKNOWN, UNREADABLE, UNTESTED

_MODEL = re.compile(r'"model"\."ref"\."(\w+)[^"]*"')
_DEEPEST = 10_000  # calls within one another, by which nested SQL is read: a union of 400 parts needs 1,000
NO_VIEWS: Mapping[str, str] = {}
_OTHER_NAMES = {  # of functions that the parser names as the first
    "array_agg": ("list",), "listagg": ("string_agg", "group_concat"), "arg_max": ("max_by", "argmax"),
    "arg_min": ("min_by", "argmin"), "uuid": ("gen_random_uuid",),
}  # fmt: skip
_QUOTED = re.compile(r"""('[^']*'|"[^"]*")""")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A place of a model's SQL that leaks or is unstable: by which rule, the text, why it matters, what to write."""

    file: str
    line: int
    rule: str
    model: str
    views: tuple[str, ...]
    got: str
    why: str
    instead: str

    def __str__(self) -> str:
        read = "" if self.views == (self.model,) else f" (under {', '.join(self.views)})"
        return f"{self.file}:{self.line}: {self.rule}: {self.got}{read}\n  why: {self.why}\n  instead: {self.instead}"


class NotLooked(msgspec.Struct, frozen=True, kw_only=True):
    """A model of which something was not looked at on purpose, and why."""

    file: str
    model: str
    why: str
    how: str = "not looked at"

    def __str__(self) -> str:
        return f"{self.file}: {self.how}: {self.why}"


class Linted(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, and how many views and models were looked at."""

    findings: tuple[Finding, ...]
    not_looked_at: tuple[NotLooked, ...]
    views: int
    models: int


def lint(root: Path, known: Mapping[str, str] = NO_VIEWS, compiled: Compiled = lambda name: None) -> Linted:
    """The findings in all feature views of a project and in what is under them, in the order of files and lines.

    `known` are views by the names of their files without an ending, with the files, as dbt has them, and `compiled`
    gives the models that dbt has compiled: what cannot be read in files is read there.
    """
    with _deep():
        return _lint(root, known, compiled)


@contextmanager
def _deep() -> Iterator[None]:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _DEEPEST))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def landed(root: Path, name: str, source: str | None = None, version: str | None = None) -> tuple[list[str], list[str]]:
    """Of a model or seed, or a table of a source: the sources under it of which it is said when their rows were known,
    and its columns that have that time, by one of which `known_time` wants a view of it to go."""
    with _deep():
        call = exp.table_(
            f"{name} v{version}" if version else name, db=source or "ref", catalog=None if source else "model"
        )
        rows = Models(read_project(root), lambda _: None, NO_VIEWS).known(call)
    return sorted(rows.late), sorted(rows.known)


def _lint(root: Path, known: Mapping[str, str], compiled: Compiled) -> Linted:
    project = read_project(root)
    models = Models(project, compiled, known)
    views = [name for name in sorted(project.models) if models.is_view(name)]
    under: dict[str, list[str]] = {}  # each model, and the views that are made from it
    for view in views:
        for name in models.under(view):
            under.setdefault(name, []).append(view)
    described = project.described.values()
    keys = {name: one.join_keys for one in described if one.is_entity for name in one.entities}
    for view in views:
        models.hand_down(view)
    findings, left_out = dict[Finding, None](), list[NotLooked]()
    for name, unread in _unseen(project, known):
        _take_unread(name, unread, (name,), [project.described.get(name)], findings, left_out)
    for view in views:
        said = models.said(view) or Described(name=view, file=project.file(view), line=1, is_view=True)
        findings |= dict.fromkeys(_untested(said, keys))
        findings |= dict.fromkeys(_unknown(said, models.looked(view).rows))
    for name, of_views in under.items():
        for unread in models.unread(name):
            said_of = [models.said(name), project.described.get(unread.read or "")]
            _take_unread(name, unread, tuple(of_views), said_of, findings, left_out)
        for read in models.snapshots(name):
            why = f"{read!r}, a snapshot that it reads, and what is under that: rows as they were when it was taken"
            left_out.append(NotLooked(file=project.file(name), model=name, why=why))
        if guessed := models.guessed(name):
            why = f"its text depends on {', '.join(guessed)}, which only dbt knows"
            left_out.append(NotLooked(file=project.file(name), model=name, why=why, how="looked at by a guess"))
        findings |= dict.fromkeys(_findings(name, models.looked(name), tuple(of_views), models.said(name)))
    order = sorted(findings, key=lambda found: (found.file, found.line, found.rule))
    return Linted(findings=tuple(order), not_looked_at=tuple(left_out), views=len(views), models=len(under))


def _unseen(project: ProjectFiles, known: Mapping[str, str]) -> Iterator[tuple[str, Unread]]:
    """The views that YAML or dbt knows, and that are none of the project's SQL files."""
    for name, said in project.described.items():
        if said.is_view and name not in project.models and said.config.get("enabled") is not False:
            kind = project.others.get(name)
            why = f"it is {kind}" if kind else f"no SQL file is named {name}"
            yield name, Unread(why, said.file, said.line)
    for name, file in known.items():
        if name not in project.models and name not in project.described:
            yield name, Unread("dbt has it for a feature view, and no SQL file of the project is that", file)


def _take_unread(
    name: str,
    unread: Unread,
    views: tuple[str, ...],
    said: Sequence[Described | None],
    findings: dict[Finding, None],
    left_out: list[NotLooked],
) -> None:
    """Take in what could not be looked at: as a finding, or where that is allowed as left out."""
    if any(UNREADABLE.name in _allowed(each) for each in said):
        left_out.append(NotLooked(file=unread.file, model=name, why=unread.why))
        return
    findings[Finding(
        file=unread.file, line=unread.line, rule=UNREADABLE.name, model=name, views=views, got=unread.why,
        why=UNREADABLE.why, instead=UNREADABLE.instead,
    )] = None  # fmt: skip


def problems(
    root: Path,
    warn: Callable[[Problem], None] = lambda problem: None,
    known: Mapping[str, str] = NO_VIEWS,
    compiled: Compiled = lambda name: None,
) -> list[Problem]:
    """The findings as `features check` reports mistakes; `warn` is told of those that are none yet, and of what was not
    looked at on purpose. `known` and `compiled` as in `lint`."""
    found = lint(root, known, compiled)
    for one in found.not_looked_at:
        warn(Problem(file=one.file, key_path="lint", what="not all under the view was looked at", got=one.why))
    warns = {rule.name for rule in RULES if rule.warns}
    for each in found.findings:
        if each.rule in warns:
            warn(_problem(each))
    return [_problem(each) for each in found.findings if each.rule not in warns]


def _problem(found: Finding) -> Problem:
    read = "" if found.views == (found.model,) else f" (under {', '.join(found.views)})"
    allow = f"config.meta.lint: {{allow: {found.rule}, reason: …}} of {found.model} where it is on purpose"
    return Problem(
        file=found.file, line=found.line, key_path=f"{found.model}: {found.rule}", what=found.why, got=found.got + read,
        expected=found.instead, remedy=allow,
    )  # fmt: skip


def _findings(name: str, looked: Looked, views: tuple[str, ...], said: Described | None) -> Iterator[Finding]:
    found = list(_findings(name, looked.other, views, said)) if looked.other is not None else []
    yield from found
    seen, allowed = {(one.rule, one.got) for one in found}, _allowed(said)
    sql = looked.written.sql.lower() if looked.broken and looked.written is not None else ""
    functions = set(re.findall(r"(\w+)\s*\(", sql))
    for rule, node, more in looked.broken:
        if rule.name not in allowed and looked.written is not None:
            place, text = looked.written.place(_offset(node)), node.sql("duckdb", unsupported_level=ErrorLevel.IGNORE)
            got = _named(_short(text), functions)
            if (rule.name, got + more) in seen:
                continue
            yield Finding(
                file=place.file, line=place.line, rule=rule.name, model=name, views=views, got=got + more,
                why=rule.why, instead=rule.instead,
            )  # fmt: skip


def _untested(view: Described, keys: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    if not view.is_stream and not _has_grain(view, keys) and UNTESTED.name not in _allowed(view):
        yield Finding(
            file=view.file, line=view.line, rule=UNTESTED.name, model=view.name, views=(view.name,),
            got="no test of its keys and times", why=UNTESTED.why, instead=UNTESTED.instead,
        )  # fmt: skip


def _has_grain(view: Described, keys: Mapping[str, Sequence[str]]) -> bool:
    """Whether a test holds that no two rows have the same of a view's keys and times: it is of keys, and of nothing but
    keys and times. Of entities that the project does not show it is of the event timestamp and another column."""
    times = {view.event, (view.created or view.event).lower()}
    if any(name not in keys for name in view.entities):
        return any(view.event in columns and columns - times for columns in view.tested)
    own = {key.lower() for name in view.entities for key in keys[name]}
    return any(columns & own and columns <= own | times for columns in view.tested)


def _unknown(view: Described, rows: Rows) -> Iterator[Finding]:
    """A view that does not say when its rows were known, though of a source under it that is said."""
    created = view.created.lower() if view.created is not None else None
    if view.is_stream or not rows.late or created in rows.known or UNKNOWN.name in _allowed(view):
        return
    got = "no created_timestamp" if created is None else f"created_timestamp: {created}, which is not when they landed"
    yield Finding(
        file=view.file, line=view.line, rule=UNKNOWN.name, model=view.name, views=(view.name,),
        got=f"{got}, over {', '.join(sorted(rows.late))}", why=UNKNOWN.why, instead=UNKNOWN.instead,
    )  # fmt: skip


def _allowed(described: Described | None) -> set[str]:
    """The rules that a model may break; FeatureStoreError where one is none."""
    names = {rule.name for rule in RULES}
    for one in described.allowed if described is not None else ():
        if one.allow not in names or not one.reason.strip():
            assert described is not None
            near = difflib.get_close_matches(one.allow, names, n=1)
            raise FeatureStoreError(
                "a model allows no rule that there is" if one.allow not in names else "a model does not say why",
                where=f"{described.file}:{described.line}: meta.lint", expected=f"one of {', '.join(sorted(names))}, "
                "and a reason", got=f"allow: {one.allow}, reason: {one.reason!r}",
                remedy=f"did you mean {near[0]}?" if near and one.allow not in names else None,
            )  # fmt: skip
    return set() if described is None else {one.allow for one in described.allowed}


def _offset(node: exp.Expr) -> int:
    """Where an expression begins: by the first of its parts that the parser has a place of, else by what it is in."""
    starts = [part.meta["start"] for part in node.walk() if "start" in part.meta]
    above = node
    while not starts and above.parent is not None:
        above = above.parent
        starts = [part.meta["start"] for part in above.walk() if "start" in part.meta]
    return min(starts, default=0)


def _named(got: str, written: set[str]) -> str:
    """An expression with functions by the names that are written in a model's SQL."""
    for name, others in _OTHER_NAMES.items():
        other = next((each for each in others if each in written), None)
        if other is not None and name not in written:
            got = re.sub(rf"\b{name}\(", f"{other}(", got)
    return got


def _short(text: str) -> str:
    """SQL in lower case, but for what is quoted, with models as they are written, and not too long."""
    text = _MODEL.sub(r"ref('\1')", text)
    text = "".join(part if place % 2 else part.lower() for place, part in enumerate(_QUOTED.split(text)))
    return text if len(text) <= 160 else f"{text[:158]} …"
