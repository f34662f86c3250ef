"""`make up`: Airflow, the feature server, the docs site and a worker for each event source on this machine.

All run in the background, on loopback only, in one environment. The example is loaded and refreshed first, by Airflow,
unless that was done before; a project without the example is started as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from feature_server.catalog.status import read_status
from feature_server.definitions.registry import read_registry
from feature_server.durable import make_private
from feature_server.errors import FeatureStoreError
from feature_server.online.embedded import connect
from feature_server.settings import Settings, load_settings

from . import example
from .airflow_env import REPOSITORY, airflow_environment
from .demo_run import CommandFailed, Commands
from .local_only import HOST
from .refresh import CATALOGUE
from .services import Running, Service, check_port, check_settings, only_one, recorded, start, stop, wait_until_healthy

HEALTHY_SECONDS = 600.0
STOP_SECONDS = 30.0


def services(given: argparse.Namespace, settings: Settings) -> list[Service]:
    """What is started, in this order."""
    python = sys.executable
    docs = settings.home / "docs"
    make_private(docs)
    server, site, airflow = (
        f"http://{HOST}:{port}" for port in (given.server_port, given.docs_port, given.airflow_port)
    )
    serve = [python, "-m", "feature_server", "serve", "--host", HOST, "--port", str(given.server_port)]
    http = [python, "-m", "scripts.local_only", str(docs), str(given.docs_port)]
    standalone = [python, "-m", "scripts.airflow_env", "standalone"]
    workers = {source: [python, "-m", "feature_server", "stream", source] for source in streams(settings)}
    return [
        Service("server", serve, given.server_port, server, f"{server}/health"),
        Service("docs", http, given.docs_port, site),
        Service(
            "airflow", standalone, given.airflow_port, airflow, f"{airflow}/api/v2/monitor/health", airflow_is_healthy
        ),
        *(Service(f"stream-{source}", command) for source, command in workers.items()),
    ]  # fmt: skip


def streams(settings: Settings) -> list[str]:
    """The event sources that feature views in force are over; none before `features apply`."""
    if not settings.registry_path.exists():
        return []
    views = read_registry(settings.registry_path).feature_views
    return sorted({view.stream.source for view in views if view.stream is not None})


def airflow_is_healthy(answer: bytes) -> bool:
    """Whether every part of Airflow that a refresh needs has a fresh heartbeat."""
    parts = json.loads(answer)
    return all(
        parts[name]["status"] == "healthy" for name in ("metadatabase", "scheduler", "dag_processor", "triggerer")
    )


def up(wanted: Sequence[Service], folder: Path, environment: Mapping[str, str], cwd: Path) -> list[Running]:
    """Start what is not running yet and wait until all is healthy; if one fails, end those that this call started."""
    alive = {running.name: running for running in recorded(folder) if running.leads}
    missing = [service for service in wanted if service.name not in alive]
    for service in missing:
        check_port(service)
    started: list[Running] = []
    try:
        for service in missing:
            started.append(start(service, folder, environment, cwd))
        for service, running in zip(missing, started, strict=True):
            wait_until_healthy(service, running, HEALTHY_SECONDS)
            print(f"  {service.name} is up{service.url and f': {service.url}'}", flush=True)
    except BaseException:
        for running in reversed(started):
            print(f"  {stop(running, folder, STOP_SECONDS)}", file=sys.stderr)
        raise
    return [*alive.values(), *started]


def load(commands: Commands, settings: Settings) -> None:
    """Load the example and fill what its refreshes fill, where that was not done yet; a line for each thing done."""

    def run(command: str) -> str:
        print(f"  $ {command}", flush=True)
        return commands.run(shlex.split(command), lambda line: None if line[:1] in " {}" else print(f"  {line}"))

    if example.is_loaded(settings):
        print("the example data is there already, and not loaded again")
    else:
        print("loading the example data")
        example.load(run, settings)
    cadences = unfilled(settings)
    if cadences:
        at = "" if settings.clock is None else f" --at {settings.clock.isoformat()}"
        print(f"refreshing with Airflow: {', '.join(cadences)}; about half a minute each")
        run(f"python -m scripts.refresh {' '.join(cadences)}{at}")


def unfilled(settings: Settings) -> list[str]:
    """What `scripts.refresh` is to run: cadences with a view that was never published or synced, and the catalogue."""
    views = read_status(settings, read_registry(settings.registry_path)).views
    never = {
        view.refresh
        for view in views
        if view.published_version is None or (view.online and view.synced_version is None)
    }
    found = [cadence for cadence in ("hourly", "daily", "weekly") if cadence in never]
    return found if (settings.home / "docs" / "index.html").exists() else [*found, CATALOGUE]


def main(arguments: Sequence[str]) -> int:
    """Parse the command line and run; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.up", description=__doc__)
    for name, port in (("airflow", 8080), ("server", 6566), ("docs", 8090)):
        parser.add_argument(f"--{name}-port", type=int, default=port, help="[default: %(default)s]")
    given = parser.parse_args(arguments)
    settings = load_settings({"FEATURES_PROJECT_DIR": str(REPOSITORY)} | os.environ)
    is_example = example.has_example(settings.project_dir)
    if is_example and "FEATURES_CLOCK" not in os.environ:
        settings = load_settings(project_dir=settings.project_dir, clock=example.CLOCK)
    environment = airflow_environment(settings) | {
        "AIRFLOW__API__PORT": str(given.airflow_port),
        "AIRFLOW__API__BASE_URL": f"http://{HOST}:{given.airflow_port}",
        "PYTHONUNBUFFERED": "1",
    }
    folder = settings.home / "run"
    code = 0
    try:
        with only_one(folder), connect(settings):
            alive = [running for running in recorded(folder) if running.leads]
            check_settings(alive, environment)
            before = {running.name for running in alive}
            for service in services(given, settings):
                if service.name not in before:
                    check_port(service)
            if is_example and not before:
                try:
                    load(Commands(settings.project_dir, environment, folder / "up.log"), settings)
                except CommandFailed as failure:
                    print(
                        f"error: {failure}\n{failure.tail}\n  everything that was said: {failure.log}", file=sys.stderr
                    )
                    code = 1  # but started all the same: Airflow's pages say more
            wanted = services(given, settings)
            if before >= {service.name for service in wanted}:
                print("already up; `make down` ends it")
            else:
                print("starting; Airflow takes up to a minute", flush=True)
            running = up(wanted, folder, environment, REPOSITORY)
    except FeatureStoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_addresses(running, settings)
    return code


