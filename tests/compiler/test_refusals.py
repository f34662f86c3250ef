"""What an analyst may plausibly write that cannot be kept in real time: each is refused with what to write instead."""

from __future__ import annotations

import duckdb
import pytest

from feature_server.compiler.refusals import Refusal, Refused
from feature_server.errors import WarehouseError
from tests.support.compiled import HOUR, compiled

HOURS = HOUR.partition("(")[2].removesuffix(")")


def refusals(select: str) -> list[Refusal]:
    """Of a feature f of raw.payments, or of a whole model."""
    if "event_timestamp" not in select and not select.startswith(("pivot", "select 1;")):
        select = f"select customer_id, paid_at as event_timestamp, {select} as f from raw.payments"
    with pytest.raises(Refused) as raised:
        compiled(select, "f")
    return list(raised.value.refusals)


def over(frame: str, order: str = "paid_at") -> str:
    return f"count(*) over (partition by customer_id order by {order} {frame})"


@pytest.mark.parametrize(
    ("select", "what", "instead"),
    [
        (over("rows 10 preceding"), "a frame that counts rows", "a frame of time"),
        (over("groups between 3 preceding and current row"), "a frame that counts rows", "a frame of time"),
        (over("range between unbounded preceding and unbounded following"), "looks ahead", "end at `current row`"),
        (over("range between interval 1 year preceding and current row"), "not a fixed length", "minutes, hours or da"),
        (over("range between to_months(1) preceding and current row"), "not a fixed length", "minutes, hours or days"),
        (over("range between interval 1 day preceding and current row exclude ties"), "EXCLUDE", "leave EXCLUDE"),
        (over("range between interval 1 day preceding and current row", "paid_at desc"), "another order", "order by"),
        (over("range between interval 1 day preceding and current row", "ingested_at"), "another order", "order by"),
        (over("range between unbounded preceding and current row", "paid_at, items"), "another order", "order by"),
        (
            "count(*) over (order by paid_at range interval 1 day preceding)",
            "over other keys",
            "partition by customer_id",
        ),
        (f"count(*) over (partition by customer_id, shop {HOURS[24:]})", "over other keys", "partition by customer_id"),
        (
            "lag(items) over (partition by customer_id order by paid_at)",
            "window function that",
            "(list(…) over …)[-n:]",
        ),
        ("lead(items) over (partition by customer_id order by paid_at)", "window function that", "into a label"),
        ("rank() over (partition by customer_id order by paid_at)", "window function that", "count(*) over a range"),
        ("row_number() over (partition by customer_id order by paid_at)", "window function that", "count(*) over a ra"),
        (f"nth_value(items, 2) {HOUR}", "window function that", "(list(…) over …)[-n:]"),
        (f"list(items) {HOUR}", "window function that", "(list(…) over …)[-n:], the last n"),
        (f"string_agg(shop, ',') {HOUR}", "window function that", "count, count(distinct)"),
        (f"mode(shop) {HOUR}", "window function that", "count, count(distinct)"),
        (f"entropy(shop) {HOUR}", "window function that", "count, count(distinct)"),
        (f"avg(items order by paid_at) {HOUR}", "an order of its own", "the same without ORDER BY"),
        (f"min(items order by paid_at) {HOUR}", "an order of its own", "the same without ORDER BY"),
        (f"product(items order by paid_at) {HOUR}", "an order of its own", "the same without ORDER BY"),
        (f"bool_or(items > 0 order by paid_at) {HOUR}", "an order of its own", "the same without ORDER BY"),
        (f"bool_and(distinct items > 0) {HOUR}", "window function that", "count(distinct …) of one expression"),
        (f"min(items, 2) {HOUR}", "window function that", "count, count(distinct)"),
        (f"max(items, 2) {HOUR}", "window function that", "count, count(distinct)"),
        (f"approx_count_distinct(shop) {HOUR}", "window function that", "count(distinct …), which is exact"),
        (f"count_if(distinct amount > 1) {HOUR}", "window function that", "count(distinct …) of one expression"),
        (f"product(distinct items) {HOUR}", "window function that", "count(distinct …) of one expression"),
        (f"count_if(amount > 1) {HOUR}", "a feature of type hugeint", "cast(… as bigint) as f"),
        (f"cast(sum(distinct items) {HOUR} as bigint)", "window function that", "count(distinct …) of one expression"),
        (f"quantile_cont(items, [0.1, 0.9]) {HOUR}", "window function that", "quantile_cont"),
        (
            f"percentile_cont(0.9) within group (order by items) {HOUR}",
            "window function that",
            "quantile_cont(…, level)",
        ),
        (f"sum(items) {HOUR}", "a feature of type hugeint", "cast(… as bigint) as f"),
        (f"(list(shop) {HOUR})[-3:]", "a feature of type varchar[]", "a list of numbers"),
        (f"histogram(shop) {HOUR}", "a feature of type map", "a number, text, boolean"),
        (f"paid_at - max(paid_at) {HOUR}", "a feature of type interval", "a number, text, boolean"),
        (f"bool_or(items) {HOUR}", "bool_or of a int64", "bool_or(… <> 0)"),
        (f"avg(paid_at) {HOUR}", "avg of a timestamptz", "epoch(…)"),
        (f"upper(last(shop) {HOUR})", "cannot be evaluated on live values", "last(upper(…))"),
        (f"cast(count(*) {HOUR} as varchar)", "a cast that cannot be evaluated", "casts to number"),
        (f"sum(amount * random()) {HOUR}", "another value at each call", "a column of the event"),
        ("date_diff('day', paid_at, current_date)", "another value at each call", "a column of the event"),
        ("unnest(tags)", "several rows of one event", "one row an event"),
        (
            "(select count(*) from raw.payments as p where p.customer_id = payments.customer_id)",
            "a subquery over other",
            "row by row",
        ),
        (
            "select customer_id, paid_at as event_timestamp, t.f from raw.payments, unnest(tags) as t(f)",
            "several rows of one event",
            "one row an event",
        ),
        (
            "select customer_id, paid_at as event_timestamp, items as f from raw.payments where shop in (select 'a')",
            "a subquery over constant rows",
            "left join its rows",
        ),
        (
            "select a.customer_id, a.paid_at as event_timestamp, b.items as f from raw.payments as a "
            "asof join raw.payments as b on a.customer_id = b.customer_id and a.paid_at >= b.paid_at",
            "a join with other events",
            "of its own",
        ),
        (
            "from raw.payments as a join raw.payments as b using (payment_id) select a.customer_id, a.paid_at as "
            "event_timestamp, b.items as f",
            "a join with other events",
            "of its own",
        ),
        (
            "select customer_id, max(paid_at) as event_timestamp, sum(items) as f from raw.payments group by all",
            "GROUP BY",
            "only with window functions",
        ),
        (
            "select distinct customer_id, paid_at as event_timestamp, items as f from raw.payments",
            "SELECT DISTINCT",
            "row by row",
        ),
        (
            "select customer_id, paid_at as event_timestamp, items as f from raw.payments order by items",
            "ORDER BY",
            "row",
        ),
        (
            "select customer_id, paid_at as event_timestamp, items as f from raw.payments tablesample 10%",
            "a sample",
            "all",
        ),
        (
            "select customer_id, paid_at as event_timestamp, items as f from raw.payments using sample 5",
            "a sample",
            "all",
        ),
        (
            "select customer_id, paid_at as event_timestamp, items as f from raw.payments union all "
            "select customer_id, paid_at, items from raw.payments",
            "a set operation",
            "one SELECT",
        ),
        ("pivot raw.payments on shop using count(*)", "a sample or a pivot", "all events"),
        ("select 1; select 2", "a query that is not a SELECT", "one SELECT"),
        (
            "select 1 as customer_id, timestamptz '2024-01-01' as event_timestamp, 2 as f",
            "does not read the stream's eve",
            "from the view's event source",
        ),
        (
            f"with w as (select customer_id, paid_at, count(*) {HOUR} as n from raw.payments) select customer_id, "
            f"paid_at as event_timestamp, max(n) {HOUR} as f from w",
            "window functions in more than one SELECT",
            "in one",
        ),
        (
            f"with unused as (select customer_id, paid_at, count(*) {HOUR} as n from raw.payments) "
            "select customer_id, paid_at as event_timestamp, items as f from raw.payments",
            "window functions in a CTE that nothing reads",
            "leave the CTE out",
        ),
        (
            "select customer_id, paid_at as event_timestamp, items as f from raw.payments "
            "qualify row_number() over (partition by customer_id order by paid_at desc) = 1",
            "QUALIFY other than",
            "in stagi",
        ),
        (
            f"select customer_id, paid_at::date::timestamp as event_timestamp, count(*) {HOUR} as f from raw.payments",
            "another order than event time",
            "order by",
        ),
    ],
)
def test_a_plausible_model_is_refused_with_what_to_write_instead(select: str, what: str, instead: str) -> None:
    found = refusals(select)
    assert any(what in refusal.what and instead in refusal.instead for refusal in found), found
    assert all(refusal.expression for refusal in found)


