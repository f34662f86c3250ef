"""Where audit lines go, and the thread that writes them: no request waits for a disk, unless it is to.

Several processes write to one file: each whole lines, behind a lock, and whoever finds it full rotates it for all.
"""

import asyncio
import logging
import os
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, Any, Protocol

from ..durable import changing, make_private
from ..errors import FeatureStoreError, SettingsError
from ..limits import Auditing
from ..settings import Settings
from .audit import Entry, Lines, encode_line, lost_line, read_secret

MOST_WAITING = 50_000  # lines, and with a secret entities, that wait to be written
GATHER_SECONDS = 0.1  # in which lines are gathered: each wake of the thread costs reads some
RETRY_SECONDS = 1.0  # after lines were lost
CLOSE_SECONDS = 5.0  # in which what waits is written at the end
TOGETHER = 500  # lines that are made at a time: reads go on between
log = logging.getLogger("feature_server")


class AuditUnavailable(FeatureStoreError):
    """The audit line of what was asked cannot be written, and nothing is to be answered without one."""

    status = 503


class Target(Protocol):
    """Where lines go; OSError where none of those given is there."""

    def append(self, lines: bytes) -> None: ...


class AuditFile(RotatingFileHandler):
    """A file of its owner alone, rotated by size: `audit.jsonl`, `audit.jsonl.1`, …"""

    def __init__(self, path: Path, *, most_bytes: int, files: int) -> None:
        super().__init__(path, maxBytes=most_bytes, backupCount=files, encoding="utf-8", delay=True)
        self._path = Path(path)

    def append(self, lines: bytes) -> None:
        with changing(self._path):
            opened = self._opened()
            if stat.S_ISREG(opened.st_mode) and 0 < opened.st_size > self.maxBytes - len(lines):
                self.doRollover()
                opened = self._opened()
            descriptor, size = self.stream.fileno(), opened.st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # whoever wrote it was killed, or its disk full
                lines = b"\n" + lines
            try:
                _write_all(descriptor, lines)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise

    def _opened(self) -> os.stat_result:
        """The file that has the path now: another process may have rotated the one that was open."""
        if self.stream is not None:
            mine = os.fstat(self.stream.fileno())
            with suppress(FileNotFoundError):
                if os.path.samestat(mine, os.stat(self.baseFilename)):
                    return mine
            self.stream.close()
            self.stream = None  # type: ignore[assignment]
        self.stream = self._open()
        return os.fstat(self.stream.fileno())

    def _open(self) -> Any:
        return open(self.baseFilename, "a", encoding="utf-8", opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_WRONLY | os.O_RDWR, 0o600)


class AuditStream:
    """Standard output, which the workers of a server share: each writes behind the lock of `shared`."""

    def __init__(self, stream: IO[str], shared: Path | None) -> None:
        self._descriptor, self._shared, self._cut_off = stream.fileno(), shared, False

    def append(self, lines: bytes) -> None:
        if self._shared is None:
            self._append(lines)
            return
        with changing(self._shared):
            self._append(lines)

    def _append(self, lines: bytes) -> None:
        ended, self._cut_off = b"\n" if self._cut_off else b"", True
        _write_all(self._descriptor, ended + lines)
        self._cut_off = False


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def target_of(settings: Auditing, *, stream: IO[str] | None = None, shared: Path | None = None) -> Target:
    """Where the settings have lines go: a file, or what is standard output unless `stream` is."""
    if settings.to_stdout:
        return AuditStream(stream or sys.stdout, shared)
    assert settings.path is not None
    return AuditFile(settings.path, most_bytes=settings.files.bytes, files=settings.files.files)


def check_target(settings: Auditing) -> None:
    """SettingsError where lines could not be written."""
    if settings.path is None:
        return
    try:
        make_private(settings.path.parent)
        target_of(settings).append(b"")
    except OSError as error:
        raise SettingsError(
            "the audit trail cannot be written", where=f"FEATURES_AUDIT={settings.path}", got=str(error),
            remedy="name a file that this user can write, stdout or off",
        ) from None  # fmt: skip


