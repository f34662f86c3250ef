"""What the relations of views hold, a bucket of event time at a time, and their rows as files, in DuckDB's SQL."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from ..definitions.facts import FeatureView, always_known
from ..definitions.stream import EventSource, StreamPlan
from ..dtypes import DType, known_sql_type
from ..errors import WarehouseError
from ..offline.files import Extent, Fingerprint, bucket_days, grain_of, hash_check, row_hash
from ..offline.session import connect
from ..offline.sql import BUCKET, cast_list, columns, literal, quote, sql_type, stored_sql_type
from ..project.target import database_name
from ..times import from_us
from .builds import Build, BuiltFrom, pairs
from .file import attach, name_parts

BUCKETS_A_SCAN = 16  # more than these are written from one copy sorted by time
_EVENTS, _STAGED = "copied_events", "staged"
_ABSENT = "no such column"
_ANY_TIME = "TIMESTAMP or TIMESTAMP WITH TIME ZONE"
_Days = tuple[str | None, str | None]  # the first day (ISO), and the first that is no longer meant
_Types = dict[str, str]  # of a relation's columns, by lower-case name, as DuckDB spells them
_ROW_GROUP_ROWS = 122_880
_OLDEST_US, _NEWEST_US = -62_135_596_800_000_000, 253_370_764_799_999_999  # 0001-01-01 to the end of 9998


class Newest(msgspec.Struct, frozen=True):
    """The latest times of rows that are known: a row is fresh when one of its times is later, or none is known."""

    event_us: int | None
    created_us: int | None


class Portion(msgspec.Struct, frozen=True):
    """Rows of one bucket: all of them, or those later than `newest`."""

    bucket: str
    extent: Extent
    newest: Newest | None = None


class Part(msgspec.Struct, frozen=True):
    """A relation's rows of one day that are fresh, or that are not."""

    day: str
    fresh: bool
    extent: Extent


class Scan(msgspec.Struct, frozen=True):
    """A relation's rows.

    `keyless` rows have a null in a key, `timeless` ones an event timestamp that is null or outside the years 1 to 9998.
    """

    parts: tuple[Part, ...]
    newest_created_us: int | None
    keyless: int
    timeless: int

    @property
    def rows(self) -> int:
        return sum(part.extent.fingerprint.rows for part in self.parts)


