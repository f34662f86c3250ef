"""What the warehouse says of a relation's rows, and the files that it writes of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import msgspec
import pytest

from feature_server.errors import OfflineStoreError, WarehouseError
from feature_server.offline.files import Extent, Fingerprint
from feature_server.publish.run import publish
from feature_server.times import to_us
from feature_server.warehouse.relations import BUCKETS_A_SCAN, Newest, Portion, open_warehouse
from tests.support.relations import Relations, view_of

VIEW = view_of("spend", {"customer_id": "bigint"}, {"spend_eur": "double"}, created="ingested_at")
SPEND = "create table spend(customer_id bigint, event_timestamp timestamptz, ingested_at timestamptz, spend_eur double)"


def us(text: str) -> int:
    return to_us(datetime.fromisoformat(text).replace(tzinfo=UTC))


@pytest.fixture
def relations(tmp_path: Path) -> Relations:
    relations = Relations(tmp_path)
    relations.execute(
        SPEND,
        """insert into spend values
        (2, '2013-01-01 10:00+00', '2013-01-05', 1), (1, '2013-01-01 12:00+00', null, 2),
        (1, '2013-01-01 11:00+00', '2013-01-09', 3), (3, '2013-03-01 09:00+00', '2013-03-02', 4)""",
    )
    return relations


def test_rows_are_told_apart_by_day_and_by_whether_they_are_fresh(relations: Relations) -> None:
    newest = Newest(us("2013-01-31"), us("2013-01-08"))
    with open_warehouse(relations.path) as warehouse:
        scan = warehouse.scan(VIEW, newest=newest)
    parts = {}
    for part in scan.parts:
        parts.setdefault((part.day, part.fresh), []).append(
            (part.extent.fingerprint.rows, part.extent.min_event_us, part.extent.max_event_us)
        )
    # neither later nor earlier than what is known is a row whose created timestamp is null: it is not fresh
    assert {key: sorted(extents) for key, extents in parts.items()} == {
        ("2013-01-01", False): [
            (1, us("2013-01-01 10:00"), us("2013-01-01 10:00")),
            (1, us("2013-01-01 12:00"), us("2013-01-01 12:00")),
        ],
        ("2013-01-01", True): [(1, us("2013-01-01 11:00"), us("2013-01-01 11:00"))],
        ("2013-03-01", True): [(1, us("2013-03-01 09:00"), us("2013-03-01 09:00"))],
    }
    assert (scan.rows, scan.newest_created_us, scan.keyless, scan.timeless) == (4, us("2013-03-02"), 0, 0)


def test_fingerprints_of_parts_add_up_to_those_of_the_whole(relations: Relations) -> None:
    def total(newest: Newest | None = None) -> Fingerprint:
        with open_warehouse(relations.path) as warehouse:
            scan = warehouse.scan(VIEW, newest=newest)
        return sum((part.extent.fingerprint for part in scan.parts), Fingerprint())

    before = total()
    assert before == total(Newest(None, us("2013-01-08"))) == total(Newest(None, None))
    relations.execute("update spend set spend_eur = 5 where spend_eur = 4")
    assert total() != before


@pytest.mark.parametrize(
    ("newest", "fresh"),
    [
        (None, 0),
        (Newest(None, None), 4),
        (Newest(us("2013-01-01 11:00"), None), 2),
        (Newest(us("2014-01-01"), None), 0),
    ],
)
def test_fresh_is_what_is_later_than_all_that_is_known(relations: Relations, newest: Newest | None, fresh: int) -> None:
    with open_warehouse(relations.path) as warehouse:
        scan = warehouse.scan(VIEW, newest=newest)
    assert sum(part.extent.fingerprint.rows for part in scan.parts if part.fresh) == fresh


def test_a_scan_begins_with_the_first_day_of_a_bucket(relations: Relations) -> None:
    with open_warehouse(relations.path) as warehouse:
        assert [warehouse.scan(VIEW, since=since).rows for since in ("2013", "2013-01", "2013-01-02", "2014")] == [
            4, 4, 1, 0,
        ]  # fmt: skip


def test_rows_without_a_key_or_a_time_are_counted(relations: Relations) -> None:
    relations.execute(
        "insert into spend values (null, '2013-01-01', '2013-01-01', 1), (null, null, '2013-01-01', 1), "
        "(1, 'infinity', '2013-01-01', 1)"
    )
    with open_warehouse(relations.path) as warehouse:
        scan = warehouse.scan(VIEW)
    assert (scan.rows, scan.keyless, scan.timeless) == (5, 2, 2)


@pytest.mark.parametrize("unit", ["day", "month", "year"])
@pytest.mark.parametrize("buckets", [3, BUCKETS_A_SCAN + 1])
def test_each_portion_is_written_to_a_file_of_its_own(tmp_path: Path, unit: str, buckets: int) -> None:
    relations = Relations(tmp_path)
    relations.execute(
        SPEND,
        f"""insert into spend select k, timestamptz '2013-01-01' + interval (2 * b) {unit}, '2013-01-01', n
        from range({buckets}) buckets(b), range(2) ns(n), range(3) keys(k)""",
        f"insert into spend select 9, timestamptz '2013-01-01' + interval (2 * b + 1) {unit}, '2013-01-01', 8 "
        f"from range({buckets}) buckets(b)",
    )
    length = {"year": 4, "month": 7, "day": 10}[unit]
    found = duckdb.sql(
        f"select strftime(timestamp '2013-01-01' + interval (2 * b) {unit}, '%Y-%m-%d') from range({buckets}) t(b)"
    ).fetchall()
    names = [day[:length] for (day,) in found]
    extent = Extent(Fingerprint(), 0, 0)
    portions = [Portion(name, extent) for name in names[:-1]]
    portions.append(Portion(names[-1], extent, Newest(None, us("2013-01-01"))))  # nothing of it is later
    paths = [tmp_path / f"{name}.parquet" for name in names]
    with open_warehouse(relations.path) as warehouse:
        assert list(warehouse.write(VIEW, portions, paths)) == [6] * (buckets - 1) + [0]
    for name, path in zip(names[:-1], paths[:-1], strict=True):
        rows = duckdb.sql(f"select customer_id, event_timestamp::date::varchar, spend_eur from '{path}'").fetchall()
        assert [key for key, _, _ in rows] == [0, 0, 1, 1, 2, 2]
        assert {day[:length] for _, day, _ in rows} == {name}


def test_a_view_is_published_after_one_whose_rows_change_from_read_to_read(relations: Relations) -> None:
    relations.execute(
        """create or replace table spend as
           select 1::bigint as customer_id, timestamptz '2013-01-01' + to_days(n::int) as event_timestamp,
           timestamptz '2013-01-01' as ingested_at, n::double as spend_eur from range(100) days(n)""",
        "create view odd as select * from spend where random() < 0.5",
    )
    odd = msgspec.structs.replace(VIEW, name="odd", identifier="odd", relation='"warehouse"."main"."odd"')
    with open_warehouse(relations.path) as warehouse:
        with pytest.raises(OfflineStoreError, match="other rows when read twice"):
            publish(odd, warehouse, relations.store, bucket_rows=0)
        assert publish(VIEW, warehouse, relations.store, bucket_rows=0).rows == 100
    relations.assert_published(VIEW)


def test_a_relation_that_cannot_be_read_is_an_error_of_the_view(relations: Relations, tmp_path: Path) -> None:
    file = tmp_path / "spend.parquet"
    relations.execute(f"copy spend to '{file}'", f"create view files as select * from '{file}'")
    file.unlink()
    files = msgspec.structs.replace(VIEW, name="files", identifier="files", relation='"warehouse"."main"."files"')
    with pytest.raises(WarehouseError, match="a query failed"):
        relations.publish(files)
