"""Publishing a view: the offline table equals the relation, and what it cost to get there."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import msgspec
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_server.errors import WarehouseError
from feature_server.offline.commit import CommitConflict, commit
from feature_server.publish.run import FILES_A_BUCKET, make_plan
from feature_server.warehouse.relations import BUCKETS_A_SCAN, open_warehouse
from tests.support.relations import BUILD_LOG, Relations, view_of

VIEW = view_of("spend", {"customer_id": "bigint"}, {"spend_eur": "double"}, created="ingested_at")
SPEND = "create table spend(customer_id bigint, event_timestamp timestamptz, ingested_at timestamptz, spend_eur double)"


@pytest.fixture
def relations(tmp_path: Path) -> Relations:
    return Relations(tmp_path)


@pytest.fixture
def spend(relations: Relations) -> Relations:
    """36 published rows: customers 1 to 3, the first of every month of 2013, in buckets of a month."""
    relations.execute(
        SPEND,
        """insert into spend
           select customer, month, month + interval 1 hour, customer * 100 + date_part('month', month)
           from range(1, 4) as customers(customer),
           (select unnest(range(timestamptz '2013-01-01', timestamptz '2014-01-01', interval 1 month)) as month)""",
    )
    relations.publish(VIEW, bucket_rows=3)
    return relations


def test_every_type_comes_back_exactly(relations: Relations) -> None:
    features = {
        "i8": "tinyint", "i16": "smallint", "i32": "integer", "i64": "bigint",
        "u8": "utinyint", "u16": "usmallint", "u32": "uinteger", "u64": "ubigint",
        "f32": "real", "f64": "double", "b": "boolean", "s": "varchar", "d": "date",
        "n": "timestamp", "z": "timestamptz", "u": "uuid",
        "dec": "decimal(9,2)", "huge": "decimal(38,10)", "l": "real[]", "lu": "ubigint[]", "a": "float[2]",
    }  # fmt: skip
    view = view_of("types", {"key": "uuid", "k2": "ubigint"}, features)
    relations.execute(
        "create table types(key uuid, k2 ubigint, event_timestamp timestamptz, "
        + ", ".join(f"{name} {type_}" for name, type_ in features.items())
        + ")",
        """insert into types values
        (uuid(), 18446744073709551615, '2013-01-01', -128, -32768, -2147483648, -9223372036854775808,
         255, 65535, 4294967295, 18446744073709551615, 'nan', 'nan', true, 'ü|"''', '0001-01-01',
         '9999-12-31 23:59:59.999999', 'infinity', uuid(), -9999999.99, 1234567890123456789012345678.0123456789,
         ['inf', null, 'nan'], [18446744073709551615, null], [1, 2]),
        (uuid(), 0, '1969-12-31 23:59:59.999999', 127, 32767, 2147483647, 9223372036854775807,
         0, 0, 0, 0, '-inf', '-0.0', false, '', '2013-03-31', '1582-10-15', '1969-12-31 23:59:59.999999+00',
         '00000000-0000-0000-0000-000000000000', 0, -1, [], [], ['-0.0', 'nan']),
        (uuid(), 9007199254740993, '2013-01-01', null, null, null, null, null, null, null, null, null, null, null, null,
         null, null, null, null, null, null, null, null, null)""",
    )
    relations.publish(view)
    relations.execute("create view expected_types as select * replace (a::float[] as a) from types")
    table = relations.store.table("types")
    assert relations.differences(table, "expected_types") == []
    with open_warehouse(relations.path) as warehouse:
        published = [row[1] for row in warehouse.rows(f"describe {table.scan_sql()}")]
        expected = [row[1] for row in warehouse.rows("describe warehouse.main.expected_types")]
        (zero,) = warehouse.rows(f"select f64, a[1] from ({table.scan_sql()}) where i8 = 127")
    assert published == expected
    assert [math.copysign(1, value) for value in zero] == [-1, -1]


def test_any_delta_reader_can_read_the_table(spend: Relations) -> None:
    rows = DeltaTable(str(spend.store.path("spend"))).to_pyarrow_table()
    assert rows.num_rows == 36
    assert rows.column_names == ["customer_id", "event_timestamp", "ingested_at", "spend_eur", "_bucket"]
    assert set(rows["_bucket"].to_pylist()) == {f"2013-{month:02}" for month in range(1, 13)}


def test_times_without_a_zone_are_utc(relations: Relations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    relations.execute(
        "create table naive as select 1::bigint as k, timestamp '2013-06-30 23:30' as event_timestamp, 2 as f"
    )
    relations.publish(view_of("naive", {"k": "bigint"}, {"f": "integer"}), bucket_rows=0)
    (file,) = relations.store.table("naive").files()
    assert file.bucket == "2013-06-30"
    assert file.min_event_us == file.max_event_us == 1372635000 * 1_000_000
    assert int(datetime(2013, 6, 30, 23, 30, tzinfo=UTC).timestamp()) == 1372635000


def test_a_relation_without_rows_is_published(relations: Relations) -> None:
    relations.execute(SPEND)
    assert relations.publish(VIEW).rows == 0
    assert relations.publish(VIEW).committed is False
    table = relations.assert_published(VIEW)
    assert (table.files(), table.newest_event_us) == ((), None)
    relations.execute("insert into spend values (1, '2013-01-01', '2013-01-01', 1)")
    assert relations.publish(VIEW).rows == 1
    relations.assert_published(VIEW)


def test_nothing_is_committed_when_nothing_changed(spend: Relations) -> None:
    again = spend.publish(VIEW)
    assert (again.version, again.committed, again.rows, again.rows_written) == (0, False, 36, 0)


def test_appended_and_late_rows_are_written_alone(spend: Relations) -> None:
    before = spend.store.table("spend").files()
    spend.execute(
        "insert into spend values (1, '2014-01-01', '2014-01-01', 5), (2, '2013-03-01 12:00+00', '2014-01-02', 6)"
    )
    published = spend.publish(VIEW)
    assert (published.version, published.changed_buckets, published.rows_written) == (1, 2, 2)
    table = spend.assert_published(VIEW)
    assert set(before) < set(table.files())
    added, removed = table.changes_since(0) or ((), ())
    assert [(file.bucket, file.rows) for file in added] == [("2013-03", 1), ("2014-01", 1)]
    assert removed == ()


@pytest.mark.parametrize(
    ("edit", "buckets", "rows_written"),
    [
        ("update spend set spend_eur = -1 where customer_id = 2 and event_timestamp < '2013-03-01'", 2, 6),
        ("update spend set ingested_at = '2015-01-01' where spend_eur = 101", 1, 3),
        ("update spend set spend_eur = null where spend_eur = 101", 1, 3),
        ("delete from spend where spend_eur = 101", 1, 2),
        ("delete from spend where event_timestamp = '2013-05-01'", 1, 0),
        ("insert into spend select * replace (now() as ingested_at) from spend where spend_eur = 101", 1, 1),
        ("update spend set event_timestamp = '2013-06-15' where spend_eur = 101", 2, 6),
    ],
)
def test_only_buckets_that_changed_are_rewritten(spend: Relations, edit: str, buckets: int, rows_written: int) -> None:
    spend.execute(edit)
    published = spend.publish(VIEW)
    assert (published.changed_buckets, published.rows_written) == (buckets, rows_written)
    spend.assert_published(VIEW)


def test_the_sign_of_a_zero_is_a_change(spend: Relations) -> None:
    spend.execute("update spend set spend_eur = 0.0 where spend_eur = 101")
    spend.publish(VIEW)
    spend.execute(
        """create or replace table spend as
           select * replace (if(spend_eur = 0, '-0.0'::double, spend_eur) as spend_eur) from spend"""
    )
    assert spend.publish(VIEW).changed_buckets == 1


def test_many_small_files_become_one(spend: Relations) -> None:
    for minute in range(FILES_A_BUCKET):
        spend.execute(
            f"insert into spend values (1, '2013-12-01', timestamptz '2014-02-01 00:{minute:02}+00', {minute})"
        )
        spend.publish(VIEW)
    (file,) = [file for file in spend.assert_published(VIEW).files() if file.bucket == "2013-12"]
    assert file.rows == 3 + FILES_A_BUCKET


def test_buckets_get_shorter_when_they_have_grown_too_large(spend: Relations) -> None:
    spend.execute(
        "insert into spend select 1, timestamptz '2013-06-01' + to_days(n::int), '2014-01-01', 1 from range(28) t(n)"
    )
    spend.publish(VIEW, bucket_rows=3)
    assert {file.bucket for file in spend.store.table("spend").files()} >= {"2013-05", "2013-06"}
    spend.publish(VIEW, bucket_rows=3)
    table = spend.assert_published(VIEW)
    assert {file.bucket for file in table.files()} >= {"2013-05-01", "2013-06-28"}


def test_many_buckets_are_written_from_one_sorted_copy(relations: Relations) -> None:
    relations.execute(
        SPEND,
        """insert into spend select i % 7, timestamptz '2013-01-01' + to_days((i * 37 % 100)::int) + to_minutes(i),
           '2013-01-01', i from range(1000) numbers(i)""",
    )
    assert relations.publish(VIEW, bucket_rows=1).changed_buckets > 2 * BUCKETS_A_SCAN
    relations.assert_published(VIEW)
    relations.execute(
        "insert into spend select i, timestamptz '2013-01-01 12:00+00' + to_days(3 * i::int), '2014-01-01', i "
        "from range(30) numbers(i)",
        "update spend set spend_eur = -1 where event_timestamp between '2013-02-01' and '2013-02-03'",
    )
    published = relations.publish(VIEW, bucket_rows=1)
    assert (published.changed_buckets, published.rows_written) == (32, 30 + 2 * 10)
    relations.assert_published(VIEW)


def test_a_new_definition_replaces_the_table_and_old_versions_stay_readable(spend: Relations) -> None:
    view = view_of("spend", {"customer_id": "bigint"}, {"spend_eur": "decimal(9,2)", "is_big": "boolean"})
    spend.execute(
        "alter table spend alter spend_eur type decimal(9,2)",
        "alter table spend add column is_big boolean default true",
    )
    with pytest.raises(WarehouseError, match=r"spend_eur: DECIMAL\(9,2\)"):
        spend.publish(VIEW)
    assert spend.publish(view).version == 1
    table = spend.assert_published(view)
    assert table.view() == view
    assert table.changes_since(0) is None
    old = table.at(0)
    assert old.view() == VIEW
    spend.execute("create table before as select * replace (spend_eur::double as spend_eur) from spend")
    assert spend.differences(old, "before") == []


def test_a_table_that_another_program_rewrote_is_written_anew(spend: Relations) -> None:
    delta = DeltaTable(str(spend.store.path("spend")))
    delta.delete("customer_id = 2")
    assert spend.publish(VIEW).version == 2
    spend.assert_published(VIEW)


def test_fingerprints_of_another_hash_function_are_not_trusted(spend: Relations) -> None:
    base = spend.store.table("spend")
    commit(base.path, msgspec.structs.replace(base.state, hash_check="other"), base=base, added=())
    assert spend.publish(VIEW).rows_written == 36
    spend.assert_published(VIEW)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("(null, '2013-01-01', '2013-01-01', 1)", "1 rows with a null in customer_id"),
        ("(1, null, '2013-01-01', 1)", "1 rows with event_timestamp null or outside the years 1 to 9998"),
        ("(1, 'infinity', '2013-01-01', 1)", "1 rows with event_timestamp null or outside the years 1 to 9998"),
        ("(1, '10000-01-01 (BC)', '2013-01-01', 1)", "1 rows with event_timestamp null or outside the years 1 to 9998"),
    ],
)
def test_rows_that_nothing_can_find_are_refused(spend: Relations, row: str, problem: str) -> None:
    spend.execute(f"insert into spend values {row}")
    with pytest.raises(WarehouseError) as raised:
        spend.publish(VIEW)
    assert raised.value.got == problem
    assert spend.store.table("spend").version == 0


class TestBuildLog:
    """What dbt's build log says of changed event times limits what is compared."""

    @pytest.fixture
    def logged(self, spend: Relations) -> Relations:
        spend.execute(BUILD_LOG, "insert into feature_builds values ('spend', now(), now(), null, 'first')")
        spend.execute("update spend set spend_eur = 7 where spend_eur = 101")
        spend.publish(VIEW)
        return spend

    def build(self, relations: Relations, changed_from: str, invocation: str, *edits: str) -> None:
        start = f"timestamptz '{changed_from}'" if changed_from else "null"
        relations.execute(*edits, f"insert into feature_builds values ('spend', now(), now(), {start}, '{invocation}')")

    def test_only_rows_from_the_first_change_on_are_compared(self, logged: Relations) -> None:
        self.build(logged, "2013-11-15", "a", "insert into spend values (1, '2013-11-15', '2014-01-01', 1)")
        self.build(logged, "2013-12-02", "b", "insert into spend values (1, '2013-12-02', '2014-01-02', 1)")
        published = logged.publish(VIEW)
        assert (published.rows_compared, published.rows_written) == (8, 2)
        logged.assert_published(VIEW)

    def test_rows_changed_since_a_whole_rebuild_are_all_compared(self, logged: Relations) -> None:
        self.build(logged, "", "a", "update spend set spend_eur = 8 where spend_eur = 7")
        self.build(logged, "2013-12-02", "b")
        assert logged.publish(VIEW).rows_compared == 36
        logged.assert_published(VIEW)

    def test_a_row_count_that_the_log_does_not_explain_makes_all_be_compared(self, logged: Relations) -> None:
        self.build(logged, "2013-12-01", "a", "delete from spend where event_timestamp = '2013-02-01'")
        assert logged.publish(VIEW).rows_compared == 33
        logged.assert_published(VIEW)

    def test_a_log_that_was_started_anew_is_not_trusted(self, logged: Relations) -> None:
        logged.execute("delete from feature_builds", "update spend set spend_eur = 8 where spend_eur = 7")
        self.build(logged, "2013-12-01", "a")
        self.build(logged, "2013-12-01", "b")
        assert logged.publish(VIEW).rows_compared == 36
        logged.assert_published(VIEW)

    def test_a_change_outside_any_build_is_found(self, logged: Relations) -> None:
        logged.execute("update spend set spend_eur = 8 where spend_eur = 7")
        assert logged.publish(VIEW).changed_buckets == 1
        self.build(logged, "2013-12-01", "a", "update spend set spend_eur = 9 where spend_eur = 8")
        assert logged.publish(VIEW, full=True).changed_buckets == 1
        logged.assert_published(VIEW)


