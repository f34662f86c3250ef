"""Keeps the workers of a feature server alive, and ends them gracefully."""

import errno
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from ..errors import FeatureStoreError, SettingsError
from ..processes import parse_process, this_process
from ..settings import Settings
from .sites import Sites

DRAIN_SECONDS = 0.5  # how long a worker that is to end still accepts connections, closing each with its answer
GRACE_SECONDS = 30  # how long after that a request may still take
SHORT_LIFE_SECONDS = 2.0  # a worker that ends sooner is started again only after as long
STILL_SECONDS = 120  # since nothing was written to a dead supervisor's folder: its workers may still have been ending
_FOLDER, _OWNER = "features-serve-", "supervisor"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
log = logging.getLogger("feature_server")


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What a feature server serves, and to whom; `keyed` where there were keys of access when it was started.

    `watched` says under which names the port for metrics is asked, where there is one; `audit_secret` is what the audit
    trail hashes entities with, as hexadecimal digits.
    """

    redis_url: str
    settings: Settings
    sites: Sites
    watched: Sites | None = None
    keyed: bool = False
    audit_secret: str | None = None


class WorkerConfig(msgspec.Struct, frozen=True):
    """What a worker is told: `slot` is its number among the workers, `ready_fd` a pipe to report on once it serves;
    the second of its sockets, if any, is for metrics."""

    slot: int
    socket_fds: tuple[int, ...]
    ready_fd: int
    counts_folder: str
    served: Served


class WorkerProcess(msgspec.Struct):
    """A running worker; its standard input, held open, tells it that its supervisor lives."""

    process: subprocess.Popen[bytes]
    started: float


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one."""
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except (OSError, OverflowError, UnicodeError) as error:  # the last: a name that no lookup can take
        if listener is not None:
            listener.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise SettingsError(
            "the port is taken" if taken else "the address cannot be listened on",
            where=f"{host}:{port}",
            got=str(error),
            remedy="end the other process, or choose another with --port (0 takes a free one)",
        ) from None
    return listener


class Supervisor:
    """Runs `workers` processes on `listeners` until SIGTERM or SIGINT: one for all, and one for metrics, or none."""

    def __init__(self, listeners: Sequence[socket.socket], served: Served, *, workers: int) -> None:
        self._listeners, self._served, self._slots = listeners, served, range(workers)
        self._workers: dict[int, WorkerProcess] = {}
        self._folder = ""

    def run(self, on_ready: Callable[[], None]) -> None:
        """Start all workers, call `on_ready`, and return once told to end and every worker has."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        _remove_left()
        with tempfile.TemporaryDirectory(prefix=_FOLDER) as self._folder:
            if (me := this_process()) is not None:
                Path(self._folder, _OWNER).write_text(str(me))
            try:
                for pipe in [self._start(slot) for slot in self._slots]:
                    self._await_ready(pipe)
                on_ready()
                self._watch()
            finally:
                for listener in self._listeners:
                    listener.close()
                self._end_workers()
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _start(self, slot: int) -> int:
        """Start the worker of a slot; what is returned reads one byte when it serves, or ends when it fails."""
        reading, writing = os.pipe()
        sockets = tuple(listener.fileno() for listener in self._listeners)
        config = WorkerConfig(slot, sockets, writing, self._folder, self._served)
        command = [sys.executable, "-m", "feature_server.app.worker"]
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(*sockets, writing))
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(config, enc_hook=str) + b"\n")
        process.stdin.flush()
        self._workers[slot] = WorkerProcess(process, time.monotonic())
        return reading

    def _await_ready(self, pipe: int) -> None:
        with os.fdopen(pipe, "rb") as reading:
            if reading.read(1) != b"1":
                raise FeatureStoreError(
                    "a worker of the feature server does not start", remedy="its messages above say why"
                )

    def _watch(self) -> None:
        """Replace workers that end, until a signal says to stop."""
        again: dict[int, float] = {}  # when to start the worker of a slot
        while True:
            for slot in [slot for slot, at in again.items() if at <= time.monotonic()]:
                del again[slot]
                try:
                    os.close(self._start(slot))
                except OSError as error:  # the others go on
                    log.error("worker %d cannot be started again now: %s", slot, error)
                    again[slot] = time.monotonic() + SHORT_LIFE_SECONDS
                else:
                    log.info("worker %d started again pid=%d", slot, self._workers[slot].process.pid)
            wait = min(again.values(), default=time.monotonic() + 1) - time.monotonic()
            if _told_to_end(max(wait, 0.0)):
                return
            for slot, worker in list(self._workers.items()):
                if worker.process.poll() is None:
                    continue
                lived = time.monotonic() - worker.started
                log.error("worker %d pid=%d ended with %s", slot, worker.process.pid, worker.process.returncode)
                del self._workers[slot]
                again[slot] = time.monotonic() + (SHORT_LIFE_SECONDS if lived < SHORT_LIFE_SECONDS else 0.0)

    def _end_workers(self) -> None:
        """SIGTERM, time to finish, then SIGKILL; a second signal to the supervisor skips the wait."""
        for worker in self._workers.values():
            worker.process.terminate()
        deadline = time.monotonic() + DRAIN_SECONDS + GRACE_SECONDS + 5
        while any(worker.process.poll() is None for worker in self._workers.values()):
            if _told_to_end(0.2) or time.monotonic() > deadline:
                for worker in self._workers.values():
                    worker.process.kill()
                    worker.process.wait()
        self._workers.clear()


def _remove_left() -> None:
    """Remove the folders of supervisors that were killed: those of this machine that are known to have ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with suppress(OSError):
            status, owner = folder.lstat(), parse_process((folder / _OWNER).read_text())
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < STILL_SECONDS:
                continue
            if owner is not None and owner.has_ended:
                shutil.rmtree(folder, ignore_errors=True)


def _told_to_end(seconds: float) -> bool:
    """Whether a signal says so within that time; sooner where a worker ends."""
    found = signal.sigtimedwait(_SIGNALS, seconds)
    return found is not None and found.si_signo != signal.SIGCHLD
