"""Every command of README.md and of the pages after it, run in their order in one shell on the example data; and every
link leads somewhere."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.example import ROOT, copy_example

README = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"
CHANGE = ROOT / "docs" / "change.md"
PAGES = (README, OPERATIONS, CHANGE)  # whose blocks are for a shell, in the order in which they run
LINKED = ("data", "examples", "scripts", "dags", "feature_server", ".venv")

# Commands that run elsewhere: where, and the words there that do it.
RUN_ELSEWHERE = {
    "make demo": ("tests/test_demo.py", "scripts.demo"),
    "make test": (".ci/run", "make test"),
    "python -m scripts.refresh hourly --at 2013-12-30T23:00Z": ("tests/dags/test_runs.py", '"scripts.refresh"'),
}
PAYMENTS = "python -m examples.payments --out .features/landing"
SMALLER = (PAYMENTS, f"{PAYMENTS} --customers 300 --transactions 20000")
FENCE = re.compile(r"(?:^`(?P<path>[\w/.]+)`\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, its text, and the file it shows, if the line before names one."""

    language: str
    text: str
    path: str | None


def blocks() -> list[Block]:
    text = "\n".join(page.read_text() for page in PAGES)
    return [Block(found["language"], found["text"], found["path"]) for found in FENCE.finditer(text)]


class Shell:
    """One bash that keeps its variables and its background jobs from one script to the next."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, script: str) -> str:
        """What every command of the script printed; fails at the first that ends with another code than 0."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        mark = f"end-{secrets.token_hex(8)}"
        lines = [
            f"trap 'code=$?; echo; echo {mark} $code; exit' ERR",
            "{ :",
            script,
            "} </dev/null",
            f"echo; echo {mark} 0",
            "",
        ]
        self.process.stdin.write("\n".join(lines))
        self.process.stdin.flush()
        output = []
        for line in self.process.stdout:
            if line.startswith(mark):
                assert line.split()[1] == "0", f"{script}\n{''.join(output)}"
                return "".join(output)
            output.append(line)
        raise AssertionError(f"the shell ended in\n{script}\n{''.join(output)}")

    def close(self) -> None:
        """End the shell and what it left running in the background."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.communicate(timeout=60)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's folder as a clone has it, for the commands to write in."""
    copy_example(tmp_path)
    environment = Path(sys.executable).parents[1]
    for name in LINKED:
        (tmp_path / name).symlink_to(environment if name == ".venv" else ROOT / name)
    return tmp_path


@pytest.fixture
def shell(project: Path) -> Iterator[Shell]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FEATURES_", "DBT_", "AIRFLOW"))}
    shell = Shell(project, kept | {"PYTHONPATH": str(project)})
    yield shell
    shell.close()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.heavy
def test_every_command_of_the_pages_runs(project: Path, shell: Shell) -> None:
    port, printed = free_port(), []
    for number, block in enumerate(blocks()):
        text = block.text.replace("6566", port).replace(*SMALLER)
        if block.path is not None:
            (project / block.path).write_text(text)
        elif block.language == "bash":
            lines = [line for line in text.splitlines() if line not in RUN_ELSEWHERE]
            printed.append(shell.run("\n".join(lines)))
        elif block.language == "python":
            (project / f"block_{number}.py").write_text(text)
            printed.append(shell.run(f"python block_{number}.py"))
    output = "".join(printed)
    for expected in (
        "+ feature_view customer__refunds",
        "published customer__refunds version=0",
        "synced customer__refunds",
        "13 feature views, 0 with problems",
        ".features/docs/index.html: 14 feature views",
        "wrote .features/fraud_train.parquet",
        '"transactions_24h"',
        "features_http_requests_total",
        "pushed payments.transactions accepted=2 rejected=0",
        "streamed payments.transactions accepted=0 rejected=0 landed=2 files=1",
        "pushed flights.departures=",
        "+ precipitation_inches > 0 AND temperature_fahrenheit < 32 AS is_freezing_precipitation",
        "airport__weather means the same: nothing is added to the wind",
    ):
        assert expected in output


def test_every_block_of_the_pages_is_run_or_written() -> None:
    unknown = [
        block.language for block in blocks() if not block.path and block.language not in ("bash", "python", "text", "")
    ]
    assert unknown == []


@pytest.mark.parametrize("command", RUN_ELSEWHERE)
def test_commands_that_run_elsewhere_do(command: str) -> None:
    place, words = RUN_ELSEWHERE[command]
    assert any(command in block.text.splitlines() for block in blocks() if block.language == "bash")
    assert words in (ROOT / place).read_text()


@pytest.mark.parametrize("page", [README, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"], ids=str)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_table_of_settings_is_complete() -> None:
    read = {
        name
        for folder in ("feature_server", "dags", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"FEATURES_[A-Z]+(?:_[A-Z]+)*", path.read_text())
    }
    settings = {name for name in read if not name.endswith("_")}
    assert settings == set(re.findall(r"^\| `(FEATURES_\w+)`", OPERATIONS.read_text(), re.MULTILINE))


def test_the_table_of_dependencies_is_complete() -> None:
    project = (ROOT / "pyproject.toml").read_text().partition("dev = [")[0]
    used = set(re.findall(r'^\s+"([\w-]+)[><=]', project, re.MULTILINE)) - {"pyyaml"}
    table = README.read_text().partition("## What it is made of")[2].partition("## How it compares")[0]
    assert used <= set(re.findall(r"[\w-]+", table))
