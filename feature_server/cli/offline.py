"""features publish, verify: the offline store, and whether the online store agrees with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import FeatureStoreError, OfflineStoreError, RequestError, SyncConflict
from .main import Json, ProjectDir, app, finish, in_force, online_store, progress_bar, show

if TYPE_CHECKING:
    from ..definitions.facts import FeatureView
    from ..definitions.registry import Registry

Views = Annotated[list[str] | None, typer.Argument(metavar="[VIEW]...", help="Feature views; all of them by default.")]
Refresh = Annotated[
    str | None, typer.Option(help="Only views with this `refresh` in their definition, e.g. hourly.", metavar="CADENCE")
]


@app.command(epilog="Example: features publish customer__transactions --wait 60")
def publish(
    views: Views = None,
    refresh: Refresh = None,
    full: Annotated[bool, typer.Option("--full", help="Compare every row, whatever dbt's build log says.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a build that holds the warehouse.", min=0)] = 0,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Bring the offline store up to date with the warehouse: one commit for each view that changed.

    Run it after a green `dbt build`. A view that cannot be published does not keep the others from it.
    """
    from ..publish.run import publish_all

    settings, registry = in_force(project_dir)
    published, failed = publish_all(
        select_views(registry, views or [], refresh),
        settings,
        sources=registry.sources,
        wait_seconds=wait,
        full=full,
        report=(lambda published: None) if json else typer.echo,
        show_progress=progress_bar,
    )
    finish({"published": published}, "failed", failed, json=json)


@app.command(epilog="Example: features verify customer__transactions --sample 0")
def verify(
    views: Annotated[
        list[str] | None, typer.Argument(metavar="[VIEW]...", help="Feature views; by default all that are online.")
    ] = None,
    refresh: Refresh = None,
    sample: Annotated[
        int, typer.Option(help="How many keys of each view to compare, the same ones every time; 0: all.", min=0)
    ] = 1000,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Compare the online store with the offline store at one instant, and print every value that differs and why.

    Exit code 1 when a difference is not explained by a sync that is still to come. What was found of each view is kept
    for the feature server's /metrics and `features status`.
    """
    from ..offline.store import OfflineStore
    from ..verify.events import verify_events
    from ..verify.rows import check_online
    from ..verify.rows import verify as run

    settings, registry = in_force(project_dir)
    chosen = select_views(registry, views or [], refresh)
    if views:
        check_online(chosen)
    store = OfflineStore(settings.offline)
    results = []
    failed: dict[str, FeatureStoreError] = {}
    with online_store(settings) as online:
        for view in (view for view in chosen if view.online):
            try:
                with progress_bar(view.id) as progress:
                    now_us = settings.now_us()
                    if view.stream is None:
                        result = run(view, online, store, now_us=now_us, sample=sample, progress=progress)
                    else:
                        result = verify_events(
                            view, online, store, now_us=now_us, project_dir=settings.project_dir, sample=sample,
                            progress=progress,
                        )  # fmt: skip
            except (OfflineStoreError, SyncConflict) as error:
                failed[view.id] = error
                typer.echo(f"failed {error}", err=True)
                continue
            results.append(result)
            online.keep_verified(view.id, result.summary)
            if not json:
                typer.echo("\n".join([*(f"{view.id} {difference}" for difference in result.differences), str(result)]))
    told = {"verified": results, "failed": {view: error.as_dict() for view, error in failed.items()}}
    show(told, [], json=json)
    if failed or any(result.unexplained for result in results):
        raise typer.Exit(1)


def select_views(registry: Registry, names: list[str], refresh: str | None) -> tuple[FeatureView, ...]:
    """The views named (all when none is), of these the ones with the given `refresh`; an empty choice is an error."""
    chosen = tuple(registry.feature_view(name) for name in names) if names else registry.feature_views
    if refresh is None:
        return chosen
    found = tuple(view for view in chosen if view.refresh == refresh)
    if not found:
        known = sorted({view.refresh for view in chosen if view.refresh is not None})
        raise RequestError(
            "no view is refreshed at this cadence",
            where="--refresh",
            expected=f"one of {', '.join(known)}" if known else "views with a `refresh`; none has one",
            got=refresh,
        )
    return found
