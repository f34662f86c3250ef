"""`unstable_order`: what it must catch, and what is right, of queries of which it is known what tells rows apart."""

from __future__ import annotations

import pytest
import sqlglot
from sqlglot import exp

from feature_server.lint.keys import Reading
from feature_server.lint.order import unstable
from feature_server.queries.rows import Inputs, Key, Rows

KNOWN = {  # by the tests that their models have
    "payments": Rows(
        frozenset([frozenset(["payment_id"]), frozenset(["customer_id", "paid_at"])]),
        ("payment_id", "customer_id", "shop", "paid_at", "euros"),
    ),
    "customers": Rows(frozenset([frozenset(["customer_id"])]), ("customer_id", "country")),
    "prices": Rows(frozenset([frozenset(["shop", "since"])]), ("shop", "since", "price")),
    "events": Rows(),
}
CAUGHT = [
    "select first(euros) from payments group by customer_id",
    "select customer_id, last(euros) as last_euros from payments group by all",
    "select first(euros order by shop) from payments group by customer_id",
    "select any_value(shop) from payments group by customer_id",
    "select arbitrary(shop) from payments group by customer_id",
    "select first(shop) filter (where euros > 0) from payments group by customer_id",
    "select arg_max(euros, paid_at) from payments",
    "select arg_max(shop, euros) from payments group by customer_id",
    "select max_by(shop, euros) from payments group by customer_id",
    "select arg_min(shop, euros, 3) from payments group by customer_id",
    "select arg_max(euros, (paid_at, shop)) from payments group by shop",
    "select max_by(euros, {'at': paid_at, 'payment_id': shop}) from payments group by shop",
    "select list(euros) from payments group by customer_id",
    "select array_agg(shop order by euros) from payments group by customer_id",
    "select list(distinct shop) from payments group by customer_id",
    "select string_agg(shop, ',') from payments group by customer_id",
    "select group_concat(shop, ',' order by euros) from payments group by customer_id",
    "select row_number() over (partition by shop order by paid_at) from payments",
    "select row_number() over () from payments",
    "select * from payments qualify row_number() over (partition by shop order by paid_at desc) = 1",
    "select * from events qualify row_number() over (partition by id order by at desc) = 1",
    "select lag(euros) over (partition by shop order by paid_at) from payments",
    "select lag(paid_at) over (partition by shop order by paid_at) from payments",
    "select lag(euros) over w from payments window w as (partition by shop order by paid_at)",
    "select first_value(euros) over (partition by shop order by paid_at) from payments",
    "select last_value(euros ignore nulls) over (partition by shop order by paid_at) from payments",
    "select nth_value(euros, 2) over (partition by shop order by paid_at) from payments",
    "select sum(euros) over (partition by shop order by paid_at rows between 3 preceding and current row) "
    "from payments",
    "select count(*) over (order by paid_at rows unbounded preceding) from payments",
    "select list(euros) over (partition by shop order by paid_at) from payments",
    "select customer_id, array(select shop from payments where payments.customer_id = customers.customer_id) as shops "
    "from customers",
    "select array(select euros from payments order by shop)",
    "select distinct on (customer_id) * from payments",
    "select distinct on (customer_id) * from payments order by customer_id, euros desc",
    "select * from payments limit 5",
    "select * from payments order by euros desc limit 5",
    "select * from payments order by euros offset 5",
    "select shop, count(*) as n from payments group by shop order by n desc limit 3",
    "select * from payments asof join prices on payments.shop = prices.shop and payments.paid_at >= prices.price",
    "select * from payments asof join events on payments.shop = events.shop and paid_at >= events.at",
    "select (select euros from payments where payments.shop = country order by paid_at limit 1) from customers",
    "with days as (select payment_id, shop, paid_at::date as day from payments) "
    "select row_number() over (partition by shop order by day) from days",
    "with both as (select * from payments union all select * from payments) "
    "select row_number() over (order by payment_id) from both",
    "with joined as (select payments.* from payments join events using (shop)) "
    "select row_number() over (order by payment_id) from joined",
    "with flat as (select payment_id, unnest(shops) as shop from payments) "
    "select row_number() over (order by payment_id) from flat",
    "select row_number() over (order by payment_id) from payments join prices on payments.shop = prices.shop",
    "select lag(n) over (partition by shop order by n) from (select shop, customer_id, count(*) as n from payments "
    "group by shop, customer_id)",
    "select row_number() over (order by total) from (select shop, sum(euros) as total from payments group by shop)",
    "with latest as (select * from events qualify row_number() over (partition by id order by at) = 1) "
    "select row_number() over (order by id) from latest",
    "with latest as (select *, row_number() over (partition by id order by at) as n from events qualify n = 1) "
    "select row_number() over (order by id) from latest",
    "(select shop from payments union all select shop from payments) order by shop limit 1",
    "select len(first(shop)) from payments group by customer_id",
    "select list_contains(any_value(shop), 'a') from payments group by customer_id",
    "select list_distinct(list(shop)) from payments group by customer_id",
    "select list_transform(list(shop), lambda x: x || '!') from payments group by customer_id",
    "select len(list_filter(list(shop), lambda x, i: i % 2 = x)) from payments group by customer_id",
    "select list_aggregate(list(shop), 'string_agg', ',') from payments group by customer_id",
    "select list_aggregate(list(shop), 'first') from payments group by customer_id",
    "select list_any_value(list(shop)) from payments group by customer_id",
    "select list_contains([['a']], list(shop)) from payments group by customer_id",
    "select list(shop)[1] from payments group by customer_id",
    "select list_sum(list(euros order by shop limit 3)) from payments group by customer_id",
    "select unnest(list(shop)) as a, unnest(range(3)) as b from payments group by customer_id",
    "select unnest(list(shop)) as a, generate_subscripts([1], 1) as b from payments group by customer_id",
    "with a as (select customer_id, list(shop) as shops from payments group by customer_id) "
    "select len(shops), shops[1] from a",
    "with a as (select customer_id, list(shop) as shops from payments group by customer_id) "
    "select *, len(shops) from a",
    "with a as (select customer_id, list(shop) as shops, shops[1] as one from payments group by customer_id) "
    "select one from a",
    "with a as (select customer_id, list(shop) as shops from payments group by customer_id) "
    "select shop, n from a, unnest(shops) with ordinality as b(shop, n)",
    "select customer_id, list(shop) as shops from payments group by customer_id",
    "select * from (select customer_id, list(shop) as shops from payments group by customer_id) as a",
    "select len(shops), shops[1] from (select customer_id, list(shop) as shops from payments group by customer_id)",
    "select (select list(shop) as s from payments where payments.customer_id = customers.customer_id) from customers",
    "select len(list(euros) over (partition by shop order by paid_at rows 3 preceding)) from payments",
]
RIGHT = [
    "select customer_id, array(select shop from payments where payments.customer_id = customers.customer_id "
    "order by paid_at) as shops from customers",
    "select array(select shop from payments order by payment_id)",
    "select array(select distinct shop from payments order by shop)",
    "select len(array(select shop from payments))",
    "select array[1, 2] from payments",
    "select first(euros order by payment_id) from payments group by shop",
    "select first(euros order by paid_at) from payments group by customer_id",
    "select first(euros order by paid_at desc), last(shop order by paid_at) from payments group by customer_id",
    "select any_value(customer_id) from payments group by customer_id",
    "select customer_id, any_value(country) from customers join payments using (customer_id) group by customer_id",
    "select any_value(customers.country) from payments join customers on payments.customer_id = customers.customer_id "
    "group by payments.customer_id",
    "select arg_max(euros, paid_at) from payments group by customer_id",
    "select arg_max(euros, payment_id) from payments",
    "select arg_max(euros, (paid_at, payment_id)) from payments group by shop",
    "select max_by(euros, {'at': paid_at, 'id': payment_id}) from payments group by shop",
    "select arg_max(euros, struct_pack(at := paid_at, id := payment_id)) from payments group by shop",
    "select arg_max(paid_at, row(paid_at, shop)) from payments group by shop",
    "select arg_max(euros, euros) from payments group by shop",
    "select list(euros order by euros) from payments group by shop",
    "select list(distinct shop order by shop) from payments",
    "select list_sort(list(shop)), len(list(shop)) from payments",
    "select list(euros order by payment_id) from payments group by shop",
    "select string_agg(shop, ',' order by paid_at) from payments group by customer_id",
    "select row_number() over (partition by customer_id order by paid_at) from payments",
    "select row_number() over (partition by paid_at, shop order by customer_id) from payments",
    "select rank() over (partition by shop order by paid_at), dense_rank() over (order by euros) from payments",
    "select * from payments qualify row_number() over (partition by shop order by paid_at desc, payment_id) = 1",
    "select lag(euros) over w from payments window w as (partition by customer_id order by paid_at)",
    "select lag(shop) over (partition by shop order by paid_at) from payments",
    "select first_value(paid_at) over (partition by shop order by paid_at) from payments",
    "select sum(euros) over (partition by shop order by paid_at) from payments",
    "select sum(euros) over (partition by shop order by paid_at range between interval 1 hour preceding and current "
    "row) from payments",
    "select sum(euros) over (partition by shop order by paid_at, payment_id rows between 3 preceding and current row) "
    "from payments",
    "select max(euros), count(*), sum(euros) from payments group by shop",
    "select distinct on (customer_id) * from payments order by customer_id, paid_at desc",
    "select * from payments order by payment_id limit 5",
    "select payment_id, euros from payments order by 1 limit 5",
    "select * from payments limit 0",
    "select shop, count(*) as n from payments group by shop order by n desc, shop limit 3",
    "select distinct shop from payments order by shop limit 3",
    "select max(euros) from payments limit 1",
    "select * from payments asof join prices on payments.shop = prices.shop and payments.paid_at >= prices.since",
    "select * from payments asof left join prices using (shop, since)",
    "select (select euros from payments where payments.customer_id = customers.customer_id order by paid_at limit 1) "
    "from customers",
    "with bought as (select payment_id as id, shop, paid_at as at from payments) "
    "select row_number() over (partition by shop order by at, id) from bought",
    "with grouped as (select id, max(at) as at from events group by id) select row_number() over (order by id) "
    "from grouped",
    "with each as (select distinct id, at from events) select lag(at) over (partition by id order by at) from each",
    "select row_number() over (order by payment_id) from payments join customers using (customer_id)",
    "select row_number() over (order by payment_id) from payments left join customers "
    "on customers.customer_id = payments.customer_id",
    "select row_number() over (order by payment_id, since) from payments join prices on payments.shop = prices.shop",
    "select row_number() over (order by payment_id) from payments where exists (select 1 from events)",
    "select row_number() over (order by payment_id) from payments semi join events using (shop)",
    "select row_number() over (order by paid_at) from payments where customer_id = 7",
    "with renamed as (select * rename (payment_id as id) from payments) "
    "select row_number() over (order by id) from renamed",
    "with kept as (select * exclude (euros) from payments) select row_number() over (order by payment_id) from kept",
    "with texts as (select payment_id::text as id from payments) select row_number() over (order by id) from texts",
    "with a as (select shop, count(*) as n from payments group by 1) select lag(n) over (order by shop) from a",
    "with a as (select *, row_number() over (partition by shop order by payment_id) as n from payments) "
    "select lag(euros) over (partition by n order by shop) from a",
    "with a as (select *, row_number() over (partition by shop order by payment_id) as n from payments), "
    "b as (select * from a where n = 1) select lag(euros) over (order by shop) from b",
    "(select shop from payments union select shop from payments) order by shop limit 1",
    "select paid_at as at, row_number() over (partition by customer_id order by at) from payments",
    "select len(list(shop)), list_sum(list(euros)), list_contains(list(shop), 'a') from payments group by customer_id",
    "select len(list_distinct(list(shop))), list_unique(list(shop)) from payments group by customer_id",
    "select array_length(list(shop)), array_length(list(shop), 1), cardinality(list(shop)) from payments group by 1",
    "select list_sort(list_distinct(list(shop))), list_reverse_sort(list(euros)) from payments group by customer_id",
    "select list_aggregate(list(euros), 'sum'), array_aggr(list(euros), 'max') from payments group by customer_id",
    "select list_avg(list(euros)), list_min(list(euros)), list_histogram(list(shop)) from payments group by 1",
    "select list_has_any(list(shop), ['a']), ['a'] && list(shop), list(shop) @> ['a'] from payments group by all",
    "select 'a' in list(shop), 'a' = any(list(shop)) from payments group by customer_id",
    "select list_sum(list_transform(list(euros), lambda x: x * 2)) from payments group by customer_id",
    "select len(list_filter(list(euros), lambda x: x > 2)) from payments group by customer_id",
    "select len(coalesce(list(shop) filter (where euros > 2), [])) from payments group by customer_id",
    "select unnest(list_distinct(list(shop))) from payments group by customer_id",
    "select length(string_agg(shop, '')) from payments group by customer_id",
    "select len(list(shop) over (partition by shop order by paid_at)) from payments",
    "with a as (select customer_id, list(shop) as shops from payments group by customer_id), "
    "final as (select customer_id, len(shops) as n, list_contains(shops, 'a') as has_a from a) select * from final",
    "select len(shops) from (select customer_id, list(shop) as shops from payments group by customer_id)",
    "with a as (select customer_id, list(distinct shop) as shops from payments group by customer_id) "
    "select customer_id, shop from a, unnest(shops) as b(shop)",
]


def found(sql: str) -> list[exp.Expr]:
    caught = list[exp.Expr]()

    def seen(query: exp.Query, inputs: Inputs, keys: set[Key]) -> None:
        caught.extend(node for node, _ in unstable(query, inputs, keys))

    Reading(lambda table: KNOWN[table.name], seen).rows(sqlglot.parse_one(sql, dialect="duckdb"), {})
    return caught


@pytest.mark.parametrize("sql", CAUGHT)
def test_what_chance_orders_is_found(sql: str) -> None:
    assert len(found(sql)) == 1


@pytest.mark.parametrize("sql", RIGHT)
def test_what_is_in_one_order_is_right(sql: str) -> None:
    assert found(sql) == []
