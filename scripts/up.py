"""`make up`: Airflow, the feature server, the docs site and a worker for each event source on this machine.

All run in the background, on loopback only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from feature_server.durable import make_private
from feature_server.errors import FeatureStoreError
from feature_server.registry import read_registry
from feature_server.settings import Settings, load_settings

from .airflow_env import REPOSITORY, airflow_environment
from .demo import CLOCK
from .services import Running, Service, check_port, only_one, recorded, start, stop, wait_until_healthy

HEALTHY_SECONDS = 240.0
STOP_SECONDS = 30.0
HOST = "127.0.0.1"


def services(given: argparse.Namespace, settings: Settings) -> list[Service]:
    """What is started, in this order."""
    python = sys.executable
    docs = settings.home / "docs"
    make_private(docs)
    server, site, airflow = (
        f"http://{HOST}:{port}" for port in (given.server_port, given.docs_port, given.airflow_port)
    )
    serve = [python, "-m", "feature_server", "serve", "--host", HOST, "--port", str(given.server_port)]
    http = [python, "-m", "http.server", "--bind", HOST, "--directory", str(docs), str(given.docs_port)]
    standalone = [python, "-m", "scripts.airflow_env", "standalone"]
    workers = {source: [python, "-m", "feature_server", "stream", source] for source in streams(settings)}
    return [
        Service("server", serve, given.server_port, server, f"{server}/health"),
        Service("docs", http, given.docs_port, site, site),
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


def main(arguments: Sequence[str]) -> int:
    """Parse the command line and run; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.up", description=__doc__)
    for name, port in (("airflow", 8080), ("server", 6566), ("docs", 8090)):
        parser.add_argument(f"--{name}-port", type=int, default=port, help="[default: %(default)s]")
    given = parser.parse_args(arguments)
    settings = load_settings({"FEATURES_PROJECT_DIR": str(REPOSITORY), "FEATURES_CLOCK": CLOCK} | dict(os.environ))
    environment = airflow_environment(settings) | {
        "AIRFLOW__API__PORT": str(given.airflow_port),
        "AIRFLOW__API__BASE_URL": f"http://{HOST}:{given.airflow_port}",
        "PYTHONUNBUFFERED": "1",
    }
    folder = settings.home / "run"
    wanted = services(given, settings)
    try:
        with only_one(folder):
            before = {running.name for running in recorded(folder) if running.leads}
            if before >= {service.name for service in wanted}:
                print("already up; `make down` ends it")
            else:
                print("starting; Airflow takes up to a minute")
            running = up(wanted, folder, environment, REPOSITORY)
    except FeatureStoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_addresses(running, settings)
    return 0


def print_addresses(running: Sequence[Running], settings: Settings) -> None:
    """Where everything is and what to do next."""
    urls = {service.name: service.url for service in running}
    server = urls["server"]
    print(f"Airflow          {urls['airflow']}   no login: it listens on this machine only")
    print(f"feature server   {server}   {server}/ready says what is missing")
    empty = "" if (settings.home / "docs" / "index.html").exists() else "   empty until `features docs` has run"
    print(f"docs site        {urls['docs']}{empty}")
    for name in urls:
        if name.startswith("stream-"):
            print(f"live events      {name.removeprefix('stream-')}: taken in from Redis, landed every minute")
    if settings.clock is not None:
        print(f"clock            stopped at {settings.clock:%Y-%m-%dT%H:%M:%SZ}; FEATURES_CLOCK= gives the real time")
    if not settings.target_path.joinpath("manifest.json").exists():
        print("no DAGs yet: `make demo` loads the example data, `features check` reads the definitions")
    elif not settings.registry_path.exists():
        print("nothing is in force yet: after a first refresh, `make up` again starts the workers of live events")
    print(f"logs             {settings.home / 'run'}; `make down` ends it all")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
