"""Whether online and offline store agree: keys read from Redis and computed from Delta at one instant.

The value of each key is computed here by plain SQL, on purpose not by the code that sync and training use. A key whose
value differs from the latest offline version at the instant is compared again with the version and instant it was
synced from: equal to that it is merely not yet synced, else it is wrong.
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import msgspec

from ..definitions.facts import FeatureView
from ..errors import OfflineStoreError, RequestError, SyncConflict
from ..layout import keys
from ..layout.parts import PartsDecoder
from ..layout.row import UNDECODABLE
from ..offline.damage import check_present, damages, reading
from ..offline.session import connect
from ..offline.sql import columns, quote
from ..offline.store import OfflineStore, OfflineTable
from ..online.registry import LastVerified, OnlineRegistry, OnlineView
from ..online.store import OnlineStore, redis_errors
from ..times import YEARS_US, from_us
from .difference import Difference, described

SAMPLE = 1000
_BATCH = 50_000  # keys a query
_PIPELINE = 5000  # keys a command to Redis
_TRIES = 5
Progress = Callable[[int, int], None]

NOT_YET_SYNCED, NEVER_SYNCED, EXPIRED, WRONG = "not yet synced", "never synced", "expired early", "wrong"
DAMAGED = "damaged: `features sync --full` writes it anew"


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison of `keys` keys of one view at `instant_us` found.

    `different` counts keys with a difference, `unexplained` those of them that the next sync would not make equal,
    nor, for an event that came late for a lifetime window, the one after it has landed. `not_compared` says why the dbt
    relation of a stream view was to be compared and was not.
    `behind_versions` counts commits of the offline table not yet synced, `behind_seconds` how much later the newest
    event offline is than the newest online, both as of the instant.
    """

    view: str
    instant_us: int
    keys: int = 0
    different: int
    unexplained: int
    differences: tuple[Difference, ...]
    online_version: int | None = None
    offline_version: int
    behind_versions: int | None = None
    behind_seconds: float | None = None
    seconds: float = 0.0
    not_compared: str | None = None

    @property
    def summary(self) -> LastVerified:
        """What is kept of it in Redis."""
        return msgspec.convert(self, LastVerified, from_attributes=True)

    def __str__(self) -> str:
        return (
            f"verified {self.view} keys={self.keys} different={self.different} unexplained={self.unexplained} "
            f"online_version={_shown(self.online_version)} offline_version={self.offline_version} "
            f"behind_seconds={_shown(self.behind_seconds)} seconds={self.seconds:.2f}"
            + (f" (its dbt relation was not compared: {self.not_compared})" if self.not_compared else "")
        )


class Row(NamedTuple):
    """A row that counts at the instant."""

    event_us: int
    values: Sequence[Any]


def verify(
    view: FeatureView,
    online: OnlineStore,
    store: OfflineStore,
    *,
    now_us: int,
    sample: int = SAMPLE,
    progress: Progress = lambda done, total: None,
) -> Verified:
    """Compare `sample` keys of `view` (0: all, and all of its keys in Redis), the same ones every time.

    The instant is `now_us`, or the last sync's where that is later. Raises SyncConflict where syncs never leave the
    view alone for long enough.
    """
    table = store.table(view.id)
    for _ in range(_TRIES):
        check_present(table)
        started, registry = time.monotonic(), online.registry()
        if registry is None or (found := registry.views.get(view.id)) is None:
            return never_synced(table, now_us)
        comparison = _Comparison(table, online, registry, found, now_us)
        with connect(store.root / ".spill") as comparison.connection, reading(comparison.latest):
            differences = comparison.differences(sample, progress)
            newest = comparison.newest_event_us()
        verified = compared(
            table, found, differences, instant_us=comparison.now_us, key_count=comparison.count,
            newest_event_us=newest, started=started,
        )  # fmt: skip
        if not verified.unexplained or not _being_synced(view, online, found):
            return verified
        time.sleep(0.5)
        table = store.table(view.id)
    raise SyncConflict(
        "the view was synced again and again while it was compared", where=view.id, remedy="run `features verify` again"
    )