def print_addresses(running: Sequence[Running], settings: Settings) -> None:
    """Where everything is and what to do next."""
    urls = {service.name: service.url for service in running}
    print(f"Airflow          {urls['airflow']}   no login: it listens on this machine only")
    print(f"feature server   {urls['server']}   {readiness(urls['server'])}")
    empty = "" if (settings.home / "docs" / "index.html").exists() else "   empty until `features docs` has run"
    print(f"docs site        {urls['docs']}{empty}")
    for name in urls:
        if name.startswith("stream-"):
            print(f"live events      {name.removeprefix('stream-')}: taken in from Redis, landed every minute")
    if settings.clock is not None:
        print(
            f"clock            stopped at {settings.clock:%Y-%m-%dT%H:%M:%SZ} for all of these; no DAG is ever due, the"
        )
        print("                 trigger button runs one; `FEATURES_CLOCK= make up` after `make down`: the real time")
    if not settings.target_path.joinpath("manifest.json").exists():
        print("no DAGs yet: `features check` reads the definitions")
    elif not settings.registry_path.exists():
        print("nothing is in force yet: after a first refresh, `make up` again starts the workers of live events")
    print(f"logs             {settings.home / 'run'}; `make down` ends it all")


def readiness(server: str) -> str:
    """What the feature server's /ready says."""
    try:
        with urllib.request.urlopen(f"{server}/ready", timeout=10) as answer:
            degraded = json.load(answer).get("degraded")
            return f"ready, but not for all views: {server}/ready says why" if degraded else "ready"
    except (OSError, urllib.error.URLError):
        return f"not ready, {server}/ready says what is missing"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
