"""Whether the log of an event source was lost: evicted, or deleted, with pushes that had not landed in files.

A log that was begun stays, empty, when all of it has landed. So one that is gone, or that has had fewer entries than
before, is another one. What nobody has looked at cannot be told: pushes of the last second, and all where no feature
server and no worker ran.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from hiredis import ReplyError

from ..errors import NotSynced
from ..layout.keys import Names
from .registry import OnlineRegistry, decode_online_registry

if TYPE_CHECKING:
    from .store import OnlineStore


class _Log(NamedTuple):
    """The entries that a log has now and those that it has ever had: -1 for no log, None where Redis does not say."""

    length: int = 0
    added: int | None = None


class LogWatch:
    """Remembers what the log of each event source held; `ask` gives Redis' replies to commands, errors among them."""

    def __init__(self, ask: Callable[[Sequence[tuple[bytes, ...]]], list[Any]], names: Names) -> None:
        self._ask, self._names = ask, names
        self._epoch: bytes | None = None
        self._logs: dict[str, _Log] = {}

    def look(self) -> dict[str, int]:
        """The sources whose log was lost since the last look, and how many pushes it held then."""
        epoch, *infos = self._ask(
            [(b"GET", self._names.epoch), *((b"XINFO", b"STREAM", self._names.log(name)) for name in self._logs)]
        )
        lost = dict[str, int]()
        for (name, before), info in zip(self._logs.items(), infos, strict=True):
            log = self._logs[name] = _log(info)
            if before.length and _is_another(log, before):
                lost[name] = before.length
        if isinstance(epoch, bytes) and epoch != self._epoch:
            (stored,) = self._ask([(b"GET", self._names.registry)])
            if isinstance(stored, bytes):
                sources = decode_online_registry(stored, self._names).registry.sources
                self._epoch, self._logs = epoch, {of.name: self._logs.get(of.name, _Log()) for of in sources}
        return lost


def keep_lost(store: OnlineStore, lost: Mapping[str, int]) -> None:
    """Have the online registry say that logs were lost, until a full sync of a view of the source."""

    def change(now: OnlineRegistry | None) -> OnlineRegistry:
        if now is None:
            raise NotSynced("the online store is empty")
        return msgspec.structs.replace(now, lost={**now.lost, **lost})

    store.publish(change)


def _log(info: Any) -> _Log:
    if not isinstance(info, list):  # there is none, or what is there is no stream
        return _Log(added=-1 if isinstance(info, ReplyError) and "no such key" in str(info) else None)
    found = dict(zip(info[::2], info[1::2], strict=True))
    return _Log(int(found[b"length"]), found.get(b"entries-added"))


def _is_another(log: _Log, before: _Log) -> bool:
    return log.added == -1 or (log.added is not None and before.added is not None and log.added < before.added)
