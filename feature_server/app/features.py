"""`POST /get-online-features` and `POST /push`, as bare ASGI: a framework would cost more than the read."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

from ..errors import Error, FeatureStoreError
from ..layout.keys import EPOCH
from ..online.readers import AsyncRedisReader
from ..online.registry import OnlineRegistry
from ..online.verified import LastVerified, decode_verified, verified_key
from ..protocol import PUSH_PATH, READ_PATH, GetOnlineFeatures, encode_error, error_headers, push_response
from ..serving.drive import AsyncFeatures
from ..serving.reader import FeatureReader
from .access import Access, check_json, headers_of
from .bodies import BodyTooLarge, decode_body, read_body
from .counting import SharedCounts
from .json import JsonWriter
from .push import PushQueue, parse_push

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("feature_server")
_decode = msgspec.json.Decoder(GetOnlineFeatures).decode
_EXPECTED = '{"features": ["view:feature"] or "feature_service": "name", "entities": {"join_key": [values]}}'
_JSON = (b"content-type", b"application/json")
_CLOSE = (b"connection", b"close")


class FeatureServer:
    """The ASGI application of one worker.

    `draining` is set when the worker is asked to end: each answer then closes its connection.
    """

    def __init__(self, redis_url: str, now_us: Callable[[], int], access: Access, *, clock: str | None = None) -> None:
        self.clock = clock
        self.access = access
        self.reader = FeatureReader(now_us)
        self.redis = AsyncRedisReader(redis_url)
        self.features = AsyncFeatures(self.reader, self.redis)
        self.counts = SharedCounts(self.reader.counts)
        self.pushes = PushQueue(redis_url, now_us, expire=clock is None)
        self.draining = False
        self.other: Asgi

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            headers = headers_of(scope["headers"])
            self.access.check(scope["method"], headers)
        except FeatureStoreError as error:
            await self._send_error(send, "other", error)
            return
        if scope["path"] != READ_PATH or scope["method"] != "POST":
            if scope["path"] == PUSH_PATH and scope["method"] == "POST":
                await self._push(headers, receive, send)
            else:
                await self.other(scope, receive, send)
            return
        started = time.perf_counter()
        counts = self.reader.counts
        try:
            message = await receive()
            body = message.get("body")
            if body is None or message["more_body"]:
                body = await read_body(message, receive)
                if body is None:
                    return
            answer = await self.features.read(self.reader.read(decode_body(_decode, body, _EXPECTED)))
            writer = answer.plan.writer
            if writer is None:
                writer = answer.plan.writer = JsonWriter(answer.plan)
            content = writer.write(answer)
        except FeatureStoreError as error:
            await self._send_error(send, READ_PATH, error)
            return
        except Exception:  # the edge of the process: nothing may end the connection without an answer
            log.exception("a feature read failed")
            counts.count_request(READ_PATH, 500)
            await _send(send, 500, [_JSON, _CLOSE], INTERNAL_ERROR)
            return
        counts.count_request(READ_PATH, 200)
        told = [_JSON, (b"content-length", b"%d" % len(content))]
        if self.draining:
            told.append(_CLOSE)
        await send({"type": "http.response.start", "status": 200, "headers": told})
        await send({"type": "http.response.body", "body": content})
        counts.latency.observe(time.perf_counter() - started)

    async def _push(self, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        """Answered when the events can be read; 422 when none of them was taken in."""
        counts = self.reader.counts
        try:
            check_json(headers)
            body = await read_body(await receive(), receive)
            if body is None:
                return
            result = await self.pushes.push(parse_push(body))
        except FeatureStoreError as error:
            await self._send_error(send, PUSH_PATH, error)
            return
        except Exception:
            log.exception("a push failed")
            counts.count_request(PUSH_PATH, 500)
            await _send(send, 500, [_JSON, _CLOSE], INTERNAL_ERROR)
            return
        counts.events_accepted += result.accepted
        counts.events_rejected += len(result.rejected)
        status = 422 if result.rejected and not result.accepted else 200
        counts.count_request(PUSH_PATH, status)
        content = msgspec.json.encode(push_response(result.accepted, result.rejected))
        await _send(send, status, [_JSON, _CLOSE] if self.draining else [_JSON], content)

    async def online(self) -> OnlineRegistry:
        """The online registry as it is now."""
        loaded = self.reader.loaded
        if loaded is not None:
            (epoch,) = await self.redis.mget([EPOCH])
            if epoch != loaded.epoch:
                self.reader.loaded = None
        if self.reader.loaded is None:
            await self.features.reload()
        loaded = self.reader.loaded
        if loaded is None:  # a reconnect came between
            return await self.online()
        return loaded.online

    async def verified(self, online: OnlineRegistry) -> dict[str, LastVerified]:
        """What the last `features verify` found of each view that was ever verified."""
        views = [view.id for view in online.registry.feature_views]
        stored = await self.redis.mget([verified_key(view_id) for view_id in views]) if views else []
        found = {view_id: decode_verified(value) for view_id, value in zip(views, stored, strict=True)}
        return {view_id: last for view_id, last in found.items() if last is not None}

    async def _send_error(self, send: Send, route: str, error: FeatureStoreError) -> None:
        log_failure(route, error)
        self.reader.counts.count_request(route, error.status)
        headers = [_JSON]
        if self.draining or isinstance(error, BodyTooLarge):
            headers.append(_CLOSE)
        headers += [(name.encode(), value.encode()) for name, value in error_headers(error).items()]
        await _send(send, error.status, headers, encode_error(error))


INTERNAL_ERROR = msgspec.json.encode(
    Error("InternalError", "the server failed; its log says why", remedy="report it with the log")
)


def log_failure(route: str, error: FeatureStoreError) -> None:
    """Why a request was answered with a 5xx: one line for each error, however many requests it answers."""
    if error.status >= 500 and not error.logged:
        error.logged = True
        log.error("%s answered %d: %s", route, error.status, "; ".join(map(str.strip, str(error).splitlines())))


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
