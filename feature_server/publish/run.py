"""Bring a view's offline table up to date with its dbt relation, at a cost that grows with what changed.

The relation's rows are fingerprinted a bucket of event time at a time (only those buckets that can have changed, where
the build log says so) and compared with the fingerprints of the table's files, as the files' names say them or, with
`full`, as they are read. A bucket that only gained rows gets a file with those; any other changed bucket, and one with
a damaged file, is written anew; one commit swaps them all in. Until then no reader sees anything of it, so a run that
dies leaves the previous version in force and the next run starts over.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress

import msgspec

from ..definitions.facts import FeatureView, always_known, event_view
from ..errors import NotFit, OfflineStoreError, WarehouseError
from ..offline.commit import CommitConflict, commit
from ..offline.damage import Damage, check_present, damages
from ..offline.files import Extent, Fingerprint, bucket_of, choose_grain, fingerprints, keep, new_file
from ..offline.sql import columns
from ..offline.store import DataFile, OfflineStore, OfflineTable, PublishedState
from ..times import from_us
from ..warehouse.builds import Build
from ..warehouse.relations import Newest, Part, Portion, Scan, Warehouse
from ..warehouse.ties import find_ties
from .built import BuiltBy, check_green, models_of

_ANY = BuiltBy()  # of views whose SQL is not known
Progress = Callable[[int, int], None]  # files written, files to write
BUCKET_ROWS = 2_000_000  # a bucket holds at most about this many rows: what one late row costs to rewrite
FILES_A_BUCKET = 12  # a bucket with this many files is written as one instead of getting another


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What one `publish` did; `committed` is false when the table equalled the relation already.

    `damaged` says of each damaged file what was wrong with it; the rows of its bucket were written anew.
    """

    view: str
    version: int
    rows: int
    changed_buckets: int
    rows_written: int
    rows_compared: int
    committed: bool
    seconds: float
    damaged: tuple[str, ...] = ()

    def __str__(self) -> str:
        damaged = f" damaged_files={len(self.damaged)}" if self.damaged else ""
        return "\n".join(
            [
                f"published {self.view} version={self.version} rows={self.rows} changed_buckets={self.changed_buckets} "
                f"rows_written={self.rows_written}{damaged} seconds={self.seconds:.2f}",
                *(f"  written anew: {text}" for text in self.damaged),
            ]
        )


class Plan(msgspec.Struct, frozen=True):
    """How to make the next version: of nothing or of other columns when `replace`, else of the present one."""

    state: PublishedState
    writes: tuple[Portion, ...]
    removed: tuple[DataFile, ...]
    changed_buckets: int
    rows_compared: int
    replace: bool
    unproven: tuple[Portion, ...]  # rows not known yet to be one a key and times
    damaged: tuple[Damage, ...] = ()


def publish(
    view: FeatureView,
    warehouse: Warehouse,
    store: OfflineStore,
    *,
    built_by: BuiltBy = _ANY,
    full: bool = False,
    bucket_rows: int = BUCKET_ROWS,
    progress: Progress = lambda done, total: None,
) -> Published:
    """Commit what differs between `view`'s relation and its offline table; nothing when nothing does.

    Of a stream view it is the events that are published; another view is not where it was built otherwise than by
    `built_by`. The commit keeps that SQL.
    `full` compares all rows whatever the build log says, and reads every file of the table. Raises WarehouseError for a
    relation that is missing, differs from its definition, has rows without a key or event time, or, as NotFit, several
    rows of one key and the same times; DamagedFile, without `full`, for a file that is gone or has another length;
    CommitConflict when another process keeps publishing.
    """
    started = time.monotonic()
    try:
        plan, committed = _commit_changes(view, warehouse, store, built_by, full, bucket_rows, progress)
    except CommitConflict:
        plan, committed = _commit_changes(view, warehouse, store, built_by, full, bucket_rows, progress)
    table = store.table(view.id)
    return Published(
        view=view.id,
        version=table.version,
        rows=table.rows,
        changed_buckets=plan.changed_buckets,
        rows_written=sum(write.extent.fingerprint.rows for write in plan.writes),
        rows_compared=plan.rows_compared,
        committed=committed,
        seconds=time.monotonic() - started,
        damaged=tuple(map(str, plan.damaged)),
    )


