"""The events of producers that were refused: kept in Redis with the reason until somebody has dealt with them."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from ..history.log import pages
from ..layout.keys import DEAD
from ..online.live import entry_seconds
from ..online.store import OnlineStore, redis_errors
from ..times import EPOCH


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event as its producer wrote it, None for an entry without one; `id` is that of the producers' stream.

    Bytes that are not UTF-8 are shown as `\\xff`.
    """

    id: str
    refused_at: datetime
    reason: str
    event: str | None


def dead_letters(online: OnlineStore, source: str, *, drop: bool = False) -> Iterator[DeadLetter]:
    """The refused events of a source, oldest first; with `drop` those that were given are deleted."""
    name = DEAD + source.encode()
    for entries in pages(online, name):
        for entry, fields in entries:
            event = fields.get(b"event")
            yield DeadLetter(
                id=fields.get(b"id", b"").decode(errors="replace"),
                refused_at=EPOCH + timedelta(seconds=entry_seconds(entry)),
                reason=fields.get(b"reason", b"").decode(errors="replace"),
                event=None if event is None else event.decode(errors="backslashreplace"),
            )
        if drop:
            with redis_errors():
                online.client.xdel(name, *[entry for entry, _ in entries])
