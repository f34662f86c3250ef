"""`POST /push`: live events, in Feast's shape. Pushes that arrive while one is being written are written together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ..errors import CannotPush, FeatureStoreError, RequestError, cut
from ..layout.portions import portions
from ..protocol import PUSH_PATH, PushEvents, push_response
from ..slices import PART
from .bodies import decode_body, scan_body

if TYPE_CHECKING:
    from ..ingest.transaction import Columns, Ingestor, PushResult
    from .supervisor import Served

LARGE_PUSH = PART  # bytes from which a body is decoded in slices
MAX_REJECTED = 1_000  # events that are told of in one piece of an answer
MAX_TOGETHER = 500  # pushes that are written as one
log = logging.getLogger("feature_server")


_decoder = msgspec.json.Decoder(PushEvents)
_EXPECTED = '{"push_source_name": "source.table", "df": {"column": [values]}}'


def _decode(body: bytes) -> PushEvents:
    body.decode()  # a Raw is not looked into
    return _decoder.decode(body)


def parse_push(body: bytes) -> PushEvents:
    """The request; RequestError for anything else. `df` is only known to be UTF-8 and JSON on the outside."""
    return _checked(decode_body(_decode, body, _EXPECTED))


async def read_push(body: bytes) -> tuple[str, Columns]:
    """The source, and the columns of its events; where they are many, as Slices."""
    if len(body) <= LARGE_PUSH:
        request = parse_push(body)
        return request.push_source_name, request.df
    scan = await scan_body(body)
    request = _checked(decode_body(_decoder.decode, scan.rest, _EXPECTED))
    try:
        places = msgspec.json.decode(request.df, type=dict[str, tuple[str]])
    except msgspec.DecodeError:
        return request.push_source_name, request.df  # which is no list for each column, as will be told
    return request.push_source_name, {name: scan.lists[int(place)] for name, (place,) in places.items()}


def _checked(request: PushEvents) -> PushEvents:
    if request.to not in ("online", "online_and_offline"):
        raise RequestError(
            "events cannot be pushed to the offline store alone", where="to", got=cut(request.to),
            expected="online_and_offline",
            remedy="leave `to` out: pushed events also reach the offline store with the next build",
        )  # fmt: skip
    return request


def write_result(result: PushResult) -> bytes | Iterator[bytes]:
    """What became of a push, as JSON: in pieces where it is long."""
    if len(result.rejected) <= MAX_REJECTED:
        return msgspec.json.encode(push_response(result.accepted, result.rejected))
    return _pieces(result)


def _pieces(result: PushResult) -> Iterator[bytes]:
    begin, end = msgspec.json.encode(push_response(result.accepted, ())).split(b"]")
    for start in range(0, len(result.rejected), MAX_REJECTED):
        events = push_response(0, result.rejected[start : start + MAX_REJECTED]).rejected
        yield (b"," if start else begin) + msgspec.json.encode(events)[1:-1]
    yield b"]" + end


class _Waiting(NamedTuple):
    source: str
    events: Columns
    size: int
    future: asyncio.Future[PushResult | Exception]


class PushQueue:
    """Writes pushes from a thread of its own, all that wait at a time."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="push")
        self._waiting: list[_Waiting] = []
        self._running: asyncio.Task[None] | None = None

    async def push(self, source: str, events: Columns, size: int) -> PushResult:
        """Returns when the events, of so many bytes, can be read and are in the log."""
        future: asyncio.Future[PushResult | Exception] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(source, events, size, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        outcome = await future
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def prepare(self) -> None:
        """Have all that takes events in loaded; what is wrong with it is told by the first push."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._prepare)

    def _prepare(self) -> None:
        with suppress(Exception):
            self._ingestor.prepare()

    def refresh(self) -> None:
        """Have what takes events in look at the online registry now."""
        if "_ingestor" in self.__dict__:
            self._thread.submit(self._ingestor.refresh)

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = next(portions(self._waiting, attrgetter("size"), MAX_TOGETHER))
            del self._waiting[: len(taken)]
            for source in dict.fromkeys(each.source for each in taken):
                members = [each for each in taken if each.source == source]
                bodies = [each.events for each in members]
                outcomes = await loop.run_in_executor(self._thread, self._ingest, source, bodies)
                for member, outcome in zip(members, outcomes, strict=True):
                    if not member.future.done():
                        member.future.set_result(outcome)
        self._running = None

    def _ingest(self, source: str, bodies: list[Columns]) -> Sequence[PushResult | Exception]:
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
