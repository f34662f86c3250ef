"""features sync: the offline store's latest rows to Redis."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from .common import Json, Progress, ProjectDir, print_json, progress_bar
from .offline import Refresh, select_views

if TYPE_CHECKING:
    from ..sync import SyncResult


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Example: features sync customer__transactions")(sync)


def sync(
    views: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VIEW]...", help="Feature views; by default all, and those no longer defined go."),
    ] = None,
    refresh: Refresh = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Write every row anew, trusting nothing that is in Redis, then switch to them."),
    ] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another sync of the same view.", min=0)] = 600,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep", help="Delete rows whose offline table is gone, by looking at every key in Redis (SCAN)."
        ),
    ] = False,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Bring the online store up to date with the offline store: the latest row of each key, only what changed.

    A view that cannot be synced does not keep the others from it. Killed at any moment and run again, it ends the same.
    """
    from ..embedded import connect
    from ..offline import OfflineStore
    from ..online import OnlineStore
    from ..registry import read_registry
    from ..settings import load_settings
    from ..sync import SyncOptions
    from ..sync import sync as run

    settings = load_settings(project_dir=project_dir)
    registry = read_registry(settings.registry_path)
    if views and refresh:
        raise typer.BadParameter("name views or a cadence, not both", param_hint="--refresh")
    if refresh:
        select_views(registry, [], refresh)
    options = SyncOptions(
        full=full, expire=settings.clock is None, sweep=sweep, wait_seconds=wait, project_dir=settings.project_dir
    )

    def report(result: SyncResult) -> None:
        if not json:
            typer.echo(result)

    with ExitStack() as stack:
        online = stack.enter_context(OnlineStore(stack.enter_context(connect(settings))))

        def progress(view_id: str) -> Progress:
            bars.close()
            return bars.enter_context(progress_bar(view_id))

        bars = stack.enter_context(ExitStack())
        done = run(
            online,
            OfflineStore(settings.offline),
            registry,
            views=views or None,
            refresh=refresh,
            now_us=settings.now_us,
            options=options,
            progress=progress,
            report=report,
        )
    if json:
        failures = {view: error.as_dict() for view, error in done.failures.items()}
        print_json({"results": done.results, "failures": failures})
    for error in done.failures.values():
        typer.echo(f"failed {error}", err=True)
    if done.failures:
        raise typer.Exit(1)
