"""dbt's own reading of a project's files. A process of its own: this module imports dbt, `given` starts it."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from click import ClickException
from dbt.cli.flags import Flags, args_to_context
from dbt.config.profile import read_profile
from dbt.config.project import Project, load_raw_project
from dbt.config.renderer import ProfileRenderer
from dbt.config.runtime import UnsetProfile, load_profile, load_project
from dbt.flags import set_flags
from dbt_common.clients.jinja import extract_toplevel_blocks, get_environment
from dbt_common.context import set_invocation_context
from dbt_common.exceptions import DbtBaseException
from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError

from ..durable import write_whole
from .given import Asking, Given


def main() -> int:
    asking = msgspec.json.decode(sys.stdin.buffer.read(), type=Asking)
    try:
        answer = given(asking)
    except (DbtBaseException, ClickException) as error:
        print(f"Error: {error.format_message() if isinstance(error, ClickException) else error}")
        return 1
    write_whole(Path(asking.answer), lambda file: file.write(msgspec.json.encode(answer)))
    return 0


def given(asking: Asking) -> Given:
    """What a project gives, by its files alone; a DbtBaseException says what dbt does not take."""
    set_invocation_context(asking.environ)
    flags = Flags(args_to_context(["parse", *asking.arguments]))
    set_flags(flags)
    project = load_project(flags.PROJECT_DIR, False, UnsetProfile(), flags.VARS)
    root = Path(project.project_root)
    profile, error = _profile(flags)
    variables = project.vars.to_dict()
    own = variables.get(project.project_name)
    return Given(
        name=str(project.project_name),
        model_paths=tuple(project.model_paths),
        macro_paths=tuple(project.macro_paths),
        described_paths=tuple(sorted(project.all_source_paths)),
        packages_path=project.packages_install_path,
        target_path=project.target_path,
        has_variable=asking.variable in variables or (isinstance(own, dict) and asking.variable in own),
        has_macro=any(asking.macro in names for names in _macros(root, project)),
        hooks={
            macro: tuple(_calling(getattr(project, section), (section,), hook, (asking.package, macro)))
            for section, hook, macro in asking.hooks
        },
        profile=profile,
        profiles_dir=str(flags.PROFILES_DIR),
        profile_error=error,
        without_zone=() if profile is None else tuple(_without_zone(flags, profile)),
    )


def _profile(flags: Any) -> tuple[str | None, str | None]:
    """The profile that is meant, if the files say so, and what dbt says where it cannot take it."""
    try:
        found = load_profile(flags.PROJECT_DIR, flags.VARS, flags.PROFILE, flags.TARGET, flags.THREADS)
    except DbtBaseException as error:
        raw = ProfileRenderer(flags.VARS)
        try:
            return flags.PROFILE or str(raw.render_value(load_raw_project(flags.PROJECT_DIR)["profile"])), str(error)
        except (DbtBaseException, KeyError):
            return flags.PROFILE, str(error)
    return found.profile_name, None


def _without_zone(flags: Any, profile: str) -> Iterator[str]:
    """The outputs of a profile that are in DuckDB and name no time zone for its session."""
    said = (read_profile(flags.PROFILES_DIR).get(profile) or {}).get("outputs") or {}
    for name, raw in said.items():
        try:
            output = ProfileRenderer(flags.VARS).render_data(raw)
        except DbtBaseException:  # of another target, say, whose variables are not set here
            output = raw
        if isinstance(output, dict) and output.get("type") == "duckdb" and not _has_zone(output):
            yield str(name)


def _has_zone(output: Mapping[str, Any]) -> bool:
    places = (output.get("settings"), output.get("config_options"))
    return any(str(name).lower() == "timezone" for place in places if isinstance(place, dict) for name in place)


def _calling(settings: Any, at: tuple[str, ...], hook: str, macro: tuple[str, str]) -> Iterator[str]:
    """At which keys, this one and those below it, a hook calls a macro."""
    if not isinstance(settings, dict):
        return
    for key, value in settings.items():
        if str(key).removeprefix("+").replace("_", "-") == hook:
            if macro in {call for one in _listed(value) for call in _calls(one)}:
                yield ".".join(at)
        elif not str(key).startswith("+"):
            yield from _calling(value, (*at, str(key)), hook, macro)


def _listed(value: Any) -> Iterator[str]:
    for one in value if isinstance(value, list) else [value]:
        yield str(one.get("sql") or "") if isinstance(one, dict) else str(one)


def _calls(text: str) -> Iterator[tuple[str, str]]:
    """The macros of packages that a text of Jinja calls; comments call none."""
    try:
        tree = get_environment().parse(text)
    except TemplateSyntaxError:
        return
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and isinstance(call.node.node, nodes.Name):
            yield call.node.node.name, call.node.attr


def _macros(root: Path, project: Project) -> Iterator[set[str]]:
    """The names of the macros in each of a project's files."""
    for folder in project.macro_paths:
        for path in sorted((root / folder).rglob("*.sql")):
            text = path.read_text(encoding="utf-8", errors="replace")
            yield {str(getattr(one, "block_name", "")) for one in extract_toplevel_blocks(text, {"macro"}, False)}


if __name__ == "__main__":
    sys.exit(main())
