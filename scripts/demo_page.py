"""What the demo prints: a numbered step, what came out of it, how long it took."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from itertools import accumulate

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table

from .demo_run import CommandFailed, Commands

WIDTH = 110


class Page:
    """The printed page; `step` times a block and numbers it."""

    def __init__(self) -> None:
        self.console = Console(width=WIDTH, highlight=False)
        self._started = time.monotonic()
        self._number = 0

    def title(self, text: str, subtitle: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{escape(text)}", style="dim")
        self.console.print(f"[dim]{escape(subtitle)}", justify="center")

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Print the title, run the block, print what it took."""
        self._number += 1
        self.console.print()
        self.console.print(f"[bold cyan]{self._number}[/] [bold]{escape(title)}")
        begun = time.monotonic()
        yield
        self.console.print(f"  [green]done[/] [dim]in {time.monotonic() - begun:.1f} s")

    def say(self, text: str) -> None:
        """One line of Rich markup."""
        self.console.print(Padding(text, (0, 0, 0, 2)))

    def command(self, text: str) -> None:
        self.console.print(Padding(f"[dim]$[/] [yellow]{escape(text)}", (0, 0, 0, 2)))

    def rows(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table of the columns that fit the page; says how many more there are. Numbers stand to the right."""
        texts = [[_text(value) for value in row] for row in rows]
        widths = [max(len(name), *(len(row[i]) for row in texts)) + 2 for i, name in enumerate(columns)]
        fitting = sum(1 for used in accumulate(widths) if used <= WIDTH - 12)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for i, column in enumerate(columns[:fitting]):
            numeric = all(isinstance(row[i], int | float | Decimal | None) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
        if fitting < len(columns):
            table.add_column(f"+ {len(columns) - fitting} more")
        for text in texts:
            table.add_row(*map(escape, text[:fitting]))
        self.console.print(Padding(table, (0, 0, 0, 2)))

    def code(self, text: str) -> None:
        """Python, as a user would type it."""
        self.console.print(Padding(Syntax(text, "python", background_color="default", word_wrap=True), (0, 0, 0, 2)))

    def next_steps(self, steps: Sequence[tuple[str, str]]) -> None:
        seconds = time.monotonic() - self._started
        self.console.print()
        self.console.rule(f"[bold green]all of it took {seconds:.0f} s; nothing is left running", style="dim")
        self.console.print()
        self.console.print("[bold]What to type next")
        table = Table(box=None, pad_edge=False, show_header=False)
        for command, purpose in steps:
            table.add_row(f"[yellow]{escape(command)}", f"[dim]{escape(purpose)}")
        self.console.print(Padding(table, (0, 0, 0, 2)))

    def failed(self, failure: CommandFailed) -> None:
        self.console.print(f"  [bold red]failed[/] {escape(str(failure))}")
        self.console.print(Padding(escape(failure.tail), (0, 0, 0, 4)))
        self.console.print(f"  everything that was said: {failure.log}")


def run(page: Page, commands: Commands, command: str) -> str:
    """Print the command and run it: its standard output."""
    page.command(command)
    return commands.run(shlex.split(command))


def _text(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
