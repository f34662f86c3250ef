"""Five planted leaks, each told by the column's name, and beside each the right way, of which nothing is told."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from feature_server.leaktest.run import Found, LeakTest, leaktest
from feature_server.settings import load_settings
from tests.support.tiny_project import write_project

FIRST = "2024-01-20T12:00:00Z"  # compared with the project's as_of
START = datetime.fromisoformat("2024-01-01T00:00:00Z")
ORDERS = "{{ source('shop', 'orders') }}"
WINDOW = """
        select customer_id as order_id, made_at as event_timestamp, landed_at as created_timestamp,
            count(*) over (
                order by made_at range between interval 5 days preceding and current row
            ) as orders_5d"""
TIERS = "(select customer_id, max(tier) as tier from {{ source('shop', 'tiers') }} group by all)"
MODELS = {
    # a late order changes counts that were known, but in a stream view, whose events are read by when they were known
    "window_leaks": f"{WINDOW} from {ORDERS}",
    "stream_right": f"{WINDOW} from {ORDERS}",
    "stream_leaks": f"{WINDOW}, tier, today() as day from {ORDERS} left join {TIERS} using (customer_id)",
    # the tier that the customer has now, and the one that was known when the order landed
    "dimension_leaks": f"""
        select o.order_id, o.landed_at as event_timestamp, o.amount, t.tier
        from {ORDERS} as o
        left join (
            select customer_id, arg_max(tier, changed_at) as tier from {{{{ source('shop', 'tiers') }}}} group by all
        ) as t using (customer_id)
        """,
    "dimension_right": f"""
        select o.order_id, o.landed_at as event_timestamp, o.amount, t.tier
        from {ORDERS} as o
        asof left join {{{{ source('shop', 'tiers') }}}} as t
            on o.customer_id = t.customer_id and o.landed_at >= t.changed_at
        """,
    "ahead_leaks": f"""
        select order_id, landed_at as event_timestamp,
            lead(amount) over (partition by customer_id order by landed_at) as other_amount
        from {ORDERS}
        """,
    "ahead_right": f"""
        select order_id, landed_at as event_timestamp,
            lag(amount) over (partition by customer_id order by landed_at) as other_amount
        from {ORDERS}
        """,
    # an order that lands a day after it was made changes a sum that claims to have been known by then
    "late_leaks": f"""
        select 1 as order_id, made_at::date + interval '1 day' as event_timestamp, sum(amount) as amount_sum
        from {ORDERS} group by all
        """,
    "late_right": f"""
        select 1 as order_id, landed_at::date + interval '1 day' as event_timestamp, sum(amount) as amount_sum
        from {ORDERS} group by all
        """,
    "clock_leaks": f"""
        select order_id, landed_at as event_timestamp, date_diff('day', made_at, now()) as age_days,
            age(made_at) as age, '{{{{ run_started_at.strftime("%Y-%m-%d") }}}}' as built_on,
            current_date > date '2024-01-25' as is_old
        from {ORDERS}
        """,
    "clock_right": f"""
        select order_id, landed_at as event_timestamp, date_diff('day', made_at, landed_at) as age_days
        from {ORDERS}
        """,
    # two channels landed at the same instant
    "tie_leaks": """
        select order_id, landed_at as event_timestamp, channel
        from {{ source('shop', 'channels') }}
        qualify row_number() over (partition by order_id order by landed_at) = 1
        """,
    "tie_right": """
        select order_id, landed_at as event_timestamp, channel
        from {{ source('shop', 'channels') }}
        qualify row_number() over (partition by order_id order by landed_at, channel) = 1
        """,
    "overwritten": """
        select order_id, timestamptz '2024-01-01T00:00:00Z' as event_timestamp, stock
        from {{ source('shop', 'stock') }}
        """,
    "comment_alone": f"""
        -- depends_on: {{{{ source('shop', 'stock') }}}}
        select order_id, landed_at as event_timestamp, amount from {ORDERS}
        """,
    "none_yet": f"""
        select order_id, landed_at + interval '1 year' as event_timestamp, amount from {ORDERS}
        """,
}
FILES = {
    "dbt_project.yml": """
name: planted
version: "1.0"
profile: planted
flags: {send_anonymous_usage_stats: false}
models: {+materialized: view}
vars: {as_of: "2024-01-31T00:00:00Z"}
""",
    "profiles/profiles.yml": """
planted:
  target: dev
  outputs:
    dev: {type: duckdb, path: own.duckdb, threads: 2, settings: {TimeZone: UTC}}
""",
    "models/sources.yml": """
sources:
  - name: shop
    config: {meta: {external_location: "landing/{name}.parquet"}}
    tables:
      - name: orders
        config:
          meta: {event_stream: {event_id: order_id, event_timestamp: made_at, created_timestamp: landed_at}}
      - {name: channels, config: {loaded_at_field: landed_at}}
      - {name: tiers, config: {loaded_at_field: "changed_at + interval '0 days'"}}
      - {name: stock}
""",
    "models/entities.yml": """
models:
  - name: order_ids
    config: {meta: {entity: {name: order, join_keys: [order_id]}}}