def compared(
    table: OfflineTable,
    found: OnlineView,
    differences: Sequence[Difference],
    *,
    instant_us: int,
    key_count: int,
    newest_event_us: int | None,
    explained: Collection[str] = (NOT_YET_SYNCED,),
    started: float,
) -> Verified:
    """The outcome of a comparison begun at `started`, a time of `time.monotonic`."""
    known = newest_event_us is not None and found.newest_event_us is not None
    return Verified(
        view=table.view_id,
        instant_us=instant_us,
        keys=key_count,
        different=len({difference.key for difference in differences}),
        unexplained=len({difference.key for difference in differences if difference.cause not in explained}),
        differences=tuple(differences),
        online_version=found.table_version,
        offline_version=table.version,
        behind_versions=table.version - found.table_version,
        behind_seconds=max(0, newest_event_us - found.newest_event_us) / 1e6 if known else None,  # type: ignore[operator]
        seconds=time.monotonic() - started,
    )


def never_synced(table: OfflineTable, now_us: int) -> Verified:
    rows = table.rows
    differences = described("*", [("*", "nothing", f"{rows} rows")] if rows else [], NEVER_SYNCED)
    return Verified(
        view=table.view_id, instant_us=now_us, different=len(differences), unexplained=len(differences),
        differences=tuple(differences), offline_version=table.version,
    )  # fmt: skip


def _being_synced(view: FeatureView, online: OnlineStore, before: OnlineView) -> bool:
    """Whether a sync of the view is running, or has ended since it was as `before`."""
    with redis_errors():
        locked = online.client.exists(online.names.lock(view.id))
    registry = online.registry()
    return bool(locked) or registry is None or registry.views.get(view.id) != before