def test_of_two_publishers_at_once_the_later_starts_over(spend: Relations) -> None:
    spend.execute("insert into spend values (1, '2013-12-25', '2013-12-25', 1)")
    versions = []

    def another_publishes(done: int, total: int) -> None:
        if not versions:
            versions.append(spend.publish(VIEW).version)

    published = spend.publish(VIEW, progress=another_publishes)
    assert versions == [1]
    assert (published.version, published.committed) == (1, False)
    spend.assert_published(VIEW)


@pytest.mark.parametrize("replace", [False, True])
def test_a_commit_on_a_version_that_is_no_longer_the_latest_is_a_conflict(spend: Relations, replace: bool) -> None:
    stale = spend.store.table("spend")
    with open_warehouse(spend.path) as warehouse:
        plan = make_plan(VIEW, warehouse, stale, full=False, bucket_rows=3)
    commit(stale.path, plan.state, base=stale, added=())
    with pytest.raises(CommitConflict, match="another process"):
        commit(stale.path, plan.state, base=stale, added=(), replace=replace)
    with pytest.raises(CommitConflict, match="another process"):
        commit(stale.path, plan.state, base=None, added=())
    assert spend.assert_published(VIEW).version == 1


DAY = st.integers(0, 75)
EDIT = st.one_of(
    st.tuples(st.just("append"), DAY), st.tuples(st.just("late"), DAY), st.tuples(st.just("correct"), DAY),
    st.tuples(st.just("delete"), DAY), st.tuples(st.just("move"), DAY), st.tuples(st.just("repeat"), DAY),
)  # fmt: skip
STATEMENTS = {
    "append": "insert into spend select k, (select max(event_timestamp) from spend) + to_minutes({day} + 1), {now}, k "
    "from range(3) keys(k)",
    "late": "insert into spend select k, {start} + to_days({day}) + to_hours(k::int), {now}, k from range(3) keys(k)",
    "correct": "update spend set spend_eur = random() where event_timestamp between {start} + to_days({day}) "
    "and {start} + to_days({day} + 2)",
    "delete": "delete from spend where event_timestamp between {start} + to_days({day}) "
    "and {start} + to_days({day} + 9)",
    "move": "update spend set event_timestamp = event_timestamp + interval 30 day, ingested_at = {now} "
    "where customer_id % 76 = {day}",
    "repeat": "insert into spend select * replace ({now} + to_microseconds(row_number() over ()) as ingested_at) "
    "from spend where customer_id % 76 = {day}",
}


