"""Rows of one key and the same times are not published: counted, with examples, as a brute force finds them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_server.errors import NotFit
from feature_server.publish.batch import publish_all
from feature_server.publish.run import make_plan
from feature_server.settings import load_settings
from feature_server.warehouse.relations import open_warehouse
from feature_server.warehouse.ties import Ties, find_ties
from tests.support.relations import BUILD_LOG, Relations, view_of

VISITS = view_of("visits", {"customer_id": "bigint", "shop": "varchar"}, {"pages": "integer"}, created="seen_at")
SPEND = view_of("spend", {"customer_id": "bigint"}, {"euros": "integer"})
SHOP = (
    "create table visits(customer_id bigint, shop varchar, event_timestamp timestamptz, seen_at timestamptz, pages "
    "int)",
    "create table spend as select 1::bigint as customer_id, timestamptz '2013-05-01' as event_timestamp, 5 as euros",
)


@pytest.fixture
def shop(tmp_path: Path) -> Relations:
    relations = Relations(tmp_path)
    relations.execute(*SHOP, "insert into visits values (1, 'a', '2013-05-01', '2013-05-02', 3)")
    return relations


def test_they_are_refused_with_their_count_and_three_examples_and_other_views_go_on(shop: Relations) -> None:
    shop.execute(
        """insert into visits
           select 7 + i % 4, 'a', '2013-05-01 10:00+00', if(i % 4 = 1, null, '2013-05-02 00:00+00'), i
           from range(9) numbers(i)"""
    )
    told = load_settings({}, project_dir=shop.path.parent, home=shop.path.parent, warehouse=shop.path)
    published, failed = publish_all([VISITS, SPEND], told)
    assert [one.view for one in published] == ["spend"]
    error = failed["visits"]
    assert isinstance(error, NotFit)
    assert error.what == "rows of one key have the same times, and which of them is read would be chance"
    assert error.expected == "one row for each customer_id, shop with event_timestamp and seen_at"
    assert error.got == (
        "9 rows of 4 such keys and times: "
        "customer_id=7 shop=a event_timestamp=2013-05-01 10:00:00+00 seen_at=2013-05-02 00:00:00+00: 3 rows; "
        "customer_id=8 shop=a event_timestamp=2013-05-01 10:00:00+00 seen_at=null: 2 rows; "
        "customer_id=9 shop=a event_timestamp=2013-05-01 10:00:00+00 seen_at=2013-05-02 00:00:00+00: 2 rows"
    )
    assert "`dbt build --select +visits`" in str(error.remedy)
    assert not shop.store.exists("visits")


def test_equal_rows_are_ties_too_and_rows_that_differ_in_one_column_are_not(shop: Relations) -> None:
    shop.execute(
        "insert into visits values (1, 'b', '2013-05-01', '2013-05-02', 3), (2, 'a', '2013-05-01', '2013-05-02', 3), "
        "(1, 'a', '2013-05-02', '2013-05-02', 3), (1, 'a', '2013-05-01', '2013-05-03', 3), "
        "(1, 'a', '2013-05-01', null, 3)"
    )
    assert shop.publish(VISITS).rows == 6
    shop.execute("insert into spend from spend")
    with pytest.raises(NotFit, match="2 rows of 1 such keys and times: customer_id=1 event_timestamp=2013-05-01"):
        shop.publish(SPEND)


def test_a_row_that_changed_is_none_and_one_that_came_beside_another_is(shop: Relations) -> None:
    shop.publish(VISITS)
    shop.execute("update visits set pages = 4")
    assert shop.publish(VISITS).version == 1
    shop.assert_published(VISITS)
    shop.execute("insert into visits values (1, 'a', '2013-05-01', '2013-05-02', 9)")
    with pytest.raises(NotFit, match="2 rows of 1 such keys"):
        shop.publish(VISITS)
    assert shop.store.table("visits").version == 1
    assert shop.store.table("visits").rows == 1


def test_ties_that_an_earlier_version_published_are_found_in_full(
    shop: Relations, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.execute("insert into visits values (1, 'a', '2013-05-01', '2013-05-02', 9)")
    with monkeypatch.context() as earlier:
        earlier.setattr("feature_server.publish.run.find_ties", lambda *_: None)
        shop.publish(VISITS)
    assert shop.publish(VISITS).committed is False
    with pytest.raises(NotFit, match="2 rows of 1 such keys"):
        shop.publish(VISITS, full=True)


def test_one_with_ties_keeps_its_group_back(shop: Relations) -> None:
    shop.execute("insert into visits from visits", BUILD_LOG)
    told = load_settings({}, project_dir=shop.path.parent, home=shop.path.parent, warehouse=shop.path)
    published, failed = publish_all([VISITS, SPEND], told, groups=[("visits", "spend")])
    assert published == []
    assert {view: type(error) for view, error in failed.items()} == {"visits": NotFit, "spend": NotFit}
    assert str(failed["spend"].got).startswith("visits: rows of one key have the same times")


ROW = st.tuples(st.integers(0, 2), st.sampled_from("ab"), st.integers(0, 200), st.none() | st.integers(0, 3))


@settings(max_examples=25, deadline=None)
@given(history=st.lists(st.lists(ROW, max_size=40), min_size=1, max_size=4), at_once=st.integers(1, 40))
def test_a_brute_force_finds_the_same(
    tmp_path_factory: pytest.TempPathFactory, history: list[list[tuple[int, str, int, int | None]]], at_once: int
) -> None:
    """Rows of whole years in files of a day or a month, added to in several steps; ties are taken out after each."""
    relations, known = Relations(tmp_path_factory.mktemp("ties")), set[tuple[int, str, int, int | None]]()
    relations.execute(SHOP[0])
    for step, rows in enumerate(history):
        for key, place, day, created in rows:
            seen_at = "null" if created is None else f"timestamptz '2014-01-01' + to_days({created})"
            event = f"timestamptz '2013-01-01' + to_days({day})"
            relations.execute(f"insert into visits values ({key}, '{place}', {event}, {seen_at}, {step})")
        tied = {row: count for row, count in Counter([*known, *rows]).items() if count > 1}
        with open_warehouse(relations.path) as warehouse:
            every = make_plan(VISITS, warehouse, None, full=True, bucket_rows=5).unproven
            found = find_ties(warehouse, VISITS, every, at_once=at_once) or Ties(0, 0, ())
        assert (found.places, found.rows, len(found.examples)) == (len(tied), sum(tied.values()), min(len(tied), 3))
        if tied:
            with pytest.raises(NotFit, match=rf"\b{sum(tied.values())} rows of {len(tied)} such keys and times: "):
                relations.publish(VISITS, bucket_rows=5)
            relations.execute(
                "delete from visits where rowid not in "
                "(select min(rowid) from visits group by customer_id, shop, event_timestamp, seen_at)"
            )
        relations.publish(VISITS, bucket_rows=5)
        relations.assert_published(VISITS)
        known |= set(rows)
