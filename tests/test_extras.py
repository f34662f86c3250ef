"""What is said where an extra is not installed: the libraries are hidden from a process, or truly absent."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from feature_server.extras import DISTRIBUTION, LIBRARIES
from tests.support.tiny_project import write_project

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = [*PROJECT["dependencies"], *(one for name in LIBRARIES for one in EXTRAS[name])]
BOUNDS = dict(found.groups() for one in NEEDED if (found := re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", one)))
IMPORTED_AS = {
    "dbt-core": "dbt",
    "dbt-duckdb": "dbt",
    "apache-airflow": "airflow",
    "pyjwt": "jwt",
    "pyyaml": "yaml",
    "ruamel-yaml": "ruamel",
}
HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def hiding(*extras: str) -> str:
    return HIDE.format(hidden={library for extra in extras for library in LIBRARIES[extra]})


def run(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_libraries_of_an_extra_are_those_that_it_installs() -> None:
    for extra, libraries in LIBRARIES.items():
        names = [re.split(r"[\[<>=]", requirement)[0] for requirement in EXTRAS[extra]]
        imported = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names if name != DISTRIBUTION}
        assert imported == set(libraries), extra


COMMANDS = [
    (("server", "warehouse", "airflow"), "check", "warehouse"),
    (("server", "warehouse", "airflow"), "serve", "server"),
    (("server", "warehouse", "airflow"), "--help", "server"),
    (("warehouse", "airflow"), "check", "warehouse"),
    (("warehouse", "airflow"), "publish", "warehouse"),
    (("warehouse", "airflow"), "lint", "warehouse"),
]


@pytest.mark.parametrize(("hidden", "command", "wanted"), COMMANDS)
def test_a_command_of_a_missing_extra_says_which_to_install(
    hidden: tuple[str, ...], command: str, wanted: str, tmp_path: Path
) -> None:
    write_project(tmp_path)
    code = f"{hiding(*hidden)}\nsys.argv[0] = 'features'\nfrom feature_server.__main__ import main\nmain()"
    said = run(code, command, cwd=tmp_path)
    assert said.returncode == 1, said.stdout
    lines = said.stderr.splitlines()
    assert lines[0].startswith("error: features")
    assert lines[0].endswith("a library that this needs is not installed")
    assert lines[-1] == f"  remedy: pip install '{DISTRIBUTION}[{wanted}]'"
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize(
    ("hidden", "statement", "wanted"),
    [
        (("warehouse", "airflow"), "from feature_server import FeatureStore; FeatureStore()", "warehouse"),
        (("warehouse", "airflow"), "from feature_server import FeatureStore; FeatureStore('http://x')", "training"),
        (("airflow",), "from feature_server.airflow import refresh_dags", "airflow"),
        (("server",), "import feature_server.serving.plan as p; p._reader_of(Stored)", "server"),
    ],
)
def test_python_names_of_a_missing_extra_say_which_to_install(
    hidden: tuple[str, ...], statement: str, wanted: str, tmp_path: Path
) -> None:
    stored = "class Stored:\n    class definition:\n        stream, name = 1, 'view'\n"
    code = (
        f"{hiding(*hidden)}\n{stored}\nfrom feature_server import FeatureStoreError\n"
        f"try:\n    {statement}\nexcept ImportError as error:\n"
        "    assert isinstance(error, FeatureStoreError)\n    print(error)"
    )
    said = run(code, cwd=tmp_path)
    assert said.stderr == ""
    assert said.stdout.endswith(f"remedy: pip install '{DISTRIBUTION}[{wanted}]'\n")


def test_a_module_that_no_extra_brings_is_not_explained_away(tmp_path: Path) -> None:
    said = run(
        "from feature_server.extras import needed\nwith needed('this'):\n    import nowhere_at_all", cwd=tmp_path
    )
    assert said.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'nowhere_at_all'"


def test_the_versions_are_told_by_the_base_install(tmp_path: Path) -> None:
    code = f"{hiding(*LIBRARIES)}\nfrom feature_server.__main__ import main\nmain()"
    said = run(code, "--version", cwd=tmp_path)
    assert (said.returncode, said.stderr) == (0, "")
    names = [line.split()[0] for line in said.stdout.splitlines()]
    assert names[:4] == [DISTRIBUTION, "python", "dbt-core", "dbt-duckdb"]
    assert f"python {sys.version.split()[0]}\n" in said.stdout
    with_typer = run("from feature_server.cli.main import main\nmain()", "--version", cwd=tmp_path)
    assert with_typer.stdout == said.stdout


def test_the_page_has_the_weight_of_each_extra_and_the_lower_bounds() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    weighed = re.findall(r"^\| `?(\w+)`? \| [^|]+ \| \d+ \| \d+ \|$", page, re.MULTILINE)
    assert weighed == ["none", *LIBRARIES, "training"]
    told = dict(re.findall(r"^\| ([a-z-]+) \| ([\d.]+) \| ", page, re.MULTILINE))
    assert len(told) > 5
    assert {name: BOUNDS[name] for name in told} == told


def test_the_lowest_lock_holds_the_lower_bounds() -> None:
    locked = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "lowest.lock").read_text(), re.MULTILINE))
    assert len(BOUNDS) > 20
    wrong = {
        name: locked.get(name) for name, bound in BOUNDS.items() if f"{locked.get(name)}.0.0".find(f"{bound}.") != 0
    }
    assert wrong == {}