def look(view: FeatureView, warehouse: Warehouse, store: OfflineStore, built_by: BuiltBy, full: bool) -> PublishedState:
    """What would be published of a view; raises what keeps it from that."""
    base = store.table(view.id) if store.exists(view.id) else None
    return _checked_plan(view, warehouse, built_by, base, full, BUCKET_ROWS).state


def _checked_plan(
    view: FeatureView,
    warehouse: Warehouse,
    built_by: BuiltBy,
    base: OfflineTable | None,
    full: bool,
    bucket_rows: int,
) -> Plan:
    check_green(view, warehouse, built_by.models)
    plan = make_plan(event_view(view), warehouse, base, full=full, bucket_rows=bucket_rows)
    if view.stream is not None:  # whose events are from the source, by the definitions' own SQL
        return plan
    changed = base is None or plan.replace or plan.changed_buckets > 0
    build = built_by.check(view, warehouse, _state_of(base), replaced=plan.replace, changed=changed)
    _check_ties(view, warehouse, plan.unproven)
    return msgspec.structs.replace(plan, state=msgspec.structs.replace(plan.state, last_build=build))


def _state_of(base: OfflineTable | None) -> PublishedState | None:
    with suppress(OfflineStoreError):  # another program's commit, which is replaced
        return None if base is None else base.state
    return None


def _commit_changes(
    view: FeatureView,
    warehouse: Warehouse,
    store: OfflineStore,
    built_by: BuiltBy,
    full: bool,
    bucket_rows: int,
    progress: Progress,
) -> tuple[Plan, bool]:
    """What was planned, and whether there was anything to commit."""
    rows, path = event_view(view), store.path(view.id)
    base = store.table(view.id) if store.exists(view.id) else None
    plan = _checked_plan(view, warehouse, built_by, base, full, bucket_rows)
    if base is not None and not plan.replace and not plan.changed_buckets:
        return plan, False
    files = [new_file(path, write.bucket, write.extent) for write in plan.writes]
    progress(0, len(files))
    written = warehouse.write(rows, plan.writes, [file.path for file in files])
    for done, (file, count) in enumerate(zip(files, written, strict=True), 1):
        keep(file, count, view_id=view.id)
        progress(done, len(files))
    state = msgspec.structs.replace(
        plan.state,
        features=view.features if view.stream is not None else (),
        models=models_of(view, built_by.models),
    )
    commit(path, state, base=base, added=files, removed=plan.removed, replace=plan.replace)
    return plan, True


def make_plan(
    view: FeatureView, warehouse: Warehouse, base: OfflineTable | None, *, full: bool, bucket_rows: int
) -> Plan:
    """Compare the relation with the table and say what to write, reading the warehouse but writing nothing."""
    check = warehouse.hash_check()
    builds = warehouse.builds(view) if view.stream is None else ()  # the log does not speak of events
    old = None if base is None else _comparable(base, view, check, bucket_rows)
    kept = None if old is None else base  # what the new version adds to
    newest = None if kept is None else Newest(kept.newest_event_us, kept.state.newest_created_us)
    damaged = _damaged(kept, full)
    since = None if kept is None or full else _first_bucket_changed(builds, kept.state)
    scan = _scan(view, warehouse, since, newest)
    if old is not None and since is not None:
        rows_before = sum(fingerprint.rows for bucket, fingerprint in old.items() if bucket < since)
        if rows_before + scan.rows != warehouse.row_count(view):  # a change that the build log does not know of
            since, scan = None, _scan(view, warehouse, None, newest)
    days = ((part.day, part.extent.fingerprint.rows) for part in scan.parts)
    grain = choose_grain(days, bucket_rows) if kept is None else kept.state.grain
    before = {bucket: found for bucket, found in (old or {}).items() if since is None or bucket >= since}
    rewritten = {damage.file.bucket for damage in damaged}
    writes, removed, changed = _differences(
        before, () if kept is None else kept.files(), scan, grain, newest, rewritten
    )
    every = (Portion(bucket, extent) for bucket, extent in _by_bucket(scan.parts, grain).items())
    created = (scan.newest_created_us, None if newest is None else newest.created_us)
    state = PublishedState(
        view=view,
        grain=grain,
        hash_check=check,
        builds_seen=len(builds),
        last_build=builds[-1].invocation_id if builds else None,
        newest_created_us=max((us for us in created if us is not None), default=None),
    )
    unproven = tuple(every) if full else writes
    return Plan(state, writes, removed, changed, scan.rows, base is not kept, unproven, damaged)


