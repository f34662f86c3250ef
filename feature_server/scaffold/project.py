"""What a dbt project that there is lacks to hold feature views."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from ..errors import FeatureStoreError
from ..project.package import PACKAGE, SHIPPED, installed_package, package_version
from ..project.process import check_project, profiles_dir
from .edits import Edit, added_lines, changed_yaml, new_file, quoted, read_text, read_yaml

PROJECT_FILE, PROFILES_FILE = "dbt_project.yml", "profiles.yml"
SHIM, DAGS = "macros/should_full_refresh.sql", "dags/feature_dags.py"
TEMPLATES = Path(__file__).parent / "project"
HOOKS = (
    ("models", "pre-hook", "before_model"),
    ("models", "post-hook", "after_model"),
    ("seeds", "post-hook", "after_seed"),
)
_IGNORED = (".features/", "dbt_packages/")
_MACRO = re.compile(r"{%-?\s*macro\s+should_full_refresh\b")
_GIT_USER = {"name": "Data team", "email": "data@example.com"}


class Planned(msgspec.Struct, frozen=True):
    """What is to be written, and what only a person can do."""

    edits: tuple[Edit, ...]
    left: tuple[str, ...]
    packages_changed: bool


def plan_edits(root: Path, *, upgrade: bool) -> Planned:
    """What the project in a folder lacks. With `upgrade` its copy of the dbt package is replaced by this version's.

    FeatureStoreError where there is no project, or a file of it cannot be read.
    """
    check_project(root)
    project = read_yaml(root / PROJECT_FILE)
    package, left = _package(root, project, upgrade)
    edits = [*package, *_settings(root, project), *_shim(root, project), *_group(root, project)]
    edits += _dags(root)
    edits += added_lines(root, ".gitignore", _IGNORED, "what is made here is no part of the project")
    zone, more = _time_zone(root, project)
    installed = installed_package(root) is not None
    return Planned((*edits, *zone), (*left, *more), packages_changed=bool(package) or not installed)


def package_edits(root: Path, what: str) -> Iterator[Edit]:
    """The dbt package as a folder of a project, as far as it differs."""
    for source in sorted(SHIPPED.rglob("*")):
        if source.is_file() and source.suffix in (".sql", ".yml", ".md"):
            path = f"{PACKAGE}/{source.relative_to(SHIPPED).as_posix()}"
            before = read_text(root / path) if (root / path).is_file() else None
            if before != (after := read_text(source)):
                yield Edit(root=str(root), path=path, before=before, after=after, what=what)
    for place in ("macros", "tests"):  # what another version had
        for old in sorted((root / PACKAGE / place).rglob("*")):
            if old.is_file() and not (SHIPPED / old.relative_to(root / PACKAGE)).is_file():
                name = old.relative_to(root).as_posix()
                yield Edit(root=str(root), path=name, before=read_text(old), after=None, what=what)


def owner() -> dict[str, str]:
    """Who works here, as git knows it."""
    found = dict[str, str]()
    for name in _GIT_USER:
        try:
            run = subprocess.run(["git", "config", f"user.{name}"], capture_output=True, text=True, check=False)
        except OSError:  # no git
            break
        found |= {name: run.stdout.strip()} if run.stdout.strip() else {}
    return _GIT_USER | found


def _package(root: Path, project: Mapping[str, Any], upgrade: bool) -> tuple[list[Edit], list[str]]:
    """The package as a folder of the project, and its name where dbt looks for packages; nothing of either where the
    project has it from elsewhere, such as by git."""
    folder, installed, wanted = root / PACKAGE, installed_package(root), package_version(SHIPPED)
    own = folder / PROJECT_FILE
    if folder.exists() and (not own.is_file() or read_yaml(own).get("name") != PACKAGE):
        raise FeatureStoreError(
            f"the project has a folder {PACKAGE!r} that is not the dbt package", where=str(folder),
            expected="no such folder, or the package", got=str(read_yaml(own).get("name") or "no dbt_project.yml"),
            remedy="rename it",
        )  # fmt: skip
    if not own.is_file() and (installed is not None or _is_elsewhere(root)):
        if installed is None or package_version(installed) == wanted:
            return [], []
        return [], [f"the dbt package is {package_version(installed)}, this is {wanted}: name that in packages.yml"]
    if own.is_file() and not upgrade:
        old = package_version(folder)
        edits, left = [], [] if old == wanted else [f"{PACKAGE} is of version {old}: `features init --upgrade`"]
    else:
        edits, left = list(package_edits(root, f"the dbt package, version {wanted}")), []
    return [*edits, *_named(root, project)], left


def _is_elsewhere(root: Path) -> bool:
    """Whether the project names the package already: by git, or as another folder."""
    for name in ("packages.yml", "dependencies.yml"):
        for one in read_yaml(root / name).get("packages") or ():
            given = one if isinstance(one, dict) else {}
            local = root / str(given.get("local") or "-")
            if str(given.get("subdirectory")).rstrip("/").endswith(f"feature_server/{SHIPPED.name}"):
                return True
            if local != root / PACKAGE and read_yaml(local / PROJECT_FILE).get("name") == PACKAGE:
                return True
    return False


def _named(root: Path, project: Mapping[str, Any]) -> list[Edit]:
    """The package in the file that lists packages."""
    names = ("packages.yml", "dependencies.yml")
    listed = next((name for name in names if read_yaml(root / name).get("packages")), None)
    what = "dbt takes the package from its folder"
    if listed is None and not (root / "packages.yml").exists():
        return new_file(root, "packages.yml", f"packages:\n  - local: {PACKAGE}\n", what)

    def add(content: Any) -> bool:
        packages = content.get("packages") or []
        if any(isinstance(one, dict) and str(one.get("local", "")).strip("./") == PACKAGE for one in packages):
            return False
        if not packages:
            content["packages"] = packages
        packages.append({"local": PACKAGE})
        return True

    return changed_yaml(root, listed or "packages.yml", add, what)


def _settings(root: Path, project: Mapping[str, Any]) -> list[Edit]:
    """The variable and the hooks in dbt_project.yml."""

    def add(content: Any) -> bool:
        changed = False
        given: Any = content.get("vars") or {}
        own = given.get(project.get("name")) or {}
        if "as_of" not in given and "as_of" not in own:
            changed = True
            if given:
                given.insert(0, "as_of", "now")
            else:
                content["vars"] = {"as_of": "now"}
        for section, hook, macro in HOOKS:
            changed |= _add_hook(content, section, hook, f"{{{{ {PACKAGE}.{macro}() }}}}")
        return changed

    return changed_yaml(root, PROJECT_FILE, add, "the variable as_of, and hooks that note what was built")


def _add_hook(content: Any, section: str, hook: str, call: str) -> bool:
    settings = content.get(section)
    if settings and not isinstance(settings, dict):
        raise FeatureStoreError(
            f"`{section}` of dbt_project.yml is no mapping, so nothing is written", where=PROJECT_FILE,
            expected="settings by their names", got=str(settings)[:100], remedy="correct it until `dbt parse` succeeds",
        )  # fmt: skip
    if not settings:
        content[section] = settings = {}
    names = [f"{plus}{name}" for plus in ("+", "") for name in (hook, hook.replace("-", "_"))]
    name = next((name for name in names if name in settings), f"+{hook}")
    given = settings.get(name)
    listed = given if isinstance(given, list) else [] if given is None else [given]
    if any(call.strip("{} ") in str(one) for one in listed):
        return False
    ours = DoubleQuotedScalarString(call)
    if isinstance(given, list):
        given.append(ours)
    else:
        settings[name] = ours if given is None else [_in_a_list(given), ours]
    return True


def _in_a_list(given: Any) -> Any:
    """A hook as an item of a list: written on one line, for its lines are indented otherwise there."""
    if isinstance(given, CommentedMap):
        given.fa.set_flow_style()
    return DoubleQuotedScalarString(given) if isinstance(given, str) and "\n" in given else given


def _shim(root: Path, project: Mapping[str, Any]) -> list[Edit]:
    """The macro by which dbt asks the package whether a model is to be made anew."""
    folders = [str(name) for name in project.get("macro-paths") or ["macros"]]
    texts = (read_text(path) for name in folders for path in sorted((root / name).rglob("*.sql")))
    if any(_MACRO.search(text) for text in texts):
        return []
    path = f"{folders[0]}/{Path(SHIM).name}"
    return new_file(root, path, read_text(TEMPLATES / SHIM), "an incremental view is made anew when it changed")


def _dags(root: Path) -> list[Edit]:
    """The file that Airflow makes its DAGs of."""
    files = sorted((root / "dags").rglob("*.py"))
    if any("feature_server.airflow" in read_text(path) for path in files):
        return []
    return new_file(root, DAGS, read_text(TEMPLATES / DAGS), "Airflow's DAGs, where its DAG folder has this file")


def _group(root: Path, project: Mapping[str, Any]) -> list[Edit]:
    """A group to own the views, where the project has none."""
    folders = [str(name) for name in project.get("model-paths") or ["models"]]
    files = (path for name in folders for kind in ("yml", "yaml") for path in sorted((root / name).rglob(f"*.{kind}")))
    if any(read_yaml(path).get("groups") for path in files):
        return []
    text = filled(read_text(TEMPLATES / "models/groups.yml"), str(project.get("name") or "features"))
    return new_file(root, f"{folders[0]}/groups.yml", text, "who owns the features: correct the name and the address")


def filled(text: str, name: str) -> str:
    """A template with a project's name, and who works here."""
    who = owner()
    given = {"__name__": name, "__owner__": quoted(who["name"]), "__email__": quoted(who["email"])}
    return re.sub("|".join(given), lambda found: given[found[0]], text)


