"""A feature server in a process of its own, started as a user would."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.support.online_rows import NOW
from tests.support.processes import processes_that


class Served:
    """A running `features serve`: its address, and its processes."""

    def __init__(self, process: subprocess.Popen[str], address: str, errors: IO[str]) -> None:
        self.process = process
        self._errors = errors
        self.address = address
        self.port = int(address.rsplit(":", 1)[1])
        self.watched = ""  # the address of the port for metrics, where there is one

    def workers(self) -> list[psutil.Process]:
        def is_worker(child: psutil.Process) -> bool:
            return child.status() != psutil.STATUS_ZOMBIE and "feature_server.app.worker" in child.cmdline()

        return processes_that(is_worker, psutil.Process(self.process.pid).children())

    def log(self) -> str:
        """What it has written to standard error."""
        with open(f"/proc/self/fd/{self._errors.fileno()}", errors="replace") as errors:
            return errors.read()

    def stop(self) -> str:
        """End it gracefully; what it has written to standard error."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        errors = self.log()
        assert self.process.returncode == 0, errors
        return errors


@contextmanager
def served(
    redis_url: str | None,
    *arguments: str,
    clock: str | None = NOW.isoformat(),
    package: Path | None = None,
    files: int | None = None,
    **environment: str,
) -> Iterator[Served]:
    """`features serve` on a free port, with the clock stopped at NOW unless told otherwise.

    `package` is a folder that holds another version of the package to run, `files` how many files it may have open.
    """
    if package is not None:
        environment["PYTHONPATH"] = str(package)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FEATURES_")} | environment
    if redis_url is not None:
        environ = {"FEATURES_PROJECT_DIR": tempfile.gettempdir()} | environ | {"FEATURES_REDIS_URL": redis_url}
    if clock is not None:
        environ["FEATURES_CLOCK"] = clock
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody empties would stop the server
    process = subprocess.Popen(
        [sys.executable, "-m", "feature_server", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environ,
        cwd=package,
    )
    if files is not None:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (files, files))
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        running = Served(process, found[0] if found else ":0", errors)
        assert found, line + running.log()
        if "--metrics-port" in arguments:
            running.watched = re.findall(r"http://[^\s/]+", process.stdout.readline())[0]
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        errors.close()


def eventually(holds: Callable[[], Any], *, seconds: float = 15) -> Any:
    """Wait until `holds()` is true, and give what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return found


def metrics(address: str) -> dict[tuple[str, ...], float]:
    """Samples by name and label values, in the order of the labels' names."""
    text = httpx.get(f"{address}/metrics", trust_env=False).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
