"""Whether the log of an event source was lost: evicted, or deleted, with pushes that had not landed in files.

A log that was begun stays, empty, when all of it has landed. So one that is gone, or that has had fewer entries than
before, is another one. What nobody has looked at cannot be told: pushes of the last second, and all where no feature
server and no worker ran.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import redis

from ..errors import NotSynced
from ..layout.keys import EPOCH, LOG
from .registry import OnlineRegistry
from .store import OnlineStore, redis_errors


class _Log(NamedTuple):
    """The entries that a log has now and those that it has ever had, None where Redis does not count them."""

    length: int = 0
    added: int | None = None


class LogWatch:
    """Remembers what the log of each event source held."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._epoch: bytes | None = None
        self._logs: dict[str, _Log] = {}

    def look(self) -> dict[str, int]:
        """The sources whose log was lost since the last look, and how many pushes it held then."""
        with redis_errors():
            epoch = self._store.client.get(EPOCH)
        if epoch != self._epoch:
            self._epoch, online = epoch, self._store.registry()
            sources = online.registry.sources if online else ()
            self._logs = {source.name: self._logs.get(source.name, _Log()) for source in sources}
        if not self._logs:
            return {}
        with redis_errors(), self._store.client.pipeline(transaction=False) as pipeline:
            for name in self._logs:
                pipeline.xinfo_stream(LOG + name.encode())
            found = pipeline.execute(raise_on_error=False)
        lost = dict[str, int]()
        for (name, before), info in zip(self._logs.items(), found, strict=True):
            log = _Log() if isinstance(info, redis.ResponseError) else _log(info)
            if before.length and _is_another(log, before, gone=isinstance(info, redis.ResponseError)):
                lost[name] = before.length
            self._logs[name] = log
        return lost


def keep_lost(store: OnlineStore, lost: Mapping[str, int]) -> None:
    """Have the online registry say that logs were lost, until a full sync of a view of the source."""

    def change(now: OnlineRegistry | None) -> OnlineRegistry:
        if now is None:
            raise NotSynced("the online store is empty")
        return msgspec.structs.replace(now, lost={**now.lost, **lost})

    store.publish(change)


def _log(info: Mapping[str, Any]) -> _Log:
    return _Log(int(info["length"]), info.get("entries-added"))


def _is_another(log: _Log, before: _Log, *, gone: bool) -> bool:
    return gone or (log.added is not None and before.added is not None and log.added < before.added)
