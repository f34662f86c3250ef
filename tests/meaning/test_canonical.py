"""SQL that means the same has one tree, SQL that does not has another."""

from __future__ import annotations

import pytest

from feature_server.meaning.canonical import Canonical

COLUMNS = {"events": ("id", "at", "kind", "amount"), "other": ("id", "name")}
RELATIONS = {"events": "events", "other": "other"}

SAME = {
    "formatting": ("select id, amount from events", "SELECT  id,\n amount\nFROM events"),
    "comments": ("select id from events -- all", "/* each */ select id from events"),
    "a renamed CTE": (
        "with a as (select id from events) select * from a",
        "with b as (select id from events) select * from b",
    ),
    "an unused CTE": ("select id from events", "with a as (select 1 as one) select id from events"),
    "CTEs in another order": (
        "with a as (select id from events), b as (select id from other) select a.id from a join b using (id)",
        "with b as (select id from other), a as (select id from events) select a.id from a join b using (id)",
    ),
    "moved columns": ("select id, amount from events", "select amount, id from events"),
    "columns moved under a star": (
        "with a as (select id, amount from events) select * from a",
        "with a as (select amount, id from events) select * from a",
    ),
    "a written star": ("select * from events", "select amount, at, id, kind from events"),
    "an alias": ("select id from events", "select x.id from events as x"),
    "renamed aliases": (
        "select a.id from events as a join other as b on a.id = b.id",
        "select x.id from events as x join other as y on x.id = y.id",
    ),
    "conditions in another order": (
        "select id from events where amount > 1 and (kind = 'a' or at is null)",
        "select id from events where (at is null or kind = 'a') and amount > 1",
    ),
    "mirrored comparisons": ("select id from events where amount < 3", "select id from events where 3 > amount"),
    "swapped equality": ("select id from events where kind = 'a'", "select id from events where 'a' = kind"),
    "a list in another order": (
        "select id from events where kind in ('a', 'b')", "select id from events where kind in ('b', 'a')"
    ),
    "parentheses": ("select id + 1 as one from events", "select ((id) + 1) as one from events"),
    "quotes and case": ("select id from events", 'select "ID" as "Id" from events'),
    "words that say nothing": (
        "select e.id from events e inner join other o using (id)",
        "select e.id from events as e join other as o using (id)"
    ),
    "another way to cast": ("select id::int as one from events", "select cast(id as integer) as one from events"),
    "a named window": (
        "select sum(amount) over w as s from events window w as (partition by kind order by at)",
        "select sum(amount) over (partition by kind order by at) as s from events",
    ),
    "a nested query renamed": (
        "select a.id from (select id from events) a", "select b.id from (select id from events) b"
    ),
}  # fmt: skip

DIFFERENT = {
    "a negation": ("select id from events where kind = 'a'", "select id from events where not kind = 'a'"),
    "another end": ("select id from events where amount < 3", "select id from events where amount <= 3"),
    "a mirrored comparison alone": (
        "select id from events where amount < id", "select id from events where id < amount"
    ),
    "a zero": ("select coalesce(amount, 0) as a from events", "select coalesce(amount, 1) as a from events"),
    "a zero left out": ("select amount, 0 as zero from events", "select amount, false as zero from events"),
    "another name": ("select id as a, amount as b from events", "select id as b, amount as a from events"),
    "a union of moved columns": (
        "select id, amount from events union all select id, 1 from other",
        "select amount, id from events union all select id, 1 from other",
    ),
    "columns read by place": (
        "with a (x, y) as (select id, amount from events) select * from a",
        "with a (x, y) as (select amount, id from events) select * from a",
    ),
    "ordinals": ("select id, amount from events order by 1", "select amount, id from events order by 1"),
    "a whole row": (
        "with a as (select id, amount from events) select a as it from a",
        "with a as (select amount, id from events) select a as it from a",
    ),
    "a row of all columns": (
        "with a as (select id, amount from events) select row(a.*) as it from a",
        "with a as (select amount, id from events) select row(a.*) as it from a",
    ),
    "a distinct": ("select id from events", "select distinct id from events"),
    "union and union all": ("select id from events union select id from other",
                            "select id from events union all select id from other"),
    "another join": ("select e.id from events e join other o using (id)",
                     "select e.id from events e left join other o using (id)"),
    "another frame": (
        "select sum(amount) over (order by at range interval 1 hour preceding) as s from events",
        "select sum(amount) over (order by at range interval 2 hour preceding) as s from events",
    ),
    "another order": ("select row_number() over (order by at) as n from events",
                      "select row_number() over (order by at desc) as n from events"),
    "another side": ("select a.id from events a, events b where a.at > b.at",
                     "select b.id from events a, events b where a.at > b.at"),
    "grouping of a sum": ("select id - (amount - 1) as x from events", "select (id - amount) - 1 as x from events"),
    "another type": ("select amount::int as x from events", "select amount::bigint as x from events"),
    "another relation": ("select id from events", "select id from other"),
    "a text of another case": ("select id from events where kind = 'a'", "select id from events where kind = 'A'"),
}  # fmt: skip


def tree(sql: str) -> object:
    return Canonical(sql, RELATIONS, COLUMNS).tree


@pytest.mark.parametrize("case", SAME)
def test_another_way_to_write_it_is_no_difference(case: str) -> None:
    one, two = SAME[case]
    assert tree(one) == tree(two)


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_gives_other_rows_is_a_difference(case: str) -> None:
    one, two = DIFFERENT[case]
    assert tree(one) != tree(two)


def test_sql_that_cannot_be_read_is_its_own_text() -> None:
    assert tree("select from where )") == tree(" select from where )\n") != tree("select from where ))")


def test_a_query_says_which_columns_it_gives_where_no_star_hides_them() -> None:
    assert Canonical("select *, 1 as one from events", RELATIONS, COLUMNS).columns == (*COLUMNS["events"], "one")
    assert Canonical("select * from unknown", RELATIONS, COLUMNS).columns is None
