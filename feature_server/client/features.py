"""Online features in Python, and live events: `FeatureClient` and, to await the same methods, `AsyncFeatureClient`.

Light on purpose: a model service that reads features installs and imports no more than this needs.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from ..definitions.deprecation import deprecated_in, warn_deprecated
from ..definitions.registry import feature_list
from ..errors import NO_UTF8, FeatureStoreError, OnlineStoreUnavailable, RequestError, cut, shown
from ..layout.keys import NAMES
from ..online.address import parse_redis_url, shown_url
from ..online.readers import TIMEOUT_SECONDS, AsyncRedisReader, RedisReader
from ..protocol import PUSH_PATH, READ_PATH, GetOnlineFeatures, PushResponse, push_response
from ..serving.drive import AsyncFeatures, read_features
from ..serving.reader import FeatureReader, OnlineFeatures, Steps
from ..serving.statuses import NOT_FOUND, PRESENT
from ..settings import Settings, load_settings
from .columns import python_values, without_na
from .http import decode_response, encode_request, error_of, http_options, key_to_send
from .push import RETRY_SECONDS, PushResult, decode_push, encode_push, push_events
from .push import TIMEOUT_SECONDS as PUSH_TIMEOUT_SECONDS
from .result import FeatureVector, FeatureVectors

if TYPE_CHECKING:
    import httpx

    from ..ingest.transaction import Ingestor

Result = TypeVar("Result")
One = TypeVar("One")
Many = TypeVar("Many")
Pushed = TypeVar("Pushed")


def _done(steps: Coroutine[Any, Any, Result]) -> Result:
    """What steps give that wait for nothing, since each of their calls is made at once."""
    try:
        steps.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError


class _Client(Generic[One, Many, Pushed]):
    """What both clients share: the steps of a read and of a push, and where they lead.

    A client says how the calls among the steps are made, `FeatureClient` at once, `AsyncFeatureClient` with others, and
    what its methods give: the results, or what is awaited for them.

    `url` is a Redis server's (`redis://`, `rediss://`, `unix://`: read directly, fastest) or a feature server's
    (`http://`, `https://`). Without one, FEATURES_REDIS_URL or the embedded Valkey of FEATURES_HOME. `key` is the key
    of access that a feature server wants, by default FEATURES_KEY; Redis has users and passwords. `timeout` is in
    seconds, for each read. Against Redis, `settings` gives the clock that decides what has expired.
    """

    _run: Callable[[Coroutine[Any, Any, Any]], Any]
    _read: Callable[[Steps], Awaitable[OnlineFeatures]]
    _post: Callable[[str, bytes, float], Awaitable[httpx.Response]]
    _ingest: Callable[[str, bytes], Awaitable[PushResponse]]
    _sleep: Callable[[float], Awaitable[None]]
    _open: Callable[[], None]

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        settings: Settings | None = None,
    ) -> None:
        self._resources = ExitStack()
        settings = settings or load_settings()
        if url is None:
            from ..online import embedded

            url = self._resources.enter_context(embedded.connect(settings))
        self.url, self._shown = url, shown_url(url)
        self.timeout = timeout
        self._over_http = url.startswith(("http://", "https://"))
        self._endpoint, self._push_endpoint = self._shown + READ_PATH, self._shown + PUSH_PATH
        sent = key_to_send(key, settings, over_http=self._over_http)
        self._http_options = http_options(url, self._shown, sent, timeout) if self._over_http else {}
        names = NAMES if self._over_http else parse_redis_url(url).names
        self._reader = FeatureReader(settings.now_us, names)
        self._told_deprecated = set[str]()
        self._settings = settings
        self._ingestor: Ingestor | None = None
        self._open()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown!r})"

    def get(
        self,
        features: str | Sequence[str],
        *,
        full_feature_names: bool = False,
        **entity: Any,
    ) -> One:
        """The features of one entity: those of a service (by name), or of a list of `view:feature`."""
        entities = {name: [value] for name, value in entity.items()}
        return self._run(_first(self._get(features, full_feature_names, entities)))

    def get_many(
        self,
        features: str | Sequence[str],
        *,
        full_feature_names: bool = False,
        **entities: Sequence[Any],
    ) -> Many:
        """The features of many entities, given as a column of values for each join key."""
        return self._run(self._get(features, full_feature_names, entities))

    def push(self, source: str, events: Any, *, retry_seconds: float = RETRY_SECONDS) -> Pushed:
        """Take in live events of a dbt source: a list of mappings, or a DataFrame, of all of the source's columns.

        When this returns, reads see what was accepted; an event that does not fit is refused alone. Events are sent in
        batches of 1,000. A batch without an answer is sent again for `retry_seconds`, which is safe because an event
        counts once however often it is pushed; so is the same call after an error.
        """
        return self._run(push_events(partial(self._push, source), self._sleep, events, retry_seconds))

    def _vectors(self, answer: OnlineFeatures) -> FeatureVectors:
        plan = answer.plan
        if plan.deprecated:
            warn_deprecated(plan.deprecated, self._told_deprecated)
        types = {key.name: key.dtype for key in plan.join_keys}
        values, statuses, event_timestamps = {}, {}, {}
        times: dict[int, list[Any]] = {}  # of a view's entities, the same for each feature
        for column in plan.columns:
            name = column.name
            types[name] = column.feature.dtype
            values[name], statuses[name], _ = answer.column(column)
            if column.view not in times:
                times[column.view] = answer.times(column.view)
            event_timestamps[name], found = times[column.view].copy(), statuses[name]
            if found.count(PRESENT) < answer.count and NOT_FOUND in found:  # the first test costs less
                pairs = zip(times[column.view], found, strict=True)
                event_timestamps[name] = [None if status == NOT_FOUND else moment for moment, status in pairs]
        return FeatureVectors(
            entities={key.name: answer.entities[key.name] for key in plan.join_keys},
            values=values,
            statuses=statuses,
            event_timestamps=event_timestamps,
            types=types,
        )

    async def _get(
        self, features: str | Sequence[str], full_feature_names: bool, entities: dict[str, Any]
    ) -> FeatureVectors:
        is_service = isinstance(features, str)
        names = [features] if isinstance(features, str) else feature_list(features)
        for name in names:
            if not name.isascii() and NO_UTF8.search(name):
                raise RequestError(
                    "a name cannot be sent", where="feature_service" if is_service else "features", got=shown(name),
                    expected="text that UTF-8 can hold",
                )  # fmt: skip
        request = GetOnlineFeatures(
            entities=_listed(entities),
            features=None if is_service else names,
            feature_service=features if is_service else None,  # type: ignore[arg-type]
            full_feature_names=full_feature_names,
        )
        if not self._over_http:
            try:
                return self._vectors(await self._read(self._reader.read(request)))
            except RequestError:
                request.entities, sent = without_na(request.entities), request.entities
                if request.entities is sent:
                    raise
            return self._vectors(await self._read(self._reader.read(request)))
        request.entities = without_na(request.entities)
        response = await self._ask(self._endpoint, encode_request(request), self.timeout)
        if response.status_code != 200:
            raise error_of(response.status_code, response.content, self._endpoint, response.headers)
        warn_deprecated(deprecated_in(response.headers), self._told_deprecated)
        return decode_response(response.content, request.entities, self._endpoint)

    async def _push(self, source: str, columns: bytes) -> PushResponse | FeatureStoreError:
        """What became of a batch, or why nothing did."""
        try:
            if not self._over_http:
                return await self._ingest(source, columns)
            response = await self._ask(self._push_endpoint, encode_push(source, columns), PUSH_TIMEOUT_SECONDS)
        except FeatureStoreError as error:
            return error
        return decode_push(response.status_code, response.content, self._push_endpoint, response.headers)

    async def _ask(self, endpoint: str, body: bytes, timeout: float) -> httpx.Response:
        import httpx

        try:
            try:
                return await self._post(endpoint, body, timeout)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):  # the connection had been closed
                return await self._post(endpoint, body, timeout)
        except httpx.HTTPError as error:
            raise OnlineStoreUnavailable(
                "the feature server does not answer",
                where=self._shown,
                got=str(error) or type(error).__name__,
                remedy="start it with `features serve`, or correct the URL; the same call then succeeds",
            ) from None

    def _take_in(self, source: str, columns: bytes) -> PushResponse:
        """Push a batch straight to Redis."""
        try:
            if self._ingestor is None:
                from ..ingest.transaction import Ingestor

                expire = self._settings.clock is None
                self._ingestor = self._resources.enter_context(Ingestor(self.url, self._settings.now_us, expire=expire))
            found = self._ingestor.push_columns(source, columns)
        except ImportError as error:
            raise RequestError(
                "events cannot be pushed to Redis by this install", where=self._shown, got=str(error),
                expected="feature-warehouse[warehouse], or the URL of a feature server",
                remedy='push through the server: FeatureClient("http://…").push(…)',
            ) from None  # fmt: skip
        return push_response(found.accepted, found.rejected)


class FeatureClient(_Client[FeatureVector, FeatureVectors, PushResult]):
    """Reads online features and pushes events; threads may share one. A context manager, or call `close()`.

        with FeatureClient("redis://localhost") as client:
            client.get("fraud_v1", customer_id=42, merchant_id=7).values

    Raises RequestError and UnknownNameError for a request that cannot be answered, OnlineStoreUnavailable when the
    store does not answer in time, NotSynced when it does not hold the values yet.
    """

    _run = staticmethod(_done)

    def _open(self) -> None:
        if self._over_http:
            self._connect()
        else:
            self._redis = RedisReader(self.url, timeout=self.timeout)
            self._redis.on_reconnect = self._reader.forget
            self._resources.callback(self._redis.close)

    def close(self) -> None:
        if self._over_http:
            self._http.close()
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> None:
        import httpx

        self._http = httpx.Client(**self._http_options)
        self._process = os.getpid()

    async def _post(self, endpoint: str, body: bytes, timeout: float) -> httpx.Response:
        if self._process != os.getpid():  # a fork shares its parent's connections, and would read its parent's answers
            self._connect()
        return self._http.post(endpoint, content=body, timeout=timeout)

    async def _read(self, steps: Steps) -> OnlineFeatures:
        return read_features(self._reader, self._redis, steps)

    async def _ingest(self, source: str, columns: bytes) -> PushResponse:
        return self._take_in(source, columns)

    async def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class AsyncFeatureClient(
    _Client[Coroutine[Any, Any, FeatureVector], Coroutine[Any, Any, FeatureVectors], Coroutine[Any, Any, PushResult]]
):
    """`FeatureClient` for asyncio: the same arguments, results and errors, with methods to await.

    Reads that run at the same time share one Redis command; events go to Redis from another thread. Use it on one event
    loop at a time.
    """

    def _run(self, steps: Coroutine[Any, Any, Any]) -> Any:
        return steps

    def _open(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # whose the HTTP connections are
        if not self._over_http:
            redis = AsyncRedisReader(self.url, timeout=self.timeout)
            self._features = AsyncFeatures(self._reader, redis)
            self._resources.callback(redis.close)

    async def aclose(self) -> None:
        if self._loop is asyncio.get_running_loop():
            await self._http.aclose()
        self._resources.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _post(self, endpoint: str, body: bytes, timeout: float) -> httpx.Response:
        import httpx

        if self._loop is not asyncio.get_running_loop():
            self._http = httpx.AsyncClient(**self._http_options)
            self._loop = asyncio.get_running_loop()
        return await self._http.post(endpoint, content=body, timeout=timeout)

    async def _read(self, steps: Steps) -> OnlineFeatures:
        return await self._features.read(steps)

    async def _ingest(self, source: str, columns: bytes) -> PushResponse:
        return await asyncio.to_thread(self._take_in, source, columns)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _first(asked: Awaitable[FeatureVectors]) -> FeatureVector:
    return (await asked).row(0)


def _listed(entities: dict[str, Any]) -> dict[str, list[Any]]:
    columns = {}
    for name, values in entities.items():
        if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
            raise RequestError(
                f"{shown(name)} is one value", where=f"entities.{cut(name)}", got=shown(values),
                expected="a list of them", remedy="use get() for one entity",
            )  # fmt: skip
        if len(shape := getattr(values, "shape", (0,))) != 1:
            raise RequestError(
                f"{shown(name)} is no column", where=f"entities.{cut(name)}",
                got=f"a {type(values).__name__} of shape {tuple(shape)}", expected="a list of values, or one column",
            )  # fmt: skip
        columns[name] = list(values) if type(values) is list else python_values(values)
    return columns
