"""A feature server on a test's own event loop, asked without a connection between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from feature_server.app import connections
from feature_server.app.features import FeatureServer
from feature_server.app.pages import create_pages
from feature_server.app.sites import create_sites
from feature_server.app.supervisor import Served
from feature_server.settings import Settings


class InProcess:
    """A server, how many turns others had while it answered, and the headers of its last answer."""

    def __init__(self, url: str, settings: Settings) -> None:
        sites = create_sites("127.0.0.1", "localhost", ())
        self.app = FeatureServer(Served(redis_url=url, settings=settings, sites=sites))
        self.app.other = create_pages(self.app)
        self.turns = 0
        self.headers: dict[bytes, bytes] = {}

    async def _others(self, each: Callable[[int], None]) -> None:
        while True:
            await asyncio.sleep(0)
            self.turns += 1
            each(self.turns)

    async def ask(
        self, path: str, body: bytes | None = None, each: Callable[[int], None] = lambda turn: None
    ) -> tuple[int, list[bytes]]:
        """The status and the pieces of the answer; `each` is called in each turn of the others."""
        others = asyncio.create_task(self._others(each))
        try:
            return await self.answer(path, body)
        finally:
            others.cancel()
            with suppress(asyncio.CancelledError):
                await others
            self.app.redis.close()

    async def answer(self, path: str, body: bytes | None = None) -> tuple[int, list[bytes]]:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body or b""}

        async def send(message: Any) -> None:
            sent.append(message)

        open_connection = SimpleNamespace(link=SimpleNamespace(is_closing=lambda: False))
        scope = {
            "type": "http", "http_version": "1.0", "method": "GET" if body is None else "POST", "path": path,
            "root_path": "", "query_string": b"", "headers": [(b"content-type", b"application/json")],
            "extensions": {connections._NAME: open_connection},
        }  # fmt: skip
        await self.app(scope, receive, send)
        self.headers = dict(sent[0]["headers"])
        return sent[0]["status"], [message["body"] for message in sent[1:]]
