"""What a batch view's rows online are: the latest row of each key, until its ttl and a grace have passed."""

from collections.abc import Iterator

import pyarrow as pa

from ..definitions.facts import FeatureView
from ..online.registry import OnlineView
from ..online.store import Attempt
from .latest import KeyReader, KeySet, latest_rows
from .session import Session, Target
from .writer import FencedWriter, Transaction, delete_commands, write_commands

MAX_GRACE_US = 3_600_000_000
_PACK_ROWS = 40_000


def grace_us(view: FeatureView) -> int | None:
    """How long after its event timestamp a row stays in Redis: its ttl, and the ttl or an hour more, whichever is less.

    The extra time lets a reader say OUTSIDE_MAX_AGE, and clocks differ.
    """
    return None if view.ttl_us is None else view.ttl_us + min(view.ttl_us, MAX_GRACE_US)


class RowFilling:
    """Fills a view with rows."""

    def __init__(self, session: Session, target: Target) -> None:
        self.session, self.target = session, target
        self.reader = KeyReader(target.view)
        self.grace_us = grace_us(target.view)

    def same_layout(self, live: OnlineView) -> bool:
        """Whether what is online can be brought up to date key by key."""
        view, other = self.target.view, live.definition
        names = ("fingerprint", "join_keys", "event_timestamp", "created_timestamp", "ttl_us")
        return (
            all(getattr(view, name) == getattr(other, name) for name in names)
            and [(one.name, one.dtype) for one in view.features] == [(one.name, one.dtype) for one in other.features]
            and (view.ttl_us is None or live.expires == self.session.options.expire)
        )

    def fill(self, code: str) -> int:
        """Write everything under a new code: how many rows."""
        return self.merge(code, None, ())[0]

    def merge(self, code: str, wanted: KeySet | None, attempts: tuple[Attempt, ...]) -> tuple[int, int]:
        """Bring the keys that changed since `attempts` up to date, None for all: rows written, and rows deleted."""
        session, now_us = self.session, self.target.now_us
        with FencedWriter(session.online, session.fence, code) as writer:
            for rows in latest_rows(
                self.reader, self.target.table.files(), now_us=now_us, wanted=wanted, progress=session.progress
            ):
                for start in range(0, rows.num_rows, _PACK_ROWS):
                    part = rows.slice(start, _PACK_ROWS)
                    writer.put(self._commands(code, part, count_existing=wanted is not None))
            if wanted is not None:
                writer.put(delete_commands(code, wanted.entities, count_existing=True))
        return writer.written, writer.deleted

    def _commands(self, code: str, rows: pa.Table, *, count_existing: bool) -> Iterator[Transaction]:
        """What writes rows that have not expired, and deletes those that have."""
        entities, expire_ms = self.reader.packer.entities(rows), None
        if self.grace_us is not None:
            events = self.reader.packer.event_times(rows)
            alive = events > self.target.now_us - self.grace_us
            if not alive.all():
                if count_existing:
                    yield from delete_commands(code, entities.filter(pa.array(~alive)), count_existing=True)
                kept = pa.array(alive)
                rows, entities, events = rows.filter(kept), entities.filter(kept), events[alive]
            if self.session.options.expire:
                expire_ms = -(-(events + self.grace_us) // 1000)
        if rows.num_rows:
            packed = self.reader.packer.pack(rows)
            yield from write_commands(code, entities, packed, expire_ms=expire_ms, count_existing=count_existing)