@settings(max_examples=8, deadline=None)
@given(history=st.lists(st.lists(EDIT, min_size=1, max_size=3), min_size=1, max_size=5), logged=st.booleans())
def test_after_any_edits_the_table_equals_the_relation(
    tmp_path_factory: pytest.TempPathFactory, history: list[list[tuple[str, int]]], logged: bool
) -> None:
    relations = Relations(tmp_path_factory.mktemp("edits"))
    relations.execute(
        SPEND,
        """insert into spend select k, timestamptz '2013-01-01' + to_hours(k::int), timestamptz '2013-01-01', random()
           from range(1500) keys(k)""",
        *([BUILD_LOG, "insert into feature_builds values ('spend', now(), now(), null, 'first')"] if logged else []),
    )
    relations.publish(VIEW, bucket_rows=600)
    for step, edits in enumerate(history):
        now, start = f"timestamptz '2014-01-01' + to_hours({step}) + to_seconds(", "timestamptz '2013-01-01'"
        numbered = enumerate(edits)
        statements = [STATEMENTS[kind].format(day=day, now=f"{now}{at})", start=start) for at, (kind, day) in numbered]
        if logged:
            first = min(0 if kind in ("move", "repeat") else 75 if kind == "append" else day for kind, day in edits)
            changed_from = f"(select least({start} + to_days({first}), max(event_timestamp)) from spend)"
            log = f"insert into feature_builds values ('spend', now(), now(), {changed_from}, 'build {step}')"
            statements = [log, *statements]
        relations.execute(*statements)
        relations.publish(VIEW, bucket_rows=600)
        relations.assert_published(VIEW)


def test_rows_of_a_file_are_sorted_by_key_and_time(relations: Relations) -> None:
    relations.execute(
        SPEND,
        """insert into spend select i * 7919 % 7, timestamptz '2013-01-01' + to_minutes(i * 7919 % 99),
           timestamptz '2013-01-01' - to_minutes(i), i from range(3000) numbers(i)""",
    )
    relations.publish(VIEW)
    (file,) = relations.store.table("spend").files()
    rows = duckdb.sql(f"select customer_id, event_timestamp, ingested_at from '{file.path}'").fetchall()
    assert rows == sorted(rows)
