"""The files of a dbt project that are looked at: models, what their YAML says, macros; found as dbt does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ..errors import FeatureStoreError
from ..project.process import check_project
from .described import LOADER, Described, models_of, sources_of
from .rendering import Rendering, macros_of

PROJECT_FILE = "dbt_project.yml"


class ProjectFiles(msgspec.Struct, frozen=True):
    """A project, and the packages it has installed, as their files have them.

    `models` has the file of each model by the name of the file, `described` what is said of each, `sources` of each
    table of a source as `source.table`; `materialized` what dbt_project.yml says of models.
    """

    root: Path
    models: dict[str, Path]
    described: dict[str, Described]
    sources: dict[str, Described]
    materialized: dict[str, str]
    rendering: Rendering

    def file_of(self, name: str, version: str | None) -> str | None:
        """The model that `ref(name, v=version)` means, by the name of its file; None where the project has none."""
        if version is not None:
            return next((stem for stem in (f"{name}_v{version}", f"{name}.v{version}") if stem in self.models), None)
        if name in self.models:
            return name
        versions = [stem for stem in self.models if stem.rpartition("_v")[0] == name]
        said = {stem: self.described[stem].is_latest for stem in versions if stem in self.described}
        if any(said.values()):
            return next(stem for stem in versions if said.get(stem))
        return max(versions, key=_number, default=None)


class _Files(msgspec.Struct):
    """What the projects that are read have, the first of which says what a name means."""

    models: dict[str, Path] = msgspec.field(default_factory=dict)
    described: dict[str, Described] = msgspec.field(default_factory=dict)
    sources: dict[str, Described] = msgspec.field(default_factory=dict)
    materialized: dict[str, str] = msgspec.field(default_factory=dict)
    macros: dict[str, dict[str, Path]] = msgspec.field(default_factory=dict)


def read_project(root: Path) -> ProjectFiles:
    """The project in a folder; FeatureStoreError where there is none, or a file of YAML cannot be read."""
    check_project(root)
    project = _yaml(root / PROJECT_FILE)
    name, variables = str(project.get("name") or ""), project.get("vars") or {}
    files = _Files()
    _take(files, root, root, name, project)
    for folder in sorted((root / str(project.get("packages-install-path") or "dbt_packages")).glob("*")):
        if (folder / PROJECT_FILE).is_file():
            own = _yaml(folder / PROJECT_FILE)
            _take(files, root, folder, str(own.get("name") or folder.name), own)
    rendering = Rendering(root, name, variables, files.macros)
    return ProjectFiles(root, files.models, files.described, files.sources, files.materialized, rendering)


def _number(stem: str) -> tuple[int, str]:
    """What versions are in the order of, by the name of the file."""
    version = stem.rpartition("_v")[2]
    return int(version) if version.isdigit() else -1, version


def _take(files: _Files, root: Path, folder: Path, name: str, project: Mapping[str, Any]) -> None:
    """Take in the models and macros of a project in a folder."""
    settings = project.get("models") if isinstance(project.get("models"), dict) else {}
    for models in _folders(folder, project, "model-paths", "models"):
        for path in sorted(models.rglob("*.sql")):
            if path.stem not in files.models:
                files.models[path.stem] = path
                said = _materialized(settings or {}, [name, *path.relative_to(models).with_suffix("").parts])
                files.materialized |= {} if said is None else {path.stem: said}
        for path in sorted([*models.rglob("*.yml"), *models.rglob("*.yaml")]):
            said_here, file = _yaml(path), path.relative_to(root).as_posix()
            files.described = {one.name: one for one in models_of(path, file, said_here)} | files.described
            files.sources = {one.name: one for one in sources_of(path, file, said_here)} | files.sources
    files.macros[name] = macros_of(_folders(folder, project, "macro-paths", "macros"))


def _materialized(settings: Mapping[str, Any], path: list[str]) -> str | None:
    """How dbt_project.yml has a model materialized: as the deepest folder that says so."""
    found = settings.get("+materialized", settings.get("materialized"))
    below = settings.get(path[0]) if path else None
    deeper = _materialized(below, path[1:]) if isinstance(below, dict) else None
    return deeper or (found if isinstance(found, str) else None)


def _folders(root: Path, project: Mapping[str, Any], key: str, default: str) -> list[Path]:
    names = project.get(key) or [default]
    return [root / str(name) for name in names if (root / str(name)).is_dir()]


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FeatureStoreError(
            "a file of the project cannot be read", where=str(path), expected="YAML", got=str(error).splitlines()[0]
        ) from None
    return found if isinstance(found, dict) else {}
