"""`POST /get-online-features` and `POST /push`, as bare ASGI: a framework would cost more than the read."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from ..access.audit import ANONYMOUS, Entry
from ..errors import Error, FeatureStoreError, cut
from ..online.memory import EvictionWatch, Memory, eviction_refused, stream_views
from ..online.readers import AsyncRedisReader
from ..online.registry import LastVerified, OnlineRegistry, Patience, decode_verified
from ..protocol import PUSH_PATH, READ_PATH, GetOnlineFeatures, encode_error, error_headers
from ..serving.drive import AsyncFeatures
from ..serving.long import long_rows
from ..serving.plan import FEW_VIEWS, MOST_TOGETHER, InParts, Plan
from ..serving.reader import FeatureReader, OnlineFeatures
from .audited import Audit
from .bodies import (
    LARGE,
    BodyTooLarge,
    Held,
    Room,
    TooManyBodies,
    decode_large_read,
    decode_read,
    parts_of,
    read_body,
)
from .connections import LEFT, counted_as
from .counting import SharedCounts
from .door import Door
from .json import JsonWriter
from .pieces import Result
from .push import PushQueue, read_push, write_result
from .sites import check_coding, check_json, headers_of
from .supervisor import Served
from .watching import Watching

if TYPE_CHECKING:
    from ..access.tokens import Tokens
    from ..oidc import Oidc
    from .training import Training

log = logging.getLogger("feature_server")
TURN_SECONDS = 0.002  # of the processor
PREPARE_SECONDS = 2.0  # for which a worker that begins waits for Redis
Answer: TypeAlias = tuple[int, bytes | Iterator[bytes]]  # status and body, whole or in pieces
_JSON = (b"content-type", b"application/json")
_FAILED = {READ_PATH: "a feature read failed", PUSH_PATH: "a push failed"}


class FeatureServer:
    """The ASGI application of one worker.

    `draining` is set when the worker is asked to end: each answer then closes its connection.
    """

    def __init__(self, served: Served) -> None:
        self.served = served
        self.clock = served.settings.clock and served.settings.clock.isoformat()
        self.redis = AsyncRedisReader(served.redis_url)
        self.reader = FeatureReader(served.settings.now_us, self.redis.address.names)
        self.reader.on_load = self._tell_notice
        self._notice: str | None = None
        self.features = AsyncFeatures(self.reader, self.redis)
        self.counts = SharedCounts(self.reader.counts)
        self.pushes = PushQueue(served)
        self.room = Room()
        open_to_all = not served.sites.beyond_loopback
        tokens = _tokens(served.settings.oidc)
        self.door = Door(
            self.redis, self.reader, self.online, open_to_all=open_to_all, keyed=served.keyed, tokens=tokens
        )
        self.audit = Audit(served, self.reader.counts, self.door.holder)
        self.draining = False
        self.other: ASGIApp
        self.watching: Watching | None = None  # another port, for who watches
        self.training: Training
        self.memory = Memory()  # as Redis told last
        self._eviction_accepted = False  # once stream views were read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self.watching is not None and scope["server"][1] == self.watching.port:
            await self.watching(scope, receive, send)
            return
        started = time.perf_counter()
        route, told, last = "other", [_JSON], False
        answer: Answer | None = None
        held, asked, shown = Held(self.room), self.audit.entry(scope), b""
        try:
            headers = headers_of(scope["headers"])
            self.served.sites.check(scope["method"], headers, http_version=scope["http_version"])
            if scope["method"] == "POST" and scope["path"] in (READ_PATH, PUSH_PATH):
                route = scope["path"]
                check_coding(headers)
                shown = headers.get(b"authorization", b"")
                await self.door.admit(shown)
                if asked is not None:
                    asked.who = ANONYMOUS  # unless there is a key
                if route == READ_PATH:
                    answer = await self._read(receive, held, told, shown, asked)
                else:
                    answer = await self._push(headers, receive, held, shown, asked)
                if asked is not None and answer is not None:
                    await self.audit.answered(asked, answer[0])
        except FeatureStoreError as error:
            log_failure(route, error)
            self.audit.refused(asked, error, shown)
            answer, last = (error.status, encode_error(error)), isinstance(error, BodyTooLarge | TooManyBodies)
            told += [(name.encode(), value.encode()) for name, value in error_headers(error).items()]
        except Exception as error:  # the edge of the process: nothing may end the connection without an answer
            self.audit.refused(asked, error, shown)
            log.exception(_FAILED.get(route, "a request failed"))
            answer, last = (500, INTERNAL_ERROR), True
        finally:
            held.let_go()
        if answer is None:
            if route == "other":
                await self.other(scope, receive, send)
            else:
                self.reader.counts.count_request(route, counted_as(scope, LEFT))
            return
        status, content = answer
        self.reader.counts.count_request(route, counted_as(scope, status))
        if last or self.draining:
            told.append((b"connection", b"close"))
        await _answer(send, status, told, content, in_chunks=scope["http_version"] != "1.0")
        if route == READ_PATH and status == 200:
            self.reader.counts.observe(time.perf_counter() - started)

    async def _read(
        self, receive: Receive, held: Held, told: list[tuple[bytes, bytes]], shown: bytes, asked: Entry | None
    ) -> Answer | None:
        """The status and the body of the answer to a read, with its headers added; None when the client has gone."""
        body = await read_body(receive, held)
        if body is None:
            return None
        request = decode_read(body) if len(body) <= LARGE else await decode_large_read(body)
        most = MOST_TOGETHER if len(body) <= LARGE else 0  # of a large body all is read in parts
        patience = Patience()
        while True:
            patience.begin()
            try:
                answer = await self.features.read(self.reader.read(request, most=most))
            except InParts as many:
                await self._check(shown, many.plan, request, asked)
                pieces = await self._read_parts(request, many.plan)
                if pieces is not None:
                    told += _writer(many.plan).headers
                    return 200, pieces
                continue
            plan = answer.plan
            await self._check(shown, plan, request, asked)
            writer: JsonWriter = plan.writer or _writer(plan)
            told += writer.headers
            if plan.short:
                return 200, writer.write(answer)
            parts = answer.parts()
            if len(parts) == 1 and len(plan.views) <= FEW_VIEWS and not long_rows(answer):
                return 200, writer.write(answer)
            results: list[list[Result]] = []
            await _write(parts, results)
            return 200, writer.join(results)

    async def _check(self, shown: bytes, plan: Plan, request: GetOnlineFeatures, asked: Entry | None) -> None:
        """Raises where the features of a plan may not be read; tells what is asked for either way."""
        if asked is not None:
            loaded = self.reader.loaded
            self.audit.reads(asked, plan, request, None if loaded is None else loaded.epoch)
        await self.door.check_read(shown, plan)
        self.audit.admitted(asked, shown)  # keys may have been looked up anew

    async def _read_parts(self, request: GetOnlineFeatures, plan: Plan) -> Iterator[bytes] | None:
        """The answer in pieces: all parts by one plan, at one instant; None where another came into force meanwhile.

        Between parts, and while nothing of one is held, others have their turns.
        """
        now_us, names, results = self.reader.now_us(), [key.name for key in plan.join_keys], list[list[Result]]()
        for values in parts_of([request.entities[name] for name in names], plan.together):
            part = msgspec.structs.replace(request, entities=dict(zip(names, values, strict=True)))
            try:
                answer = await self.features.read(self.reader.read(part, now_us=now_us))
            except FeatureStoreError:
                if self.reader.uses(plan, request):
                    raise
                return None
            if answer.plan is not plan:
                return None
            await _write(answer.parts(), results)
        for name in request.entities.keys() - names:  # a key that is not needed is looked at nevertheless
            for _ in parts_of([request.entities[name]], MOST_TOGETHER):
                await asyncio.sleep(0)
        return _writer(plan).join(results)

    async def _push(
        self, headers: Mapping[bytes, bytes], receive: Receive, held: Held, shown: bytes, asked: Entry | None
    ) -> tuple[int, bytes | Iterator[bytes]] | None:
        """Answered when the events can be read; 422 when none of them was taken in."""
        check_json(headers)
        body = await read_body(receive, held)
        if body is None:
            return None
        source, events = await read_push(body)
        if asked is not None:
            asked.source = cut(source)
        await self.door.check_push(shown, source)
        self.audit.admitted(asked, shown)
        if asked is not None:
            if (loaded := self.reader.loaded) is not None:
                asked.registry, asked.epoch = loaded.online.registry, loaded.epoch
            await self.audit.begun(asked)
        result = await self.pushes.push(source, events, len(body))
        if asked is not None:
            asked.accepted, asked.rejected = result.accepted, len(result.rejected)
        self.reader.counts.events_accepted += result.accepted
        self.reader.counts.events_rejected += len(result.rejected)
        return 422 if result.rejected and not result.accepted else 200, write_result(result)

    async def prepare(self) -> None:
        """Load what the first token would else wait for, or the first push, and others with it, where there are stream
        views."""
        if self.door.tokens is not None:
            self.door.tokens.issuer.begin()
        try:
            online = await asyncio.wait_for(self.online(), PREPARE_SECONDS)
        except (FeatureStoreError, TimeoutError):
            return
        if stream_views(online.registry):
            await self.pushes.prepare()

    def watch_memory(self) -> EvictionWatch:
        """Look every second whether Redis has evicted keys, and, until it first has stream views, whether it may."""
        return EvictionWatch(self.served.redis_url, looked=self._check_policy, noticed=self.pushes.refresh)

    def _check_policy(self, memory: Memory) -> None:
        self.memory = memory
        loaded = self.reader.loaded
        if self._eviction_accepted or loaded is None:
            return
        views, allowed = stream_views(loaded.online.registry), self.served.settings.allow_eviction
        refused = eviction_refused(memory, views, allowed=allowed)
        if refused is None or self.reader.refused is None:  # else the same again
            self.reader.refused = refused
        self._eviction_accepted = bool(views) and refused is None

    def _tell_notice(self, online: OnlineRegistry) -> None:
        """Log what the online registry says to do, once."""
        if online.notice != self._notice:
            self._notice = online.notice
            if online.notice is not None:
                log.warning("%s", online.notice)

    async def online(self) -> OnlineRegistry:
        """The online registry as it is now."""
        loaded = self.reader.loaded
        if loaded is not None and await self.redis.mget([self.reader.names.epoch]) != [loaded.epoch]:
            self.reader.loaded = None
        while (loaded := self.reader.loaded) is None:  # again where a reconnect comes between
            await self.features.reload()
        return loaded.online

    async def verified(self, online: OnlineRegistry) -> dict[str, LastVerified]:
        """What the last `features verify` found of each view that was ever verified."""
        views = [view.id for view in online.registry.feature_views]
        stored = await self.redis.mget(list(map(self.reader.names.verified, views))) if views else []
        found = {view_id: decode_verified(value) for view_id, value in zip(views, stored, strict=True)}
        return {view_id: last for view_id, last in found.items() if last is not None}


async def _answer(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], content: bytes | Iterator[bytes], *, in_chunks: bool
) -> None:
    """Send an answer; others have their turns between pieces. HTTP/1.0 has no chunks: it is told the length of all."""
    pieces = [content] if isinstance(content, bytes) else content
    if not in_chunks and not isinstance(pieces, list):
        pieces = [piece async for piece in _in_turns(pieces)]
    if isinstance(pieces, list):
        headers.append((b"content-length", b"%d" % sum(map(len, pieces))))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if isinstance(content, bytes):
        await send({"type": "http.response.body", "body": content})
        return
    async for piece in _in_turns(pieces):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _in_turns(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)


async def _write(answers: list[OnlineFeatures], results: list[list[Result]]) -> None:
    """Add to the results; others have their turns after TURN_SECONDS, and between answers."""
    for answer in answers:
        started = time.thread_time()
        for _ in _writer(answer.plan).write_part(answer, results):
            if time.thread_time() - started > TURN_SECONDS:
                await asyncio.sleep(0)
                started = time.thread_time()
        await asyncio.sleep(0)


def _writer(plan: Plan) -> JsonWriter:
    if plan.writer is None:
        plan.writer = JsonWriter(plan)
    writer: JsonWriter = plan.writer
    return writer


def _tokens(oidc: "Oidc | None") -> "Tokens | None":
    if oidc is None:
        return None
    from ..access.tokens import Tokens  # loads cryptography

    return Tokens(oidc)


INTERNAL_ERROR = msgspec.json.encode(
    Error("InternalError", "the server failed; its log says why", remedy="report it with the log")
)


def log_failure(route: str, error: FeatureStoreError) -> None:
    """Why a request was answered with a 5xx: one line for each error, however many requests it answers."""
    if error.status >= 500 and not error.logged:
        error.logged = True
        log.error("%s answered %d: %s", route, error.status, "; ".join(map(str.strip, str(error).splitlines())))
