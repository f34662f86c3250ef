"""`POST /get-online-features` and `POST /push`, as bare ASGI: a framework would cost more than the read."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
import orjson

from ..errors import FeatureStoreError, RequestError
from ..keys import EPOCH
from ..online_registry import OnlineRegistry
from ..online_verified import LastVerified, decode_verified, verified_key
from ..reading import AsyncFeatures, AsyncRedisReader
from ..serving import FeatureReader, GetOnlineFeatures
from ..serving_json import JsonWriter
from .counting import SharedCounts
from .push import PUSH_ROUTE, PushQueue, parse_push

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

ROUTE = "/get-online-features"
MAX_BODY_BYTES = 8 << 20
log = logging.getLogger("feature_server")
_decode = msgspec.json.Decoder(GetOnlineFeatures).decode
_JSON = (b"content-type", b"application/json")
_CLOSE = (b"connection", b"close")


class BodyTooLarge(RequestError):
    """A request body beyond MAX_BODY_BYTES."""

    status = 413


class MalformedBody(RequestError):
    """A request body that is not JSON."""

    status = 400


class FeatureServer:
    """The ASGI application of one worker.

    `draining` is set when the worker is asked to end: each answer then closes its connection.
    """

    def __init__(self, redis_url: str, now_us: Callable[[], int], *, clock: str | None = None) -> None:
        self.clock = clock
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
        if scope["path"] != ROUTE or scope["method"] != "POST":
            if scope["path"] == PUSH_ROUTE and scope["method"] == "POST":
                await self._push(receive, send)
            else:
                await self.other(scope, receive, send)
            return
        started = time.perf_counter()
        counts = self.reader.counts
        try:
            message = await receive()
            body = message.get("body")
            if body is None or message["more_body"]:
                body = await _read_body(message, receive)
                if body is None:
                    return
            answer = await self.features.read(self.reader.read(_parse(body)))
            writer = answer.plan.writer
            if writer is None:
                writer = answer.plan.writer = JsonWriter(answer.plan)
            content = writer.write(answer)
        except FeatureStoreError as error:
            await self._send_error(send, ROUTE, error)
            return
        except Exception:  # the edge of the process: nothing may end the connection without an answer
            log.exception("a feature read failed")
            counts.count_request(ROUTE, 500)
            await _send(send, 500, [_JSON, _CLOSE], INTERNAL_ERROR)
            return
        counts.count_request(ROUTE, 200)
        headers = [_JSON, (b"content-length", b"%d" % len(content))]
        if self.draining:
            headers.append(_CLOSE)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        counts.latency.observe(time.perf_counter() - started)

    async def _push(self, receive: Receive, send: Send) -> None:
        """Answered when the events can be read; 422 when none of them was taken in."""
        counts = self.reader.counts
        try:
            body = await _read_body(await receive(), receive)
            if body is None:
                return
            try:
                request = parse_push(body)
            except msgspec.DecodeError as error:
                raise _malformed(error) from None
            result = await self.pushes.push(request)
        except FeatureStoreError as error:
            await self._send_error(send, PUSH_ROUTE, error)
            return
        except Exception:
            log.exception("a push failed")
            counts.count_request(PUSH_ROUTE, 500)
            await _send(send, 500, [_JSON, _CLOSE], INTERNAL_ERROR)
            return
        counts.events_accepted += result.accepted
        counts.events_rejected += len(result.rejected)
        status = 422 if result.rejected and not result.accepted else 200
        rejected = [{"index": index, "reason": reason} for index, reason in result.rejected]
        counts.count_request(PUSH_ROUTE, status)
        content = orjson.dumps({"accepted": result.accepted, "rejected": rejected})
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
        self.reader.counts.count_request(route, error.status)
        headers = [_JSON]
        if self.draining or isinstance(error, BodyTooLarge):
            headers.append(_CLOSE)
        retry_after = getattr(error, "retry_after_seconds", None)
        if retry_after is not None:
            headers.append((b"retry-after", b"%d" % retry_after))
        await _send(send, error.status, headers, error_body(error))


INTERNAL_ERROR = orjson.dumps(
    {"error": "InternalError", "what": "the server failed; its log says why", "remedy": "report it with the log"}
)


def error_body(error: FeatureStoreError) -> bytes:
    return orjson.dumps(error.as_dict())


def _parse(body: bytes) -> GetOnlineFeatures:
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        raise RequestError(
            what,
            where=where.strip("`") or "$",
            expected='{"features": ["view:feature"] or "feature_service": "name", "entities": {"join_key": [values]}}',
            remedy="GET /openapi.json describes the body",
        ) from None
    except msgspec.DecodeError as error:
        raise _malformed(error) from None


def _malformed(error: msgspec.DecodeError) -> MalformedBody:
    return MalformedBody(
        "the body is not JSON", where="$", expected="a JSON object", got=str(error), remedy="send a JSON object"
    )


async def _read_body(message: MutableMapping[str, Any], receive: Receive) -> bytes | None:
    """The whole body, of which `message` is the first part; None when the client has gone."""
    parts, size = [], 0
    while message["type"] == "http.request":
        parts.append(message["body"])
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise BodyTooLarge(
                "the body is too large",
                where="body",
                expected=f"at most {MAX_BODY_BYTES:,} bytes",
                got=f"{size:,} bytes or more",
                remedy="split it over several requests",
            )
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
    return None


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
