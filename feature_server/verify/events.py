"""Whether a stream view's windows online are those of the warehouse and the log, at one instant.

Keys are read in one transaction with the newest entry of the source's log, which every push adds to. What they should
be is computed by plain SQL over the offline table, the landed files and the log up to that entry, without live events
that say to be created ahead of the clock: builds leave those out. A key that differs is computed again with the version
of the table that was synced: equal to that it is merely not yet synced.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..definitions.aggregates import has_bases
from ..definitions.facts import FeatureView
from ..definitions.stream import EventSource
from ..errors import DamagedValue, OnlineStoreError
from ..event_ids import event_id_number
from ..history.bases import leave_late_out
from ..history.events import History, open_history
from ..history.log import EntryId, entry_id, landing_folder
from ..history.values import values_at
from ..layout import keys
from ..layout.events import GRACE_US, plan_of
from ..layout.records import Records
from ..layout.row import UNDECODABLE, damaged, event_timestamp_us, from_stored
from ..offline.store import OfflineStore, OfflineTable
from ..online.registry import OnlineRegistry, OnlineView
from ..online.store import OnlineStore, redis_errors, wrong_type
from ..serving.rows import ViewColumns
from ..serving.statuses import ValueCounts
from ..serving.stream import StreamViewReader
from .difference import Difference, described
from .relation import relation_differences
from .rows import (
    DAMAGED,
    EXPIRED,
    NOT_YET_SYNCED,
    SAMPLE,
    WRONG,
    Progress,
    Verified,
    compared,
    named_keys,
    never_synced,
    same,
    synced_table,
)

LOST, UNKNOWN, LATE = "lost", "in no table, file or log", "late event"
AHEAD = "an event created ahead of the clock: take it out of its live-….parquet file, then `features sync --full`"
EXPLAINED = {NOT_YET_SYNCED, LATE}  # what the next sync, or the one after the event has landed, makes equal
_PAGE = 2000
_TRIES = 3
Values = tuple[Any, ...]


def verify_events(
    view: FeatureView,
    online: OnlineStore,
    store: OfflineStore,
    *,
    now_us: int,
    project_dir: Path,
    warehouse: Path | None = None,
    attached: Mapping[str, Path] | None = None,
    sample: int = SAMPLE,
    progress: Progress = lambda done, total: None,
) -> Verified:
    """Compare the features of `sample` keys of a stream view (0: all that are known offline or live) at `now_us`, and
    what dbt's relation in the `warehouse`, where one is given, or in a database `attached` to it, has of those with an
    event that is held twice.

    Events that land in files during the comparison may seem not to be online, a sync may run: it is then done again.
    """
    spill, known_by_us = store.root / ".spill", now_us + GRACE_US
    for _ in range(_TRIES):
        started, table, registry = time.monotonic(), store.table(view.id), online.registry()
        if registry is None or (found := registry.synced(view.id)) is None:
            return never_synced(table, now_us)
        live = live_of(online, registry, found.definition, project_dir)
        with open_history(found.definition, table, spill=spill, live=live, known_by_us=known_by_us) as history:
            chosen = choose(history, sample)
            progress(0, len(chosen))
            comparison = _Comparison(history, found, online, now_us)
            history.load(*live, until=comparison.read(chosen))
            differences, not_compared = comparison.differences(table, chosen), None
            if warehouse is not None:
                built, not_compared = relation_differences(
                    history, found.definition, warehouse, now_us=now_us, attached=attached
                )
                differences += built
            progress(len(chosen), len(chosen))
        verified = compared(
            table, found, differences, instant_us=now_us, key_count=len(chosen),
            newest_event_us=table.newest_event_us, explained=EXPLAINED, started=started,
        )  # fmt: skip
        verified = msgspec.structs.replace(verified, not_compared=not_compared)
        if not verified.unexplained:
            break
    return verified


def choose(history: History, sample: int) -> dict[int, tuple[bytes, str]]:
    """Make `chosen`, keys in the order of their hashes, those with events created ahead of the clock first: what each n
    has in its key's name, and as a person reads it."""
    listed = history.keys
    events = f"select {listed}, false as ahead_ from known union all select {listed}, {history.ahead} from live"
    order = f"bool_or(ahead_) desc, hash({listed}), {listed}"
    ordered = f"select {listed} from ({events}) where {history.present} group by {listed} order by {order}"
    limit = f" limit {sample}" if sample else ""
    history.connection.execute(
        f"create or replace temp table chosen as select row_number() over () - 1 as n, * from ({ordered}{limit})"
    )
    return named_keys(history.connection, history.view)


