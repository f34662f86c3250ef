"""Jobs, as the workers of a feature server see them: folders of the home, so that any worker answers for any job.

A job's process holds the lock of its folder, inherited from the worker that took the job in: whoever finds it free
knows that the process has ended, however it did.
"""

import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from ..definitions.facts import FeatureRef
from ..durable import changing, make_private
from ..errors import UNREADABLE, Error, RequestError, TooLarge, TooManyJobs, UnknownNameError
from ..protocol import GetHistoricalFeatures, TrainingJob
from ..settings import Settings

SPINE, RESULT = "spine", "result.parquet"
MOST_OF_A_KEY = 8  # jobs that are not fetched yet
MOST_IN_ALL = 64
FETCHED_SECONDS = 600  # for which a result stays that was fetched: its client may not have got all of it
HALF_MADE_SECONDS = 60
CANCEL_SECONDS = 5.0
_TAKEN_IN, _STATE, _LOCK, _CANCELLED, _FETCHED = "taken_in.json", "state.json", "lock", "cancelled", "fetched"
_COMING = "."  # before the name of a folder whose spine is still coming
ENDED = Error(
    "FeatureStoreError", "the process that made the training set has ended before it was done",
    remedy="ask for it again; where it ends again, the feature server's machine lacks memory",
)  # fmt: skip


class TakenIn(msgspec.Struct, frozen=True, kw_only=True):
    """What a job is to do, and for whom: `key` is the id of the key that began it, or stands for the subject of a
    token; "" where there are no keys.

    `number` is its place among all jobs, `scopes` and `groups` are the key's; no scopes stand for no keys.
    """

    asked: GetHistoricalFeatures
    features: tuple[FeatureRef, ...]
    key: str
    who: str
    scopes: tuple[str, ...] | None
    groups: tuple[str, ...]
    max_rows: int
    number: int = 0


