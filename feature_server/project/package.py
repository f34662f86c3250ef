"""The dbt package `feature_warehouse`: the one that belongs to this version, and the one that a project has."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import FeatureStoreError, Problem

PACKAGE = "feature_warehouse"
SHIPPED = Path(__file__).parents[1] / "dbt_package"
PROJECT_FILE = "dbt_project.yml"
LISTS = ("packages.yml", "dependencies.yml")  # where dbt looks for the packages of a project
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # of libyaml: in Python YAML takes ten times as long


def package_version(folder: Path) -> str:
    """The version of a dbt package or project; empty where none is said."""
    return str(_read(folder).get("version") or "")


def installed_package(project_dir: Path) -> Path | None:
    """Where `dbt deps` put the package for a project; None where the project has none."""
    packages = project_dir / str(_read(project_dir).get("packages-install-path") or "dbt_packages")
    folders = (folder for folder in sorted(packages.glob("*")) if (folder / PROJECT_FILE).is_file())
    return next((folder for folder in folders if _read(folder).get("name") == PACKAGE), None)


def unlisted(project_dir: Path) -> FeatureStoreError | None:
    """That the packages that a project names are no list of packages, of which dbt has a stack trace to show."""
    for name in LISTS:
        given = _read(project_dir, name).get("packages", [])
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            return FeatureStoreError(
                "the project's packages cannot be read", where=f"{project_dir / name}: packages",
                expected="a list, each item with keys such as `package` and `version`, or `local`",
                got=f"{given!r}"[:100], remedy="correct it until `dbt deps` succeeds",
            )  # fmt: skip
    return None


def is_later(version: str, than: str) -> bool:
    """Whether a version of the package, numbers and points, is a later one."""
    one, other = ([int(number) for number in re.findall(r"\d+", each)] for each in (version, than))
    return one > other


def check_package(project_dir: Path) -> Problem | None:
    """That a project has the dbt package of another version; None where it has none, or this one's."""
    folder = installed_package(project_dir)
    wanted = package_version(SHIPPED)
    if folder is None or (found := package_version(folder)) == wanted:
        return None
    remedy = (
        f"install version {found} of this program"
        if is_later(found, wanted)
        else "`features init --upgrade` where it is a folder of the project, else name that version in packages.yml "
        "and run `dbt deps`; then `dbt build`"
    )
    return Problem(
        file=os.path.relpath(folder / PROJECT_FILE, project_dir), key_path="version", expected=wanted,
        what=f"the dbt package {PACKAGE} is of another version than this program", got=found, remedy=remedy,
    )  # fmt: skip


def _read(folder: Path, name: str = PROJECT_FILE) -> Mapping[str, Any]:
    """What dbt_project.yml of a folder says, or another file; nothing where it cannot be read, which dbt says."""
    try:
        found = yaml.load((folder / name).read_text(encoding="utf-8"), Loader=LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
