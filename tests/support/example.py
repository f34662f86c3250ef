"""The example project's files in a folder of their own, with the dbt package as `dbt deps` would put it there."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "feature_server" / "dbt_package"
FILES = ("models", "macros", "profiles", "dbt_project.yml", "packages.yml")
INSTALLED = "dbt_packages/feature_warehouse"


def copy_example(folder: Path) -> None:
    """Copy what dbt reads, but for data."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        source, target = ROOT / name, folder / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    install_package(folder)


def install_package(folder: Path) -> Path:
    """Give a project a copy of the dbt package; its folder."""
    target = folder / INSTALLED
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("target", "logs"))
    return target


def package_files() -> dict[str, str]:
    """The dbt package as files of a project to be written, by their paths in it."""
    files = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".sql", ".yml"))
    return {f"{INSTALLED}/{path.relative_to(PACKAGE).as_posix()}": path.read_text() for path in files}
