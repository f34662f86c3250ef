"""features rebuild: views made anew by another definition, in a copy of the warehouse."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ..errors import RequestError
from .definitions import APPLY, described
from .main import Json, ProjectDir, app, in_force

if TYPE_CHECKING:
    from ..definitions.registry import Registry
    from ..publish.rebuild import Rebuild
    from ..settings import Settings


class Step(StrEnum):
    """One of the steps, for a process of its own."""

    COPY = "copy"
    BUILD = "build"
    PUT = "put"


@app.command(epilog="Example: features rebuild airport__weather")
def rebuild(
    views: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VIEW]...", help="Feature views; by default all of a cadence that wait for it."),
    ] = None,
    step: Annotated[Step | None, typer.Option(help="Take one step alone: a schedule has a task for each.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a build that holds the warehouse.", min=0)] = 300,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Make incremental views anew whose definition in force is not the one published, in a copy of the warehouse.

    Three steps: copy the file; build and test in the copy, however long it takes, while other builds go on in the file
    itself; put the relations into it. Then `features publish` and `features sync` the views. --json is one line.
    """
    from ..dbt.build import builds_by_definition
    from ..publish.rebuild import build, put, rebuilt_by

    settings, registry = in_force(project_dir)
    steps: dict[Step, Callable[[], Rebuild | None]] = {
        Step.COPY: lambda: _copy(settings, registry, views or [], wait),
        Step.BUILD: lambda: build(registry, settings),
        Step.PUT: lambda: put(registry, settings, wait_seconds=wait),
    }
    done = None
    for each in steps if step is None else [step]:
        if (done := steps[each]()) is None:
            break
    names = [] if done is None else [*done.views]
    online = [name for name in names if registry.feature_view(name).online]
    said = {Step.COPY: "copied the warehouse for", Step.BUILD: "built anew", Step.PUT: "put into the warehouse"}
    line = "nothing is to be made anew" if done is None else f"{said[each]} {', '.join(names)} as_of={done.as_of}"
    if done is not None and each is Step.PUT:
        logged = builds_by_definition(registry.project, settings.target_path)
        results = "" if logged else f"--run-results {shlex.quote(str(rebuilt_by(settings)))} "
        line += f"\npublish them: features publish {results}{' '.join(names)}"
    value = {"views": names, "online": online, "as_of": done and done.as_of}
    typer.echo(msgspec.json.encode(value).decode() if json else line)


def _copy(settings: Settings, registry: Registry, names: list[str], wait: float) -> Rebuild | None:
    """The first step, for views that are defined in the project as they are in force."""
    from ..definitions.held import held_back
    from ..publish.rebuild import begin, waiting_views

    waiting = waiting_views(registry, settings)
    chosen = [registry.feature_view(name).id for name in names] or [
        name for name in waiting if registry.feature_view(name).refresh not in (None, "manual")
    ]
    for name in chosen:
        if name not in waiting:
            raise RequestError(
                "the view does not wait to be made anew", where=name,
                expected="an incremental view that was published by another definition than is in force",
                remedy="`dbt build`, then `features publish`",
            )  # fmt: skip
    if not chosen:
        return None
    held = held_back(registry, described(settings.project_dir, settings.target_path, False, True)[2]).views
    for name in (name for name in chosen if name in held):
        typer.echo(f"held back {name}: {held[name]}; {APPLY}", err=True)
    return begin(registry, settings, [name for name in chosen if name not in held], wait_seconds=wait)
