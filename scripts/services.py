"""Starting services in the background and ending exactly those: what `make up` and `make down` stand on.

Each service leads a session of its own. `<folder>/<name>.json` says who that is: the process id, when that process
started, for ids are given out again, and the boot and container that the id is of. `<folder>/<name>.log` holds what it
says. Ended with it is its session and what descends from it, whatever group or session that has moved to: Airflow's
tasks and the commands they run do. The embedded Valkey is none of these: its users share it, and it ends with the last
of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from feature_server.durable import make_private
from feature_server.errors import FeatureStoreError
from feature_server.processes import this_process

POLL_SECONDS = 0.2
TAIL_LINES = 20


@dataclass(frozen=True)
class Service:
    """What to start, and how to tell that it works: `is_healthy` gets what `health_url` answers.

    One without a URL works when it has said something: its log has a line.
    """

    name: str
    command: Sequence[str]
    port: int | None = None
    url: str = ""
    health_url: str = ""
    is_healthy: Callable[[bytes], bool] = lambda answer: True


@dataclass(frozen=True)
class Running:
    """A service that was started: process `pid`, the leader of its group, that began at `started`."""

    name: str
    pid: int
    started: str
    url: str
    log: str
    settings: dict[str, str] | None = None  # see `_settings`; None for what an older version started
    place: str | None = None  # see `_place`; None where the system does not say

    @property
    def leads(self) -> bool:
        """Whether the process that was started is still there."""
        return self.place in (None, _place()) and started_at(self.pid) == self.started

    def members(self) -> set[Process]:
        """The living processes of the service; none when its id is somebody else's by now, or of another place."""
        if self.place not in (None, _place()) or started_at(self.pid) not in (self.started, None):
            return set()
        processes = list(_processes())
        found = {process for process in processes if self.pid in (process.pid, process.session)}
        while more := {child for child in processes if child.parent in {p.pid for p in found}} - found:
            found |= more
        return {process for process in found if process.is_alive}


@dataclass(frozen=True)
class Process:
    """A process as the system lists it."""

    pid: int
    parent: int
    session: int
    state: str

    @property
    def is_alive(self) -> bool:
        return self.state != "Z"


def _place() -> str | None:
    """The boot and the pid namespace in which process ids mean something; None where the system does not say."""
    me = this_process()
    return None if me is None else f"{me.boot} {me.namespace}"


def started_at(pid: int) -> str | None:
    """When the process began, in the system's own words; None when there is no such process, or only its remains."""
    try:
        # pid (command) state ppid … : the command may hold spaces and brackets, field 22 is the start in clock ticks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except ProcessLookupError:
        return None
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None


def _processes() -> Iterator[Process]:
    shown = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,sess=,stat="], capture_output=True, text=True, check=True
    ).stdout
    for line in shown.splitlines():
        pid, parent, session, state = line.split()
        yield Process(int(pid), int(parent), int(session), state[0])


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep a second `up` or `down` of the same folder out while the block runs."""
    make_private(folder)
    with (folder / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FeatureStoreError(
                "another `make up` or `make down` is at work", where=str(folder), remedy="wait until it has ended"
            ) from None
        yield


def recorded(folder: Path) -> list[Running]:
    """What `start` has started here and `stop` has not ended, whether it still runs or not."""
    return [Running(**json.loads(file.read_text())) for file in sorted(folder.glob("*.json"))]


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment decides what a service reads, writes and takes for the present.

    Each value as its digest: a URL may hold a password.
    """
    return {
        name: hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()
        for name, value in environment.items()
        if value and (name.startswith("FEATURES_") or name == "DBT_TARGET")
    }