class _Comparison:
    """One comparison of a view's rows, in a DuckDB session of its own."""

    connection: Any

    def __init__(
        self, table: OfflineTable, online: OnlineStore, registry: OnlineRegistry, found: OnlineView, now_us: int
    ) -> None:
        self.online, self.found, self.view = online, found, found.definition
        self.now_us = max(now_us, found.synced_at_us)
        self.ttl_us = registry.registry.feature_view(self.view.id).ttl_us
        self.parts = PartsDecoder(self.view, found.check().code)
        synced = synced_table(table, found)
        same = synced is not None and tuple(columns(synced.view())) == tuple(columns(self.view))
        self.synced = synced if same else None
        self.is_new_definition = table.view().fingerprint != self.view.fingerprint
        self.count = 0
        if (latest := self.synced if self.is_new_definition else table) is None:
            raise OfflineStoreError(
                "neither the version that was synced nor one of the same definition can be read",
                where=f"{self.view.id} in {table.path}",
                remedy=f"run `features sync {self.view.id}`",
            )
        self.latest = latest

    def differences(self, sample: int, progress: Progress) -> list[Difference]:
        found: list[Difference] = []
        if self.is_new_definition:
            found += described("*", [("*", "old definition", "new one")], NOT_YET_SYNCED)
        self._choose(sample)
        expected: set[bytes] = set()
        for start in range(0, self.count, _BATCH):
            progress(start, self.count)
            batch = f"chosen.n >= {start} and chosen.n < {start + _BATCH}"
            names = named_keys(self.connection, self.view, where=f"where {batch}")
            entities = [name for name, _ in names.values()]
            expected.update(entities)
            rows, wrong = self._counting(dict(zip(names, entities, strict=True)))
            for n, what in wrong.items():
                found += described(names.pop(n)[1], [("*", what, "a row, or none")], DAMAGED)
            found += self._compare(names, rows, self._read_offline(self.latest, self.now_us, batch))
        progress(self.count, self.count)
        return found + (self._unknown_keys(expected) if sample == 0 else [])

    def newest_event_us(self) -> int | None:
        """The latest event offline that counts at the instant."""
        event = quote(self.view.event_timestamp)
        scan = self.latest.scan_sql([self.view.event_timestamp])
        (newest,) = self.connection.execute(
            f"select max(epoch_us({event})) from ({scan}) where {event} <= make_timestamptz({self.now_us})"
        ).fetchall()[0]
        return None if newest is None else int(newest)

    def _choose(self, sample: int) -> None:
        """Number the keys to compare, those of the latest and of the synced version, in the order of their hashes."""
        names = self.view.key_names
        listed = ", ".join(f"{quote(name)} as k{i}" for i, name in enumerate(names))
        tables = {table.version: table for table in (self.latest, self.synced) if table is not None}
        scans = " union all ".join(f"select {listed} from ({table.scan_sql(names)})" for table in tables.values())
        order = ", ".join(f"k{i}" for i in range(len(names)))
        self.connection.execute(
            f"create or replace temp table chosen as select row_number() over () - 1 as n, * from (select distinct * "
            f"from ({scans}) order by hash({order}), {order} {f'limit {sample}' if sample else ''})"
        )
        (self.count,) = self.connection.execute("select count(*) from chosen").fetchall()[0]

    def _get(self, names: Sequence[bytes]) -> list[bytes | None]:
        """What is stored under names, in order."""
        stored: list[bytes | None] = []
        for start in range(0, len(names), _PIPELINE):
            with redis_errors():
                stored += self.online.client.mget(names[start : start + _PIPELINE])
        return stored

    def _counting(self, entities: dict[int, bytes]) -> tuple[dict[int, Row], dict[int, str]]:
        """The rows that count, and what is wrong with those of which no row can be made; given what is in braces."""
        codes = [code.encode() for code in self.parts.codes]
        names = [code + entity for entity in entities.values() for code in codes]
        found, absent = iter(self._get(names)), dict[bytes, int]()
        rows, wrong = dict[int, Row](), dict[int, str]()
        for n, entity in entities.items():
            packed = [next(found) for _ in codes]
            absent |= {code + entity: n for code, each in zip(codes, packed, strict=True) if each is None}
            if set(packed) == {None}:
                continue
            try:
                rows[n] = Row(*self.parts.decode(packed))
            except UNDECODABLE as error:
                wrong[n] = f"a row that cannot be read: {error}"
        rows = {n: row for n, row in rows.items() if row.event_us <= self.now_us and self._is_fresh(row)}
        kinds = self.online.wrong_types(list(absent))
        return rows, wrong | {absent[name]: f"a {kind}" for name, kind in kinds.items()}

    def _is_fresh(self, row: Row) -> bool:
        return self.ttl_us is None or row.event_us >= self.now_us - self.ttl_us

    def _read_offline(self, table: OfflineTable, at_us: int, wanted: str) -> dict[int, Row]:
        """The rows of the chosen keys that `wanted`, in SQL, says: the latest not after `at_us`, if it still counts."""
        join = " and ".join(f"history.{quote(name)} = chosen.k{i}" for i, name in enumerate(self.view.key_names))
        event = f"history.{quote(self.view.event_timestamp)}"
        latest = [f"{event} desc"]
        if self.view.created_timestamp is not None:
            latest.append(f"history.{quote(self.view.created_timestamp)} desc nulls last")
        latest.append("history.place_ desc")
        features = ", ".join(f"history.{quote(name)}" for name in self.view.feature_names)
        sql = f"""
            select chosen.n, epoch_us({event}), {features}
            from ({table.scan_sql(place="place_")}) as history join chosen on {join}
            where {event} <= make_timestamptz({at_us}) and {wanted}
            qualify row_number() over (partition by chosen.n order by {", ".join(latest)}) = 1
        """
        rows = ((n, Row(event_us, values)) for n, event_us, *values in self.connection.execute(sql).fetchall())
        return {n: row for n, row in rows if self._is_fresh(row)}

    def _compare(
        self, names: dict[int, tuple[bytes, str]], online: dict[int, Row], offline: dict[int, Row]
    ) -> list[Difference]:
        different = {n: places for n in names if (places := self._unequal(online.get(n), offline.get(n)))}
        if not different:
            return []
        synced: dict[int, Row] = {}
        if self.synced is not None:
            chosen = f"chosen.n in ({', '.join(map(str, different))})"
            synced = self._read_offline(self.synced, self.found.synced_at_us, chosen)
        found: list[Difference] = []
        for n, places in different.items():
            if self.synced is not None and not self._unequal(online.get(n), synced.get(n)):
                cause = NOT_YET_SYNCED
            elif n not in online and self.found.expires and self._is_expired_in_redis(offline.get(n)):
                cause = EXPIRED
            else:
                cause = WRONG
            found += described(names[n][1], places, cause)
        return found

    def _is_expired_in_redis(self, offline: Row | None) -> bool:
        """Whether Redis, by a clock that is ahead of the instant, has let the row expire."""
        if offline is None or self.ttl_us is None:
            return False
        with redis_errors():
            seconds, microseconds = self.online.client.time()
        return bool(offline.event_us + self.ttl_us < seconds * 1_000_000 + microseconds)

    def _unequal(self, online: Row | None, offline: Row | None) -> list[tuple[str, str, str]]:
        """What differs, as it is online and offline: features, the event timestamp, or `*` where one has no row."""
        if online is None or offline is None:
            sides = ["no value" if row is None else f"a row of {_time(row.event_us)}" for row in (online, offline)]
            return [] if online is offline else [("*", sides[0], sides[1])]
        found = []
        if online.event_us != offline.event_us:
            found.append((self.view.event_timestamp, _time(online.event_us), _time(offline.event_us)))
        for name, one, other in zip(self.view.feature_names, online.values, offline.values, strict=True):
            if not same(one, other):
                found.append((name, repr(one), repr(other)))
        return found

    def _unknown_keys(self, expected: set[bytes]) -> list[Difference]:
        """Rows in Redis, found by looking at every key, of keys that the offline table does not have."""
        found: list[Difference] = []
        for of_part in self.parts.codes:
            code = of_part.encode()
            for names in self.online.scan(of_part):
                unknown = list({name.removeprefix(code) for name in names} - expected)
                expected.update(unknown)
                rows, wrong = self._counting(dict(enumerate(unknown)))
                for n, row in rows.items():
                    found += described((code + unknown[n]).decode(), self._unequal(row, None), WRONG)
                for n, what in wrong.items():
                    found += described((code + unknown[n]).decode(), [("*", what, "no value")], DAMAGED)
        return found


