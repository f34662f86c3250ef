"""Processes of this machine, of which any may end while it is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil


def processes_that(
    fits: Callable[[psutil.Process], bool], among: Iterable[psutil.Process] | None = None
) -> list[psutil.Process]:
    """Those, of all or `among` some, that a question is true of; one that ends while it is asked is none of them.

    psutil gives NoSuchProcess, and where a process is just ending an OSError of the file that is gone.
    """
    found = []
    for process in psutil.process_iter() if among is None else among:
        with suppress(psutil.Error, OSError):
            if fits(process):
                found.append(process)
    return found


def valkey_servers(folder: Path) -> list[psutil.Process]:
    """Living Valkey servers whose working folder is this one."""
    return processes_that(lambda each: each.name() == "valkey-server" and each.cwd() == str(folder))
