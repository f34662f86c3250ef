"""What to publish of a view: its relation compared with its offline table, a bucket of event time at a time."""

from __future__ import annotations

from datetime import date, timedelta

import msgspec

from ..definitions.facts import FeatureView, always_known
from ..errors import OfflineStoreError, WarehouseError
from ..offline.files import Extent, Fingerprint, bucket_of, choose_grain, fingerprints, hash_check, row_hash
from ..offline.sql import columns, quote
from ..offline.store import DataFile, OfflineTable, PublishedState
from ..offline.warehouse import Build, Warehouse
from ..times import from_us

FILES_A_BUCKET = 12  # a bucket with this many files is written as one instead of getting another
_OLDEST_US, _NEWEST_US = -62_135_596_800_000_000, 253_370_764_799_999_999  # 0001-01-01 to the end of 9998


class Write(msgspec.Struct, frozen=True):
    """Rows to write to one bucket: all of them, or those that `condition`, in SQL, says are new."""

    bucket: str
    extent: Extent
    condition: str | None


class Plan(msgspec.Struct, frozen=True):
    """How to make the next version: of nothing or of other columns when `replace`, else of the present one."""

    state: PublishedState
    writes: tuple[Write, ...]
    removed: tuple[DataFile, ...]
    changed_buckets: int
    rows_compared: int
    replace: bool


class Scan(msgspec.Struct, frozen=True):
    """The relation's rows of each day, and of them the fresh ones: newer than anything published."""

    days: dict[str, Extent]
    fresh: dict[str, Extent]
    newest_created_us: int | None

    @property
    def rows(self) -> int:
        return sum(extent.fingerprint.rows for extent in self.days.values())


def make_plan(
    view: FeatureView, warehouse: Warehouse, base: OfflineTable | None, *, full: bool, bucket_rows: int
) -> Plan:
    """Compare the relation with the table and say what to write, reading the warehouse but writing nothing.

    WarehouseError when a test of the view failed at its last run: what it wrote is not published.
    """
    if failed := warehouse.failed_tests(view):
        raise WarehouseError(
            "tests of the view failed when last run, so its rows are not published",
            where=view.id,
            expected="all tests green",
            got=", ".join(failed),
            remedy=f"correct the data or the model, then `dbt build --select {view.name}` and publish again",
        )
    check = hash_check(warehouse)
    builds = warehouse.builds(view) if view.stream is None else ()  # the log does not speak of events
    if base is None or (published := _comparable(base, view, check, bucket_rows)) is None:
        scan = _scan(view, warehouse)
        grain = choose_grain(((day, extent.fingerprint.rows) for day, extent in scan.days.items()), bucket_rows)
        state = _state(view, grain, check, builds, scan.newest_created_us)
        writes = tuple(Write(bucket, extent, None) for bucket, extent in _by_bucket(scan.days, grain).items())
        return Plan(state, writes, (), len(writes), scan.rows, base is not None)
    old, state = published, base.state
    condition = _fresh_condition(view, base)
    since = None if full else _first_bucket_changed(builds, state)
    scan = _scan(view, warehouse, since=since, fresh=condition)
    if since is not None:
        rows_before = sum(fingerprint.rows for bucket, fingerprint in old.items() if bucket < since)
        if rows_before + scan.rows != warehouse.row_count(view):  # a change that the build log does not know of
            since, scan = None, _scan(view, warehouse, fresh=condition)
    writes, removed, changed = _differences(base, old, scan, since)
    newest = max((us for us in (state.newest_created_us, scan.newest_created_us) if us is not None), default=None)
    return Plan(_state(view, state.grain, check, builds, newest), writes, removed, changed, scan.rows, False)


def _comparable(base: OfflineTable, view: FeatureView, check: str, bucket_rows: int) -> dict[str, Fingerprint] | None:
    """The table's fingerprint for each bucket; None when the table must be written anew."""
    try:
        state, found = base.state, fingerprints(base.files())
    except OfflineStoreError:  # another program's commit
        return None
    if found is None or state.hash_check != check or state.view.fingerprint != view.fingerprint:
        return None
    if tuple(columns(state.view)) != tuple(columns(view)):
        return None
    largest = max((fingerprint.rows for fingerprint in found.values()), default=0)
    return None if state.grain != "day" and largest > 4 * bucket_rows else found


def _differences(
    base: OfflineTable, old: dict[str, Fingerprint], scan: Scan, since: str | None
) -> tuple[tuple[Write, ...], tuple[DataFile, ...], int]:
    grain, condition = base.state.grain, _fresh_condition(base.view(), base)
    new, fresh = _by_bucket(scan.days, grain), _by_bucket(scan.fresh, grain)
    files: dict[str, list[DataFile]] = {}
    for file in base.files():
        files.setdefault(file.bucket, []).append(file)
    writes: list[Write] = []
    removed: list[DataFile] = []
    looked_at = [bucket for bucket in old if since is None or bucket >= since]
    changed = [
        bucket
        for bucket in sorted({*looked_at, *new})
        if bucket not in new or old.get(bucket) != new[bucket].fingerprint
    ]
    for bucket in changed:
        gained = fresh.get(bucket)
        if (
            bucket in new
            and gained is not None
            and len(files.get(bucket, ())) < FILES_A_BUCKET
            and old.get(bucket, Fingerprint()) + gained.fingerprint == new[bucket].fingerprint
        ):
            writes.append(Write(bucket, gained, condition))
            continue
        removed += files.get(bucket, ())
        if bucket in new:
            writes.append(Write(bucket, new[bucket], None))
    return tuple(writes), tuple(removed), len(changed)