def same(one: Any, other: Any, *, close: bool = False) -> bool:
    """Whether values are equal as SQL has it: zeros of either sign, any two NaN, decimals whatever their scale.

    `close` lets floats differ in their last digits.
    """
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(a, b, close=close) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12) if close else one == other
    return bool(one == other)


def named_keys(connection: Any, view: FeatureView, code: bytes = b"", where: str = "") -> dict[int, tuple[bytes, str]]:
    """What each n of the table `chosen`, or of those `where`, has as its row key under a code, and as a person reads
    it."""
    encoders = [keys.key_encoder(key) for key in view.join_keys]
    names: dict[int, tuple[bytes, str]] = {}
    for n, *values in connection.execute(f"from chosen {where} order by n").fetchall():
        parts = [str(encode(value)) for encode, value in zip(encoders, values, strict=True)]
        shown = ", ".join(f"{name}={value}" for name, value in zip(view.key_names, values, strict=True))
        names[n] = keys.row_key(code, parts), shown
    return names


def synced_table(table: OfflineTable, found: OnlineView) -> OfflineTable | None:
    """The version that was synced; None when it cannot be told or read."""
    try:
        synced = table.at(found.table_version)
        if any(damages(synced, set(synced.files()) - set(table.files()))):
            return None
    except OfflineStoreError:
        return None
    return synced if not found.table_id or str(synced.delta.metadata().id) == found.table_id else None


def check_online(views: Sequence[FeatureView]) -> None:
    """RequestError when a view is not served online."""
    offline = [view.id for view in views if not view.online]
    if offline:
        raise RequestError(
            "not served online, so there is nothing to verify",
            where=", ".join(offline),
            expected="views with `online: true`",
            remedy="leave them out, or set `online: true` in their meta",
        )


def _time(event_us: int) -> str:
    within = YEARS_US[0] <= event_us <= YEARS_US[1]
    return from_us(event_us).isoformat() if within else f"{event_us} µs"


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
