"""The fenced blocks of Markdown pages, and a shell that runs them."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from .example import ROOT

FENCE = re.compile(r"(?:^`(?P<path>[\w/.]+)`\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
# What is typed into a shell, where a prompt or not stands before it.
COMMAND = re.compile(
    r"^(?:\$ )?((?:\w+=\S+ )*(?:features|make|pip|dbt|airflow|python|curl|git|uv|sed|\.venv/bin/\w+) .*)$", re.MULTILINE
)


class Block(NamedTuple):
    """A fenced block: its language, its text, and the file it shows, if the line before names one."""

    language: str
    text: str
    path: str | None


def blocks(text: str) -> list[Block]:
    return [Block(found["language"], found["text"], found["path"]) for found in FENCE.finditer(text)]


def commands(page: Path) -> list[str]:
    """The lines of a page's blocks, fenced or indented, that are typed into a shell."""
    text = page.read_text()
    shell = (block for block in blocks(text) if block.language in ("bash", "text", ""))
    fenced = [line for block in shell for line in COMMAND.findall(block.text)]
    indented = re.findall(r"^\n(?: {4}.*\n)+", FENCE.sub("", text), re.MULTILINE)
    return fenced + [line for block in indented for line in COMMAND.findall(re.sub(r"^ {4}", "", block, flags=re.M))]


class Shell:
    """One bash that keeps its variables, folder and background jobs from one script to the next."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
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

    def play(self, block: Block) -> str:
        """Write the file that a block shows, or run what it says; what was printed."""
        folder = Path(self.run("pwd -P").strip())
        if block.path is not None:
            (folder / block.path).write_text(block.text)
        elif block.language == "bash":
            return self.run(block.text)
        elif block.language == "python":
            (folder / "block.py").write_text(block.text)
            return self.run("python block.py")
        return ""

    def close(self) -> None:
        """End the shell and what it left running in the background."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.communicate(timeout=60)


@contextmanager
def shell_in(folder: Path, **variables: str) -> Iterator[Shell]:
    """A shell of someone who has set nothing of ours but `variables`; the product is this repository's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FEATURES_", "DBT_", "AIRFLOW"))}
    shell = Shell(folder, kept | {"PYTHONPATH": str(ROOT)} | variables)
    try:
        yield shell
    finally:
        shell.close()