class _Comparison:
    """What is online of the chosen keys of one view, read at one instant, and what should be."""

    def __init__(self, history: History, found: OnlineView, online: OnlineStore, now_us: int) -> None:
        self.history, self.found, self.online, self.now_us = history, found, online, now_us
        self.view = found.definition
        self.stored: dict[int, bytes | None] = {}
        self.bases: dict[int, bytes | None] = {}
        self.damaged: dict[int, str] = {}  # what is wrong with the keys that no read could be made of

    def read(self, chosen: dict[int, tuple[bytes, str]]) -> EntryId | None:
        """Read the keys' values; the id of the newest entry in the source's log as of then."""
        code = self.found.code.encode()
        names = [code + name for name, _ in chosen.values()]
        names += [code + keys.BASE + name for name, _ in chosen.values()] if has_bases(self.view) else []
        with redis_errors(), self.online.client.pipeline(transaction=True) as pipeline:
            for start in range(0, len(names), _PAGE):
                pipeline.mget(names[start : start + _PAGE])
            pipeline.xrevrange(self.online.names.log(plan_of(self.view).source), count=1)
            *parts, newest = pipeline.execute()
        values = [value for part in parts for value in part]
        self.stored = dict(zip(chosen, values[: len(chosen)], strict=True))
        self.bases = dict.fromkeys(chosen) | dict(zip(chosen, values[len(chosen) :], strict=False))
        owners = [*chosen, *chosen][: len(names)]
        absent = {name: n for n, name, value in zip(owners, names, values, strict=True) if value is None}
        for name, kind in self.online.wrong_types(list(absent)).items():
            self.damaged[absent[name]] = str(wrong_type(name, kind).got)
        return entry_id(newest[0][0]) if newest else None

    def differences(self, table: OfflineTable, chosen: dict[int, tuple[bytes, str]]) -> list[Difference]:
        view, history = self.view, self.history
        served = self._served(chosen)
        expected = values_at(history, view, at_us=self.now_us)
        different = {n: places for n in served if (places := unequal(served[n], expected[n]))}
        earlier, punctual, unclear = self._explanations(table, different)
        found: list[Difference] = []
        for n, wrong in self.damaged.items():
            found += described(chosen[n][1], [("*", wrong, "values")], DAMAGED)
        for n, places in different.items():
            if n in earlier and not unequal(served[n], earlier[n]):
                cause = NOT_YET_SYNCED
            elif n in unclear or (n in punctual and not set(unequal(served[n], punctual[n])) & set(places)):
                cause = LATE
            else:
                cause = self._cause(n)
            sides = [(view.feature_names[i], repr(served[n][i]), repr(expected[n][i])) for i in places]
            found += described(chosen[n][1], sides, cause)
        return found

    def _served(self, chosen: Iterable[int]) -> dict[int, Values]:
        """What a read gives for each key; `damaged` says of which it gives nothing."""
        served: dict[int, Values] = {}
        waiting = [[n for n in chosen if n not in self.damaged]]
        while waiting:
            some = waiting.pop()
            stored, bases = [self.stored[n] for n in some], [self.bases[n] for n in some]
            try:
                values, _ = served_values(self.found, stored, bases, self.now_us)
            except DamagedValue as error:
                if len(some) == 1:
                    self.damaged[some[0]] = error.what if error.got is None else f"{error.what}: {error.got}"
                else:
                    waiting += [some[: len(some) // 2], some[len(some) // 2 :]]
            else:
                served |= zip(some, values, strict=True)
        return served

    def _explanations(
        self, table: OfflineTable, different: Collection[int]
    ) -> tuple[dict[int, Values], dict[int, Values], set[int]]:
        """The values with the version that was synced, those with it and without late events, and keys that have late
        events but whose values cannot be told."""
        history = self.history
        if not different or (synced := synced_table(table, self.found)) is None:
            return {}, {}, set()
        history.store(synced)
        earlier = {} if synced.version == table.version else values_at(history, self.view, at_us=self.now_us)
        cut_offs = {n: event_timestamp_us(base) for n in different if (base := self.bases[n]) is not None}
        unclear = leave_late_out(history, cut_offs) if cut_offs else set()
        punctual = values_at(history, self.view, at_us=self.now_us) if cut_offs else {}
        history.store(table)
        return earlier, punctual, unclear

    def _cause(self, n: int) -> str:
        """Why a key differs, as far as its events tell."""
        stored, base, window = self.stored[n], self.bases[n], plan_of(self.view).longest_us
        since_us = self.now_us - window if window is not None else None
        if has_bases(self.view):
            since_us = event_timestamp_us(base) if base is not None else None
        of_key = f"semi join (from chosen where n = {n}) as chosen using ({self.history.keys})"
        execute = self.history.connection.execute
        if execute(f"select 1 from live {of_key} where {self.history.ahead} limit 1").fetchall():
            return AHEAD
        if stored is None:
            return EXPIRED if self.found.expires and window is not None else LOST
        rows = execute(
            "select event_id, epoch_us(created_timestamp), epoch_us(event_timestamp) "
            f"from known {of_key} qualify {self.history.latest_version}"
        ).fetchall()
        dtype, records = plan_of(self.view).event_id, Records(self.view)
        present = {records.version(record) for record in records.split(stored)}
        known = {(created, event_id_number(event_id, dtype)): event for event_id, created, event in rows}
        missing = [
            event_us
            for version, event_us in known.items()
            if version not in present and (since_us is None or event_us > since_us)
        ]
        if missing:
            return f"{LOST}: {len(missing)} of its events are not online"
        unknown = {number for _, number in present} - {number for _, number in known}
        return f"{len(unknown)} of its events are {UNKNOWN}" if unknown else WRONG


def live_of(
    online: OnlineStore, registry: OnlineRegistry, view: FeatureView, project_dir: Path
) -> tuple[OnlineStore, EventSource, Path]:
    """Where a view's live events are: in which store, of which source, landed in which folder."""
    for source in registry.registry.sources:
        if source.name == plan_of(view).source:
            return online, source, landing_folder(source, project_dir)
    raise OnlineStoreError(
        "the online registry lacks the view's event source", where=view.id, expected=plan_of(view).source,
        remedy="run `features apply` and `features sync`",
    )  # fmt: skip


def served_values(
    found: OnlineView, stored: Sequence[bytes | None], bases: Sequence[bytes | None], at_us: int
) -> tuple[list[Values], ViewColumns]:
    """What a read at an instant gives for the values and bases of some keys: the view's features, None for no value.

    Also the read itself.
    """
    view = found.definition
    read = StreamViewReader(found, view.ttl_us, view.features, ValueCounts()).read(stored, at_us, (), bases)
    columns = []
    for i, feature in enumerate(view.features):
        convert, nulls = from_stored(feature.dtype) or (lambda value: value), read.nulls[i]
        try:
            columns.append(
                [None if nulls is not None and nulls[n] else convert(value) for n, value in enumerate(read.columns[i])]
            )
        except UNDECODABLE as error:
            raise damaged(view.id, f"a stored {feature.name}", str(error)) from None
    return [tuple(column[row] for column in columns) for row in range(len(stored))], read


def unequal(one: Values, other: Values) -> list[int]:
    """Places where values differ; sums of floats may differ in their last digits, for their order is not fixed."""
    return [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if not same(a, b, close=True)]