def _check_ties(view: FeatureView, warehouse: Warehouse, portions: Iterable[Portion]) -> None:
    """NotFit where rows of a key have the same times: chance would say which one is read.

    Rows later than all that are known tie with one another alone, and the others of a bucket that gained such rows are
    those that were published.
    """
    if (ties := find_ties(warehouse, view, portions)) is None:
        return
    times = " and ".join(filter(None, [view.event_timestamp, view.created_timestamp]))
    raise NotFit(
        "rows of one key have the same times, and which of them is read would be chance",
        where=f"{view.id} in {warehouse.path}",
        expected=f"one row for each {', '.join(view.key_names)} with {times}",
        got=f"{ties.rows} rows of {ties.places} such keys and times: {'; '.join(ties.examples)}",
        remedy=f"let the model keep one of them and test it with `grain`, then `dbt build --select +{view.name}`",
    )


def _damaged(table: OfflineTable | None, full: bool) -> tuple[Damage, ...]:
    """The damaged files of a table that is to be added to; without `full` none is read, and one that is gone raises."""
    if table is None:
        return ()
    if full:
        return tuple(damages(table))
    check_present(table)
    return ()


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
    before: dict[str, Fingerprint],
    kept: Iterable[DataFile],
    scan: Scan,
    grain: str,
    newest: Newest | None,
    rewritten: set[str],
) -> tuple[tuple[Portion, ...], tuple[DataFile, ...], int]:
    """What to write, which files of those kept to remove, and how many buckets differ from what they were `before`.

    Buckets to be `rewritten` differ whatever their fingerprints. That a bucket gained its fresh rows and nothing else
    is a guess, used where fingerprints prove it.
    """
    new, fresh = _by_bucket(scan.parts, grain), _by_bucket((part for part in scan.parts if part.fresh), grain)
    files: dict[str, list[DataFile]] = defaultdict(list)
    for file in kept:
        files[file.bucket].append(file)
    after = {bucket: extent.fingerprint for bucket, extent in new.items()}
    changed = [
        bucket
        for bucket in sorted(before.keys() | after.keys() | rewritten)
        if bucket in rewritten or before.get(bucket) != after.get(bucket)
    ]
    writes: list[Portion] = []
    removed: list[DataFile] = []
    for bucket in changed:
        gained = fresh.get(bucket)
        if (
            gained is not None
            and bucket not in rewritten
            and len(files[bucket]) < FILES_A_BUCKET
            and before.get(bucket, Fingerprint()) + gained.fingerprint == after[bucket]
        ):
            writes.append(Portion(bucket, gained, newest))
            continue
        removed += files[bucket]
        if bucket in new:
            writes.append(Portion(bucket, new[bucket]))
    return tuple(writes), tuple(removed), len(changed)


def _scan(view: FeatureView, warehouse: Warehouse, since: str | None, newest: Newest | None) -> Scan:
    """What the relation holds; a row without a key or a time can never be looked up: an error, not to be dropped."""
    scan = warehouse.scan(view, since=since, newest=newest)
    keys, time = ", ".join(always_known(view)), view.event_timestamp
    counts = ((scan.keyless, f"a null in {keys}"), (scan.timeless, f"{time} null or outside the years 1 to 9998"))
    if problems := [f"{count} rows with {what}" for count, what in counts if count]:
        raise WarehouseError(
            "rows that no key and time can find",
            where=f"{view.id} in {warehouse.path}",
            expected=f"{keys} and {time} in every row",
            got=" and ".join(problems),
            remedy="filter them in the model and give these columns dbt's not_null test",
        )
    return scan


def _first_bucket_changed(builds: tuple[Build, ...], state: PublishedState) -> str | None:
    """The first bucket that builds since the last publish can have touched; None when that cannot be told."""
    seen = state.builds_seen
    if not 0 < seen < len(builds) or builds[seen - 1].invocation_id != state.last_build:
        return None
    starts = [build.changed_from_us for build in builds[seen:] if build.changed_from_us is not None]
    if len(starts) < len(builds) - seen:
        return None
    with suppress(OverflowError):
        return bucket_of(from_us(min(starts)).date().isoformat(), state.grain)
    return None


def _by_bucket(parts: Iterable[Part], grain: str) -> dict[str, Extent]:
    found: dict[str, Extent] = {}
    for part in parts:
        bucket = bucket_of(part.day, grain)
        found[bucket] = found[bucket] + part.extent if bucket in found else part.extent
    return found
