"""Deleting the rows of codes that no reader uses any more; only `sweep` scans Redis for them.

The keys of a generation are those of the offline table's versions that it was written from and, where the view had a
stream, those of landed and logged events.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ..definitions.facts import FeatureView, event_view
from ..errors import OfflineStoreError
from ..layout import keys
from ..layout.rows import Column, RowPacker
from ..offline.damage import DamagedFile, reading
from ..offline.store import OfflineTable
from ..online.registry import OnlineView
from ..online.store import Generation
from .events import open_events
from .rows import KeyReader
from .session import Session
from .writer import FencedWriter, delete_commands, delete_key_commands

_FOREVER = np.iinfo(np.int64).max


def clean(
    session: Session, generations: Mapping[str, Generation], live: OnlineView | None
) -> tuple[int, tuple[str, ...]]:
    """Delete what is stored under some codes: how many rows there were, and codes whose rows cannot be listed.

    `live` is what was online of the view when the sync began. Where a damaged file should list the rows, Redis does.
    """
    deleted, leftover = 0, []
    for code, generation in generations.items():
        first, *others = generation.parts or (code,)
        with FencedWriter(session.online, session.fence, code) as writer:
            listed = not session.options.sweep
            try:
                if listed and not _delete_listed(session, writer, code, generation, live):
                    leftover.append(code)
                    continue
            except DamagedFile:
                listed = False
            if not listed:
                _sweep(session, writer, first)
        for other in others if not listed else ():
            with FencedWriter(session.online, session.fence, code) as uncounted:
                _sweep(session, uncounted, other)
        session.online.forget(session.fence, code)
        deleted += writer.deleted
    return deleted, tuple(leftover)


def _sweep(session: Session, writer: FencedWriter, code: str) -> None:
    for names in session.online.scan(code):
        writer.put(delete_key_commands(names, count_existing=False))


def _delete_listed(
    session: Session, writer: FencedWriter, code: str, generation: Generation, live: OnlineView | None
) -> bool:
    """Delete every key that the generation may have; False when they cannot be read."""
    versions = sorted({attempt.table_version for attempt in generation.attempts})
    try:
        latest = session.offline.table(session.fence.view) if versions else None
        tables = [latest.at(version) for version in versions] if latest else []
    except OfflineStoreError:
        return False
    if any(table.id != generation.table_id for table in tables):
        return False
    views = _stream_definitions(session, tables, live)
    codes: list[tuple[str, ...]] = [(code,), (code + keys.BASE.decode(),)] if views else [generation.parts or (code,)]
    for entities in (*map(_published, tables), *(_pushed(session, view) for view in views)):
        for part in entities:
            for of in codes:
                writer.put(delete_commands(of, part, count_existing=False))
    return True


def _published(table: OfflineTable) -> Iterator[Column]:
    reader = KeyReader(table.view())
    with reading(table):
        for file in table.files():
            for rows in reader.rows(file, (), until_us=_FOREVER):
                yield reader.packer.entities(rows)


def _pushed(session: Session, view: FeatureView) -> Iterator[Column]:
    packer = RowPacker(event_view(view))
    with open_events(session, view, None, live=True) as history:
        for rows in history.tables(f"select {history.keys} from live group by {history.keys}"):
            yield packer.entities(rows)


def _stream_definitions(
    session: Session, tables: Sequence[OfflineTable], live: OnlineView | None
) -> Iterable[FeatureView]:
    """The stream views, if any, that the keys of a generation may be of: one for each way to make a key."""
    found = [live.definition] if live is not None else []
    found += [table.definition() for table in tables]
    found += [view for view in session.registry.feature_views if view.id == session.fence.view]
    return {plan.row_sql: view for view in found if (plan := view.stream) is not None}.values()
