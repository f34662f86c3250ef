"""Every path but the feature read: health, metrics, the API's description, and the registry to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import orjson
from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..access.audit import ASKED
from ..access.keys import TEXT
from ..catalog.promise import Standing
from ..definitions.registry import Registry
from ..errors import (
    FeatureStoreError,
    NotSignedIn,
    OnlineStoreError,
    OnlineStoreUnavailable,
    RequestError,
    as_text,
    cut,
)
from ..history.live import LiveSource, read_live
from ..online.memory import doubt
from ..online.registry import LastVerified, OnlineRegistry
from ..protocol import PUSH_PATH, READ_PATH, TRAIN_PATH, encode_error, error_headers, told_outside
from ..templates.render import compile_pages, render
from ..verify.explanation import bounds
from .connections import counted_as
from .describe import Seen, describe_entity, describe_service, describe_view, service_request, view_request
from .explain import EXPLAIN_ROUTE, explain_feature, parse_question
from .features import INTERNAL_ERROR, FeatureServer, log, log_failure
from .openapi import openapi
from .promised import promised, read_pushed, standings
from .readiness import unread_views
from .signing import SIGN_IN, SIGN_OUT, form_of, new_form, shown_by_cookie, signed_in, signed_out, with_form
from .sites import headers_of
from .training import Training
from .watching import WATCHING

if TYPE_CHECKING:
    from ..online.store import OnlineStore

Endpoint = Callable[[Request], Awaitable[Response]]
Described = dict[str, Any]
Made = TypeVar("Made")
JSON = "application/json"
# The pages run no script, load nothing and ask nobody; no page of another site may show them within itself.
SAFE = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
}
# Of whoever reaches the server: what watches it shows no key, and who signs in has not shown one yet.
OPEN = frozenset({"/health", "/ready", SIGN_IN, SIGN_OUT})
WITHOUT_REDIS = frozenset({"/metrics", "/openapi.json"})
SHOWN = "features.shown"  # in the ASGI scope: the key that the request shows
LIVE_SECONDS = 2.0  # in which Redis says what waits
METRICS = "text/plain; version=0.0.4; charset=utf-8"


def create_pages(server: FeatureServer) -> Starlette:
    """The Starlette application behind `server`."""
    compile_pages()
    pages = _Pages(server)
    server.training = Training(server, lambda request: request.scope[SHOWN])
    first_features = partial(view_request, most=3)
    routes: dict[str, Endpoint] = {
        "/": pages.index,
        "/health": pages.health,
        "/ready": pages.ready,
        "/metrics": pages.metrics,
        "/openapi.json": pages.openapi,
        "/entities": pages.all_of(attrgetter("entities"), describe_entity),
        "/entities/{name}": pages.one_of("entity", Registry.entity, describe_entity),
        "/feature-views": pages.all_of(attrgetter("feature_views"), describe_view),
        "/feature-views/{name}": pages.one_of("view", Registry.feature_view, describe_view, first_features),
        "/feature-services": pages.all_of(attrgetter("feature_services"), describe_service),
        "/feature-services/{name}": pages.one_of(
            "service", Registry.feature_service, describe_service, service_request
        ),
        EXPLAIN_ROUTE: pages.explain,
        SIGN_IN: pages.sign_in,
    }
    forms: dict[str, Endpoint] = {SIGN_IN: pages.take_key, SIGN_OUT: pages.sign_out}
    return Starlette(
        routes=[
            *(
                Route(path.replace("{name}", "{name:name}"), pages.counted(path, answer), methods=["GET"])
                for path, answer in routes.items()
            ),
            *(Route(path, pages.counted(path, answer), methods=["POST"]) for path, answer in forms.items()),
            *(Route(path, pages.wrong_method, methods=["POST"]) for path in (READ_PATH, PUSH_PATH)),
            *server.training.routes(pages.counted),
        ],
        exception_handlers={HTTPException: pages.http_error, FeatureStoreError: pages.refused, Exception: pages.failed},
    )


class _Name(StringConvertor):
    """A definition's name, which may have a slash in it."""

    regex = ".+"


register_url_convertor("name", _Name())


