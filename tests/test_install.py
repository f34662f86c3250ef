"""The wheel: what it holds, that building it leaves nothing behind, and what less than all of it says is missing."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.support.wheel import build_wheel, clone_to, done, environment, install, install_wheel, run


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clone_to(tmp_path_factory.mktemp("clone"))


def state(clone: Path) -> tuple[str, set[Path]]:
    """What git says of a clone, of what it ignores too, and every path of it."""
    said = done("git", "status", "--porcelain", "--ignored", cwd=clone)
    return said, {path for path in clone.rglob("*") if ".git" not in path.relative_to(clone).parts}


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    before = state(clone)
    built = build_wheel(clone, tmp_path_factory.mktemp("wheels"))
    assert state(clone) == before, "building leaves nothing behind"
    return built


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path, clone: Path) -> None:
    kept = set(done("git", "ls-files", "feature_server", cwd=clone).splitlines())
    needed = ("airflow/dags.py", "scaffold/project/.gitignore", "dbt_package/macros/hooks.sql", "py.typed",
              "templates/style.css")  # fmt: skip
    assert kept > {f"feature_server/{name}" for name in needed}
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    assert held == kept


WORKS = {  # what an install is for
    "": (),
    "[server]": (("--help",), ("serve", "--help"), ("get", "--help"), ("keys", "--help")),
}
CLIENT = """
from feature_server import FeatureClient, FeatureStoreError
for url in ({}):
    try:
        FeatureClient(url).get(["a:b"], c=1)
    except FeatureStoreError as error:
        assert "pip install" not in str(error), error
"""
REFUSED = {
    "": {("features", "check"): "warehouse", ("features", "serve"): "server", ("features", "--help"): "server"},
    "[server]": {
        ("features", "check"): "warehouse",
        ("features", "publish"): "warehouse",
        ("features", "lint"): "warehouse",
    },
}


@pytest.mark.heavy
@pytest.mark.parametrize("extra", REFUSED)
def test_an_install_of_less_says_what_more_is_needed(extra: str, wheel: Path, tmp_path: Path) -> None:
    bin_ = environment(tmp_path / "fresh")
    install_wheel(bin_, wheel, extra, folder=tmp_path)
    assert "dbt-core not installed" in done(bin_ / "features", "--version", cwd=tmp_path)
    client = CLIENT.format("'http://127.0.0.1:1', 'redis://127.0.0.1:1', None")
    done(bin_ / "python", "-c", client, cwd=tmp_path, FEATURES_REDIS_URL="redis://127.0.0.1:1")
    for arguments in WORKS[extra]:
        done(bin_ / "features", *arguments, cwd=tmp_path)
    python = (str(bin_ / "python"), "-c")
    refused = REFUSED[extra] | {(*python, "from feature_server import FeatureStore; FeatureStore()"): "warehouse"}
    for command, wanted in refused.items():
        found = run(bin_ / command[0], *command[1:], cwd=tmp_path)
        assert found.returncode == 1, command
        assert found.stderr.rstrip().endswith(f"remedy: pip install 'feature-warehouse[{wanted}]'"), found.stderr
        assert "Traceback" not in found.stderr or command[0] == python[0]


def test_an_editable_install_leaves_nothing_behind(clone: Path, tmp_path: Path) -> None:
    """As `make install` does it."""
    bin_ = environment(tmp_path / "fresh", libraries=True)
    before = state(clone)
    install(bin_, "--no-deps", "--no-build-isolation", "--editable", clone, cwd=tmp_path)
    assert state(clone) == before
    told = done(bin_ / "python", "-c", "import feature_server as found; print(found.__file__)", cwd=tmp_path)
    assert Path(told).parents[1] == clone