class Job:
    """One job by its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.id = folder, folder.name
        self.spine, self.result = folder / SPINE, folder / RESULT

    @property
    def taken_in(self) -> TakenIn:
        return msgspec.json.decode((self.folder / _TAKEN_IN).read_bytes(), type=TakenIn)

    @property
    def stored(self) -> TrainingJob:
        return msgspec.json.decode((self.folder / _STATE).read_bytes(), type=TrainingJob)

    @property
    def is_cancelled(self) -> bool:
        return (self.folder / _CANCELLED).exists() or not self.folder.exists()

    def state(self) -> TrainingJob:
        """How it stands; one whose process has ended before its end has failed."""
        found = self.stored
        if is_final(found.state):
            return found
        with self._if_ended() as ended:
            found = self.stored
            if ended and not is_final(found.state):
                found = msgspec.structs.replace(found, state="failed", error=ENDED)
                self.keep(found)
                self.clear()
        return found

    def keep(self, state: TrainingJob) -> None:
        """Write how it stands: read whole at any time."""
        _write(self.folder / _STATE, msgspec.json.encode(state))

    def clear(self) -> None:
        """Remove what only the process needs."""
        for path in [self.spine, *self.folder.glob(f".{RESULT}.*")]:
            path.unlink(missing_ok=True)

    def cancel(self) -> None:
        """Remove it; its process ends, or is just about to, within CANCEL_SECONDS or a sweep finds it."""
        with suppress(FileNotFoundError):
            (self.folder / _CANCELLED).touch(mode=0o600)
            deadline = time.monotonic() + CANCEL_SECONDS
            while time.monotonic() < deadline:
                with self._if_ended() as ended:
                    if ended:
                        shutil.rmtree(self.folder, ignore_errors=True)
                        return
                time.sleep(0.02)

    def fetched(self) -> None:
        with suppress(FileNotFoundError):
            (self.folder / _FETCHED).touch(mode=0o600)

    def is_over(self, now: float, keep_seconds: int) -> bool:
        """Whether nobody comes for it any more."""
        with self._if_ended() as ended:
            if not ended:
                return False
            if self.folder.name.startswith(_COMING) or self.is_cancelled or not (self.folder / _STATE).exists():
                return True
            fetched = self.folder / _FETCHED
            since, kept = (fetched, FETCHED_SECONDS) if fetched.exists() else (self.folder / _STATE, keep_seconds)
            return since.stat().st_mtime + kept < now

    @contextmanager
    def _if_ended(self) -> Iterator[bool]:
        """Whether its process has ended; nobody else does anything about that meanwhile."""
        try:
            lock = (self.folder / _LOCK).open("r+b")
        except FileNotFoundError:  # it is being made, or being removed
            yield not self.folder.exists() or self.folder.stat().st_mtime + HALF_MADE_SECONDS < time.time()
            return
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


class Coming:
    """A job whose spine is coming; several may come under one id, of which the first that is there counts."""

    def __init__(self, home: Path, taken_in: TakenIn, max_bytes: int) -> None:
        self._taken_in, self._max_bytes, self._size = taken_in, max_bytes, 0
        self._id = taken_in.asked.id or secrets.token_hex(16)
        self._folder = folder = home / f"{_COMING}{self._id}.{secrets.token_hex(6)}"
        folder.mkdir(mode=0o700)
        self._lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._file: BinaryIO = os.fdopen(os.open(folder / SPINE, os.O_WRONLY | os.O_CREAT, 0o600), "wb")

    def add(self, part: bytes) -> None:
        """TooLarge where the spine is."""
        self._size += len(part)
        if self._size > self._max_bytes:
            raise TooLarge(
                "the spine is too large", where="body", expected=f"at most {self._max_bytes:,} bytes",
                got=f"{self._size:,} bytes or more",
                remedy="ask for parts of it; FEATURES_TRAIN_SPINE_BYTES, where the server runs, allows more",
            )  # fmt: skip
        self._file.write(part)

    def drop(self) -> None:
        self._close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def begin(self, settings: Settings) -> Job:
        """All of it has come: put the job in line and start its process, which holds its lock from now on."""
        self._file.flush()
        job = Job(settings.jobs_path / self._id)
        with changing(settings.jobs_path / "line"):
            if job.folder.exists():
                self.drop()
                if job.taken_in.key != self._taken_in.key:
                    raise RequestError("the id is another job's", where="id", remedy="leave it out, or send another")
                return job
            numbers = [job.taken_in.number for job in jobs_in(settings.jobs_path)]
            taken_in = msgspec.structs.replace(self._taken_in, number=max(numbers, default=0) + 1)
            _write(self._folder / _TAKEN_IN, msgspec.json.encode(taken_in))
            _write(self._folder / _STATE, msgspec.json.encode(TrainingJob(id=job.id, state="waiting")))
            self._folder.rename(job.folder)
        command = [sys.executable, "-P", "-m", "feature_server.remote.process", str(job.folder)]
        try:
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(self._lock,),
                env=settings.environ, start_new_session=True,
            )  # fmt: skip
        finally:
            self._close()
        return job

    def _close(self) -> None:
        self._file.close()
        os.close(self._lock)


class Jobs:
    """All jobs of a home. Whose key began one sees it, or everybody where there are no keys."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._folder = settings, settings.jobs_path

    def receive(self, taken_in: TakenIn) -> Coming:
        """Make room for a spine; TooManyJobs where there are as many as may be."""
        make_private(self._folder)
        self.sweep()
        there = [job.taken_in.key for job in jobs_in(self._folder)]
        coming = sum(path.name.startswith(_COMING) and path.is_dir() for path in self._folder.iterdir())
        for count, most in ((there.count(taken_in.key), MOST_OF_A_KEY), (len(there) + coming, MOST_IN_ALL)):
            if count >= most:
                raise TooManyJobs(
                    "as many training sets are being made as may be" if most == MOST_IN_ALL else
                    "this key has as many training sets as it may have at a time",
                    expected=f"at most {most}", got=f"{count}", remedy="fetch or cancel one, or wait until one is made",
                )  # fmt: skip
        return Coming(self._folder, taken_in, self._settings.train.spine_bytes)

    def find(self, job_id: str, key: str | None) -> Job:
        """UnknownNameError for none, and for one of another key."""
        for job in jobs_in(self._folder):
            if job.id == job_id and key in (None, job.taken_in.key):
                return job
        raise UnknownNameError("training job", job_id, [])

    def all(self) -> list[Job]:
        return jobs_in(self._folder)

    def sweep(self) -> None:
        """Remove what nobody comes for."""
        now = time.time()
        for folder in self._folder.iterdir() if self._folder.exists() else ():
            with suppress(FileNotFoundError):
                if folder.is_dir() and Job(folder).is_over(now, self._settings.train.keep_seconds):
                    shutil.rmtree(folder, ignore_errors=True)


def jobs_in(folder: Path) -> list[Job]:
    """Those that are taken in and not cancelled, in the order of their numbers."""
    found = list[tuple[int, Job]]()
    for path in folder.iterdir() if folder.exists() else ():
        if path.is_dir() and not path.name.startswith(_COMING):
            with suppress(OSError, *UNREADABLE):
                number = (job := Job(path)).taken_in.number
                if not job.is_cancelled:
                    found.append((number, job))
    return [job for _, job in sorted(found, key=lambda pair: pair[0])]


def ahead_of(job: Job, number: int) -> int:
    """How many that have not ended are before it in line."""
    count = 0
    for other in jobs_in(job.folder.parent):
        with suppress(OSError, *UNREADABLE):
            count += other.taken_in.number < number and not is_final(other.state().state)
    return count


def is_final(state: Literal["waiting", "running", "done", "failed"]) -> bool:
    return state in ("done", "failed")


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(content)
    unfinished.replace(path)
