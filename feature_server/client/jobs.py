"""Training sets made by a feature server: what is asked and sent, how the job stands, its result fetched.

A broken connection loses nothing: what was asked is asked again under the same id, and a result is fetched on from
where it broke off.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import msgspec

from ..errors import UNREADABLE, FeatureStoreError, OnlineStoreError, OnlineStoreUnavailable
from ..protocol import (
    TRAIN_PATH,
    TRAIN_TYPE,
    GetHistoricalFeatures,
    TrainingJob,
    TrainingResult,
    decode_error,
)
from .http import error_of

if TYPE_CHECKING:
    import httpx

RETRY_SECONDS = 60.0  # without an answer
PAUSE_SECONDS = 0.5
WAIT_SECONDS = 20  # for which the server holds a question how a job stands
Answer = TypeVar("Answer")
Notice = Callable[[str], None]


class TrainingServer:
    """A feature server that makes training sets; `options` are those of its httpx client."""

    def __init__(self, url: str, shown: str, options: dict[str, Any]) -> None:
        import httpx

        self.url = shown
        self._http = httpx.Client(**options, base_url=url)

    def make(
        self, asked: GetHistoricalFeatures, spine: Callable[[], Iterator[bytes]], path: Path, notice: Notice
    ) -> TrainingResult:
        """Have a training set made of the pieces of a spine, and its file written to `path`."""
        assert asked.id is not None
        head = msgspec.json.encode(asked) + b"\n"

        def body() -> Iterator[bytes]:
            yield head
            yield from spine()

        def begin() -> TrainingJob:
            return _job(self._good(self._http.post(TRAIN_PATH, content=body(), headers={"content-type": TRAIN_TYPE})))

        begun = self._persist(begin, refused=True)
        try:
            result = self._await(begun, notice)
            self._fetch(asked.id, result, path, notice)
        finally:
            self._let_go(asked.id)
        return result

    def _await(self, job: TrainingJob, notice: Notice) -> TrainingResult:
        """What became of a job; the error that it failed with."""
        told = ""
        where = f"{TRAIN_PATH}/{job.id}"
        while job.result is None:
            if job.error is not None:
                raise _error(job)
            if (text := _standing(job)) != told:
                notice(told := text)
            job = self._persist(
                lambda: _job(
                    self._good(self._http.get(where, params={"wait": WAIT_SECONDS}, timeout=WAIT_SECONDS + 30))
                )
            )
        return job.result

    def _fetch(self, job_id: str, result: TrainingResult, path: Path, notice: Notice) -> None:
        """Each try goes on where the last one broke off; one that got anywhere begins the time for tries anew."""
        with path.open("wb") as file:
            while (done := file.tell()) < result.bytes:
                notice(f"fetched {done:,} of {result.bytes:,} bytes")
                self._persist(partial(self._fetch_on, f"{TRAIN_PATH}/{job_id}/result", result.sha256, file))
        with path.open("rb") as whole:
            if hashlib.file_digest(whole, "sha256").hexdigest() != result.sha256:
                raise OnlineStoreError(
                    "the training set did not come as it was made", where=self.url, expected=f"{result.bytes:,} bytes",
                    got=f"{path.stat().st_size:,} bytes", remedy="ask for it again",
                )  # fmt: skip

    def _fetch_on(self, where: str, sha256: str, file: BinaryIO) -> None:
        import httpx

        before = file.tell()
        asked = {"range": f"bytes={before}-", "if-range": f'"{sha256}"', "accept-encoding": "identity"}
        try:
            with self._http.stream("GET", where, headers=asked) as answer:
                if not answer.is_success:
                    answer.read()
                    self._good(answer)
                if answer.status_code != 206:
                    file.seek(0)
                    file.truncate()
                for part in answer.iter_bytes():
                    file.write(part)
        except httpx.TransportError:
            if file.tell() <= before:
                raise

    def _let_go(self, job_id: str) -> None:
        """Nobody needs the job any more; where the server does not hear it, the time for jobs ends it."""
        import httpx

        with suppress(httpx.HTTPError):
            self._http.delete(f"{TRAIN_PATH}/{job_id}")

    def _good(self, answer: httpx.Response) -> bytes:
        if answer.is_success:
            return answer.content
        raise error_of(answer.status_code, answer.content, self.url, answer.headers)

    def _persist(self, ask: Callable[[], Answer], *, refused: bool = False) -> Answer:
        """The answer, asked for again for RETRY_SECONDS where the server gives none; with `refused` not where nobody
        listens."""
        import httpx

        deadline = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                return ask()
            except httpx.TransportError as error:
                last = refused and isinstance(error, httpx.ConnectError)
                failed = OnlineStoreUnavailable(
                    "the feature server does not answer", where=self.url, got=str(error) or type(error).__name__,
                    remedy="start it with `features serve`, or correct the URL; the same call then succeeds",
                )  # fmt: skip
            except OnlineStoreUnavailable as error:
                last, failed = False, error
            if last or time.monotonic() > deadline:
                raise failed
            time.sleep(PAUSE_SECONDS)


def _job(body: bytes) -> TrainingJob:
    try:
        return msgspec.json.decode(body, type=TrainingJob)
    except UNREADABLE as error:
        raise OnlineStoreError(
            "the server's answer cannot be read", got=str(error), remedy="check that it is a feature server"
        ) from None


def _error(job: TrainingJob) -> FeatureStoreError:
    assert job.error is not None
    try:
        return decode_error(msgspec.json.encode(job.error), {})
    except KeyError:
        told = msgspec.to_builtins(job.error)
        del told["error"]
        return FeatureStoreError(**told)


def _standing(job: TrainingJob) -> str:
    if job.state == "waiting":
        return f"waiting in line, {job.ahead} before"
    if job.doing:
        return job.doing
    views = f", view {job.views + 1} of {job.all_views}" if job.all_views else ""
    return f"{job.rows:,} of {job.all_rows:,} rows{views}"