@pytest.mark.parametrize(
    ("select", "words"),
    [
        (f"sum(count(*) {HOUR}) {HOUR}", "cannot be nested"),
        ("clean(shop)", "clean does not exist"),
        (f"sum(shop) {HOUR}", "sum(VARCHAR)"),
        (f"quantile_cont(items, 2) {HOUR}", "range [-1, 1]"),
        ("count(*) over nowhere", '"nowhere" does not exist'),
    ],
)
def test_what_duckdb_itself_refuses_comes_with_its_words(select: str, words: str) -> None:
    with pytest.raises(WarehouseError) as raised:
        compiled(f"select customer_id, paid_at as event_timestamp, {select} as f from raw.payments", "f")
    assert words in str(raised.value.got)


@pytest.mark.parametrize(
    "length",
    [
        "interval 90 minutes", "interval '1 hour 30 minutes'", "interval (90) minute", "to_hours(3)",
        "interval 1.5 hour",
        "interval '1.5 hours'", "interval 2 weeks", "interval '250' millisecond", "to_days(2) + interval 1 hour",
    ],
)  # fmt: skip
def test_a_frame_is_as_long_as_duckdb_takes_its_interval(length: str) -> None:
    sql = f"select customer_id, paid_at as event_timestamp, {over(f'range between {length} preceding and current row')}"
    (frame,) = compiled(f"{sql} as f from raw.payments", "f").frames
    with duckdb.connect() as connection:
        assert [(frame.preceding_us,)] == connection.execute(f"select epoch_us({length})").fetchall()
