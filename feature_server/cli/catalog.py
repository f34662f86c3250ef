"""features docs and status: the catalogue as one file, and how fresh every feature view is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..settings import load_settings
from .common import Json, ProjectDir, TargetPath, app, in_force, print_json, written_here

if TYPE_CHECKING:
    from ..catalog.sources import SourceStatus
    from ..catalog.status import Status, ViewStatus

Out = Annotated[
    Path | None,
    typer.Option(
        help="HTML file to write. [default: docs/index.html in the folder FEATURES_HOME]", callback=written_here
    ),
]
NoBuild = Annotated[
    bool, typer.Option("--no-build", help="Use manifest.json and catalog.json as they are: dbt is not run.")
]
HEADINGS = (
    "view", "entity", "refresh", "rows", "version", "published (UTC)", "newest event", "age", "online", "synced (UTC)",
    "state",
)  # fmt: skip


SOURCE_HEADINGS = (
    "event source", "views", "not landed", "for", "not taken in", "dead letters", "last push (UTC)", "newest event",
    "state",
)  # fmt: skip


@app.command(epilog="Example: features docs --out site/index.html")
def docs(
    out: Out = None,
    project_dir: ProjectDir = None,
    target_path: TargetPath = None,
    no_build: NoBuild = False,
    json: Json = False,
) -> None:
    """Write the dbt docs site as one HTML file whose first page lists every feature view, service and entity."""
    from msgspec.structs import asdict

    from ..catalog.site import write_docs

    settings = load_settings(project_dir=project_dir, target_path=target_path)
    path = (settings.home / "docs" / "index.html") if out is None else out.resolve()
    site = write_docs(settings, path, build=not no_build)
    if json:
        print_json(asdict(site) | {"path": str(site.path)})
        return
    typer.echo(
        f"{site.path}: {site.feature_views} feature views, {site.feature_services} services, {site.entities} entities,"
        f" {site.bytes / 1e6:.1f} MB"
    )


@app.command(epilog="Example: features status --json")
def status(project_dir: ProjectDir = None, json: Json = False) -> None:
    """Show how fresh every feature view is, offline and online, and what waits in every event source.

    Exit code 1 when a view is late, behind, missing or differs, events have not landed, or some were refused.
    """
    from ..catalog.status import read_status

    found = read_status(*in_force(project_dir))
    if json:
        print_json(found)
    else:
        _print_status(found)
    if not found.good:
        raise typer.Exit(1)


def _print_status(found: Status) -> None:
    views = [(_cells(view), view.problems) for view in found.views]
    sources = [(_source_cells(source), source.problems) for source in found.sources]
    tables = [("feature view", HEADINGS, views), *([("event source", SOURCE_HEADINGS, sources)] if sources else [])]
    counts = []
    for what, headings, rows in tables:
        states = ["; ".join(problem.partition(":")[0] for problem in problems) or "good" for _, problems in rows]
        for line in _columns([headings, *((*cells, state) for (cells, _), state in zip(rows, states, strict=True))]):
            typer.echo(line)
        typer.echo("")
        bad = sum(bool(problems) for _, problems in rows)
        counts.append(f"{len(rows)} {what}{'s' * (len(rows) != 1)}, {bad} with problems")
    if found.online_store is not None:
        typer.echo(f"online store: {found.online_store}")
    for (name, *_), problems in views + sources:
        for problem in problems:
            typer.echo(f"{name}: {problem}")
    typer.echo(f"{_time(found.at)} UTC: {'; '.join(counts)}")


def _cells(view: ViewStatus) -> tuple[str, ...]:
    """A view's row of the table, but for its state."""
    from ..catalog.lateness import span

    synced = "no" if not view.online else "-" if view.synced_version is None else str(view.synced_version)
    return (
        view.view,
        ",".join(view.entities),
        view.refresh or "-",
        "-" if view.rows is None else f"{view.rows:,}",
        "-" if view.published_version is None else str(view.published_version),
        _time(view.published_at),
        _time(view.newest_event),
        "-" if view.age_seconds is None else span(view.age_seconds),
        synced,
        _time(view.synced_at),
    )


def _source_cells(source: SourceStatus) -> tuple[str, ...]:
    from ..catalog.lateness import span

    waiting = f"{source.pushes:,} pushes" if source.events is None else f"{source.events:,}"
    return (
        source.source,
        ",".join(source.views) or "-",
        waiting,
        "-" if source.oldest_seconds is None else span(source.oldest_seconds),
        f"{source.unread:,}",
        f"{source.dead_letters:,}",
        _time(source.last_pushed_at),
        _time(source.newest_event),
    )


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Rows as lines of text with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
