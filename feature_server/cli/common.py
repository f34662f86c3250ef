"""What the commands share: options, JSON output, progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
import typer

from ..settings import local_path

ProjectDir = Annotated[
    Path | None, typer.Option(help="Folder of dbt_project.yml. [env: FEATURES_PROJECT_DIR; default: here]")
]
TargetPath = Annotated[
    Path | None, typer.Option(help="Folder of dbt's manifest.json. [env: FEATURES_TARGET_PATH; default: target]")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def written_here(out: Path | None) -> Path | None:
    """The value of --out, before anything is done for it."""
    return None if out is None else local_path(out, where="--out")


class Progress(Protocol):
    """Called with how much is done and how much there is; a total of 0 means unknown."""

    def __call__(self, done: int, total: int) -> None: ...


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A progress bar on standard error, only when that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
