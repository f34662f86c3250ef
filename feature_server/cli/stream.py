"""features push, stream, explain: live events from a file, the worker that takes them in, what windows hold of them."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ..errors import shown
from ..settings import Settings, load_settings, parse_time
from ..times import to_us
from .main import Json, ProjectDir, app, online_store, progress_bar, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..definitions.stream import EventSource
    from ..online.store import OnlineStore

BATCH_EVENTS = 1000
Source = Annotated[str, typer.Argument(help="The dbt source that the events are of, e.g. payments.transactions.")]


@app.command(epilog="Example: features push payments.transactions events.jsonl")
def push(
    source: Source,
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
    from ..ingest.transaction import Ingestor
    from ..layout.portions import portions
    from ..online.embedded import connect

    settings = load_settings(project_dir=project_dir)
    accepted, rejected, start, done = 0, [], 0, 0
    size = Path(file.name).stat().st_size if Path(file.name).is_file() else 0
    with (
        connect(settings) as url,
        Ingestor(url, settings.now_us, expire=settings.clock is None) as ingestor,
        progress_bar(f"push {source}") as progress,
    ):
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
    line = f"pushed {source} accepted={accepted} rejected={len(rejected)}"
    show({"source": source, "accepted": accepted, "rejected": rejected}, [line], json=json, good=not rejected)


@app.command(epilog="Example: features stream payments.transactions --once")
def stream(
    source: Source,
    once: Annotated[
        bool, typer.Option("--once", help="Take in and land what there is now, then end: before a build.")
    ] = False,
    dead: Annotated[
        bool, typer.Option("--dead", help="Print the refused events with their reasons, a JSON object a line, and end.")
    ] = False,
    drop: Annotated[bool, typer.Option("--drop", help="With --dead: delete those that were printed.")] = False,
    land_every: Annotated[float, typer.Option(help="Seconds between landings in files.", min=1)] = 300,
    consumer: Annotated[
        str, typer.Option(help="This worker's name among those of the source; by default one that no other has.")
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
    from ..durable import make_private
    from ..history.log import landing_folder
    from ..ingest.transaction import Ingestor
    from ..ingest.worker import Worker
    from ..offline.owned import LANDING, claim, filled_by
    from ..online.embedded import connect
    from ..online.memory import EvictionWatch
    from ..online.store import OnlineStore

    settings = load_settings(project_dir=project_dir)
    found = _source(settings, source)
    if dead:
        _print_dead(settings, source, drop=drop)
        return
    with suppress(OSError):  # landing says what it cannot write, and goes on trying
        make_private(settings.home)
    folder = landing_folder(found, settings.project_dir)
    if (filled := filled_by(settings)) is not None:
        claim(folder, filled, LANDING)
    ended = _told_to_end()
    with ExitStack() as stack:
        url = stack.enter_context(connect(settings))
        ingestor = stack.enter_context(Ingestor(url, settings.now_us, expire=settings.clock is None))
        online = stack.enter_context(OnlineStore(url))
        worker = Worker(online, ingestor, found, folder, consumer=consumer)
        report = (lambda line: None) if json else typer.echo
        _check_memory(online, found, folder, report, allowed=settings.allow_eviction)
        if not once:
            stack.enter_context(EvictionWatch(url, report=report, noticed=ingestor.refresh))
        if not (once or json):
            typer.echo(f"taking in events of {source}, landing them in {folder} every {land_every:g} s")
        done = worker.run(once=once, land_seconds=land_every, stopped=lambda: bool(ended), report=report)
    show(done, [done], json=json)


def _told_to_end() -> list[int]:
    """The signals that are received from now on to end the process, which goes on."""
    import signal

    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: received.append(number))
    return received


def _print_dead(settings: Settings, source: str, *, drop: bool) -> None:
    from ..ingest.worker import dead_letters

    with online_store(settings) as online:
        for letter in dead_letters(online, source, drop=drop):
            typer.echo(msgspec.json.encode(letter))


def _check_memory(
    online: OnlineStore, source: EventSource, folder: Path, report: Callable[[str], None], *, allowed: bool
) -> None:
    """Refuse a Redis that may evict keys, once the events that it holds have landed."""
    from ..errors import EvictingRedis, OnlineStoreUnavailable
    from ..history.log import land
    from ..online.memory import check_memory

    try:
        with suppress(OnlineStoreUnavailable):
            check_memory(online, allowed=allowed)
    except EvictingRedis:
        report(str(land(online, source, folder)))
        raise


def _source(settings: Settings, name: str) -> EventSource:
    """The event source in force, else as dbt's manifest has it: a first refresh lands events before it applies."""
    from ..errors import UnknownNameError
    from ..manifest.load import load_registry
    from ..offline.owned import read_in_force

    sources: dict[str, EventSource] = {}
    if settings.registry_path.exists():
        sources = {found.name: found for found in read_in_force(settings).sources}
    if name not in sources and (settings.target_path / "manifest.json").exists():
        sources |= {found.name: found for found in load_registry(settings.project_dir, settings.target_path).sources}
    if name not in sources:
        raise UnknownNameError("event source", name, sources)
    return sources[name]


@app.command(epilog="Example: features explain customer__transactions:transactions_1h customer_id=42")
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
    from ..verify.explain import explain as run

    settings = load_settings(project_dir=project_dir)
    wrong = [pair for pair in key if "=" not in pair]
    if wrong:
        raise typer.BadParameter(f"{shown(wrong[0])} is not KEY=VALUE", param_hint="KEY=VALUE")
    now_us = settings.now_us()
    at_us = now_us if at is None else to_us(parse_time(at, where="--at"))
    pairs = {name: value for name, _, value in (pair.partition("=") for pair in key)}
    with online_store(settings) as online:
        found = run(
            feature, pairs, online, OfflineStore(settings.offline), at_us=at_us, now_us=now_us,
            project_dir=settings.project_dir,
        )  # fmt: skip
    show(found.as_json(), found.lines(), json=json)
