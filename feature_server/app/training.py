"""`/train`: training sets as jobs. What a job does stands in `remote`; here is its HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from ..access.audit import ASKED
from ..definitions.facts import FeatureRef
from ..definitions.registry import Registry, read_registry
from ..errors import CannotTrain, RequestError, TooLarge, cut, shown
from ..protocol import TRAIN_PATH, TRAIN_TYPE, GetHistoricalFeatures, TrainingJob
from ..remote.jobs import Job, Jobs, TakenIn, is_final
from .bodies import decode_body
from .connections import LEFT
from .sites import WrongContentType, check_coding, headers_of

if TYPE_CHECKING:
    from .features import FeatureServer
    from .pages import Endpoint

JOB_ROUTE, RESULT_ROUTE = f"{TRAIN_PATH}/{{job_id}}", f"{TRAIN_PATH}/{{job_id}}/result"
MAX_ASKED_BYTES = 1 << 20  # of a body's first line
WRITTEN_BYTES = 1 << 20  # of a spine, at a time
log = logging.getLogger("feature_server")
MAX_WAIT_SECONDS = 30.0
LOOK_SECONDS = 0.1
_LIBRARIES = ("duckdb", "pyarrow", "deltalake")
_EXPECTED = '{"features": ["view:feature"] or "feature_service": "name"}, a line break, and the spine'
_decode = msgspec.json.Decoder(GetHistoricalFeatures).decode
Made = TypeVar("Made")


class Training:
    """Takes in jobs, says how they stand, and gives their results; `shown_of` is the key that a request shows."""

    def __init__(self, server: FeatureServer, shown_of: Callable[[Request], bytes]) -> None:
        self._server, self._settings, self._shown_of = server, server.served.settings, shown_of
        self._jobs = Jobs(self._settings)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="training")
        self._read: tuple[tuple[int, int], Registry] | None = None

    def routes(self, counted: Callable[[str, Endpoint], Endpoint]) -> list[Route]:
        return [
            Route(TRAIN_PATH, counted(TRAIN_PATH, self.begin), methods=["POST"]),
            Route(JOB_ROUTE, counted(JOB_ROUTE, self.state), methods=["GET"]),
            Route(JOB_ROUTE, counted(JOB_ROUTE, self.cancel), methods=["DELETE"]),
            Route(RESULT_ROUTE, counted(RESULT_ROUTE, self.result), methods=["GET"]),
        ]

    async def begin(self, request: Request) -> Response:
        """202 and the job, which is in line; what is wrong with the spine is told by the job."""
        headers = headers_of(request.scope["headers"])
        if headers.get(b"content-type", b"").strip().lower() != TRAIN_TYPE.encode():
            raise WrongContentType(
                "a spine comes with what is asked of it", where="the header content-type",
                got=shown(headers.get(b"content-type", b"").decode("latin-1")), expected=TRAIN_TYPE,
                remedy="send it, as FeatureStore does",
            )  # fmt: skip
        check_coding(headers)
        registry = await self._beside(self._registry)
        parts = request.stream()
        try:
            first, rest = await _first_line(parts)
        except ClientDisconnect:
            return Response(status_code=LEFT)
        asked = decode_body(_decode, first, _EXPECTED)
        refs = registry.resolve(asked.what)
        self._server.audit.trains(request.scope[ASKED], asked, refs, registry)
        taken_in = self._taken_in(request, asked, refs, registry)
        await self._server.audit.begun(request.scope[ASKED])
        if asked.id is not None and (there := await self._beside(self._there, asked.id, taken_in.key)) is not None:
            return _answer(there, 202)
        coming = await self._beside(self._jobs.receive, taken_in)
        try:
            written = bytearray(rest)
            async for part in parts:
                written += part
                if len(written) >= WRITTEN_BYTES:
                    await self._beside(coming.add, bytes(written))
                    written.clear()
            await self._beside(coming.add, bytes(written))
        except ClientDisconnect:
            coming.drop()
            return Response(status_code=LEFT)
        except BaseException:
            coming.drop()
            raise
        job = await self._beside(coming.begin, self._settings)
        if (told := request.scope[ASKED]) is not None:
            told.job = job.id
        return _answer(await self._beside(job.state), 202)

    def _taken_in(
        self, request: Request, asked: GetHistoricalFeatures, refs: tuple[FeatureRef, ...], registry: Registry
    ) -> TakenIn:
        entrant = self._server.door.check_train(self._shown_of(request), refs, registry)
        most = self._settings.train.rows
        if entrant is None:
            return TakenIn(asked=asked, features=refs, key="", who="anybody", scopes=None, groups=(), max_rows=most)
        return TakenIn(
            asked=asked, features=refs, key=entrant.name, who=entrant.who, scopes=entrant.scopes, groups=entrant.groups,
            max_rows=max(most if key.max_rows is None else key.max_rows for key in entrant.keys),
        )  # fmt: skip

    async def state(self, request: Request) -> Response:
        """How a job stands: at once, or with `wait` when that has changed or so many seconds are over."""
        job = await self._job(request)
        loop = asyncio.get_running_loop()
        until = loop.time() + _wait(request)
        first = found = await self._beside(job.state)
        while found == first and not is_final(found.state) and loop.time() < until and not self._server.draining:
            await asyncio.sleep(LOOK_SECONDS)
            found = await self._beside(job.state)
        return _answer(found, 200)

    async def cancel(self, request: Request) -> Response:
        job = await self._job(request)
        await self._beside(job.cancel)
        return Response(status_code=204)

    async def result(self, request: Request) -> Response:
        """The Parquet file, or the rest of it by a Range; by the rights that the key has now."""
        job = await self._job(request)
        state, taken_in = await self._beside(lambda: (job.state(), job.taken_in))
        if state.result is None:
            raise RequestError(
                "there is no result yet" if state.error is None else "the training set was not made",
                where=cut(request.url.path), got=state.state, expected="a job that is done",
                remedy=f"GET {TRAIN_PATH}/{job.id}?wait=30 says how it stands",
            )  # fmt: skip
        registry = await self._beside(self._registry)
        refs = registry.resolve([str(ref) for ref in taken_in.features])
        told = request.scope[ASKED]
        self._server.audit.trains(told, taken_in.asked, refs, registry, rows=state.result.rows)
        self._server.door.check_train(self._shown_of(request), refs, registry)
        headers = {"etag": f'"{state.result.sha256}"', "cache-control": "no-store"}
        done = BackgroundTask(self._beside, job.fetched)
        return FileResponse(job.result, headers=headers, media_type="application/vnd.apache.parquet", background=done)

    async def sweep(self) -> None:
        """Remove the jobs that nobody comes for any more."""
        try:
            await self._beside(self._jobs.sweep)
        except OSError as error:
            log.error("training sets that nobody comes for are not removed: %s", error)

    async def _job(self, request: Request) -> Job:
        entrant = self._server.door.entrant(self._shown_of(request))
        job = await self._beside(self._jobs.find, request.path_params["job_id"], entrant and entrant.name)
        if (told := request.scope[ASKED]) is not None:
            told.job = job.id
        return job

    def _there(self, job_id: str, key: str) -> TrainingJob | None:
        found = [job for job in self._jobs.all() if job.id == job_id and job.taken_in.key == key]
        return found[0].state() if found else None

    def _registry(self) -> Registry:
        """The definitions by which the offline store is filled; CannotTrain where there is none."""
        path = self._settings.registry_path
        missing = [name for name in _LIBRARIES if find_spec(name) is None]
        if missing or not self._settings.offline.is_dir() or not path.exists():
            raise CannotTrain(
                "this feature server makes no training sets",
                expected="feature-warehouse[warehouse] and an offline store where it runs",
                got=f"{', '.join(missing)} not installed" if missing else "no offline store",
                remedy="ask a server that runs where views are published, or train there with FeatureStore()",
            )  # fmt: skip
        status = path.stat()
        version = status.st_mtime_ns, status.st_ino
        if self._read is None or self._read[0] != version:
            self._read = version, read_registry(path)
        return self._read[1]

    async def _beside(self, work: Callable[..., Made], *facts: Any) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *facts))


async def _first_line(parts: AsyncIterator[bytes]) -> tuple[bytes, bytes]:
    """What is asked, and what came of the spine with it."""
    found = b""
    async for part in parts:
        found += part
        line, end, rest = found.partition(b"\n")
        if len(line) > MAX_ASKED_BYTES:
            raise TooLarge(
                "what is asked is too large", where="the body's first line",
                expected=f"at most {MAX_ASKED_BYTES:,} bytes",
                got=f"{len(line):,} bytes or more",
            )  # fmt: skip
        if end:
            return line, rest
    raise RequestError("the body has no spine", where="body", expected=_EXPECTED, got=f"{len(found):,} bytes")


def _wait(request: Request) -> float:
    given = request.query_params.get("wait", "0")
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise RequestError(
            "not a time to wait", where="wait", got=shown(given), expected=f"seconds, at most {MAX_WAIT_SECONDS:g}"
        )
    return seconds


def _answer(job: TrainingJob, status: int) -> Response:
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    if status == 202:
        headers["location"] = f"{TRAIN_PATH}/{job.id}"
    return Response(msgspec.json.encode(job), status, headers)
