"""Running the demo's commands: output to a log, failures with the end of what was said."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from feature_server.durable import make_private

STARTUP_SECONDS = 60
STOP_SECONDS = 30


class CommandFailed(Exception):
    """A command of the demo that ended with another exit code than 0; `tail` is the end of its output."""

    def __init__(self, command: str, code: int | None, tail: str, log: Path) -> None:
        super().__init__(f"`{command}` ended with exit code {code}")
        self.command, self.code, self.tail, self.log = command, code, tail, log


class Commands:
    """Runs commands in the project folder with the demo's environment, one after the other."""

    def __init__(self, project_dir: Path, environment: Mapping[str, str], log: Path) -> None:
        self.project_dir = project_dir
        self.environment = dict(environment)
        self.log = log
        make_private(log.parent)
        log.write_text("")

    def run(self, command: Sequence[str], hear: Callable[[str], None] = lambda line: None) -> str:
        """Standard output of the command, each line told to `hear` as it comes; raises CommandFailed."""
        text = shlex.join(command)
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                self._located(command),
                cwd=self.project_dir,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            said = ""
            with process:
                for line in process.stdout or ():
                    said += line
                    hear(line.rstrip())
            errors.seek(0)
            both = said + errors.read()
        with self.log.open("a") as log:
            log.write(f"$ {text}\n{both}\n")
        if process.returncode:
            raise CommandFailed(text, process.returncode, "\n".join(both.strip().splitlines()[-25:]), self.log)
        return said

    def _located(self, command: Sequence[str]) -> list[str]:
        """The command with the programs of this virtual environment, whatever PATH says."""
        program, *arguments = command
        if program == "python":
            return [sys.executable, *arguments]
        local = Path(sys.executable).parent / program
        return [str(local) if local.exists() else program, *arguments]


@contextmanager
def running_server(commands: Commands) -> Iterator[str]:
    """The URL of a feature server on a free port, ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["features", "serve", "--port", str(port)]
    with commands.log.open("a") as log:
        log.write(f"$ {shlex.join(command)}\n")
        log.flush()
        process = subprocess.Popen(
            commands._located(command),
            cwd=commands.project_dir,
            env=commands.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url, shlex.join(command), commands.log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, command: str, log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    reason = "no answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=2) as answer:
                if answer.status == 200:
                    return
        except urllib.error.HTTPError as error:
            reason = error.read().decode(errors="replace")
        except OSError as error:
            reason = str(error)
        time.sleep(0.1)
    raise CommandFailed(command, process.poll(), f"not ready: {reason}", log)