class Warehouse:
    """An open, read-only connection to dbt's DuckDB file, in a session whose time zone is UTC.

    `attached` names the databases beside it that models may be in.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        path: Path,
        sources: Sequence[EventSource] = (),
        attached: Iterable[str] = (),
    ) -> None:
        self.connection = connection
        self.path = path
        self.sources = {source.name: source for source in sources}
        self._copied: str | None = None  # the stream view whose events are copied
        self.name = database_name(path)  # as dbt names its database, so that the bodies of SQL views resolve
        self._attached = {name.lower() for name in attached}

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows a query gives; WarehouseError, caused by DuckDB's own, when it fails."""
        try:
            return self.connection.execute(sql, values).fetchall()
        except duckdb.Error as error:
            raise WarehouseError("a query failed", where=str(self.path), got=str(error)) from error

    def row_count(self, view: FeatureView) -> int:
        return int(self.rows(f"select count(*) from {self._relation(view)}")[0][0])

    def built(self, view: FeatureView, key: Sequence[Any], *, until_us: int) -> list[tuple[Any, ...]]:
        """The rows that dbt built for a key of a stream view, up to a time: event time in microseconds, features."""
        relation = self._place(view, name_parts(view)[-1])
        event = f"epoch_us({quote(view.event_timestamp)})"
        features = ", ".join(f"cast({quote(feature.name)} as {sql_type(feature.dtype)})" for feature in view.features)
        wanted = " and ".join(
            f"{quote(join_key.name)} = cast({literal(str(value))} as {sql_type(join_key.dtype)})"
            for join_key, value in zip(view.join_keys, key, strict=True)
        )
        return self.rows(f"select {event}, {features} from {relation} where {wanted} and {event} <= {until_us}")

    def builds(self, view: FeatureView) -> tuple[Build, ...]:
        """The view's entries of the build log `feature_builds` in its schema, oldest first; none without such a log."""
        columns = "invocation_id, epoch_us(changed_from), cast(as_of as varchar)"
        return tuple(Build(*row) for row in self._noted(view, "feature_builds", columns, "rowid"))

    def built_from(self, view: FeatureView, relation: str = "") -> tuple[BuiltFrom, ...]:
        """By which SQL the view was built, an item for each of `builds`; none where no build has recorded that.

        Given the `relation` of a model upstream of it, that one's.
        """
        of = msgspec.structs.replace(view, relation=relation or view.relation)
        noted = self._noted(of, "feature_builds", "invocation_id, changed_from is null, made_from", "rowid")
        return tuple(BuiltFrom(invocation, whole, tuple(pairs(models or ""))) for invocation, whole, models in noted)

    def built_texts(self, hashes: Iterable[str]) -> dict[str, str]:
        """The SQL that was recorded under these hashes, in whatever schema."""
        wanted = set(hashes)
        return {key: text for key, text in self._in_all("built_sql", "select hash, text from {}") if key in wanted}

    def instants(self) -> set[datetime]:
        """Those that the builds in the log spoke of."""
        return {from_us(us) for (us,) in self._in_all("feature_builds", "select distinct epoch_us(as_of) from {}")}

    def failed_tests(self, view: FeatureView, relation: str = "") -> tuple[str, ...]:
        """What failed of the view when last run, by the table `failed_tests` in its schema if any: tests, its build.

        Given the `relation` of a model upstream of it, of that one.
        """
        of = msgspec.structs.replace(view, relation=relation or view.relation)
        return tuple(name for (name,) in self._noted(of, "failed_tests", "test", "test"))

    def hash_check(self) -> str:
        """A text that changes when DuckDB's hash function does."""
        return hash_check(self.connection)

    def scan(self, view: FeatureView, *, since: str | None = None, newest: Newest | None = None) -> Scan:
        """What the view's relation holds from the start of bucket `since` on; fresh is what is later than `newest`.

        WarehouseError unless the relation has every column of the definition, with the type declared.
        """
        event = f"epoch_us({quote(view.event_timestamp)})"
        created = f"epoch_us({quote(view.created_timestamp)})" if view.created_timestamp else "null"
        rows = self.rows(f"""
            select
                strftime(day, '%Y-%m-%d'), fresh, count(*), sum(hash), bit_xor(hash), min(event_us), max(event_us),
                max(created_us), count(*) filter (keyless)
            from (
                select
                    case when {event} between {_OLDEST_US} and {_NEWEST_US}
                        then cast(make_timestamp({event}) as date) end as day,
                    {event} as event_us, {created} as created_us, {row_hash(view)} as hash,
                    {"false" if newest is None else later(view, newest)} as fresh,
                    {_any_null(always_known(view))} as keyless
                from ({self._source(view, self._relation(view), (since and bucket_days(since)[0], None))})
            )
            group by day, fresh
            order by day
        """)
        return Scan(
            parts=tuple(
                Part(day, bool(fresh), Extent(Fingerprint(count, int(total) % 2**64, mixed), oldest, newest_us))
                for day, fresh, count, total, mixed, oldest, newest_us, *_ in rows
                if day is not None
            ),
            newest_created_us=max((row[7] for row in rows if row[7] is not None), default=None),
            keyless=sum(row[8] for row in rows),
            timeless=sum(row[2] for row in rows if row[0] is None),
        )

    def write(self, view: FeatureView, portions: Sequence[Portion], paths: Iterable[Path]) -> Iterator[int]:
        """Write each portion's rows to a Parquet file as the offline store keeps them, and say how many these were.

        They are sorted by join keys, event and created timestamp. Many buckets are read from a copy sorted by time, not
        by one scan of the relation a bucket.
        """
        order = [*view.key_names, view.event_timestamp, *filter(None, [view.created_timestamp])]
        relation = self._relation(view)
        if len(portions) > BUCKETS_A_SCAN:
            self._stage(view, relation, portions)
            relation = _STAGED
        types = self._checked_types(view, relation)  # asked once: each time takes 0.7 ms
        stored = cast_list(view, stored_sql_type)
        for portion, path in zip(portions, paths, strict=True):
            rows = self._source(view, relation, bucket_days(portion.bucket), portion.newest, types)
            ((count,),) = self.rows(
                f"copy (select {stored} from ({rows}) order by {', '.join(map(quote, order))}) to "
                f"{literal(str(path))} (format parquet, compression snappy, row_group_size {_ROW_GROUP_ROWS})"
            )
            yield count
        self.rows(f"drop table if exists {_STAGED}")

    def select(self, view: FeatureView, condition: str) -> str:
        """A SELECT of the relation's rows that meet a condition: the offline table's columns, times as UTC instants."""
        return f"select * from ({self._source(view, self._relation(view), (None, None))}) where {condition}"

    def _stage(self, view: FeatureView, relation: str, portions: Sequence[Portion]) -> None:
        spans = [bucket_days(portion.bucket) for portion in portions]
        firsts = ", ".join(f"date '{since}'" for since, _ in spans)
        conditions = {later(view, portion.newest) if portion.newest else "true" for portion in portions}
        event = quote(view.event_timestamp)
        self.rows(f"""
            create or replace temp table {_STAGED} as
            select * from ({self._source(view, relation, (min(spans)[0], max(spans)[1]))})
            where date_trunc('{grain_of(portions[0].bucket)}', cast(make_timestamp(epoch_us({event})) as date))
                in ({firsts}) and ({" or ".join(conditions)})
            order by {event}
        """)

    def _source(
        self, view: FeatureView, relation: str, days: _Days, newest: Newest | None = None, types: _Types | None = None
    ) -> str:
        """A SELECT of a relation's rows: the offline table's columns, with the types declared, times as UTC instants.

        Limited to event timestamps from a day (included) to another (excluded), and to rows later than `newest`.
        """
        actual = types or self._checked_types(view, relation)
        expressions = []
        for column in columns(view):
            name, wanted = quote(column.name), sql_type(column.dtype)
            same = actual[column.name.lower()] == wanted
            expressions.append(name if same else f"cast({name} as {wanted}) as {name}")
        bounds = [
            f"{quote(view.event_timestamp)} {operator} {actual[view.event_timestamp.lower()]} {literal(day)}"
            for operator, day in zip((">=", "<"), days, strict=True)
            if day is not None
        ]
        if newest is not None:
            bounds.append(later(view, newest))
        return f"select {', '.join(expressions)} from {relation} where {' and '.join(bounds) or 'true'}"

    def _relation(self, view: FeatureView) -> str:
        """The view's relation as SQL; the name of dbt's database gives way to this session's.

        For a stream view, a copy of its events, for files may land while it is read again and again.
        """
        if view.stream is None:
            return self._place(view, name_parts(view)[-1])
        if self._copied != view.id:
            self.rows(f"create or replace temp table {_EVENTS} as {self._events(view, view.stream)}")
            self._copied = view.id
        return _EVENTS

    def _events(self, view: FeatureView, plan: StreamPlan) -> str:
        """The SQL of a stream view's events: its plan's rows of the source, known by the build if the model says so."""
        source = self.sources.get(plan.source)
        if source is None:
            raise self._error("the registry lacks the view's event source", view, expected=plan.source)
        self._check_source(view, source)
        listed = ", ".join(
            f"cast({quote(column.name)} as {sql_type(column.dtype)}) as {quote(column.name)}"
            for column in source.columns
        )
        builds = self.builds(view) if plan.known_by_build and source.created_timestamp is not None else ()
        as_of = builds[-1].as_of if builds else None
        known = f" where {quote(str(source.created_timestamp))} <= timestamptz {literal(as_of)}" if as_of else ""
        return (
            f"with events as (select {listed} from {source.relation}{known}) "
            f"select * from ({plan.row_sql}) where counts or not ({_any_null(view.key_names)})"
        )

    def _in_all(self, table: str, sql: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a query of the tables of that name in all schemas: a view may be made from models in several."""
        known = f"select database_name, schema_name from duckdb_tables() where table_name = {literal(table)}"
        for database, schema in self.rows(known):
            if database.lower() in {self.name.lower(), *self._attached}:
                yield from self.rows(sql.replace("{}", ".".join(map(quote, [database, schema, table]))))

    def _place(self, view: FeatureView, name: str) -> str:
        """The SQL of a relation in the view's own database and schema."""
        *database, _ = name_parts(view)
        own = database[0] if len(database) == 2 and database[0].lower() in self._attached else self.name
        return ".".join(map(quote, [own, *database[-1:], name]))

    def _noted(self, view: FeatureView, table: str, columns: str, order: str) -> list[tuple[Any, ...]]:
        """What the project's macros have written about the view in a table beside it; nothing without such a table."""
        if not view.relation:
            return []
        sql = f"select {columns} from {{}} where model = {literal(name_parts(view)[-1])} order by {order}"
        return self._beside(view, table, sql)

    def _beside(self, view: FeatureView, table: str, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query of a table in the view's schema, which stands for `{}`; nothing without such a table."""
        try:
            return self.rows(sql.replace("{}", self._place(view, table)))
        except WarehouseError as error:
            if isinstance(error.__cause__, duckdb.CatalogException | duckdb.BinderException):
                return []
            raise

    def _check_source(self, view: FeatureView, source: EventSource) -> None:
        """WarehouseError unless the source's relation has every column listed, with the type listed."""
        try:
            actual = self._types(source.relation)
        except WarehouseError as error:
            got = str(error.got).splitlines()[0]
            raise self._error("the event source cannot be read", view, expected=source.relation, got=got) from None
        problems = [
            (column.name, sql_type(column.dtype), found)
            for column in source.columns
            if not _fits(found := actual.get(column.name.lower(), _ABSENT), column.dtype, column.dtype.is_timestamp)
        ]
        remedy = f"correct {source.path or 'the YAML of the source'}, then `features apply`"
        self._refuse(f"the relation of source {source.name} differs from its YAML", view, problems, remedy)

    def _checked_types(self, view: FeatureView, relation: str) -> _Types:
        """Those of the view's relation; WarehouseError unless it has every column of the definition as declared."""
        try:
            actual = self._types(relation)
        except WarehouseError as error:
            if not isinstance(error.__cause__, duckdb.CatalogException):
                raise
            what, remedy = "the warehouse has no such relation", f"run `dbt build --select +{view.name}`"
            raise self._error(what, view, expected=view.relation, remedy=remedy) from None
        taken = "no column of this name: the offline store uses it"
        problems = [(BUCKET, taken, actual[BUCKET])] if BUCKET in actual else []
        for column in columns(view):
            found = actual.get(column.name.lower(), _ABSENT)
            is_time = column.name in (view.event_timestamp, view.created_timestamp)
            if not _fits(found, column.dtype, is_time):
                wanted = _ANY_TIME if is_time and found != _ABSENT else sql_type(column.dtype)
                problems.append((column.name, wanted, found))
        remedy = "correct the model or its YAML, then `features apply` and `dbt build`"
        self._refuse("the relation differs from the view's definition", view, problems, remedy)
        return actual

    def _types(self, relation: str) -> _Types:
        return {name.lower(): str(type_) for name, type_, *_ in self.rows(f"describe select * from {relation}")}

    def _refuse(self, what: str, view: FeatureView, problems: list[tuple[str, str, str]], remedy: str) -> None:
        """WarehouseError if there are problems: columns, what they should be and what they are."""
        if problems:
            raise self._error(
                what,
                view,
                expected="; ".join(f"{name}: {wanted}" for name, wanted, _ in problems),
                got="; ".join(f"{name}: {found}" for name, _, found in problems),
                remedy=remedy,
            )

    def _error(self, what: str, view: FeatureView, **details: str) -> WarehouseError:
        return WarehouseError(what, where=f"{view.id} in {self.path}", **details)


@contextmanager
def open_warehouse(
    path: Path,
    *,
    wait_seconds: float = 0,
    spill: Path | None = None,
    sources: Sequence[EventSource] = (),
    project_dir: Path | None = None,
    attached: Mapping[str, Path] | None = None,
) -> Iterator[Warehouse]:
    """The warehouse, read-only, until the block ends.

    Waits up to `wait_seconds` for a build that holds the file. `spill` is the folder for data that exceeds memory.
    `sources` are the event sources that stream views read, their files' paths as seen from `project_dir`. `attached`
    are the databases that dbt's profile attaches, by name.
    """
    with connect(spill) as connection:
        if project_dir is not None:
            connection.execute(f"set file_search_path = {literal(str(project_dir))}")
        attach(connection, path, wait_seconds=wait_seconds)
        there = {name: file for name, file in (attached or {}).items() if file.is_file()}
        for name, file in there.items():
            attach(connection, file, wait_seconds=wait_seconds, name=name)
        yield Warehouse(connection, path, sources, there)


def later(view: FeatureView, newest: Newest) -> str:
    """The SQL condition of rows later than `newest`; true when no time is known."""
    times = ((view.event_timestamp, newest.event_us), (view.created_timestamp, newest.created_us))
    found = [f"{quote(name)} > make_timestamptz({us})" for name, us in times if name is not None and us is not None]
    return f"({' or '.join(found)})" if found else "true"


def _any_null(names: Iterable[str]) -> str:
    return " or ".join(f"{quote(name)} is null" for name in names)


def _fits(found: str, dtype: DType, any_time: bool) -> bool:
    """Whether a column of a type, as DuckDB spells it, is one of `dtype`, or of either timestamp type if `any_time`."""
    parsed = known_sql_type(found)
    return parsed is not None and parsed.is_timestamp if any_time else parsed == dtype
