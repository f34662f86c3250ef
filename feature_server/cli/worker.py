"""features stream: the worker that takes in events from a Redis stream and lands what was pushed in files."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from .common import Json, ProjectDir, print_json

if TYPE_CHECKING:
    from ..definitions.stream import EventSource
    from ..settings import Settings


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Example: features stream payments.transactions --once")(stream)


def stream(
    source: Annotated[str, typer.Argument(help="The dbt source that the events are of, e.g. payments.transactions.")],
    once: Annotated[
        bool, typer.Option("--once", help="Take in and land what there is now, then end: before a build.")
    ] = False,
    dead: Annotated[
        bool, typer.Option("--dead", help="Print the refused events with their reasons, a JSON object a line, and end.")
    ] = False,
    drop: Annotated[bool, typer.Option("--drop", help="With --dead: delete those that were printed.")] = False,
    land_every: Annotated[float, typer.Option(help="Seconds between landings in files.", min=1)] = 300,
    consumer: Annotated[
        str, typer.Option(help="This worker's name among those of the source; by default the machine's.")
    ] = "",
    project_dir: ProjectDir = None,
    json: Json = False,
) -> None:
    """Take in events from the Redis stream features:events:SOURCE, and land all that were pushed in Parquet files.

    It may be started before its source is in force: events wait in the stream until the source is online.

    The files are where the dbt source reads, so the next build has the events; each lands once, whatever is killed.
    An event that does not fit the source goes to features:dead:SOURCE, with the reason: see --dead.
    """
    if drop and not dead:
        raise typer.BadParameter("is for --dead", param_hint="--drop")
    import signal

    from ..durable import make_private
    from ..history.log import landing_folder
    from ..ingest.transaction import Ingestor
    from ..ingest.worker import Worker
    from ..online.embedded import connect
    from ..online.store import OnlineStore
    from ..settings import load_settings

    settings = load_settings(project_dir=project_dir)
    found = _source(settings, source)
    if dead:
        _print_dead(settings, source, drop)
        return
    make_private(settings.home)
    folder = landing_folder(found, settings.project_dir)
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, frame: ended.append(received))
    with ExitStack() as stack:
        url = stack.enter_context(connect(settings))
        ingestor = stack.enter_context(Ingestor(url, settings.now_us, expire=settings.clock is None))
        worker = Worker(stack.enter_context(OnlineStore(url)), ingestor, found, folder, consumer=consumer)
        if not (once or json):
            typer.echo(f"taking in events of {source}, landing them in {folder} every {land_every:g} s")
        done = worker.run(
            once=once,
            land_seconds=land_every,
            stopped=lambda: bool(ended),
            report=lambda line: None if json else typer.echo(line),
        )
    print_json(done) if json else typer.echo(done)


def _print_dead(settings: Settings, source: str, drop: bool) -> None:
    import msgspec

    from ..ingest.dead import dead_letters
    from ..online.embedded import connect
    from ..online.store import OnlineStore

    with connect(settings) as url, OnlineStore(url) as online:
        for letter in dead_letters(online, source, drop=drop):
            typer.echo(msgspec.json.encode(letter))


def _source(settings: Settings, name: str) -> EventSource:
    """The event source in force, else as dbt's manifest has it: a first refresh lands events before it applies."""
    from ..definitions.registry import read_registry
    from ..errors import UnknownNameError
    from ..manifest.load import load_registry

    sources: dict[str, EventSource] = {}
    if settings.registry_path.exists():
        sources = {found.name: found for found in read_registry(settings.registry_path).sources}
    if name not in sources and (settings.target_path / "manifest.json").exists():
        defined = load_registry(settings.project_dir, settings.target_path)
        sources |= {found.name: found for found in defined.sources}
    if name not in sources:
        raise UnknownNameError("event source", name, sources)
    return sources[name]
