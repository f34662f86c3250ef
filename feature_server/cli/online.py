"""features sync, get: values to the online store, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..dtypes import json_value
from ..errors import OnlineStoreError, OnlineStoreUnavailable, shown
from ..formats import ONLINE_FORMAT
from ..settings import Settings, load_settings
from .main import Json, Progress, ProjectDir, app, finish, in_force, online_store, progress_bar, show
from .offline import Refresh, select_views

if TYPE_CHECKING:
    from ..client.result import FeatureVector
    from ..definitions.registry import Registry
    from ..online.store import OnlineStore


@app.command(epilog="Example: features sync customer__transactions")
def sync(
    views: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VIEW]...", help="Feature views; by default all, and those no longer defined go."),
    ] = None,
    refresh: Refresh = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option("--except", help="Of a cadence, a view that is left as it is. Repeatable.", metavar="VIEW"),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Write every row anew, trusting nothing that is in Redis, then switch to them."),
    ] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another sync of the same view.", min=0)] = 600,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="Delete rows whose offline table is gone, looking at every key in Redis (SCAN)."),
    ] = False,
    number: Annotated[
        int,
        typer.Option("--format", help="With --full: the format to write; 1 to go back to the version before.", min=1),
    ] = ONLINE_FORMAT,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Bring the online store up to date with the offline store: the latest row of each key, only what changed.

    A view that cannot be synced keeps no other from it: exit code 1, or 3 where all of those must be published first.
    Views that a service binds are synced where one is named. Killed at any moment and run again, it ends the same.
    """
    from ..offline.store import OfflineStore
    from ..publish.noted import good_us
    from ..sync.run import SyncOptions
    from ..sync.run import sync as run

    settings, registry = in_force(project_dir)
    _check_chosen(registry, views, refresh, leave_out)
    _check_format(number, full)
    options = SyncOptions(
        full=full, format=number, expire=settings.clock is None, sweep=sweep, wait_seconds=wait,
        project_dir=settings.project_dir, allow_eviction=settings.allow_eviction,
        good_us=lambda view_id: good_us(view_id, settings),
    )  # fmt: skip
    with online_store(settings) as online, ExitStack() as bars:
        _copy_keys(settings, online)  # before there is anything to read

        def progress(view_id: str) -> Progress:
            bars.close()  # that of the view before
            return bars.enter_context(progress_bar(view_id))

        done = run(
            online, OfflineStore(settings.offline), registry, views=views or None, refresh=refresh,
            left_out=[registry.feature_view(name).id for name in leave_out or ()], now_us=settings.now_us,
            options=options, progress=progress, report=(lambda result: None) if json else typer.echo,
        )  # fmt: skip
        _copy_keys(settings, online)  # of a Redis that was empty, the registry says it from now on
    if done.notice is not None:
        typer.echo(f"note: {done.notice}", err=True)
    finish({"results": done.results}, "failures", done.failures, json=json)


def _copy_keys(settings: Settings, online: OnlineStore) -> None:
    """What keeps the keys of access from Redis is said; it keeps no view from it."""
    from ..access.file import copy_keys

    try:
        copy_keys(settings.keys_path, online)
    except OnlineStoreUnavailable:
        raise
    except OnlineStoreError as error:
        typer.echo(f"note: {error}", err=True)


def _check_chosen(
    registry: Registry, views: list[str] | None, refresh: str | None, leave_out: list[str] | None
) -> None:
    if views and refresh:
        raise typer.BadParameter("name views or a cadence, not both", param_hint="--refresh")
    if leave_out and not refresh:
        raise typer.BadParameter("leaves views out of a cadence: give --refresh", param_hint="--except")
    if refresh:
        select_views(registry, [], refresh)


def _check_format(number: int, full: bool) -> None:
    if number > ONLINE_FORMAT or (number < ONLINE_FORMAT and not full):
        wrong = "only a full sync writes another format" if not full else f"this version writes 1 to {ONLINE_FORMAT}"
        raise typer.BadParameter(wrong, param_hint="--format")


@app.command(epilog="Example: features get fraud_v1 customer_id=42 merchant_id=7")
def get(
    service: Annotated[str, typer.Argument(help="A feature service, or one feature as view:feature.")],
    keys: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="The entity: each join key and its value.")],
    full_feature_names: Annotated[
        bool, typer.Option("--full-feature-names", help="Name features view__feature instead of feature.")
    ] = False,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Read the features of one entity from the online store, with their statuses and event timestamps."""
    from ..client.features import FeatureClient
    from ..online.memory import registry_in_force

    settings = load_settings(project_dir=project_dir)
    features = [service] if ":" in service else service
    with online_store(settings) as store, FeatureClient(settings.redis_url, settings=settings) as client:
        online = registry_in_force(store)
        entity = _entity(keys, online.registry, features)
        found = client.get(features, full_feature_names=full_feature_names, **entity)
    show(_as_json(found), _lines(found), json=json)


def _lines(found: FeatureVector) -> Iterator[str]:
    width = max(map(len, found.values))
    for name, value in found.values.items():
        time = found.event_timestamps[name]
        shown = "" if value is None else str(value)
        line = f"{name:<{width}}  {shown:<24}  {found.statuses[name]:<15}"
        yield f"{line}  {time:%Y-%m-%dT%H:%M:%SZ}" if time else line.rstrip()


def _entity(texts: list[str], registry: Registry, features: str | list[str]) -> dict[str, Any]:
    """Join key values as their types want them, from `name=value`."""
    from ..layout.keys import key_value

    views = {ref.view for ref in registry.resolve(features)}
    known = {key.name: key for view in registry.feature_views if view.id in views for key in view.join_keys}
    entity: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name in entity:
            raise typer.BadParameter(
                f"{shown(text)}: expected each join key once, as name=value, e.g. {next(iter(known))}=42",
                param_hint="KEY=VALUE",
            )
        entity[name] = key_value(known[name], value) if name in known else value
    return entity


def _as_json(found: FeatureVector) -> dict[str, Any]:
    times = found.event_timestamps
    features = {
        name: {"value": json_value(value), "status": found.statuses[name], "event_timestamp": times[name]}
        for name, value in found.values.items()
    }
    return {"entity": found.entity, "features": features}
