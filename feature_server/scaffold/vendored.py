"""The dbt package as a folder of a project, and its name among the project's packages."""

import os
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..errors import FeatureStoreError
from ..project.package import (
    LISTS,
    PACKAGE,
    PROJECT_FILE,
    SHIPPED,
    installed_package,
    is_later,
    package_version,
    unlisted,
)
from .edits import Edit, changed_yaml, new_file, read_text, read_yaml

SUMS = "SHA256SUMS"
_SUM = re.compile(r"^([0-9a-f]{64}) [ *](.+)$", re.MULTILINE)


def plan_package(root: Path, *, upgrade: bool) -> tuple[list[Edit], list[str]]:
    """The package as a folder of the project, and its name where dbt looks for packages; nothing of either where the
    project has it from elsewhere, such as by git. With it what is left to a person.

    FeatureStoreError where a folder of its name is something else, and where an upgrade would lose what somebody wrote.
    """
    folder, installed, wanted = root / PACKAGE, installed_package(root), package_version(SHIPPED)
    has_own = (folder / PROJECT_FILE).is_file()
    if folder.exists() and (not has_own or read_yaml(folder / PROJECT_FILE).get("name") != PACKAGE):
        raise FeatureStoreError(
            f"the project has a folder {PACKAGE!r} that is not the dbt package", where=str(folder),
            expected="no such folder, or the package",
            got=str(read_yaml(folder / PROJECT_FILE).get("name") or "no dbt_project.yml"), remedy="rename it",
        )  # fmt: skip
    if not has_own and (installed is not None or _is_elsewhere(root)):
        if installed is None or package_version(installed) == wanted:
            return [], []
        return [], [f"the dbt package is {package_version(installed)}, this is {wanted}: name that in packages.yml"]
    if has_own and not upgrade:
        return _named(root), _other_version(package_version(folder), wanted)
    if has_own:
        _check_upgrade(folder, wanted)
    return [*package_edits(root, f"the dbt package, version {wanted}"), *_named(root)], []


def package_edits(root: Path, what: str) -> Iterator[Edit]:
    """The dbt package as a folder of a project, as far as it differs, with a checksum of each file."""
    texts = {
        source.relative_to(SHIPPED).as_posix(): read_text(source)
        for source in sorted(SHIPPED.rglob("*"))
        if source.is_file() and source.suffix in (".sql", ".yml", ".md")
    }
    texts[SUMS] = "".join(f"{_sum(text)}  {name}\n" for name, text in texts.items())
    for name, after in texts.items():
        path = f"{PACKAGE}/{name}"
        before = read_text(root / path) if (root / path).is_file() else None
        if before is None or _sum(before) != _sum(after):
            yield Edit(root=str(root), path=path, before=before, after=after, what=what)
    for old in _files(root / PACKAGE):  # what another version had
        if old not in texts and f"{old}" in _sums(root / PACKAGE):
            path = f"{PACKAGE}/{old}"
            yield Edit(root=str(root), path=path, before=read_text(root / path), after=None, what=what)


def _check_upgrade(folder: Path, wanted: str) -> None:
    """That the copy is not of a later version, and that nobody has written in it."""
    found = package_version(folder)
    if is_later(found, wanted):
        raise FeatureStoreError(
            "the project's copy of the dbt package is of a later version than this program", where=str(folder),
            expected=f"{wanted}, or an earlier one", got=found,
            remedy=f"install version {found} of this program; to go back, remove the folder and run `features init`",
        )  # fmt: skip
    sums = _sums(folder)
    changed = [name for name in _files(folder) if sums.get(name) != _sum(read_text(folder / name)) and name != SUMS]
    changed += [f"{name} (removed)" for name in sums if not (folder / name).is_file()]
    if sums and changed:
        raise FeatureStoreError(
            "the project's copy of the dbt package has been changed by hand, so nothing is written", where=str(folder),
            expected=f"the files as {SUMS} in it has them", got=", ".join(changed),
            remedy="keep changes as macros of your own in the project's macros; then remove the folder and run "
            "`features init`",
        )  # fmt: skip


def _other_version(found: str, wanted: str) -> list[str]:
    if found == wanted:
        return []
    if is_later(found, wanted):
        return [f"{PACKAGE} is of version {found}, later than this program: install version {found} of it"]
    return [f"{PACKAGE} is of version {found}: `features init --upgrade`"]


def _files(folder: Path) -> list[str]:
    kinds = (".sql", ".yml", ".md", ".csv", ".py")
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.suffix in kinds
    )


def _sums(folder: Path) -> dict[str, str]:
    """The checksum that each file was written with; none where a copy has none."""
    path = folder / SUMS
    return {name: sum_ for sum_, name in _SUM.findall(read_text(path))} if path.is_file() else {}


def _sum(text: str) -> str:
    return sha256(text.replace("\r\n", "\n").encode()).hexdigest()  # git may have changed the ends of lines


def _is_elsewhere(root: Path) -> bool:
    """Whether the project names the package already: by git, or as another folder."""
    for _, one in _listed(root):
        local = root / str(one.get("local") or "-")
        if str(one.get("subdirectory")).rstrip("/").endswith(f"feature_server/{SHIPPED.name}"):
            return True
        if not _is_own(one) and read_yaml(local / PROJECT_FILE).get("name") == PACKAGE:
            return True
    return False


def _listed(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The packages that a project names, each with its file; FeatureStoreError where there is no list of them."""
    if (error := unlisted(root)) is not None:
        raise error
    for name in LISTS:
        yield from ((name, one) for one in read_yaml(root / name).get("packages") or ())


def _is_own(one: dict[str, Any]) -> bool:
    return os.path.normpath(str(one.get("local") or ".")) == PACKAGE


def _named(root: Path) -> list[Edit]:
    """The package in the file that lists packages: the one that there is, for dbt takes one alone."""
    if any(_is_own(one) for _, one in _listed(root)):
        return []
    what = "dbt takes the package from its folder"
    name = next((name for name in LISTS if "packages" in read_yaml(root / name)), LISTS[0])
    if not (root / name).exists():
        return new_file(root, name, f"packages:\n  - local: {PACKAGE}\n", what)

    def add(content: Any) -> bool:
        content["packages"] = content.get("packages") or []
        content["packages"].append({"local": PACKAGE})
        return True

    return changed_yaml(root, name, add, what)
