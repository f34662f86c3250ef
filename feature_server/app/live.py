"""What waits of each event source, for `/metrics` and the registry's first page: read in a thread, only when asked."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..online.live import LiveSource, read_live
from ..online.registry import OnlineRegistry

if TYPE_CHECKING:
    from ..online.store import OnlineStore

ANSWER_SECONDS = 2.0


class LiveSources:
    """Reads the state of the event sources over a connection of its own."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._store: OnlineStore | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="live")

    async def read(self, online: OnlineRegistry) -> list[LiveSource]:
        """One for each event source of the registry; OnlineStoreUnavailable when Redis does not answer."""
        names = [source.name for source in online.registry.sources]
        if not names:
            return []
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, names)

    def _read(self, names: list[str]) -> list[LiveSource]:
        if self._store is None:
            from ..online.store import OnlineStore

            self._store = OnlineStore(self._redis_url, timeout_seconds=ANSWER_SECONDS)
        return [read_live(self._store, name) for name in names]
