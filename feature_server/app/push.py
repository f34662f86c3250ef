"""`POST /push`: live events, in Feast's shape. Pushes that arrive while one is being written are written together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from ..errors import FeatureStoreError, RequestError, cut
from ..layout.portions import portions
from ..protocol import PUSH_PATH, PushEvents
from .bodies import decode_body

if TYPE_CHECKING:
    from ..ingest.transaction import Ingestor, PushResult
    from .supervisor import Served

MAX_TOGETHER = 500  # pushes that are written as one
log = logging.getLogger("feature_server")


class CannotPush(FeatureStoreError):
    """This server's install lacks what events are validated and kept with."""

    status = 501


_decoder = msgspec.json.Decoder(PushEvents)
_EXPECTED = '{"push_source_name": "source.table", "df": {"column": [values]}}'


def _decode(body: bytes) -> PushEvents:
    body.decode()  # a Raw is not looked into
    return _decoder.decode(body)


def parse_push(body: bytes) -> PushEvents:
    """The request; RequestError for anything else. `df` is only known to be UTF-8 and JSON on the outside."""
    request = decode_body(_decode, body, _EXPECTED)
    if request.to not in ("online", "online_and_offline"):
        raise RequestError(
            "events cannot be pushed to the offline store alone", where="to", got=cut(request.to),
            expected="online_and_offline",
            remedy="leave `to` out: pushed events also reach the offline store with the next build",
        )  # fmt: skip
    return request


class PushQueue:
    """Writes pushes from a thread of its own, all that wait at a time."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="push")
        self._waiting: list[tuple[PushEvents, asyncio.Future[PushResult | Exception]]] = []
        self._running: asyncio.Task[None] | None = None

    async def push(self, request: PushEvents) -> PushResult:
        """Returns when the events can be read and are in the log."""
        future: asyncio.Future[PushResult | Exception] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        outcome = await future
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def refresh(self) -> None:
        """Have what takes events in look at the online registry now."""
        if "_ingestor" in self.__dict__:
            self._thread.submit(self._ingestor.refresh)

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = next(portions(self._waiting, lambda pushed: memoryview(pushed[0].df).nbytes, MAX_TOGETHER))
            del self._waiting[: len(taken)]
            for source in {request.push_source_name: None for request, _ in taken}:
                members = [(request.df, future) for request, future in taken if request.push_source_name == source]
                bodies = [body for body, _ in members]
                outcomes = await loop.run_in_executor(self._thread, self._ingest, source, bodies)
                for (_, future), outcome in zip(members, outcomes, strict=True):
                    if not future.done():
                        future.set_result(outcome)
        self._running = None

    def _ingest(self, source: str, bodies: list[msgspec.Raw]) -> Sequence[PushResult | Exception]:
        """The result of each push of a source, or what went wrong."""
        try:
            return self._ingestor.push_together(source, bodies)
        except Exception as error:  # the edge of the thread: every request gets an answer
            if not isinstance(error, FeatureStoreError):
                log.exception("a push failed")
            return [error] * len(bodies)

    @cached_property
    def _ingestor(self) -> Ingestor:
        try:
            from ..ingest.transaction import Ingestor
        except ImportError as error:
            raise CannotPush(
                "this server is installed without what takes events in", where=PUSH_PATH,
                expected="feature-warehouse[warehouse]", got=str(error),
                remedy="install that where events are pushed to",
            ) from None  # fmt: skip
        settings = self._served.settings
        return Ingestor(self._served.redis_url, settings.now_us, expire=settings.clock is None)
