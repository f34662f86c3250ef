"""dbt's own answer to where it builds. A process of its own: this module imports dbt, `target` starts it."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from click import ClickException
from dbt.cli.flags import Flags, args_to_context
from dbt.config.profile import Profile, read_profile
from dbt.config.project import Project, load_raw_project
from dbt.config.renderer import ProfileRenderer
from dbt.config.runtime import load_profile, load_project
from dbt.flags import set_flags
from dbt_common.constants import SECRET_ENV_PREFIX
from dbt_common.context import set_invocation_context
from dbt_common.exceptions import DbtBaseException

from ..durable import write_whole
from .process import saying
from .target import VALUE_SETTINGS, Answer, Request, Target, database_name, fingerprint


def main() -> int:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    try:
        answer, *_ = resolved(request.arguments, request.environ)
    except (DbtBaseException, ClickException) as error:
        print(f"Error: {error.format_message() if isinstance(error, ClickException) else error}")
        return 1
    write_whole(Path(request.answer), lambda file: file.write(msgspec.json.encode(answer)))
    return 0


def resolved(arguments: list[str], environ: dict[str, str]) -> tuple[Answer, Profile, Project]:
    """What dbt takes given command-line arguments, its profile and project; a DbtBaseException says what it lacks.

    `environ` are the variables of the process as it was started.
    """
    set_invocation_context(environ)
    flags = Flags(args_to_context(["parse", *arguments]))
    set_flags(flags)
    profile = load_profile(flags.PROJECT_DIR, flags.VARS, flags.PROFILE, flags.TARGET, flags.THREADS)
    project = load_project(flags.PROJECT_DIR, False, profile, flags.VARS)
    own = profile.credentials
    (own_profile, default), looked_at = _defaults(flags, environ)
    target = Target(
        project=str(project.project_name),
        profile=profile.profile_name,
        name=profile.target_name,
        own_profile=own_profile,
        default=default,
        kind=own.type,
        path=str(getattr(own, "path", "")).partition("?")[0],  # what follows may be a token
        database=own.database or "",
        schema=own.schema or "",
        attached=dict(_attached(getattr(own, "attach", None) or ())),
        settings=_values(getattr(own, "settings", None)),
        config_options=_values(getattr(own, "config_options", None)),
        target_path=project.target_path,
        profiles_dir=str(flags.PROFILES_DIR),
    )
    asked = {*profile.profile_env_vars, *(project.project_env_vars or {}), *looked_at}
    asked |= {name for name in environ if name.startswith(SECRET_ENV_PREFIX)}  # of which dbt does not tell
    return Answer(target, {name: fingerprint(environ.get(name)) for name in asked}), profile, project


def _defaults(flags: Any, environ: dict[str, str]) -> tuple[tuple[str | None, str | None], set[str]]:
    """Profile and target that the two files name where nobody names others, and the variables that say so.

    None for one that is an expression without a value here.
    """
    set_invocation_context(saying(environ, profile=None, target=None))
    renderer = ProfileRenderer(flags.VARS)
    try:
        own = str(renderer.render_value(load_raw_project(flags.PROJECT_DIR).get("profile")))
        named = read_profile(flags.PROFILES_DIR).get(own) or {}
        return (own, str(renderer.render_value(named.get("target", "default")))), {*renderer.ctx_obj.env_vars}
    except DbtBaseException:
        return (None, None), {*renderer.ctx_obj.env_vars}
    finally:
        set_invocation_context(environ)


def _attached(databases: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Name and path of each attached database that is a DuckDB file: what says where others are may hold a password."""
    for one in databases:
        if one.type in (None, "duckdb") and ":" not in one.path:
            yield database_of(one), one.path


def database_of(attached: Any) -> str:
    """The name by which SQL knows an attached database."""
    return str(attached.alias or database_name(Path(attached.path)))


def _values(settings: dict[str, Any] | None) -> dict[str, str]:
    """The settings by which SQL gives other values: among the others there may be keys of stores."""
    known = {name.lower() for name in VALUE_SETTINGS}
    return {name: str(value) for name, value in (settings or {}).items() if name.lower() in known}


if __name__ == "__main__":
    sys.exit(main())
