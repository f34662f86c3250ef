"""features push: live events from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Json, ProjectDir, print_json, progress_bar

BATCH_EVENTS = 1000


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Example: features push payments.transactions events.jsonl")(push)


def push(
    source: Annotated[str, typer.Argument(help="The dbt source that the events are of, e.g. payments.transactions.")],
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(metavar="FILE.jsonl", help="A JSON object a line; - is stdin.")
    ],
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Push live events: reads see them at once, and the next build includes them.

    An event that does not fit the source's columns is refused alone, with its index in the file and the reason; the
    exit code is then 1. Pushed twice, an event counts once, so the same file may be pushed again.
    """
    from ..ingest.portions import portions
    from ..ingest.transaction import Ingestor
    from ..online.embedded import connect
    from ..settings import load_settings

    settings = load_settings(project_dir=project_dir)
    accepted, rejected, start = 0, [], 0
    size = Path(file.name).stat().st_size if Path(file.name).is_file() else 0
    with (
        connect(settings) as url,
        Ingestor(url, settings.now_us, expire=settings.clock is None) as ingestor,
        progress_bar(f"push {source}") as progress,
    ):
        done = 0
        for lines in portions(filter(None, map(bytes.strip, file)), len, BATCH_EVENTS):
            result = ingestor.push_lines(source, lines)
            accepted += result.accepted
            for index, reason in result.rejected:
                rejected.append({"index": start + index, "reason": reason})
                if not json:
                    typer.echo(f"refused event {start + index}: {reason}", err=True)
            start += len(lines)
            done += sum(map(len, lines)) + len(lines)
            progress(done, size)
    if json:
        print_json({"source": source, "accepted": accepted, "rejected": rejected})
    else:
        typer.echo(f"pushed {source} accepted={accepted} rejected={len(rejected)}")
    if rejected:
        raise typer.Exit(1)
