"""features new entity, view, service: definitions from relations that exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from .definitions import described
from .main import Json, ProjectDir, app, show

if TYPE_CHECKING:
    from ..scaffold.edits import Edit

new = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(new, name="new", help="Write an entity, a feature view or a feature service from what there is.")
From = Annotated[
    str, typer.Option("--from", help="A relation that dbt has built: ref(stg_orders), or source(raw, orders).")
]
Keys = Annotated[list[str] | None, typer.Option("--key", help="A column that tells entities apart. Repeatable.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be written, as a diff.")]


@new.command(epilog="Example: features new entity customer --from 'ref(stg_orders)' --key customer_id")
def entity(
    name: Annotated[str, typer.Argument(help="Name of the entity, such as customer.")],
    from_: From,
    key: Keys = None,
    dry_run: DryRun = False,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Write an entity: a model with a row for each of its keys, YAML and a unit test."""
    from ..dbt.compiled import dbt_manifest
    from ..scaffold.definitions import Folders, new_entity
    from ..scaffold.relation import read_relation
    from ..settings import load_settings

    settings = load_settings(project_dir=project_dir)
    manifest = dbt_manifest(settings).whole
    relation = read_relation(from_, manifest, settings)
    edits = new_entity(name, _keys(key), relation, Folders.of(settings.project_dir, manifest))
    _write(edits, [], dry_run=dry_run, json=json)


@new.command(
    epilog="Example: features new view customer__orders --from 'ref(stg_orders)' --entity customer --time ordered_at"
)
def view(
    name: Annotated[str, typer.Argument(help="Name of the view, such as customer__orders.")],
    from_: From,
    entity: Annotated[list[str], typer.Option(help="An entity of the project, or with --key a new one. Repeatable.")],
    time: Annotated[str, typer.Option(help="The column that says when a row's values hold from.")],
    created: Annotated[str | None, typer.Option(help="The column that says when the row became known.")] = None,
    key: Keys = None,
    refresh: Annotated[str, typer.Option(help="hourly, daily, weekly or manual.")] = "daily",
    group: Annotated[str | None, typer.Option(help="The group that owns it. [default: the project's first]")] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Windows that slide with the clock, over live events.")
    ] = False,
    event_id: Annotated[str | None, typer.Option(help="With --stream: the column that identifies an event.")] = None,
    window: Annotated[
        list[str] | None, typer.Option(help="With --stream: such as '7 days'. Repeatable. [default: 1 hour, 7 days]")
    ] = None,
    dry_run: DryRun = False,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Write a feature view of a relation's columns: SQL, YAML with descriptions to fill in, a unit test.

    A new entity is written with it where the join keys are given. With `--stream` it counts and sums a table's rows in
    windows that end now, pushed events among them; what these need is written too.
    """
    from ..dbt.compiled import dbt_manifest
    from ..manifest.blocks import REFRESH
    from ..scaffold.definitions import Folders, NewView, casts_of, entities_for, group_of, keys_of, new_view
    from ..scaffold.known import created_of
    from ..scaffold.live import live_events
    from ..scaffold.relation import read_relation, unknown
    from ..scaffold.sliding import new_stream_view, read_windows
    from ..settings import load_settings

    settings = load_settings(project_dir=project_dir)
    manifest = dbt_manifest(settings).whole
    folders = Folders.of(settings.project_dir, manifest)
    if refresh not in REFRESH:
        raise unknown("views are not refreshed so", "--refresh", refresh, REFRESH)
    events, windows = None, read_windows(window or ()) if stream else []
    if stream:
        keys = [*(key or ()), *keys_of(entity, manifest)]
        roles = {"event_id": event_id, "event_timestamp": time, "created_timestamp": created}
        events = live_events(from_, roles, keys, manifest, folders, settings)
    relation = read_relation(from_, manifest, settings) if events is None else events.staging
    took = list[str]()
    if not stream:
        created, took = created_of(relation, created, settings.project_dir)
    entities, edits = entities_for(entity, key or (), manifest, relation, folders)
    made = NewView(
        name=name, entities=entities, time=time, created=created, refresh=refresh, group=group_of(manifest, group),
        casts=casts_of(manifest, entities, relation, can_cast=not stream),
    )  # fmt: skip
    if events is None:
        written, left = new_view(made, relation, folders)
        _write([*edits, *written], left, took, dry_run=dry_run, json=json)
        return
    written, left = new_stream_view(made, windows, events, folders)
    left = [*events.left, *left]
    _write([*events.edits, *edits, *written], left, dry_run=dry_run, json=json, why="it is no amount to sum")


@new.command(epilog="Example: features new service fraud_v2 customer__orders customer__days:orders_on_day")
def service(
    name: Annotated[str, typer.Argument(help="Name of the service, such as fraud_v1.")],
    features: Annotated[list[str], typer.Argument(help="view:feature, or view for all of its features.")],
    dry_run: DryRun = False,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Write a feature service: the features that one model reads."""
    from ..scaffold.definitions import Folders, new_service

    settings, _, registry = described(project_dir, None, False, json)
    edits = new_service(name, features, registry, Folders.of(settings.project_dir))
    _write(edits, [], dry_run=dry_run, json=json)


def _keys(given: list[str] | None) -> list[str]:
    if not given:
        raise typer.BadParameter("expected at least one column", param_hint="--key")
    return given


def _write(
    edits: list[Edit],
    left: list[str],
    took: Sequence[str] = (),
    *,
    dry_run: bool,
    json: bool,
    why: str = "its name or its type is none of a feature, or dbt keeps a snapshot by it",
) -> None:
    for edit in edits if not dry_run else ():
        edit.write()
    lines = [edit.diff() for edit in edits] if dry_run else list(map(str, edits))
    lines += took
    lines += [f"left out {name}: {why}" for name in left]
    end = [] if dry_run else ["next: fill in the descriptions, then `features run`"]
    show({"edits": edits, "left_out": left}, [*lines, *end], json=json)
