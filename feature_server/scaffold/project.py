"""What a dbt project that there is lacks to hold feature views."""

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from ..project.given import Given, given_by
from ..project.package import PACKAGE, PROJECT_FILE
from ..project.process import check_project
from .edits import Edit, added_lines, changed_yaml, new_file, quoted, read_text, read_yaml
from .vendored import plan_package

PROFILES_FILE = "profiles.yml"
SHIM, DAGS = "macros/should_full_refresh.sql", "dags/feature_dags.py"
TEMPLATES = Path(__file__).parent / "project"
HOOKS = (
    ("models", "pre-hook", "before_model"),
    ("models", "post-hook", "after_model"),
    ("seeds", "post-hook", "after_seed"),
)
TEST_ARGUMENTS = "require_generic_test_arguments_property"
_LIBRARY = "feature_server.airflow"
_GIT_USER = {"name": "Data team", "email": "data@example.com"}


class Planned(msgspec.Struct, frozen=True):
    """What is to be written, and what only a person can do."""

    edits: tuple[Edit, ...]
    left: tuple[str, ...]
    packages_changed: bool


def plan_edits(root: Path, *, upgrade: bool) -> Planned:
    """What the project in a folder lacks. With `upgrade` its copy of the dbt package is replaced by this version's.

    FeatureStoreError where there is no project, or dbt or we cannot read a file of it.
    """
    check_project(root)
    read_yaml(root / PROJECT_FILE)  # of YAML that is none we say where
    package, left = plan_package(root, upgrade=upgrade)
    given = given_by(root, hooks=HOOKS, package=PACKAGE, variable="as_of", macro=Path(SHIM).stem)
    parts = [_settings(root, given), _shim(root, given), _dags(root), _group(root, given), _time_zone(root, given)]
    edits = [*package, *(edit for part, _ in parts for edit in part)]
    ignored = [".features/", f"{given.packages_path.strip('/')}/"]
    if not (root / ".gitignore").exists():  # dbt's own, which else is for its owner to say
        inside = (os.path.relpath(root / path, root) for path in (given.target_path, "logs"))
        ignored += [f"{path}/" for path in inside if not path.startswith("..")]
    edits += added_lines(root, ".gitignore", ignored, "what is made here is no part of the project")
    more = [line for _, lines in parts for line in lines]
    installed = (root / given.packages_path / PACKAGE).exists()
    return Planned((*edits,), (*left, *more), packages_changed=bool(package) or not installed)


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


_Part = tuple[list[Edit], list[str]]  # what is written, and what is left to a person


def _settings(root: Path, given: Given) -> _Part:
    """The variable and the hooks in dbt_project.yml."""

    def add(content: Any) -> bool:
        if not given.has_variable:
            if variables := content.get("vars"):
                variables.insert(0, "as_of", "now")
            else:
                content["vars"] = {"as_of": "now"}
        for section, hook, macro in missing:
            _add_hook(content, section, hook, f"{{{{ {PACKAGE}.{macro}() }}}}")
        return _add_flag(content) or bool(missing) or not given.has_variable

    missing = [each for each in HOOKS if not given.hooks[each[2]]]
    deep = [
        f"{PROJECT_FILE}: {PACKAGE}.{macro}() is a {hook} at {', '.join(at)} alone: what is elsewhere is not noted"
        for section, hook, macro in HOOKS
        if (at := given.hooks[macro]) and not {section, f"{section}.{given.name}"} & {*at}
    ]
    what = "the variable as_of, and hooks that note what was built"
    return changed_yaml(root, PROJECT_FILE, add, what), deep


def _add_flag(content: Any) -> bool:
    """dbt 1.10 reads `arguments:` of a test only where a flag says so; later versions do by themselves."""
    flags = content.get("flags")
    if not version("dbt-core").startswith("1.10.") or TEST_ARGUMENTS in (flags or ()):
        return False
    if flags:
        flags[TEST_ARGUMENTS] = True
    else:
        content["flags"] = {TEST_ARGUMENTS: True}
    return True


def _add_hook(content: Any, section: str, hook: str, call: str) -> None:
    if not (settings := content.get(section)):
        content[section] = settings = CommentedMap()
    names = [f"{plus}{name}" for plus in ("+", "") for name in (hook, hook.replace("-", "_"))]
    name = next((name for name in names if name in settings), f"+{hook}")
    there, ours = settings.get(name), DoubleQuotedScalarString(call)
    if isinstance(there, list):
        there.append(ours)
    else:
        settings[name] = ours if there is None else [_in_a_list(there), ours]


