"""features run: what a refresh does, once, on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import NOT_FIT, FeatureStoreError
from .main import ProjectDir, app, in_force

if TYPE_CHECKING:
    from ..definitions.facts import FeatureView
    from ..settings import Settings


@app.command(epilog="Example: features run customer__transactions")
def run(
    views: Annotated[
        list[str] | None, typer.Argument(metavar="[VIEW]...", help="Feature views; by default all, and all of dbt.")
    ] = None,
    refresh: Annotated[str | None, typer.Option(help="Only views of this cadence.", metavar="CADENCE")] = None,
    project_dir: ProjectDir = None,
) -> None:
    """Apply the definitions, land live events, build with all tests, publish, sync and verify, in one command.

    A view that fails keeps what was published of it, and the others go on: exit code 1, or 3 where trying again changes
    nothing. Each step is a command of its own, which Airflow's DAGs run.
    """
    from .definitions import BEGIN, apply
    from .offline import publish, select_views, verify
    from .online import sync
    from .stream import stream

    apply(project_dir=project_dir)
    settings, registry = in_force(project_dir)
    chosen = select_views(registry, views or [], refresh)
    names = [view.id for view in chosen]
    if not registry.feature_views:
        typer.echo(BEGIN)
    codes = [
        _code(lambda source=source: stream(source, once=True, project_dir=project_dir))  # type: ignore[misc]
        for source in sorted({view.stream.source for view in chosen if view.stream is not None})
    ]
    codes.append(_build(settings, chosen if views or refresh else ()))
    for step in (publish, sync, verify):
        codes.append(_code(lambda step=step: step(names, project_dir=project_dir)))  # type: ignore[misc]
    if bad := [code for code in codes if code]:
        raise typer.Exit(NOT_FIT if set(bad) == {NOT_FIT} else 1)


def _code(step: Callable[[], None]) -> int:
    """The exit code of a step; what goes wrong in one is told, and the next goes on."""
    try:
        step()
    except typer.Exit as end:
        return end.exit_code
    except FeatureStoreError as error:
        typer.echo(f"error: {error}", err=True)
        return 1
    return 0


def _build(settings: Settings, views: tuple[FeatureView, ...]) -> int:
    """`dbt build` of views and all upstream of them, by default of all, as of the clock where that is stopped."""
    import msgspec

    from ..project.process import dbt_command, own_words, place_arguments, run_process

    models = [view.name if view.version is None else f"{view.name}.v{view.version}" for view in views]
    arguments = ["--select", *(f"+{model}" for model in models)] if models else []
    if settings.clock is not None:
        as_of = settings.clock.isoformat().replace("+00:00", "Z")
        arguments += ["--vars", msgspec.json.encode({"as_of": as_of}).decode()]
    command = [*dbt_command(), "--no-use-colors", "--quiet", "build", *place_arguments(settings.project_dir)]
    done = run_process([*command, "--target-path", str(settings.target_path), *arguments], settings.project_dir)
    what = " ".join(["dbt build", *arguments])
    if done.returncode == 0:
        typer.echo(f"built by `{what}`")
    else:
        typer.echo(f"failed `{what}`\n    {own_words(done.stdout + done.stderr)}", err=True)
    return 0 if done.returncode == 0 else NOT_FIT if done.returncode == 1 else 1
