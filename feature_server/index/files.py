"""An index's files: written so that a reader sees a finished part or none, after a crash too; read as memory maps."""

import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..durable import flush
from ..point_in_time import Int64s


class Mapped:
    """A file's bytes, read from disk as they are touched. `release` gives back the memory; the bytes stay readable."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            empty = os.fstat(file.fileno()).st_size == 0
            self._map = None if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @property
    def int64s(self) -> Int64s:
        return np.frombuffer(self._map if self._map is not None else b"", dtype=np.int64)

    @property
    def buffer(self) -> pa.Buffer:
        data: Any = self._map if self._map is not None else b""
        return pa.py_buffer(data)

    def release(self) -> None:
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)


def move_into_place(built: Path, path: Path) -> None:
    """Makes a finished folder visible under its name; one that another process made meanwhile is as good."""
    flush(built)
    try:
        os.rename(built, path)
    except OSError:
        if not path.is_dir():
            raise
    flush(path.parent)


def touch(path: Path) -> None:
    """Marks a folder as used now; one that this user may only read stays as it is."""
    with suppress(PermissionError):
        os.utime(path)
