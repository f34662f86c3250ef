"""Servers that a benchmark needs, each in a process of its own that ends with the block."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from feature_server.online.embedded import valkey_binary

from .feast_env import FEAST_ENV
from .measure import BenchmarkFailed


class Server(NamedTuple):
    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def valkey(folder: Path) -> Iterator[Server]:
    """An empty Valkey on TCP that keeps nothing on disk, for Feast or a limit to write to."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [str(valkey_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with process([*command, "--dir", str(folder)], log=folder / "valkey.log") as pid:
        _wait(lambda: _answers(port), pid, folder / "valkey.log")
        yield Server(pid, port)


@contextmanager
def our_server(url: str, log: Path, env: dict[str, str] | None = None) -> Iterator[Server]:
    """Our HTTP server with one worker."""
    port = free_port()
    command = [sys.executable, "-m", "feature_server", "serve", "--port", str(port), "--redis-url", url]
    with process(command, log=log, env=env) as pid:
        _wait(lambda: _answers(port), pid, log)
        yield Server(pid, port)


@contextmanager
def feast_server(python: Path, repository: Path) -> Iterator[Server]:
    """Feast's HTTP server with one worker."""
    port = free_port()
    log = repository / "serve.log"
    command = [str(python.parent / "feast"), "-c", str(repository), "serve", "-h", "127.0.0.1", "-p", str(port)]
    command += ["--max-requests", "0"]  # by default a worker ends after a thousand requests, and resets connections
    with process([*command, "-w", "1", "--no-access-log"], log=log, env=FEAST_ENV) as pid:
        _wait(lambda: _is_healthy(f"http://127.0.0.1:{port}/health"), pid, log)
        yield Server(pid, port)


@contextmanager
def process(command: Sequence[str], *, log: Path, env: dict[str, str] | None = None) -> Iterator[int]:
    """A process group that is ended with the block; its output goes to `log`."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | (env or {}), start_new_session=True
        )
    try:
        yield child.pid
    finally:
        for number, patience_s in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
            try:
                os.killpg(child.pid, number)
                child.wait(patience_s)
            except ProcessLookupError:
                child.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
            break


def _wait(ready: Callable[[], bool], pid: int, log: Path, patience_s: float = 90) -> None:
    deadline = time.monotonic() + patience_s
    while not ready():
        ended, _ = os.waitpid(pid, os.WNOHANG)
        if ended or time.monotonic() > deadline:
            raise BenchmarkFailed(f"a server did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
