"""The files of a dbt project that are looked at: models, what their YAML says, macros; found as dbt does."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ..errors import FeatureStoreError
from ..project.process import check_project
from .rendering import Rendering, macros_of

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
PROJECT_FILE = "dbt_project.yml"


class Allowed(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that a model breaks on purpose."""

    allow: str
    reason: str


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """What a YAML file says of a model: in `file`, at `line`.

    `has_grain` says whether a test holds that its rows are one a key and time, as those of a stream are by event ids.
    """

    name: str
    file: str
    line: int
    is_view: bool = False
    has_grain: bool = False
    allowed: tuple[Allowed, ...] = ()


class ProjectFiles(msgspec.Struct, frozen=True):
    """A project as its files have it: the file of each model by the name of the file, and what is said of each."""

    root: Path
    models: dict[str, Path]
    described: dict[str, Described]
    rendering: Rendering

    def file_of(self, name: str, version: str | None) -> str | None:
        """The model that `ref(name, v=version)` means, by the name of its file; None where the project has none."""
        if version is not None:
            return next((stem for stem in (f"{name}_v{version}", f"{name}.v{version}") if stem in self.models), None)
        if name in self.models:
            return name
        versions = sorted(stem for stem in self.models if stem.rpartition("_v")[0] == name)
        return versions[-1] if versions else None


def read_project(root: Path) -> ProjectFiles:
    """The project in a folder; FeatureStoreError where there is none, or a file of YAML cannot be read."""
    check_project(root)
    project = _yaml(root / PROJECT_FILE)
    name, variables = str(project.get("name") or ""), project.get("vars") or {}
    models = {path.stem: path for folder in _folders(root, project, "model-paths", "models") for path in
              sorted(folder.rglob("*.sql"))}  # fmt: skip
    described = {
        one.name: one
        for folder in _folders(root, project, "model-paths", "models")
        for path in sorted([*folder.rglob("*.yml"), *folder.rglob("*.yaml")])
        for one in _described(path, path.relative_to(root).as_posix())
    }
    packages = {name: macros_of(_folders(root, project, "macro-paths", "macros"))}
    for folder in sorted((root / str(project.get("packages-install-path") or "dbt_packages")).glob("*")):
        if (folder / PROJECT_FILE).is_file():
            own = _yaml(folder / PROJECT_FILE)
            packages[str(own.get("name") or folder.name)] = macros_of(_folders(folder, own, "macro-paths", "macros"))
    return ProjectFiles(root, models, described, Rendering(root, name, variables, packages))


def _folders(root: Path, project: Mapping[str, Any], key: str, default: str) -> list[Path]:
    names = project.get(key) or [default]
    return [root / str(name) for name in names if (root / str(name)).is_dir()]


def _described(path: Path, file: str) -> Iterator[Described]:
    models = _yaml(path).get("models")
    lines = _lines(path) if isinstance(models, list) else {}
    for model in models if isinstance(models, list) else ():
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            continue
        name = model["name"]
        config = model.get("config") if isinstance(model.get("config"), dict) else {}
        meta = (model.get("meta") or {}) | ((config or {}).get("meta") or {})
        one = Described(
            name=name,
            file=file,
            line=lines.get(name, 1),
            is_view="feature_view" in meta,
            has_grain=_has_grain(model, meta.get("feature_view")),
            allowed=_allowed(meta.get("lint"), file, name),
        )
        versions = [str(version.get("v")) for version in model.get("versions") or () if isinstance(version, dict)]
        for stem in [f"{name}_v{version}" for version in versions] or [name]:
            yield msgspec.structs.replace(one, name=stem)


def _has_grain(model: Mapping[str, Any], view: Any) -> bool:
    """Whether a test of the model has a list of columns with the event timestamp in it."""
    facts = view if isinstance(view, dict) else {}
    tests = [*(model.get("data_tests") or ()), *(model.get("tests") or ())]
    said = [value for test in tests if isinstance(test, dict) for value in test.values() if isinstance(value, dict)]
    lists = [value for one in said for value in (one | (one.get("arguments") or {})).values()]
    event = facts.get("event_timestamp") or "event_timestamp"
    return "stream" in facts or any(isinstance(each, list) and event in each for each in lists)


def _allowed(said: Any, file: str, model: str) -> tuple[Allowed, ...]:
    if said is None:
        return ()
    try:
        return tuple(msgspec.convert(said if isinstance(said, list) else [said], list[Allowed]))
    except msgspec.ValidationError as error:
        raise FeatureStoreError(
            "what a model allows cannot be read", where=f"{file}: models[{model}].meta.lint",
            expected="{allow: a rule's name, reason: why}, or a list of these", got=str(error),
        ) from None  # fmt: skip


def _lines(path: Path) -> dict[str, int]:
    """The line of each model's name."""
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    listed: list[yaml.Node] = (
        next((value.value for key, value in root.value if key.value == "models"), []) if root else []
    )
    pairs = (pair for item in listed if isinstance(item, yaml.MappingNode) for pair in item.value)
    return {str(value.value): value.start_mark.line + 1 for key, value in pairs if key.value == "name"}


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FeatureStoreError(
            "a file of the project cannot be read", where=str(path), expected="YAML", got=str(error).splitlines()[0]
        ) from None
    return found if isinstance(found, dict) else {}
