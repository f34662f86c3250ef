"""From a model's SQL to its plan, and every reason why there is none."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from feature_server.compiler.refusals import Refusal, Refused
from feature_server.definitions.stream import Aggregate, Frame, Node, StreamPlan
from feature_server.dtypes import DType
from tests.support.compiled import COLUMNS, HOUR, STAGING, compiled

EVER = "over (partition by customer_id order by paid_at range between unbounded preceding and current row)"
US = 1_000_000


def refusals(select: str, features: str = "f", **parts: Any) -> list[Refusal]:
    sql = f"select customer_id, paid_at as event_timestamp, {select}" if "event_timestamp" not in select else select
    with pytest.raises(Refused) as raised:
        compiled(sql if " from " in sql else f"{sql} from raw.payments", features, **parts)
    return list(raised.value.refusals)


def refused(select: str, features: str = "f", **parts: Any) -> tuple[str, str]:
    """What was refused, and what to write instead, of the one refusal."""
    (refusal,) = refusals(select, features, **parts)
    assert refusal.expression
    return refusal.what, refusal.instead


def test_a_model_over_staging_becomes_rows_frames_aggregates_and_outputs() -> None:
    plan = compiled(
        """
        with payments as (select * from analytics.stg_payments)
        select
            customer_id, paid_at as event_timestamp,
            count(*) over last_hour as payments_1h,
            sum(amount) filter (where not is_refund) over delayed as spent,
            max(amount) over delayed / nullif(avg(amount) over last_hour, 0) as peak_to_mean,
            count(*) over last_hour + 1 as more,
            shop as last_shop
        from payments
        window
            last_hour as (
                partition by customer_id order by paid_at range between interval 1 hour preceding and current row
            ),
            delayed as (
                partition by customer_id order by paid_at
                range between interval 1 day preceding and interval '10 minutes' preceding
            )
        """,
        "payments_1h spent peak_to_mean more last_shop",
    )
    assert plan.source == "shop.payments"
    assert (plan.versioned, plan.known_by_build, plan.event_id) == (True, True, DType("int64"))
    assert plan.frames == (Frame(3600 * US), Frame(86_400 * US, 600 * US))
    assert [(a.name, a.sql, str(a.dtype)) for a in plan.arguments] == [
        ("a0", "NOT payments.is_refund", "bool"),
        ("a1", "payments.amount", "decimal(12,2)"),
        ("a2", "payments.shop", "string"),
    ]
    count, total, most, mean = plan.aggregates
    assert count == Aggregate(name="g0", function="count_star", frame=0, dtype=DType("int64"))
    wide = DType("decimal", precision=38, scale=2)
    assert total == Aggregate(name="g1", function="sum", arguments=(1,), filter=0, frame=1, dtype=wide)
    assert (most.function, most.arguments, most.frame) == ("max", (1,), 1)
    assert (mean.function, mean.frame, mean.dtype) == ("avg", 0, DType("float64"))
    assert [output.sql for output in plan.outputs] == ["g0", "g1", "g2 / NULLIF(g3, 0)", "g0 + 1", "a2"]
    assert plan.outputs[3].node == Node("+", (Node("aggregate", value=0), Node("literal", value=1)))
    assert plan.outputs[4].node == Node("latest", value=2)


def rows_of(plan: StreamPlan, *events: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute("create table events (" + ", ".join(f"{n} {t}" for n, t in COLUMNS.items()) + ")")
        for number, customer, shop, kind, amount in events:
            connection.execute(
                "insert into events values (?, ?, ?, ?, ?, 1, [1], '2024-05-01 10:00:00+00', '2024-05-01 10:00:01+00')",
                [number, customer, shop, kind, amount],
            )
        relation = connection.sql(plan.row_sql)
        wanted = ["customer_id", "event_timestamp", "created_timestamp", "event_id", "counts"]
        assert relation.columns == [*wanted, *(argument.name for argument in plan.arguments)]
        return connection.execute(f"select event_id, customer_id, counts from ({plan.row_sql}) order by all").fetchall()


def test_rows_keep_every_version_and_say_whether_it_counts() -> None:
    plan = compiled(
        f"select customer_id, paid_at as event_timestamp, count(*) {HOUR} as n from stg_payments where amount > 5", "n"
    )
    events = [(1, 1, "a", "buy", 10), (1, 1, "a", "buy", 3), (2, 1, "a", "buy", None), (3, 1, "test", "buy", 10)]
    # 3 has no key: its filter stands where versions are chosen. What the build knew does not matter to an event.
    assert rows_of(plan, *events) == [(1, 1, False), (1, 1, True), (2, 1, False), (3, None, False)]


def test_without_filters_every_row_counts() -> None:
    plan = compiled(f"select customer_id, paid_at as event_timestamp, count(*) {HOUR} as n from raw.payments", "n")
    assert rows_of(plan, (1, 1, None, None, None)) == [(1, 1, True)]
    assert (plan.versioned, plan.known_by_build) == (False, False)


def test_when_an_event_was_known_comes_from_the_source_unless_the_model_says() -> None:
    sql = f"select customer_id, paid_at as event_timestamp, count(*) {HOUR} as n, paid_at as seen from raw.payments"
    assert '"ingested_at" AS "created_timestamp"' in compiled(sql, "n").row_sql
    assert '"paid_at" AS "created_timestamp"' in compiled(sql, "n", created_timestamp="seen").row_sql


def test_the_rows_do_not_depend_on_what_is_computed_from_them() -> None:
    one = compiled(
        f"select customer_id, paid_at as event_timestamp, shop, max(amount) {HOUR} as f from raw.payments", "shop f"
    )
    other = compiled(
        f"select customer_id, paid_at as event_timestamp, min(amount) {EVER} as f, shop, count(*) {HOUR} + 1 as g "
        "from raw.payments",
        "f shop g",
    )
    assert one.row_sql == other.row_sql
    assert one.arguments == other.arguments


def test_the_last_few_of_a_list() -> None:
    plan = compiled(
        f"select customer_id, paid_at as event_timestamp, (list(items) {HOUR})[-3:] as f from raw.payments", "f"
    )
    (found,) = plan.aggregates
    assert (found.function, found.parameter, str(found.dtype)) == ("list", 3.0, "list<int64>")


@pytest.mark.parametrize(
    ("sql", "function", "parameter"),
    [
        ("count(shop)", "count", None),
        ("count(distinct shop)", "count_distinct", None),
        ("stddev_pop(amount)", "stddev_pop", None),
        ("var_samp(amount)", "var_samp", None),
        ("arg_min(shop, amount)", "arg_min", None),
        ("last(shop)", "last", None),
        ("quantile_cont(amount, 0.9)", "quantile_cont", 0.9),
        ("quantile_disc(amount, 0.25)", "quantile_disc", 0.25),
        ("median(amount)", "median", None),
        ("bool_and(amount > 3)", "bool_and", None),
    ],
)
def test_aggregates(sql: str, function: str, parameter: float | None) -> None:
    plan = compiled(f"select customer_id, paid_at as event_timestamp, {sql} {HOUR} as f from raw.payments", "f")
    assert [(found.function, found.parameter) for found in plan.aggregates] == [(function, parameter)]


def over(frame: str) -> str:
    return f"count(*) over (partition by customer_id order by paid_at {frame}) as f"


@pytest.mark.parametrize(
    ("select", "what", "instead"),
    [
        (over("rows between 3 preceding and current row"), "a frame that counts rows", "a frame of time"),
        (over(""), "a window without a frame", "name the frame"),
        (
            over("range between interval 1 hour preceding and interval 1 hour following"),
            "a frame that looks ahead of the row", "end at `current row`",
        ),
        (
            over("range between interval 1 month preceding and current row"),
            "a frame bound that is not a fixed length of time", "seconds, minutes, hours or days",
        ),
        (over("range between interval 91 days preceding and current row"), "a frame longer than 90 days", "lifetime"),
        (
            over("range between interval 1 minute preceding and interval 1 hour preceding"),
            "a frame that ends before it starts", "the longer interval first",
        ),
        (f"count(distinct shop) {EVER} as f", "count_distinct over a lifetime", "at most 90 days"),
        (f"median(amount) {EVER} as f", "median over a lifetime", "at most 90 days"),
        (f"(list(items) {EVER})[-3:] as f", "list over a lifetime", "at most 90 days"),
        (f"product(amount) {EVER} as f", "product over a lifetime", "at most 90 days"),
        (f"stddev(amount) {EVER} as f", "stddev_samp over a lifetime", "at most 90 days"),
        (f"list(items) {HOUR} as f", "a window function that cannot be kept in real time", "(list(…) over …)[-n:]"),
        (f"ntile(3) {HOUR} as f", "a window function that cannot be kept in real time", "count(*) over a range"),
        (f"sum(items) {HOUR} as f", "a feature of type hugeint", "cast(… as bigint) as f"),
        (f"avg(paid_at) {HOUR} as f", "avg of a timestamptz", "of a time epoch(…)"),
        (f"count(distinct tags) {HOUR} as f", "count_distinct of a list<int32>", "another column"),
        (f"upper(max(shop) {HOUR}) as f", "a function that cannot be evaluated on live values", "arithmetic"),
        ("random() as f", "a function that gives another value at each call", "a column of the event"),
        ("now() as f", "a function that gives another value at each call", "a column of the event"),
        (
            over("range between interval 1 hour preceding and current row").replace("customer_id", "shop"),
            "a window over other keys than the view's", "partition by customer_id",
        ),
        (
            over("range between interval 1 hour preceding and current row").replace("paid_at", "ingested_at"),
            "a window in another order than event time", "order by payments.paid_at",
        ),
        (
            "select payments.customer_id, payments.paid_at as event_timestamp, other.shop as f "
            "from raw.payments join raw.payments as other using (payment_id)",
            "a join with other events", "a feature view of its own",
        ),
        (f"count(*) {HOUR} as f from raw.shops", "a relation that is neither", "look up constants in a seed"),
        (
            f"count(*) {HOUR} as f from raw.payments where amount > (select avg(amount) from raw.payments)",
            "a subquery over other events", "row by row",
        ),
        (f"count(*) {HOUR} as f from raw.payments limit 5", "LIMIT", "row by row"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_in_real_time_is_refused(select: str, what: str, instead: str) -> None:
    found = refusals(select)
    assert any(what in refusal.what and instead in refusal.instead for refusal in found), found
    assert all(refusal.expression for refusal in found)


def test_all_mistakes_are_reported_at_once() -> None:
    rows = over("rows between 3 preceding and current row").removesuffix(" as f")
    found = refusals(f"{rows} as f, median(amount) {EVER} as g, ntile(2) {HOUR} as h", "f g h")
    assert [refusal.what for refusal in found] == [
        "a frame that counts rows",
        "median over a lifetime",
        "a window function that cannot be kept in real time",
    ]


def test_a_group_by_and_a_filter_over_windows_are_refused() -> None:
    grouped = refusals(
        "select customer_id, max(paid_at) as event_timestamp, count(*) as f from raw.payments group by 1"
    )
    assert [refusal.what for refusal in grouped] == ["GROUP BY", *["an aggregate that is not a window function"] * 2]
    windows = f"select customer_id, paid_at as event_timestamp, count(*) {HOUR} as f from raw.payments"
    assert refused(f"select * from ({windows}) where f > 1")[0] == "a filter above the window functions"


def test_only_the_latest_version_may_be_kept_by_qualify() -> None:
    first = STAGING.replace("ingested_at desc", "ingested_at")
    what, instead = refused(f"count(*) {HOUR} as f from stg_payments", staging=first)
    assert what == "QUALIFY other than keeping the latest version of each event"
    assert instead.endswith("qualify row_number() over (partition by payment_id order by ingested_at desc) = 1")
    other = STAGING.replace("ingested_at desc", "paid_at desc")
    assert refused(f"count(*) {HOUR} as f from stg_payments", staging=other)[0] == what


def test_the_event_id_must_reach_the_windows() -> None:
    staging = "select customer_id, paid_at, ingested_at from raw.payments"
    what, instead = refused(f"count(*) {HOUR} as f from stg_payments", staging=staging)
    assert what == "a column of the source that does not reach the SELECT with the window functions"
    assert instead == "pass payment_id on in the staging model"


def test_a_view_of_plain_columns_needs_the_event_id_in_staging_alone() -> None:
    plan = compiled(
        """
        with payments as (select * from analytics.stg_payments),
        final as (select customer_id, paid_at as event_timestamp, upper(shop) as last_shop from payments)
        select * from final
        """,
        "last_shop",
    )
    assert (plan.versioned, plan.known_by_build, plan.aggregates) == (True, True, ())
    assert rows_of(plan, (1, 1, "toys", "buy", 10), (2, 1, "toys", "buy", None)) == [(1, 1, True), (2, 1, False)]


def test_a_feature_has_the_type_that_its_yaml_says() -> None:
    types = {"f": DType("int32")}
    assert refused(f"count(*) {HOUR} as f", types=types) == ("a feature of type bigint", "cast(… as integer) as f")


def test_a_join_key_cannot_have_a_name_of_the_rows() -> None:
    sql = f"select customer_id as event_id, paid_at as event_timestamp, count(*) {HOUR} as f from raw.payments"
    assert refused(sql, join_keys=("event_id",))[0] == "a join key with a name that rows of events use"


def test_unknown_columns_and_broken_sql_are_refused_with_the_parsers_words() -> None:
    assert refused("nothing_of_the_kind as f")[0] == "a column that cannot be resolved"
    assert refused("select event_timestamp from (")[0] == "SQL that cannot be read"
