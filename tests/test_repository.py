"""What the repository may hold: its own sources, without machine paths, secrets or generated files."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCK, LOWEST = ROOT / "requirements.lock", ROOT / "lowest.lock"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_FILE_BYTES = 12_000_000
SOURCE_SUFFIXES = {".py", ".sql", ".yml", ".yaml", ".md", ".sh", ".toml", ".cfg"}
BINARY_SUFFIXES = {".parquet", ".png"}


@cache
def files() -> tuple[Path, ...]:
    """Every file that is, or would be, in a commit."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = (ROOT / name for name in sorted(set(listed.stdout.split("\0"))) if name)
    return tuple(path for path in paths if path.is_file())


def texts() -> Iterator[tuple[Path, str]]:
    for path in files():
        if path.suffix not in BINARY_SUFFIXES:
            yield path, path.read_text(encoding="utf-8")


def offences(pattern: re.Pattern[str]) -> list[str]:
    """`file:line: text` of each line that the pattern is found in, this file left out."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path, text in texts()
        if path != Path(__file__)
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


FORBIDDEN = {
    "a path of one machine": r"(?<![\w.}$/-])/(?:work|tmp|root|home|Users|mnt)/\w",
    "a package index": r"pythonhosted|pypi\.org|npmjs\.|(?<!emit-)index-url|find-links|trusted-host|artifactory",
    "a key or token": r"AKIA[0-9A-Z]{16}|gh[pousr]_\w{30,}|-----BEGIN [A-Z ]*PRIVATE KEY|xox[abp]-\w{10,}",
    "a password in an address": r"\w+://(?!user:password@)[^/\s:@\"'{}<>]*:[^/\s:@\"'{}<>]+@(?!example)[\w.]",
    "an unresolved merge": r"^(?:<{7} |>{7} )",
    "an emoji": r"[\U0001F300-\U0001FAFF\u2705\u274C\u26A0\u2728]",
    "a banner": r"^\s*(?:#|--|//) ?[=#*~-]{6,}",
    "a note left for later": r"\b(?:TODO|FIXME|XXX|HACK)\b",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    assert offences(re.compile(FORBIDDEN[what])) == [], what


def test_no_generated_file_is_committed() -> None:
    ignored = subprocess.run(
        ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ignored.stdout.split() == []
    built = {".pyc", ".duckdb", ".wal", ".rdb", ".aof", ".log", ".db", ".html", ".egg", ".whl"}
    found = [path for path in files() if path.suffix in built and path.parent != ROOT / "feature_server" / "templates"]
    assert [str(path.relative_to(ROOT)) for path in found] == []
    outside = [path for path in files() if path.suffix == ".parquet" and path.parent.parent != ROOT / "data"]
    assert outside == [], "data files live in data/<source>/"


def test_no_file_is_large() -> None:
    assert [path.name for path in files() if path.stat().st_size > MAX_FILE_BYTES] == []


def test_files_are_short() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path, text in texts()
        if path.suffix in SOURCE_SUFFIXES and (lines := text.count("\n")) > MAX_FILE_LINES
    }
    assert long == {}


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its signature (which holds a command's options) and its docstring."""
    docstring = ast.get_docstring(function) is not None
    return (function.end_lineno or 0) - function.body[docstring].lineno + 1 if len(function.body) > docstring else 0


def test_functions_are_short() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{node.lineno}": node.name
        for path, text in texts()
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > MAX_FUNCTION_LINES
    }
    assert long == {}


@pytest.mark.parametrize("lock", [LOCK, LOWEST], ids=lambda lock: lock.name)
def test_every_requirement_of_a_lock_has_a_version_and_a_hash(lock: Path) -> None:
    entries = re.split(r"\n(?=[a-z0-9])", lock.read_text().strip(), flags=re.IGNORECASE)
    assert len(entries) > 100
    bad = [
        entry.splitlines()[0]
        for entry in entries
        if not re.match(r"[\w.-]+(?:\[[\w,-]+\])?==\S+", entry) or "--hash=sha256:" not in entry
    ]
    assert bad == []


def test_the_lock_holds_every_dependency_of_the_project() -> None:
    locked = {re.split(r"[=\[]", line)[0] for line in LOCK.read_text().splitlines() if re.match(r"[a-z0-9]", line)}
    wanted = set(re.findall(r'^\s+"([a-z0-9_-]+)', (ROOT / "pyproject.toml").read_text().lower(), re.MULTILINE))
    assert {name for name in wanted if name != "feature-warehouse"} - locked == set()


def test_the_data_says_where_it_comes_from() -> None:
    folders = {path.parent for path in files() if path.suffix == ".parquet"}
    assert folders
    assert [str(folder.relative_to(ROOT)) for folder in folders if not list(folder.glob("*.md"))] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "tests/interleaving/README.md"])
def test_the_test_commands_of_a_page_find_tests_and_know_their_variables(page: str) -> None:
    commands = re.findall(r"^((?:\w+=\S+ )*)\.venv/bin/python -m pytest (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert commands
    for variables, arguments in commands:
        target = ROOT / arguments.split()[-1]
        modules = [target] if target.is_file() else [*target.glob("test_*.py")]
        assert any("def test_" in module.read_text() for module in modules), target
        read = "".join(path.read_text() for path in target.parent.rglob("*.py"))
        assert [name for name in re.findall(r"(\w+)=", variables) if f'"{name}"' not in read] == []
