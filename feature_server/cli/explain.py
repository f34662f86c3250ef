"""features explain: why a stream view's feature has the value it has."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import Json, ProjectDir, print_json


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Example: features explain customer__transactions:transactions_1h customer_id=42")(explain)


def explain(
    feature: Annotated[str, typer.Argument(metavar="VIEW:FEATURE", help="A feature of a view with `stream`.")],
    key: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="The entity's join keys.")],
    at: Annotated[str | None, typer.Option(help="An ISO time instead of now, e.g. 2013-12-31T23:00:00Z.")] = None,
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Say what a windowed feature's value is, which events are in its windows, and the SQL it comes from.

    Events are those of the offline table, of landed files and of the log of pushed events.
    """
    from ..offline.store import OfflineStore
    from ..online.embedded import connect
    from ..online.store import OnlineStore
    from ..settings import load_settings, parse_time
    from ..times import to_us
    from ..verify.explain import explain as run

    settings = load_settings(project_dir=project_dir)
    wrong = [pair for pair in key if "=" not in pair]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]!r} is not KEY=VALUE", param_hint="KEY=VALUE")
    now_us = settings.now_us()
    at_us = now_us if at is None else to_us(parse_time(at, where="--at"))
    pairs = {name: value for name, _, value in (pair.partition("=") for pair in key)}
    with connect(settings) as url, OnlineStore(url) as online:
        found = run(
            feature, pairs, online, OfflineStore(settings.offline), at_us=at_us, now_us=now_us,
            project_dir=settings.project_dir,
        )  # fmt: skip
    if json:
        print_json(found.as_json())
        return
    for line in found.lines():
        typer.echo(line)
