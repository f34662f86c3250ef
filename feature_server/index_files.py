"""Writing an index's files so that a reader sees a finished part or none, after a crash too."""

from __future__ import annotations

import os
from pathlib import Path


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file and waits until it is on disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def move_into_place(built: Path, path: Path) -> None:
    """Makes a finished folder visible under its name; one that another process made meanwhile is as good."""
    _sync_folder(built)
    try:
        os.rename(built, path)
    except OSError:
        if not path.is_dir():
            raise
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