def _in_a_list(given: Any) -> Any:
    """A hook as an item of a list: written on one line, for its lines are indented otherwise there."""
    if isinstance(given, CommentedMap):
        given.fa.set_flow_style()
    return DoubleQuotedScalarString(given) if isinstance(given, str) and "\n" in given else given


def _shim(root: Path, given: Given) -> _Part:
    """The macro by which dbt asks the package whether a model is to be made anew."""
    what = "an incremental view is made anew when it changed"
    if given.has_macro:
        return [], []
    return _beside(root, given.macro_paths, Path(SHIM).name, read_text(TEMPLATES / SHIM), what)


def _group(root: Path, given: Given) -> _Part:
    """A group to own the views, where the project has none."""
    files = (
        path for name in given.described_paths for kind in ("yml", "yaml") for path in (root / name).rglob(f"*.{kind}")
    )
    if any(read_yaml(path).get("groups") for path in sorted(files) if path.is_file()):
        return [], []
    text = filled(read_text(TEMPLATES / "models/groups.yml"), given.name)
    return _beside(
        root, given.model_paths, "groups.yml", text, "who owns the features: correct the name and the address"
    )


def _beside(root: Path, folders: tuple[str, ...], name: str, text: str, what: str) -> _Part:
    """A file in the first of dbt's folders that is in the project; left to a person where there is none, or the file
    is there and has something else."""
    inside = [folder for folder in folders if not os.path.relpath(root / folder, root).startswith("..")]
    if not inside:
        return [], [f"{root / folders[0] / name}, outside the project ({what}):\n{text}"]
    path = f"{os.path.relpath(root / inside[0], root)}/{name}"
    return _unless_there(root, path, text, what)


def _unless_there(root: Path, path: str, text: str, what: str) -> _Part:
    if (root / path).exists():
        return [], [f"{path} is there, and lacks this ({what}):\n{text}"]
    return new_file(root, path, text, what), []


def _dags(root: Path) -> _Part:
    """The file that Airflow makes its DAGs of."""
    if any(_imports_library(path) for path in sorted((root / "dags").rglob("*.py"))):
        return [], []
    what = "Airflow's DAGs, where its DAG folder has this file"
    return _unless_there(root, DAGS, read_text(TEMPLATES / DAGS), what)


def _imports_library(path: Path) -> bool:
    try:
        tree = ast.parse(path.read_bytes())  # in the encoding that it says
    except (OSError, SyntaxError, ValueError):
        return False
    return any(name == _LIBRARY or name.startswith(f"{_LIBRARY}.") for name in _imported(tree))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def filled(text: str, name: str) -> str:
    """A template with a project's name, and who works here."""
    who = owner()
    given = {"__name__": name, "__owner__": quoted(who["name"]), "__email__": quoted(who["email"])}
    return re.sub("|".join(given), lambda found: given[found[0]], text)


def _time_zone(root: Path, given: Given) -> _Part:
    """UTC for the sessions that dbt builds in, without which times have no one meaning."""
    path = root / given.profiles_dir / PROFILES_FILE
    left = [] if given.profile_error is None else [f"a profile for dbt, which says: {_line(given.profile_error)}"]
    if given.profile is None or not given.without_zone:
        return [], left
    written = ((read_yaml(path).get(given.profile) or {}).get("outputs")) or {}
    plain = [name for name in given.without_zone if not isinstance((written.get(name) or {}).get("settings"), str)]

    def add(content: Any) -> bool:
        for name in plain:
            output = content[given.profile]["outputs"][name]
            if not output.get("settings"):
                output["settings"] = CommentedMap()
            output["settings"]["TimeZone"] = "UTC"
        return bool(plain)

    place, edits = os.path.relpath(path.resolve(), root.resolve()), list[Edit]()
    if place.startswith(".."):
        plain = []
    elif plain:
        edits = changed_yaml(root, place, add, "TimeZone, so that times mean the same on every machine")
    bare = [name for name in given.without_zone if name not in plain]
    left += [f"{path}: give target {name} of {given.profile} `settings: {{TimeZone: UTC}}`" for name in bare]
    return edits, left


def _line(text: str) -> str:
    return " ".join(text.split())
