"""The `features` command, and what its commands share: the app they join, options, what is in force, output, progress.

Each group of commands lives in its own module; none holds logic of its own.
"""

from __future__ import annotations

import errno
import functools
import importlib
import inspect
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import msgspec
import typer

from ..errors import NOT_FIT, FeatureStoreError, NotFit, NotPublished
from ..extras import missing, versions
from ..project.process import saying
from ..settings import Settings, load_settings, local_path

if TYPE_CHECKING:
    from ..definitions.registry import Registry
    from ..online.store import OnlineStore

COMMAND_MODULES = (
    "init",
    "new",
    "definitions",
    "run",
    "lint",
    "leaktest",
    "offline",
    "rebuild",
    "online",
    "serve",
    "keys",
    "rights",
    "stream",
    "catalog",
)  # as --help lists them
app = typer.Typer(
    name="features",
    help="Feature warehouse: dbt models become training sets and online values.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _tell_versions(wanted: bool) -> None:
    if wanted:
        typer.echo("\n".join(versions()))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_versions, is_eager=True, help="Print the versions of all that counts."
        ),
    ] = False,
) -> None:
    """What `features` itself takes."""


ProjectDir = Annotated[
    Path | None, typer.Option(help="Folder of dbt_project.yml. [env: FEATURES_PROJECT_DIR; default: here]")
]
TargetPath = Annotated[
    Path | None, typer.Option(help="Folder of dbt's manifest.json. [env: FEATURES_TARGET_PATH; default: target]")
]
DBT_OPTIONS: dict[str, Any] = {
    "target": Annotated[
        str | None, typer.Option(help="Target in profiles.yml. [env: DBT_TARGET; default: what the profile names]")
    ],
    "profile": Annotated[
        str | None, typer.Option(help="Profile. [env: DBT_PROFILE; default: what dbt_project.yml names]")
    ],
    "profiles_dir": Annotated[
        Path | None, typer.Option(help="Folder of profiles.yml. [env: DBT_PROFILES_DIR; default: profiles, ~/.dbt]")
    ],
}
_REFUSED = (  # what a machine answers for files: rights, room, and what stands where a file or folder should
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.ENOTDIR,
    errno.EISDIR, errno.EEXIST, errno.ELOOP,
)  # fmt: skip
Progress = Callable[[int, int], None]  # called with how much is done and how much there is, 0 where that is unknown
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def written_here(out: Path | None) -> Path | None:
    """The value of --out, before anything is done for it."""
    return None if out is None else local_path(out, where="--out")


def in_force(project_dir: Path | None) -> tuple[Settings, Registry]:
    """Where things are, and the definitions in force."""
    from ..offline.owned import read_in_force

    settings = load_settings(project_dir=project_dir)
    return settings, read_in_force(settings)


@contextmanager
def online_store(settings: Settings) -> Iterator[OnlineStore]:
    """The online store, of the embedded Valkey unless a Redis is named; refused where another target fills it."""
    from ..offline.owned import filled_by
    from ..online.embedded import connect
    from ..online.store import OnlineStore, check_filled, once_more

    filled = filled_by(settings)
    with connect(settings) as url, OnlineStore(url) as online:
        if filled is not None:
            check_filled(once_more(online.registry), filled.owner, filled.adopted)
        yield online


def show(value: Any, lines: Iterable[object], *, json: bool, good: bool = True) -> None:
    """What a command has to say, as one JSON document or as text; exit code 1 where not all is `good`."""
    for line in [msgspec.json.format(msgspec.json.encode(value), indent=2).decode()] if json else lines:
        typer.echo(line)
    if not good:
        raise typer.Exit(1)


def finish(results: dict[str, Any], name: str, failures: Mapping[str, FeatureStoreError], *, json: bool) -> None:
    """Print what was done, if as JSON with the failures under their `name`, and what failed.

    Exit code 1 for that, NOT_FIT where trying again changes nothing.
    """
    for error in failures.values():
        typer.echo(f"failed {error}", err=True)
    failed = {view: error.as_dict() for view, error in failures.items()}
    again = any(not isinstance(error, NotFit | NotPublished) for error in failures.values())
    show(results | {name: failed}, [], json=json, good=not again)
    if failures:
        raise typer.Exit(NOT_FIT)


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A progress bar on standard error, only when that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def load_commands() -> typer.Typer:
    """The app with every command: each module adds its own when it is imported."""
    for name in COMMAND_MODULES:
        importlib.import_module(f"{__package__}.{name}")
    groups = [group.typer_instance for group in app.registered_groups if group.typer_instance is not None]
    for command in [command for each in (app, *groups) for command in each.registered_commands]:
        assert command.callback is not None
        command.callback = _with_dbt_options(command.callback)
    return app


def _with_dbt_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command of a dbt project, with dbt's own options that say which target is meant.

    They are in the environment for as long as it runs: there dbt finds them, and so do our settings.
    """
    given = inspect.signature(command, eval_str=True)
    if "project_dir" not in given.parameters or "target" in given.parameters:
        return command

    @functools.wraps(command)
    def run(*, target: str | None, profile: str | None, profiles_dir: Path | None, **kwargs: Any) -> Any:
        folder = None if profiles_dir is None else str(profiles_dir.resolve())
        wanted = {"target": target, "profile": profile, "profiles_dir": folder}
        before = dict(os.environ)
        _replace_environ(saying(before, **{name: value for name, value in wanted.items() if value}))
        try:
            return command(**kwargs)
        finally:
            _replace_environ(before)

    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
           for name, kind in DBT_OPTIONS.items()]  # fmt: skip
    run.__signature__ = given.replace(parameters=[*given.parameters.values(), *own])  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in given.parameters.items()} | DBT_OPTIONS
    return run


def _replace_environ(wanted: Mapping[str, str]) -> None:
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


def main() -> None:
    """Run the command line: exit code 0 good, 1 the thing failed or offenders were found, 2 wrong usage, NOT_FIT."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what is open is closed on the way out
    warnings.formatwarning = lambda message, category, *_: f"warning: {message}\n"
    try:
        load_commands()()
    except FeatureStoreError as error:
        _end(error)
    except ModuleNotFoundError as error:
        _end(missing(error, " ".join(["features", *sys.argv[1:2]])))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        where = None if error.filename is None else os.fsdecode(error.filename)
        remedy = f"give user {os.getuid()} the right to it, and its disk room; then run the same command again"
        _end(FeatureStoreError("the system refuses a file", where=where, got=error.strerror, remedy=remedy))


def _end(error: FeatureStoreError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)
