"""The wheel: what it holds, that building it leaves nothing behind, and what it does where each extra is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
IMPORT_ALL = """
import importlib, pkgutil, feature_server
names = [module.name for module in pkgutil.walk_packages(feature_server.__path__, "feature_server.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names), feature_server.__file__)
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env=outside | environment, capture_output=True, text=True, check=False
    )


def done(*command: str | Path, cwd: Path, **environment: str) -> str:
    found = run(*command, cwd=cwd, **environment)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the repository as they are now, committed in one of their own."""
    folder = tmp_path_factory.mktemp("clone")
    listed = done("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith(("data/", "tests/", "benchmarks/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    done("git", "init", "--quiet", cwd=folder)
    done("git", "add", "--all", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `pip wheel .` makes it, by the build backend that is installed."""
    out = tmp_path_factory.mktemp("wheels")
    before = {path for path in clone.rglob("*") if ".git" not in path.parts}
    pip = (BIN / "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    done(*pip, ".", "--wheel-dir", out, cwd=clone)
    assert {path for path in clone.rglob("*") if ".git" not in path.parts} == before, "building leaves nothing behind"
    (built,) = out.iterdir()
    return built


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path, clone: Path) -> None:
    kept = done("git", "ls-files", "feature_server", cwd=clone).splitlines()
    assert {"feature_server/airflow/dags.py", "feature_server/scaffold/project/.gitignore"} < set(kept)
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    assert held == set(kept)


def environment(folder: Path, *, libraries: bool) -> Path:
    """A new environment's `bin`, with the libraries of the present one, or with none."""
    venv.create(folder, with_pip=False)
    if libraries:
        (site,) = folder.glob("lib/python*/site-packages")
        (here,) = (BIN.parent).glob("lib/python*/site-packages")
        (site / "libraries.pth").write_text(f"{here}\n")
    return folder / "bin"


def install(bin_: Path, *arguments: str | Path, cwd: Path) -> None:
    done(BIN / "uv", "pip", "install", "--quiet", "--python", bin_ / "python", *arguments, cwd=cwd)


@pytest.mark.heavy
def test_the_wheel_works_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    bin_ = environment(tmp_path / "fresh", libraries=True)
    install(bin_, "--no-deps", wheel, cwd=tmp_path)
    assert done(bin_ / "features", "--version", cwd=tmp_path).startswith("feature-warehouse 0.1.0\npython 3.")
    assert "leaktest" in done(bin_ / "features", "--help", cwd=tmp_path)
    count, where = done(bin_ / "python", "-c", IMPORT_ALL, cwd=tmp_path, AIRFLOW_HOME=str(tmp_path / "airflow")).split()
    assert int(count) > 200
    assert Path(where).is_relative_to(tmp_path / "fresh")
    done(bin_ / "features", "init", "shop", cwd=tmp_path)
    assert (tmp_path / "shop" / "models" / "features" / "customer__orders.sql").exists()


REFUSED = {
    "": {("features", "check"): "server", ("features", "serve"): "server", ("features", "--help"): "server"},
    "[server]": {
        ("features", "check"): "warehouse",
        ("features", "publish"): "warehouse",
        ("features", "lint"): "warehouse",
    },
}


@pytest.mark.heavy
@pytest.mark.parametrize("extra", REFUSED)
def test_an_install_of_less_says_what_more_is_needed(extra: str, wheel: Path, tmp_path: Path) -> None:
    """From the package index, at the versions of the lock."""
    bin_ = environment(tmp_path / "fresh", libraries=False)
    pinned = [line.split("\\")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    (tmp_path / "pinned.txt").write_text("\n".join(pinned))
    install(bin_, "--constraint", tmp_path / "pinned.txt", f"feature-warehouse{extra} @ {wheel.as_uri()}", cwd=tmp_path)
    assert "dbt-core not installed" in done(bin_ / "features", "--version", cwd=tmp_path)
    done(bin_ / "python", "-c", "from feature_server import FeatureClient", cwd=tmp_path)
    python = (str(bin_ / "python"), "-c")
    refused = REFUSED[extra] | {(*python, "from feature_server import FeatureStore"): "warehouse"}
    for command, wanted in refused.items():
        found = run(bin_ / command[0], *command[1:], cwd=tmp_path)
        assert found.returncode == 1, command
        assert found.stderr.rstrip().endswith(f"remedy: pip install 'feature-warehouse[{wanted}]'"), found.stderr
        assert "Traceback" not in found.stderr or command[0] == python[0]


def test_an_editable_install_leaves_nothing_behind(clone: Path, tmp_path: Path) -> None:
    """As `make install` does it."""
    bin_ = environment(tmp_path / "fresh", libraries=True)
    before = set(clone.rglob("*"))
    install(bin_, "--no-deps", "--no-build-isolation", "--editable", clone, cwd=tmp_path)
    assert set(clone.rglob("*")) == before
    told = done(bin_ / "python", "-c", "import feature_server as found; print(found.__file__)", cwd=tmp_path)
    assert Path(told).parents[1] == clone