def check_settings(alive: Sequence[Running], environment: Mapping[str, str]) -> None:
    """Raise if what is up was started with other settings: two services must not speak of two worlds."""
    wanted = _settings(environment)
    for running in alive:
        if running.settings is None or running.settings == wanted:
            continue
        names = sorted(dict(running.settings.items() ^ wanted.items()))
        raise FeatureStoreError(
            f"{running.name} is up with another {', '.join(names)}", where=running.log,
            remedy="`make down` first, or leave the settings as they were",
        )  # fmt: skip


def check_port(service: Service) -> None:
    """Raise if somebody listens on the service's port already."""
    if service.port is None:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", service.port))
        except OSError as error:
            raise FeatureStoreError(
                f"port {service.port} cannot be used for {service.name}", where=f"127.0.0.1:{service.port}",
                got=error.strerror or str(error),
                remedy=f"end what listens there, or choose another port: --{service.name}-port",
            ) from None  # fmt: skip


def start(service: Service, folder: Path, environment: Mapping[str, str], cwd: Path) -> Running:
    """Start the service in the background; whoever calls waits with `wait_until_healthy`."""
    log = folder / f"{service.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(service.command),
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Running(
        service.name,
        process.pid,
        started_at(process.pid) or "",
        service.url,
        str(log),
        _settings(environment),
        _place(),
    )
    file = folder / f"{service.name}.json"
    file.with_suffix(".tmp").write_text(json.dumps(asdict(running), indent=2))
    file.with_suffix(".tmp").replace(file)
    return running


def wait_until_healthy(service: Service, running: Running, seconds: float) -> None:
    """Wait until the service answers as it should; raise with the end of its log when it ends or does not in time."""
    deadline = time.monotonic() + seconds
    answer = "nothing"
    while running.leads and time.monotonic() < deadline:
        if not service.health_url:
            if b"\n" in Path(running.log).read_bytes():
                return
            time.sleep(POLL_SECONDS)
            continue
        try:
            with urllib.request.urlopen(service.health_url, timeout=5) as response:
                body = response.read()
            if service.is_healthy(body):
                return
            answer = body.decode(errors="replace")[:500]
        except (OSError, urllib.error.URLError) as error:
            answer = str(error)
        time.sleep(POLL_SECONDS)
    what = f"is not healthy after {seconds:.0f} s" if running.leads else "has ended"
    raise FeatureStoreError(
        f"{service.name} {what}", where=service.health_url or None, got=answer,
        remedy=f"read its log, {running.log}; it ends with\n{tail(Path(running.log))}",
    )  # fmt: skip


def stop(running: Running, folder: Path, seconds: float) -> str:
    """End the service with all its processes, gently first; in words, what happened."""
    members = {process.pid: started_at(process.pid) for process in running.members()}
    said = f"{running.name} was not running"
    if members:
        _signal(members, signal.SIGTERM)
        said = f"{running.name} ended (process {running.pid})"
        if not _gone(running, members, seconds):
            said = f"{running.name} was killed, for it had not ended within {seconds:.0f} s (process {running.pid})"
            members |= {process.pid: started_at(process.pid) for process in running.members()}
            _signal(members, signal.SIGKILL)
            _gone(running, members, seconds)
    (folder / f"{running.name}.json").unlink(missing_ok=True)
    return said


def _signal(members: Mapping[int, str | None], number: signal.Signals) -> None:
    """Signal each process that is still the one it was."""
    for pid, started in members.items():
        if started is not None and started_at(pid) == started:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _gone(running: Running, members: Mapping[int, str | None], seconds: float) -> bool:
    """Whether nobody is left, of `members` or since; waits for it at most so long."""
    deadline = time.monotonic() + seconds
    while any(started is not None and started_at(pid) == started for pid, started in members.items()) or (
        running.members()
    ):
        if time.monotonic() > deadline:
            return False
        with suppress(ChildProcessError):
            os.waitpid(running.pid, os.WNOHANG)
        time.sleep(POLL_SECONDS)
    return True


def tail(log: Path) -> str:
    """The last lines of a log, set in."""
    lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    return "\n".join(f"    {line}" for line in lines) or "    nothing"