def _time_zone(root: Path, project: Mapping[str, Any]) -> tuple[list[Edit], list[str]]:
    """UTC for the session that dbt builds in, without which times have no one meaning."""
    folder = profiles_dir(root)
    path, profile = folder / PROFILES_FILE, str(project.get("profile"))

    def add(content: Any) -> bool:
        changed = False
        for output in ((content.get(profile) or {}).get("outputs") or {}).values():
            if isinstance(output, dict) and output.get("type") == "duckdb" and not _has_zone(output):
                if not output.get("settings"):
                    output["settings"] = {}
                output["settings"]["TimeZone"] = "UTC"
                changed = True
        return changed

    if path.is_file() and path.resolve().is_relative_to(root.resolve()):
        place = path.resolve().relative_to(root.resolve()).as_posix()
        return changed_yaml(root, place, add, "TimeZone, so that times mean the same on every machine"), []
    outputs = ((read_yaml(path).get(profile) or {}).get("outputs") or {}).items()
    files = ((name, each) for name, each in outputs if isinstance(each, dict) and each.get("type") == "duckdb")
    bare = [name for name, each in files if not _has_zone(each)]
    return [], [f"{path}: give target {name} of {profile} `settings: {{TimeZone: UTC}}`" for name in bare]


def _has_zone(output: Mapping[str, Any]) -> bool:
    places = (output.get("settings"), output.get("config_options"))
    return any(str(name).lower() == "timezone" for place in places if isinstance(place, dict) for name in place)
