"""Whether an index's files still hold what was written to them.

A folder's `seal.json` says of each file its length, times and inode, and the CRC-32 of its bytes. A file whose length,
times and inode are those of the seal was not written to since: nothing can set the time of the last change of an inode
back. Any other file is read and its checksum compared, and so is every file a week after it last was, for a disk may
lose bits unseen. Not at each use: see docs/decisions/0005.
"""

import logging
import os
import shutil
import stat
import time
import uuid
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from ..durable import write_whole
from ..errors import UNREADABLE

SEAL = "seal.json"
_TRUSTED_SECONDS = 7 * 24 * 3600
_BLOCK = 1 << 20
_log = logging.getLogger(__name__)


class FileSeal(msgspec.Struct, frozen=True):
    """One file as it was written, and when its checksum was last looked at."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    crc32: int
    checked_s: int

    def same_inode(self, path: Path) -> bool:
        """Whether nothing wrote to the file since; ValueError where it has another length or is no file."""
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size != self.size:
            raise ValueError(f"expected {self.size} bytes, got {found.st_size}")
        same = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino) == (self.modified_ns, self.changed_ns, self.inode)
        return same and 0 <= time.time() - self.checked_s < _TRUSTED_SECONDS


class Seal(msgspec.Struct, frozen=True):
    """The files of the folder `name`."""

    name: str
    files: dict[str, FileSeal]


def seal(folder: Path) -> None:
    """Seal a folder whose files are all written."""
    files = {path.name: _sealed(path) for path in sorted(folder.iterdir())}
    _write(folder, Seal(folder.name, files))


def whole(folder: Path, names: Iterable[str] | None = None) -> bool:
    """Whether a folder is there with the files named, by default all of its seal, as they were written.

    A damaged one is put away, so that it can be built anew, and the log says why.
    """
    if not folder.exists():
        return False
    why = f"it has no {SEAL}, as those of the version before"
    try:
        if (folder / SEAL).exists():
            why = "it is damaged"
            _check(folder, _read(folder), names)
            return True
    except (OSError, ValueError, *UNREADABLE) as error:
        why = f"{why}: {error}"
    if folder.exists():  # else another process has just put it away
        _log.warning("a part of the index is built anew: %s: %s", folder, why)
        put_away(folder)
    return False


def put_away(folder: Path) -> None:
    """Remove a folder of an index; who has its files open may go on reading them."""
    away = folder.with_name(f".building-{uuid.uuid4().hex[:12]}")
    with suppress(FileNotFoundError):
        folder.rename(away)
    if away.is_dir():
        shutil.rmtree(away, ignore_errors=True)
    else:
        away.unlink(missing_ok=True)


def _read(folder: Path) -> Seal:
    found = msgspec.json.decode((folder / SEAL).read_bytes(), type=Seal)
    if found.name != folder.name:
        raise ValueError(f"the seal is that of {found.name}")
    return found


def _check(folder: Path, found: Seal, names: Iterable[str] | None) -> None:
    """ValueError or OSError for a file that is not as sealed; what had to be read for that is noted."""
    read: dict[str, FileSeal] = {}
    for name in found.files if names is None else names:
        if name not in found.files:
            raise ValueError(f"{name} is not in the seal")
        sealed = found.files[name]
        if not sealed.same_inode(folder / name):
            read[name] = _sealed(folder / name)
            if read[name].crc32 != sealed.crc32:
                raise ValueError(f"{name} holds other bytes than were written")
    if read:
        with suppress(PermissionError):
            _write(folder, msgspec.structs.replace(found, files=found.files | read))


def _sealed(path: Path) -> FileSeal:
    with path.open("rb") as file:
        before, crc32 = os.fstat(file.fileno()), 0
        while block := file.read(_BLOCK):
            crc32 = zlib.crc32(block, crc32)
    return FileSeal(
        before.st_size, before.st_mtime_ns, before.st_ctime_ns, before.st_ino, crc32, int(time.time())
    )  # fmt: skip


def _write(folder: Path, sealed: Seal) -> None:
    write_whole(folder / SEAL, lambda file: file.write(msgspec.json.encode(sealed)))