class Trail:
    """Takes entries from requests, and writes their lines from a thread of its own.

    `on_dropped` is told, from either thread, how many lines were dropped: where too many wait, and where they cannot
    be written. Given `strict` they are `written` at once, for somebody waits.
    """

    def __init__(self, target: Target, lines: Lines, on_dropped: Callable[[int], None], *, strict: bool) -> None:
        self._target, self._lines, self._on_dropped, self._strict = target, lines, on_dropped, strict
        self._waiting = deque[tuple[Entry, asyncio.Future[None] | None]]()
        self._put = self._taken = 0  # each of one thread alone
        self._wake, self._closing = threading.Event(), threading.Event()
        self._writing = 0  # lines that are being written
        self._lost = 0  # since lines were last written
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    @property
    def failing(self) -> AuditUnavailable | None:
        """Why nothing is answered, where it is not because of the trail."""
        return _unavailable(self._failed) if self._strict and self._failed is not None else None

    def tell(self, entry: Entry, future: "asyncio.Future[None] | None" = None) -> bool:
        """Have a line written; False where it is dropped."""
        if self._put - self._taken >= MOST_WAITING:
            self._on_dropped(1)
            return False
        self._put += 1 if entry.texts is None else 1 + (entry.entities or 0)
        self._waiting.append((entry, future))
        if not self._wake.is_set():
            self._wake.set()
        return True

    async def written(self, entry: Entry) -> None:
        """The same, returning when it is; AuditUnavailable where it cannot be."""
        future = asyncio.get_running_loop().create_future()
        if not self.tell(entry, future):
            raise _unavailable(None)
        await future

    def close(self) -> None:
        """Write what waits."""
        self._closing.set()
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)
        if left := len(self._waiting) + self._writing:
            self._on_dropped(left)
            log.error("%d audit lines are lost: they could not be written in %.0f s", left, CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._closing.is_set() or self._waiting:
            self._wake.wait(RETRY_SECONDS if self._lost else None)
            self._wake.clear()
            if not self._strict:
                self._closing.wait(GATHER_SECONDS)
            if not self._waiting and self._lost:
                self._write([])
            while self._waiting:
                self._write([self._waiting.popleft() for _ in range(min(len(self._waiting), TOGETHER))])

    def _write(self, told: Sequence[tuple[Entry, "asyncio.Future[None] | None"]]) -> None:
        failed: Exception | None = None
        self._writing = len(told)
        try:
            lines = encode_line(lost_line(self._lost)) if self._lost else b""
            self._target.append(lines + self._lines.encode([entry for entry, _ in told]))
        except Exception as error:  # the edge of the thread: the next lines are written, and these are counted
            failed = error
            if not isinstance(error, OSError):
                log.exception("audit lines cannot be made")
            self._on_dropped(len(told))
            if self._failed is None:
                log.error("audit lines are lost: %s; features_audit_dropped_total counts them", error)
            self._lost += len(told)
        else:
            if self._failed is not None:
                log.warning("audit lines are written again: %d were lost", self._lost)
            self._lost = 0
        self._failed, self._writing = failed, 0
        self._taken += sum(1 if entry.texts is None else 1 + (entry.entities or 0) for entry, _ in told)
        waiting = [future for _, future in told if future is not None]
        if waiting:
            with suppress(RuntimeError):  # the loop has ended
                waiting[0].get_loop().call_soon_threadsafe(_settle, waiting, failed)


def _settle(waiting: Sequence["asyncio.Future[None]"], failed: Exception | None) -> None:
    for future in waiting:
        if not future.done():
            if failed is None:
                future.set_result(None)
            else:
                future.set_exception(_unavailable(failed))


def _unavailable(failed: Exception | None) -> AuditUnavailable:
    return AuditUnavailable(
        "what is asked cannot be written to the audit trail, so it is not answered", where="FEATURES_AUDIT",
        expected="a line for each answer, by FEATURES_AUDIT_STRICT=1",
        got=str(failed) if failed is not None else f"{MOST_WAITING:,} lines that wait",
        remedy="see that the disk of the audit trail has room and can be written",
    )  # fmt: skip


@contextmanager
def audited(settings: Settings, entry: Entry) -> Iterator[None]:
    """Tell of what a command changes within the block, before it does; and again where that then fails.

    Where lines go to standard output those of commands go to standard error. AuditUnavailable, and nothing is changed,
    where a line cannot be written that is to be there.
    """
    audit = settings.audit
    if not audit.on:
        yield
        return
    lines = Lines(read_secret(audit, settings.environ))
    if audit.path is not None:
        with suppress(OSError):  # told below
            make_private(audit.path.parent)
    target = target_of(audit, stream=sys.stderr)
    _tell(target, lines, entry, strict=audit.strict)
    try:
        yield
    except BaseException as error:
        entry.refused(error, 0)
        entry.status = None
        with suppress(AuditUnavailable):
            _tell(target, lines, entry, strict=audit.strict)
        raise


def _tell(target: Target, lines: Lines, entry: Entry, *, strict: bool) -> None:
    try:
        target.append(lines.encode([entry]))
    except OSError as error:
        if strict:
            raise _unavailable(error) from None
        log.warning("an audit line is lost: %s", error)