def _scan(view: FeatureView, warehouse: Warehouse, *, since: str | None = None, fresh: str = "false") -> Scan:
    """Fingerprint the relation a day at a time, from the start of bucket `since` on."""
    event = quote(view.event_timestamp)
    created = f"epoch_us({quote(view.created_timestamp)})" if view.created_timestamp else "null"
    keyless = " or ".join(f"{quote(name)} is null" for name in always_known(view))
    facts = "count(*){0}, sum(hash){0}, bit_xor(hash){0}, min(event_us){0}, max(event_us){0}"
    rows = warehouse.rows(f"""
        select
            strftime(day, '%Y-%m-%d'), {facts.format("")}, {facts.format(" filter (fresh)")},
            max(created_us), count(*) filter (keyless)
        from (
            select
                case when epoch_us({event}) between {_OLDEST_US} and {_NEWEST_US}
                    then cast(make_timestamp(epoch_us({event})) as date) end as day,
                epoch_us({event}) as event_us, {created} as created_us, {row_hash(view)} as hash, {fresh} as fresh,
                {keyless} as keyless
            from ({warehouse.source(view, since=None if since is None else first_day(since))})
        )
        group by day
        order by day
    """)
    _refuse_bad_rows(view, warehouse, sum(row[-1] for row in rows), sum(row[1] for row in rows if row[0] is None))
    return Scan(
        {row[0]: _extent(row[1:6]) for row in rows},
        {row[0]: _extent(row[6:11]) for row in rows if row[6]},
        max((row[11] for row in rows if row[11] is not None), default=None),
    )


def _refuse_bad_rows(view: FeatureView, warehouse: Warehouse, keyless: int, timeless: int) -> None:
    """A row without a key or a time can never be looked up: the model's error, not to be dropped in silence."""
    if not keyless and not timeless:
        return
    problems = [
        f"{count} rows with {what}"
        for count, what in (
            (keyless, f"a null in {', '.join(always_known(view))}"),
            (timeless, f"{view.event_timestamp} null or outside the years 1 to 9998"),
        )
        if count
    ]
    raise WarehouseError(
        "rows that no key and time can find",
        where=f"{view.id} in {warehouse.path}",
        expected=f"{', '.join(always_known(view))} and {view.event_timestamp} in every row",
        got=" and ".join(problems),
        remedy="filter them in the model and give these columns dbt's not_null test",
    )


def _fresh_condition(view: FeatureView, base: OfflineTable) -> str:
    """SQL for rows newer than anything published: a guess at what was added, used where fingerprints prove it."""
    newest = base.newest_event_us
    conditions = [f"{quote(view.event_timestamp)} > make_timestamptz({newest})"] if newest is not None else []
    if view.created_timestamp is not None and base.state.newest_created_us is not None:
        conditions.append(f"{quote(view.created_timestamp)} > make_timestamptz({base.state.newest_created_us})")
    return f"({' or '.join(conditions)})" if conditions else "true"


def _first_bucket_changed(builds: tuple[Build, ...], state: PublishedState) -> str | None:
    """The first bucket that builds since the last publish can have touched; None when that cannot be told."""
    seen = state.builds_seen
    if not 0 < seen < len(builds) or builds[seen - 1].invocation_id != state.last_build:
        return None
    starts = [build.changed_from_us for build in builds[seen:]]
    known = [start for start in starts if start is not None]
    if len(known) < len(starts):
        return None
    try:
        day = from_us(min(known)).date().isoformat()
    except OverflowError:
        return None
    return bucket_of(day, state.grain)


def _state(
    view: FeatureView, grain: str, check: str, builds: tuple[Build, ...], newest_created_us: int | None
) -> PublishedState:
    return PublishedState(
        view=view,
        grain=grain,
        hash_check=check,
        builds_seen=len(builds),
        last_build=builds[-1].invocation_id if builds else None,
        newest_created_us=newest_created_us,
    )


def _by_bucket(days: dict[str, Extent], grain: str) -> dict[str, Extent]:
    found: dict[str, Extent] = {}
    for day, extent in days.items():
        bucket = bucket_of(day, grain)
        found[bucket] = found[bucket] + extent if bucket in found else extent
    return found


def _extent(facts: tuple[int, int, int, int, int]) -> Extent:
    rows, total, mixed, min_event_us, max_event_us = facts
    return Extent(Fingerprint(rows, int(total) % 2**64, mixed), min_event_us, max_event_us)


def first_day(bucket: str) -> str:
    return (bucket + "-01-01")[:10]


def day_after(bucket: str) -> str:
    """The first day that no longer belongs to the bucket."""
    year, month = int(bucket[:4]), int(bucket[5:7] or 12)
    if len(bucket) == 10:
        return (date.fromisoformat(bucket) + timedelta(days=1)).isoformat()
    return f"{year + month // 12:04}-{month % 12 + 1:02}-01"
