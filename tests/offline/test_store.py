"""Reading offline tables: versions, files, what changed between versions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from feature_server.errors import OfflineStoreError
from feature_server.offline.files import bucket_days, bucket_of, choose_grain
from feature_server.offline.store import OfflineStore
from feature_server.times import to_us
from feature_server.warehouse.relations import open_warehouse
from tests.support.relations import Relations, view_of

VIEW = view_of("spend", {"customer_id": "bigint"}, {"spend_eur": "integer"})


def us(text: str) -> int:
    return to_us(datetime.fromisoformat(text).replace(tzinfo=UTC))


@pytest.fixture
def relations(tmp_path: Path) -> Relations:
    """Version 0 has January and March, 1 also February, in 2 January is corrected and March gone."""
    relations = Relations(tmp_path)
    relations.execute(
        "create table spend(customer_id bigint, event_timestamp timestamptz, spend_eur integer)",
        "insert into spend values (1, '2013-01-01 00:00:00.000001+00', 1), (2, '2013-01-31', 2), (1, '2013-03-01', 3)",
    )
    relations.publish(VIEW, bucket_rows=2)
    relations.execute("insert into spend values (3, '2013-02-05', 4)")
    relations.publish(VIEW, bucket_rows=2)
    relations.execute("update spend set spend_eur = 5 where spend_eur = 2", "delete from spend where spend_eur = 3")
    relations.publish(VIEW, bucket_rows=2)
    return relations


def test_files_say_what_they_hold(relations: Relations) -> None:
    files = relations.store.table("spend").at(0).files()
    assert [(file.bucket, file.rows, file.min_event_us, file.max_event_us) for file in files] == [
        ("2013-01", 2, us("2013-01-01 00:00:00.000001"), us("2013-01-31")),
        ("2013-03", 1, us("2013-03-01"), us("2013-03-01")),
    ]
    assert all(file.path.is_file() for file in files)


def test_every_version_stays_readable(relations: Relations) -> None:
    table = relations.store.table("spend")
    assert table.version == 2
    with open_warehouse(relations.path) as warehouse:
        rows = [warehouse.rows(f"{table.at(version).scan_sql(['spend_eur'])} order by 1") for version in (0, 1, 2)]
    assert rows == [[(1,), (2,), (3,)], [(1,), (2,), (3,), (4,)], [(1,), (4,), (5,)]]
    assert [table.at(version).rows for version in (0, 1, 2)] == [3, 4, 3]
    assert table.at(1).newest_event_us == us("2013-03-01")
    assert table.newest_event_us == us("2013-02-05")
    assert table.at(0).published_at_us <= table.published_at_us


def test_changes_are_the_files_of_one_version_but_not_the_other(relations: Relations) -> None:
    table = relations.store.table("spend")

    def buckets(version: int) -> tuple[list[str], list[str]]:
        added, removed = table.changes_since(version) or ((), ())
        return [file.bucket for file in added], [file.bucket for file in removed]

    assert buckets(2) == ([], [])
    assert buckets(1) == (["2013-01"], ["2013-01", "2013-03"])
    assert buckets(0) == (["2013-01", "2013-02"], ["2013-01", "2013-03"])


def test_changes_since_a_version_that_cannot_be_read_are_not_known(relations: Relations) -> None:
    assert relations.store.table("spend").changes_since(7) is None
    relations.store.table("spend").delta.create_checkpoint()
    (relations.store.path("spend") / "_delta_log" / f"{0:020}.json").unlink()
    assert relations.store.table("spend").changes_since(0) is None


def test_columns_come_in_the_order_asked_for(relations: Relations) -> None:
    table = relations.store.table("spend")
    for scan in (table.scan_sql(["spend_eur", "customer_id"]), table.scan_sql(["spend_eur", "customer_id"], files=())):
        with open_warehouse(relations.path) as warehouse:
            assert [row[:2] for row in warehouse.rows(f"describe {scan}")] == [
                ("spend_eur", "INTEGER"),
                ("customer_id", "BIGINT"),
            ]


def test_a_store_lists_its_tables(relations: Relations, tmp_path: Path) -> None:
    (tmp_path / "offline" / ".spill").mkdir()
    assert relations.store.ids() == ("spend",)
    assert OfflineStore(tmp_path / "nowhere").ids() == ()


def test_a_damaged_table_is_an_error(relations: Relations) -> None:
    (relations.store.path("spend") / "_delta_log" / f"{0:020}.json").unlink()
    with pytest.raises(OfflineStoreError, match="the table's log is damaged"):
        relations.store.table("spend")


def test_a_table_or_version_that_is_not_there_says_what_to_do(relations: Relations) -> None:
    with pytest.raises(OfflineStoreError, match=r"`features publish visits` after a green build"):
        relations.store.table("visits")
    with pytest.raises(OfflineStoreError, match="version 9 cannot be read"):
        relations.store.table("spend").at(9)


@pytest.mark.parametrize(
    ("days", "bucket_rows", "grain"),
    [
        ({}, 10, "year"),
        ({"2013-01-01": 5, "2013-12-31": 5}, 10, "year"),
        ({"2013-01-01": 6, "2013-12-31": 5}, 10, "month"),
        ({"2013-01-01": 6, "2013-01-31": 5}, 10, "day"),
        ({"2012-01-01": 10, "2013-01-31": 10}, 10, "year"),
    ],
)
def test_buckets_are_as_long_as_their_rows_allow(days: dict[str, int], bucket_rows: int, grain: str) -> None:
    assert choose_grain(days.items(), bucket_rows) == grain


def test_a_bucket_is_the_beginning_of_a_day() -> None:
    assert [bucket_of("2013-02-03", grain) for grain in ("year", "month", "day")] == ["2013", "2013-02", "2013-02-03"]


@pytest.mark.parametrize(
    ("bucket", "first", "after"),
    [
        ("2013", "2013-01-01", "2014-01-01"),
        ("2012", "2012-01-01", "2013-01-01"),
        ("9998", "9998-01-01", "9999-01-01"),
        ("2013-02", "2013-02-01", "2013-03-01"),
        ("2013-04", "2013-04-01", "2013-05-01"),
        ("2013-12", "2013-12-01", "2014-01-01"),
        ("0001-01", "0001-01-01", "0001-02-01"),
        ("2012-02-28", "2012-02-28", "2012-02-29"),
        ("2013-12-31", "2013-12-31", "2014-01-01"),
    ],
)
def test_a_bucket_ends_where_the_next_begins(bucket: str, first: str, after: str) -> None:
    assert bucket_days(bucket) == (first, after)
