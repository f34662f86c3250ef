"""features docs and status: the catalogue as one file, and how fresh every feature view is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..catalog.lateness import span
from ..settings import load_settings
from .main import Json, ProjectDir, TargetPath, app, in_force, show, written_here

if TYPE_CHECKING:
    from ..catalog.sources import SourceStatus
    from ..catalog.status import Status, ViewStatus


def _version_online(view: ViewStatus) -> str | None:
    """Of the offline table: `v12`, which no one takes for a number of rows."""
    if not view.online:
        return "not online"
    return None if view.synced_version is None else f"v{view.synced_version}"


Cells = dict[str, Callable[[Any], object]]
VIEW_CELLS: dict[str, Callable[[ViewStatus], object]] = {
    "view": lambda view: view.view,
    "entity": lambda view: ",".join(view.entities),
    "refresh": lambda view: view.refresh,
    "rows": lambda view: None if view.rows is None else f"{view.rows:,}",
    "version": lambda view: None if view.published_version is None else f"v{view.published_version}",
    "published (UTC)": lambda view: view.published_at,
    "newest event": lambda view: view.newest_event,
    "age": lambda view: None if view.age_seconds is None else span(view.age_seconds),
    "version online": _version_online,
    "synced (UTC)": lambda view: view.synced_at,
}
SOURCE_CELLS: dict[str, Callable[[SourceStatus], object]] = {
    "event source": lambda source: source.source,
    "views": lambda source: ",".join(source.views),
    "not landed": lambda source: f"{source.pushes:,} pushes" if source.events is None else f"{source.events:,}",
    "for": lambda source: None if source.oldest_seconds is None else span(source.oldest_seconds),
    "not taken in": lambda source: f"{source.unread:,}",
    "dead letters": lambda source: f"{source.dead_letters:,}",
    "last push (UTC)": lambda source: source.last_pushed_at,
    "newest event": lambda source: source.newest_event,
}


@app.command(epilog="Example: features docs --out site/index.html")
def docs(
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML file to write. [default: docs/index.html in the folder FEATURES_HOME]", callback=written_here
        ),
    ] = None,
    project_dir: ProjectDir = None,
    target_path: TargetPath = None,
    no_build: Annotated[
        bool, typer.Option("--no-build", help="Use manifest.json and catalog.json as they are: dbt is not run.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the dbt docs site as one HTML file whose first page lists every feature view, service and entity."""
    from msgspec.structs import asdict

    from ..catalog.site import write_docs

    settings = load_settings(project_dir=project_dir, target_path=target_path)
    path = (settings.home / "docs" / "index.html") if out is None else out.resolve()
    site = write_docs(settings, path, build=not no_build)
    line = (
        f"{site.path}: {site.feature_views} feature views, {site.feature_services} services, {site.entities} entities,"
        f" {site.bytes / 1e6:.1f} MB"
    )
    show(asdict(site) | {"path": str(site.path)}, [line], json=json)


@app.command(epilog="Example: features status --json")
def status(project_dir: ProjectDir = None, json: Json = False) -> None:
    """Show how fresh every feature view is, offline and online, and what waits in every event source.

    Exit code 1 when a view is late, behind, missing or differs, events have not landed, or some were refused.
    """
    from ..catalog.status import read_status

    found = read_status(*in_force(project_dir))
    show(found, _lines(found), json=json, good=found.good)


def _lines(found: Status) -> Iterator[str]:
    problems: list[str] = []
    counts: list[str] = []
    groups: list[tuple[str, Cells, Sequence[Any]]] = [("feature view", VIEW_CELLS, found.views)]
    if found.sources:
        groups.append(("event source", SOURCE_CELLS, found.sources))
    for what, cells, members in groups:
        table = [[*cells, "state"]]
        for each in members:
            shown = [_shown(cell(each)) for cell in cells.values()]
            table.append([*shown, "; ".join(problem.partition(":")[0] for problem in each.problems) or "good"])
            problems += [f"{shown[0]}: {problem}" for problem in each.problems]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        yield from ("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)
        yield ""
        bad = sum(bool(each.problems) for each in members)
        counts.append(f"{len(members)} {what}{'s' * (len(members) != 1)}, {bad} with problems")
    if found.online_store is not None:
        yield f"online store: {found.online_store}"
    yield from problems
    for view in found.views:
        if view.freshness is not None and view.freshness.state == "warn":
            yield f"{view.view}: warning: {view.freshness}"
    if found.notice is not None:
        yield f"note: {found.notice}"
    yield f"{_shown(found.at)} UTC: {'; '.join(counts)}"


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return "-" if value in (None, "") else str(value)
