"""Each rule with what it must catch, and what looks like it and is right."""

from __future__ import annotations

import re

import pytest
import sqlglot

from feature_server.lint.rules import UNTESTED, broken
from feature_server.project.package import PACKAGE, SHIPPED

FROM = "from payments window w as (partition by customer_id order by paid_at), backwards as (order by paid_at desc)"
LEAKS = [
    ("present_time", "now()"),
    ("present_time", "date_diff('day', paid_at, now())"),
    ("present_time", "current_timestamp"),
    ("present_time", "current_date"),
    ("present_time", "today()"),
    ("present_time", "get_current_timestamp()"),
    ("present_time", "localtimestamp"),
    ("present_time", "age(paid_at)"),
    ("random", "uuidv4()"),
    ("look_ahead", "lag(euros, -1) over w"),
    ("random", "random()"),
    ("random", "uuid()"),
    ("random", "gen_random_uuid()"),
    ("random", "euros + random() * 0"),
    ("look_ahead", "lead(euros) over (partition by customer_id order by paid_at)"),
    ("look_ahead", "lead(euros) over w"),
    ("look_ahead", "lag(euros) over backwards"),
    ("look_ahead", "sum(euros) over (partition by customer_id)"),
    ("look_ahead", "count(*) over ()"),
    ("look_ahead", "sum(euros) filter (where euros > 0) over (partition by customer_id)"),
    ("look_ahead", "sum(euros) over (order by paid_at rows between 1 preceding and 1 following)"),
    ("look_ahead", "sum(euros) over (order by paid_at rows between unbounded preceding and unbounded following)"),
    ("look_ahead", "max(euros) over (order by paid_at range between current row and interval '1 day' following)"),
    ("look_ahead", "sum(euros) over (order by paid_at desc)"),
    ("look_ahead", "sum(euros) over (order by paid_at desc rows between 3 preceding and current row)"),
    ("look_ahead", "last_value(euros) over (partition by customer_id order by paid_at rows between unbounded "
     "preceding and unbounded following)"),
    ("look_ahead", "ntile(4) over (order by euros)"),
    ("look_ahead", "percent_rank() over (order by euros)"),
    ("look_ahead", "sum(euros) over (order by -epoch(paid_at))"),
    ("look_ahead", "sum(euros) over (order by -1 * epoch_us(paid_at))"),
    ("look_ahead", "sum(euros) over (order by timestamptz '2030-01-01' - paid_at)"),
    ("look_ahead", "lag(euros) over (order by -epoch(paid_at))"),
]  # fmt: skip
RIGHT = [
    "date_diff('day', paid_at, timestamptz '2013-12-30')",
    "'now()'",
    "paid_at as now",
    "hash(customer_id)",
    "lag(euros) over (partition by customer_id order by paid_at)",
    "lag(euros) over w",
    "lead(euros) over backwards",
    "lead(euros, -1) over w",
    "age(paid_at, ordered_at)",
    "sum(euros) over (partition by customer_id, paid_at)",
    "sum(euros) over w",
    "sum(euros) over (order by -epoch(paid_at) desc)",
    "lead(euros) over (order by -epoch(paid_at))",
    "sum(euros) over (partition by customer_id order by paid_at)",
    "sum(euros) over (order by paid_at rows between 3 preceding and current row)",
    "sum(euros) over (order by paid_at range between interval '1 day' preceding and current row)",
    "sum(euros) over (order by paid_at rows between unbounded preceding and 1 preceding)",
    "sum(euros) over (order by paid_at rows between 1 preceding and 0 following)",
    "sum(euros) over (order by paid_at desc rows between current row and 3 following)",
    "row_number() over (partition by customer_id order by paid_at)",
    "row_number() over (order by paid_at desc)",
    "sum(euros)",
]


@pytest.mark.parametrize(("rule", "expression"), LEAKS)
def test_what_leaks_or_is_unstable_is_found(rule: str, expression: str) -> None:
    assert [found.name for found, _ in broken(sqlglot.parse_one(f"select {expression} {FROM}", dialect="duckdb"))] == [
        rule
    ]


@pytest.mark.parametrize("expression", RIGHT)
def test_what_only_looks_like_it_is_not(expression: str) -> None:
    assert list(broken(sqlglot.parse_one(f"select {expression} {FROM}", dialect="duckdb"))) == []


@pytest.mark.parametrize("sample", ["tablesample 5%", "using sample 10 rows"])
def test_a_sample_is_random(sample: str) -> None:
    (found,) = broken(sqlglot.parse_one(f"select 1 from payments {sample}", dialect="duckdb"))
    assert found[0].name == "random"


def test_the_test_that_is_asked_for_is_one_of_the_package() -> None:
    [name] = re.findall(rf"{PACKAGE}\.(\w+)", UNTESTED.instead)
    assert (SHIPPED / "tests" / "generic" / f"{name}.sql").is_file()