class _Pages:
    def __init__(self, server: FeatureServer) -> None:
        self._server = server
        self._store: OnlineStore | None = None  # for what waits: connected when first asked
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pages")
        self._live_thread = ThreadPoolExecutor(1, thread_name_prefix="live")
        self._explain_thread = ThreadPoolExecutor(1, thread_name_prefix="explain")  # each reads a view's history
        self._not_ready = list[str](), list[str]()  # why, and what was degraded, when last asked

    def counted(self, path: str, answer: Endpoint) -> Endpoint:
        """Count what a route answers; the counts are by route, so that no path a client makes up adds one."""

        async def endpoint(request: Request) -> Response:
            asked = request.scope[ASKED] = self._server.audit.entry(request.scope, path)
            try:
                if path not in OPEN and WATCHING not in request.scope:
                    await self._admit(path, request)
                response = await answer(request)
                await self._server.audit.page_answered(asked, response.status_code)
            except Exception as error:
                if isinstance(error, FeatureStoreError):
                    self._count(path, request, error.status)
                self._server.audit.refused(asked, error, request.scope.get(SHOWN, b""))
                raise
            self._count(path, request, response.status_code)
            return self._closing(response)

        return endpoint

    async def _admit(self, path: str, request: Request) -> None:
        """Note the key that a request shows; NotSignedIn without one that opens anything."""
        door = self._server.door
        await door.refresh()
        headers = headers_of(request.scope["headers"])
        shown = headers.get(b"authorization", b"") if path.startswith(TRAIN_PATH) else shown_by_cookie(headers)
        request.scope[SHOWN] = shown
        await door.admit(shown, without_redis=path in WITHOUT_REDIS)
        self._server.audit.admitted(request.scope[ASKED], shown)

    async def sign_in(self, request: Request) -> Response:
        """A form that takes a key; it says whether one is known."""
        return await self._form(request)

    async def take_key(self, request: Request) -> Response:
        """The pages, for a key that is valid; the form again for any other."""
        key = (await form_of(request)).get("key", "").strip()
        shown = request.scope[SHOWN] = b"Bearer " + key.encode()
        await self._server.door.refresh()
        try:
            if not TEXT.fullmatch(key):
                raise NotSignedIn("that is no key")
            await self._server.door.admit(shown)
        except NotSignedIn as error:
            self._server.audit.refused(request.scope[ASKED], error, shown)
            return await self._form(request, error)
        self._server.audit.admitted(request.scope[ASKED], shown)
        return signed_in(request, key)

    async def sign_out(self, request: Request) -> Response:
        await form_of(request)
        return signed_out()

    async def _form(self, request: Request, error: NotSignedIn | None = None) -> Response:
        form, known = new_form(), bool(shown_by_cookie(dict(request.scope["headers"])))
        facts = {"form": form, "why": error and error.what, "known": known}
        headers = error_headers(error) if error else {}
        page = await self._page("sign_in.html", status=error.status if error else 200, headers=headers, **facts)
        return with_form(page, form, request)

    def _count(self, route: str, request: Request, status: int) -> None:
        self._server.reader.counts.count_request(route, counted_as(request.scope, status))

    async def health(self, request: Request) -> Response:
        """The process answers; nothing else is looked at."""
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Whether this server can answer reads, with every reason why not.

        All servers read one Redis: what is wrong with some views alone makes none of them unready, for then nobody
        would answer for the others either. It is told as `degraded`.
        """
        reasons, failures = ["this worker is ending"] if self._server.draining else [], list[FeatureStoreError]()
        online = None
        try:
            online = await self._server.online()
        except OnlineStoreError as error:
            failures.append(error)
        degraded = list[str]()
        if online is not None:
            unread = unread_views(online, self._server.reader.refused)
            (degraded if unread.some_are_read else reasons).extend(unread.why)
            degraded += [doubt(online, view_id) for view_id in filter(online.is_doubtful, sorted(online.views))]
            await self._server.door.refresh()
            failures += filter(None, [self._server.door.lost()])
            degraded += self._server.door.tokens_refused()
        failures += filter(None, [self._server.audit.failing])
        logged = [*reasons, *map(str, failures), *degraded]
        reasons += [as_text(told_outside(error)) for error in failures]
        answer: dict[str, Any] = {"ready": not reasons, "reasons": reasons}
        if degraded:
            answer["degraded"] = degraded
        if self._server.clock is not None:
            answer["clock"] = f"stopped at {self._server.clock} by FEATURES_CLOCK"
        if logged and (reasons, degraded) != self._not_ready:
            status = 503 if reasons else 200
            log.error("/ready answered %d: %s", status, "; ".join(" ".join(reason.split()) for reason in logged))
        self._not_ready = reasons, degraded
        if not reasons:
            return _json(answer)
        return _json(answer, status=503, headers=error_headers(OnlineStoreUnavailable("this server is not ready")))

    async def metrics(self, request: Request) -> Response:
        from .counting import exposition

        if WATCHING not in request.scope:
            self._server.door.check_metrics(request.scope[SHOWN])
        server = self._server
        online, epoch, verified = None, None, dict[str, LastVerified]()
        live, promises = list[LiveSource](), dict[str, Standing]()
        try:
            online = await server.online()
            epoch = server.reader.loaded.epoch if server.reader.loaded else None
            verified = await server.verified(online)
            live, promises = await self._live(online)
        except OnlineStoreError:
            pass  # told by features_online_store_up
        now_us = server.reader.now_us()
        facts = server.counts.total(), online, epoch, verified, live, promises, server.memory, now_us
        return Response(await self._beside(exposition, *facts), headers={"content-type": METRICS})

    async def openapi(self, request: Request) -> Response:
        return await self._beside(lambda: _json(openapi()))

    async def index(self, request: Request) -> Response:
        online = await self._server.online()
        if not _wants_html(request):
            return _json({"project": online.registry.project, "openapi": "/openapi.json"})
        live, promises = await self._live(online)
        return await self._page(
            "index.html",
            online=online,
            live=live,
            standings=promises,
            now_us=self._server.reader.now_us(),
            clock=self._server.clock,
        )

    def all_of(
        self, listed: Callable[[Registry], Iterable[Any]], describe: Callable[[Seen, Any], Described]
    ) -> Endpoint:
        """All definitions of one kind."""

        async def endpoint(request: Request) -> Response:
            seen = await self._seen()
            return await self._beside(lambda: _json([describe(seen, each) for each in listed(seen.online.registry)]))

        return endpoint

    def one_of(
        self,
        kind: str,
        find: Callable[[Registry, str], Any],
        describe: Callable[[Seen, Any], Described],
        example: Callable[[Described], Described] | None = None,
    ) -> Endpoint:
        """One definition by its name: JSON, or a page for browsers, with an example of a request."""

        async def endpoint(request: Request) -> Response:
            seen = await self._seen()
            found = await self._beside(describe, seen, find(seen.online.registry, request.path_params["name"]))
            facts = {kind: found} | ({"example": example(found)} if example else {})
            return await self._page_or_json(request, f"{kind}.html", found, **facts)

        return endpoint

    async def explain(self, request: Request) -> Response:
        """Why a stream view's feature has its value: JSON, or a page for browsers."""
        now_us = self._server.reader.now_us()
        feature, key, at_us = parse_question(request.query_params.multi_items(), now_us)
        online = await self._server.online()
        (ref,) = online.registry.resolve([feature])
        self._server.audit.explains(request.scope[ASKED], ref, key, self._server.reader.loaded)
        seen = self._server.door.check_explain(request.scope[SHOWN], ref, online)
        ask = partial(explain_feature, self._server.served, feature, key, at_us=at_us, now_us=now_us, pii_seen=seen)
        found = await asyncio.get_running_loop().run_in_executor(self._explain_thread, ask)
        answer = await self._page_or_json(request, "explain.html", found.as_json(), found=found, bounds=bounds)
        answer.headers["cache-control"] = "no-store"
        return answer

    async def wrong_method(self, request: Request) -> Response:
        raise HTTPException(405)

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Unknown paths and wrong methods."""
        assert isinstance(error, HTTPException)
        self._count("other", request, error.status_code)
        what = {404: "there is no such page", 405: f"{cut(request.method)} is not for this page"}
        told = RequestError(
            what.get(error.status_code, error.detail),
            where=cut(f"{request.method} {quote(request.url.path)}"),
            remedy="GET /openapi.json lists what there is",
        )
        return self._closing(_json(told.as_dict(), status=error.status_code, headers=dict(error.headers or {})))

    async def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, FeatureStoreError)
        log_failure(request.url.path, error)
        headers = error_headers(error)
        if isinstance(error, NotSignedIn) and _wants_html(request):
            return self._closing(await self._form(request, error))
        if _wants_html(request):
            told = told_outside(error)
            page = await self._page(
                "error.html", status=error.status, headers=headers, what=told["what"], text=as_text(told)
            )
            return self._closing(page)
        return self._closing(Response(encode_error(error), error.status, headers | {"content-type": JSON}))

    async def failed(self, request: Request, error: Exception) -> Response:
        """Starlette logs the traceback."""
        self._count("other", request, 500)
        return Response(INTERNAL_ERROR, 500, {"content-type": JSON})

    async def _seen(self) -> Seen:
        online = await self._server.online()
        return Seen(online, (await self._live(online))[1] if promised(online) else {})

    async def _live(self, online: OnlineRegistry) -> tuple[list[LiveSource], dict[str, Standing]]:
        """What waits of each event source of the registry, and how promises stand; OnlineStoreUnavailable when Redis
        does not answer."""
        if not online.registry.sources:
            return [], standings(online, [], {}, self._server.reader.now_us())
        return await asyncio.get_running_loop().run_in_executor(self._live_thread, self._read_live, online)

    def _read_live(self, online: OnlineRegistry) -> tuple[list[LiveSource], dict[str, Standing]]:
        if self._store is None:
            from ..online.store import OnlineStore

            self._store = OnlineStore(self._server.served.redis_url, timeout_seconds=LIVE_SECONDS)
        live = [read_live(self._store, source.name) for source in online.registry.sources]
        return live, standings(online, live, read_pushed(self._store, online), self._server.reader.now_us())

    async def _page_or_json(self, request: Request, name: str, value: Any, **facts: Any) -> Response:
        """JSON or, for a browser, the page of that name."""
        if not _wants_html(request):
            return await self._beside(_json, value)
        return await self._page(name, address=str(request.base_url).rstrip("/"), **facts)

    async def _beside(self, work: Callable[..., Made], *facts: Any) -> Made:
        """What may be long is made in a thread of its own: reads go on meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *facts)

    async def _page(
        self, name: str, *, status: int = 200, headers: dict[str, str] | None = None, **facts: Any
    ) -> Response:
        text = await self._beside(partial(render, name, **facts))
        return Response(text, status, (headers or {}) | SAFE | {"content-type": "text/html; charset=utf-8"})

    def _closing(self, response: Response) -> Response:
        if self._server.draining:
            response.headers["connection"] = "close"
        return response


def _json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z)
    return Response(text, status, (headers or {}) | {"content-type": JSON})


def _wants_html(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")
