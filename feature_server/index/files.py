"""An index's files: written so that a reader sees a finished part or none, after a crash too; read as memory maps."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from ..durable import flush, make_private
from ..point_in_time import Int64s
from .seal import seal


class Mapped:
    """A file's bytes, read from disk as they are touched. `release` gives back the memory; the bytes stay readable."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            empty = os.fstat(file.fileno()).st_size == 0
            self.data: Any = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @property
    def int64s(self) -> Int64s:
        return np.frombuffer(self.data, dtype=np.int64)

    def arrow(self) -> pa.Table:
        """What an Arrow file holds."""
        return pa.ipc.open_file(pa.py_buffer(self.data)).read_all()

    def release(self) -> None:
        if self.data:
            self.data.madvise(mmap.MADV_DONTNEED)


@contextmanager
def scratch_in(folder: Path) -> Iterator[Path]:
    """A folder in a private one, made if need be, to build what is then moved into place; it is gone afterwards."""
    make_private(folder)
    with TemporaryDirectory(prefix=".building-", dir=folder, ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


def move_into_place(built: Path, path: Path) -> None:
    """Makes a finished folder visible under its name, which it has already, sealed; one that another process made
    meanwhile is as good."""
    seal(built)
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