""",
    "models/order_ids.sql": "select 1 as order_id",
}


def views_yaml() -> str:
    lines = ["models:"]
    for name in MODELS:
        more = ", created_timestamp: created_timestamp" if name.startswith(("window", "stream")) else ""
        more += ", stream: shop.orders" if name.startswith("stream") else ""
        lines.append(f"  - {{name: {name}, config: {{meta: {{feature_view: {{entities: [order]{more}}}}}}}}}")
    return "\n".join(lines)


def land(folder: Path) -> None:
    """700 orders of 40 customers in January, each tenth a day late; tiers that change; channels two at a time."""
    folder.mkdir()
    orders = """
        select range as order_id, (range * 7 % 40)::integer as customer_id,
            (range * 37 % 1009)::decimal(9, 2) as amount,
            timestamptz '2024-01-01T00:00:00Z' + interval '1 hour' * range as made_at,
            made_at + interval '1 day' * (range % 10 = 0)::integer + interval '1 minute' as landed_at
        from range(700)
        """
    tiers = """
        select customer_id, 'tier ' || change as tier,
            timestamptz '2024-01-01T00:00:00Z' + interval '1 day' * (change * 8 + customer_id % 5) as changed_at
        from range(40) as c (customer_id), range(4) as n (change)
        where change < 3 or customer_id % 4 = 0
        """
    channels = f"""
        select order_id, landed_at, channel from ({orders}) as o, (values ('web'), ('app')) as n (channel)
        order by order_id, channel desc
        """
    stock = "select range as order_id, range % 3 as stock from range(10)"
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        for name, sql in (("orders", orders), ("tiers", tiers), ("channels", channels), ("stock", stock)):
            connection.execute(f"copy ({sql}) to '{folder / name}.parquet' (format parquet)")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> LeakTest:
    folder = tmp_path_factory.mktemp("planted")
    models = {f"models/{name}.sql": text for name, text in MODELS.items()}
    write_project(folder, FILES | models | {"models/views.yml": views_yaml()})
    land(folder / "landing")
    return leaktest(load_settings(project_dir=folder), first=[FIRST])


def of(found: LeakTest, name: str) -> Found:
    (one,) = [view for view in found.views if view.view == name]
    return one


def told(found: LeakTest, name: str) -> set[str]:
    return {column.column for pair in of(found, name).pairs for column in pair.found.columns}


@pytest.mark.parametrize(
    ("leak", "columns"),
    [
        ("dimension", {"tier"}),
        ("ahead", {"other_amount"}),
        ("late", {"amount_sum"}),
        ("clock", {"age_days", "age", "built_on", "is_old"}),
        ("tie", {"channel"}),
    ],
)
def test_a_planted_leak_is_told_by_its_columns_and_the_right_way_is_clean(
    found: LeakTest, leak: str, columns: set[str]
) -> None:
    assert (of(found, f"{leak}_leaks").verdict, told(found, f"{leak}_leaks")) == ("leaks", columns)
    right = of(found, f"{leak}_right")
    assert (right.verdict, told(found, f"{leak}_right"), right.reasons) == ("clean", set(), ())
    assert right.pairs[0].found.rows >= 19


def test_a_stream_view_is_built_of_the_same_events_both_times_and_of_all_else_that_landed(found: LeakTest) -> None:
    assert told(found, "window_leaks") == {"orders_5d"}
    assert (of(found, "stream_right").verdict, of(found, "stream_right").pairs[0].replayed) == ("clean", True)
    assert (of(found, "stream_leaks").verdict, told(found, "stream_leaks")) == ("leaks", {"tier", "day"})


def test_an_input_without_a_landing_time_makes_a_view_untestable_never_clean(found: LeakTest) -> None:
    view = of(found, "overwritten")
    assert view.verdict == "untestable"
    assert view.pairs[0].found.rows == 10
    assert [reason.partition(",")[0] for reason in view.reasons] == ["source shop.stock says of no row when it landed"]


def test_a_source_that_a_comment_alone_names_is_not_read(found: LeakTest) -> None:
    assert of(found, "comment_alone").verdict == "clean"


def test_a_comparison_of_no_rows_is_not_clean(found: LeakTest) -> None:
    assert of(found, "none_yet").verdict == "nothing compared"


def test_a_difference_has_its_share_and_an_example_with_both_values(found: LeakTest) -> None:
    first = datetime.fromisoformat(FIRST)
    changes = {
        customer: [START + timedelta(days=change * 8 + customer % 5) for change in range(4 if customer % 4 == 0 else 3)]
        for customer in range(40)
    }
    differ, known = [], 0
    for order in range(700):
        landed = START + timedelta(hours=order, days=order % 10 == 0, minutes=1)
        if landed <= first:
            known += 1
            early = sum(change <= first for change in changes[order * 7 % 40])
            differ += [order] if early != len(changes[order * 7 % 40]) else []
    (column,) = of(found, "dimension_leaks").pairs[0].found.columns
    assert (column.rows, column.share) == (len(differ), len(differ) / known)
    assert 0 < column.share < 1
    assert int(column.example["order_id"] or -1) in differ
    assert (column.first, column.later) in {("tier 1", "tier 2"), ("tier 2", "tier 3"), ("tier 1", "tier 3")}
