"""The files of a dbt project that are looked at: models, what their YAML says, macros; found as dbt does."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ..errors import FeatureStoreError
from ..project.package import LOADER
from ..project.process import check_project
from .described import Described, models_of, sources_of
from .files import ENCODING, files_in
from .rendering import Rendering, macros_of, merged

PROJECT_FILE = "dbt_project.yml"
SNAPSHOT = "a snapshot"
_SNAPSHOT = re.compile(r"{%-?\s*snapshot\s+(\w+)")


class ProjectFiles(msgspec.Struct, frozen=True):
    """A project, and the packages it has installed, as their files have them.

    `models` has the file of each model by the name of the file, `described` what is said of each, `sources` of each
    table of a source as `source.table` and of each seed in which events arrive; `configured` what dbt_project.yml
    configures each model by. `seeds` are those of `ref` that are no models, `others` those of which no SQL is looked
    at, with what they are.
    """

    root: Path
    models: dict[str, Path]
    described: dict[str, Described]
    sources: dict[str, Described]
    configured: dict[str, dict[str, Any]]
    seeds: set[str]
    others: dict[str, str]
    rendering: Rendering

    def file(self, name: str) -> str:
        """The file of a model, as it stands in the project."""
        return self.models[name].relative_to(self.root).as_posix()

    def config_of(self, name: str) -> dict[str, Any]:
        """What files other than its own configure a model by."""
        said = self.described.get(name)
        return merged(self.configured.get(name, {}), said.config if said is not None else {})

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
    configured: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    seeds: set[str] = msgspec.field(default_factory=set)
    others: dict[str, str] = msgspec.field(default_factory=dict)
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
    return ProjectFiles(
        root, files.models, files.described, files.sources, files.configured, files.seeds, files.others, rendering
    )


def _number(stem: str) -> tuple[int, str]:
    """What versions are in the order of, by the name of the file."""
    version = stem.rpartition("_v")[2]
    return int(version) if version.isdigit() else -1, version


def _take(files: _Files, root: Path, folder: Path, name: str, project: Mapping[str, Any]) -> None:
    """Take in the models, what else there is for `ref`, and the macros of a project in a folder."""
    settings, every = _dict(project.get("models")), _every_test(project, name)
    for models in _folders(folder, project, "model-paths", "models"):
        for path in files_in(models, "sql"):
            if path.stem not in files.models:
                files.models[path.stem] = path
                at = [name, *path.relative_to(models).with_suffix("").parts]
                files.configured[path.stem] = _configured(settings, at)
        files.others |= {path.stem: "a Python model" for path in files_in(models, "py")}
        for path in files_in(models, "yml", "yaml"):
            said_here, file = _yaml(path), path.relative_to(root).as_posix()
            files.described = {one.name: one for one in models_of(path, file, said_here, every)} | files.described
            files.sources = {one.name: one for one in sources_of(path, file, said_here, every)} | files.sources
            _take_snapshots(files, said_here)
    for snapshots in _folders(folder, project, "snapshot-paths", "snapshots"):
        for path in files_in(snapshots, "yml", "yaml"):
            _take_snapshots(files, _yaml(path))
        for path in files_in(snapshots, "sql"):
            text = path.read_text(encoding=ENCODING, errors="replace")
            files.others |= dict.fromkeys(_SNAPSHOT.findall(text), SNAPSHOT)
    for seeds in _folders(folder, project, "seed-paths", "seeds"):
        files.seeds |= {path.stem for path in files_in(seeds, "csv")}
        for path in files_in(seeds, "yml", "yaml"):
            said_here, file = _yaml(path), path.relative_to(root).as_posix()
            files.sources = {one.name: one for one in sources_of(path, file, said_here, every)} | files.sources
    files.macros[name] = macros_of(_folders(folder, project, "macro-paths", "macros"))


def _take_snapshots(files: _Files, said: Mapping[str, Any]) -> None:
    listed = said.get("snapshots")
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict) and "name" in each:
            files.others[str(each["name"])] = SNAPSHOT


def _every_test(project: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What dbt_project.yml configures all tests of a project by."""
    found: dict[str, Any] = {}
    for key in ("tests", "data_tests"):
        found |= _configured(_dict(project.get(key)), [name])
    return found


def _configured(settings: Mapping[str, Any], path: list[str]) -> dict[str, Any]:
    """How dbt_project.yml configures what is at a path: as the deepest folder that says so."""
    own = {
        key.removeprefix("+"): value for key, value in settings.items() if key[:1] == "+" or not isinstance(value, dict)
    }
    return merged(own, _configured(_dict(settings.get(path[0])), path[1:]) if path else {})


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _folders(root: Path, project: Mapping[str, Any], key: str, default: str) -> list[Path]:
    names = project.get(key) or [default]
    if not isinstance(names, list):
        raise FeatureStoreError(
            "the project's folders cannot be read", where=f"{root / PROJECT_FILE}: {key}", expected="a list of folders",
            got=repr(names), remedy=f"write `{key}: [{default}]`",
        )  # fmt: skip
    return [root / str(name) for name in names if (root / str(name)).is_dir()]


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.load(path.read_text(encoding=ENCODING), Loader=LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FeatureStoreError(
            "a file of the project cannot be read", where=str(path), expected="YAML", got=str(error).splitlines()[0]
        ) from None
    return found if isinstance(found, dict) else {}
