"""A model's own tested grain orders its window functions: only where DuckDB gives the same of shuffled rows."""

from __future__ import annotations

import random
from pathlib import Path

import duckdb
import pytest
import sqlglot
from sqlglot import exp

from feature_server.lint.grains import given_keys
from feature_server.lint.keys import Reading
from feature_server.lint.order import unstable
from feature_server.lint.run import lint
from feature_server.queries.rows import Inputs, Key, Rows
from tests.support.tiny_project import write_project

GRAIN = ("c", "t")
COLUMNS = {"o": ("id", "day", "v"), "d": ("id", "w")}
DUCKDB = duckdb.connect(config={"threads": 1})
LAG = "lag(v) over (partition by id order by day) as p"
RIGHT = [
    f"select id as c, day as t, {LAG} from o",
    f"select id as c, day as t, {LAG} from o where v > 0",
    "select id as c, day as t, lag(v) over (partition by c order by t) as p from o",
    f"select id as c, day::int as t, {LAG} from o",
    f"select id as c, day + 1 as t, {LAG} from o",
    f"select * rename (id as c, day as t), {LAG} from o",
    "select o.* rename (id as c, day as t), sum(v) over (partition by id order by day rows 1 preceding) as p from o",
    f"with a as (select *, {LAG} from o) select id as c, day as t, p from a",
    f"with a as (select *, {LAG} from o where v > 0), b as (select * from a) select id as c, day as t, p from b",
    f"with a as (select *, {LAG} from o), final as (select a.id as c, a.day as t, p, w from a left join d using (id)) "
    "select c, t, p from final",
    f"with a as (select *, {LAG} from o) select a.id as c, a.day as t, p from a left join d on a.id = d.id",
    f"select c, t, p from (select id as c, day as t, {LAG} from o) as x",
    "select o.id as c, day as t, first_value(v) over (partition by o.id order by day) as p from o join d using (id)",
    f"select id as c, day as t, {LAG} from o union all select id as c, day as t, {LAG} from o where false",
]
CAUGHT = [
    f"select id as c, day as t, {LAG} from o qualify p > 0",
    f"select id as c, day as t, {LAG} from o qualify count(*) over (partition by id, day) = 1",
    f"select distinct on (id, day) id as c, day as t, {LAG} from o",
    f"with a as (select *, {LAG} from o) select id as c, day as t, p from a where v > 1",
    f"with a as (select *, {LAG} from o) select a.id as c, day as t, p from a join d on a.id = d.id and d.w = a.v",
    f"with a as (select *, {LAG} from o) select id as c, day as t, max(p) as p from a group by all",
    f"with a as (select *, {LAG} from o) select id as c, day as t, p from a semi join d on a.v = d.w",
    f"with a as (select *, {LAG} from o) select d.id as c, d.w as t, p from a left join d on a.v = d.w",
    f"select id as c, v as t, {LAG} from o",
    "select id as c, day as t, lag(v) over (order by day) as p from o",
    "select id as c, day as t, lag(v) over (partition by id order by day // 2) as p from o",
    f"with a as (select *, {LAG} from o) select id as c, row_number() over (order by id, day, v, p) as t, p from a",
    f"select id as c, unnest(range(v)) as t, {LAG} from o",
]


def found(sql: str) -> list[exp.Expr]:
    caught = list[exp.Expr]()

    def seen(query: exp.Query, inputs: Inputs, keys: set[Key]) -> None:
        caught.extend(node for node, _ in unstable(query, inputs, keys) if "p" in node.parent.alias_or_name)  # type: ignore[union-attr]

    tree = sqlglot.parse_one(sql, dialect="duckdb")
    keys = given_keys(tree, [frozenset(GRAIN)])
    Reading(lambda table: Rows(columns=COLUMNS[table.name]), seen, keys).rows(tree, {})
    return caught


def differs(sql: str, seed: int) -> bool | None:
    """Whether a query's rows, where they have the grain, are others when the rows it reads come in another order."""
    chance, answers = random.Random(seed), list[object]()
    rows = {
        name: [[chance.randrange(3) for _ in columns] for _ in range(chance.randrange(2, 6))]
        for name, columns in COLUMNS.items()
    }
    for _ in range(4):
        for name, columns in COLUMNS.items():
            values = ", ".join(f"({', '.join(map(str, row))})" for row in rows[name])
            DUCKDB.execute(f"create or replace table {name} as from (values {values}) as v({', '.join(columns)})")
        given = DUCKDB.execute(f"select c, t, p from ({sql})").fetchall()
        if len({row[:2] for row in given}) < len(given):
            return None
        answers.append(sorted(given, key=str))
        chance.shuffle(rows["o"])
    return any(answer != answers[0] for answer in answers)


@pytest.mark.parametrize("sql", RIGHT)
def test_what_the_models_own_grain_orders_is_right(sql: str) -> None:
    assert found(sql) == []
    told = [differs(sql, seed) for seed in range(30)]
    assert True not in told
    assert False in told


@pytest.mark.parametrize("sql", CAUGHT)
def test_what_it_does_not_is_found(sql: str) -> None:
    assert len(found(sql)) == 1
    assert any(differs(sql, seed) for seed in range(300))


def test_a_views_own_test_counts_where_it_holds_for_all_rows(tmp_path: Path) -> None:
    grain = "[{grain: {arguments: {columns: [customer_id, event_timestamp]}}}]"
    files = {
        "dbt_project.yml": "name: shop\n",
        "models/shop.yml": "models:\n  - name: spend\n    meta: {feature_view: {entities: [customer]}}\n"
        f"    data_tests: {grain}",
        "models/spend.sql": "select customer_id, ordered_at as event_timestamp,\n"
        "lag(amount) over (partition by customer_id order by ordered_at) as last_amount\nfrom {{ source('a', 'b') }}",
    }
    assert lint(write_project(tmp_path, files)).findings == ()
    for said in ("where: amount > 0", "severity: warn", "enabled: false"):
        files["models/shop.yml"] = files["models/shop.yml"].replace(
            "event_timestamp]}", f"event_timestamp]}}, config: {{{said}}}"
        )
        rules = {each.rule for each in lint(write_project(tmp_path, files)).findings}
        assert "unstable_order" in rules


WINDOWED = (
    "select customer_id, ordered_at, lag(amount) over (partition by customer_id order by ordered_at) as last_amount\n"
    "from {{ source('a', 'b') }}"
)
VIEW = "select customer_id, ordered_at as event_timestamp, last_amount from {{ ref('windowed') }}"
BETWEEN, INCREMENTAL = VIEW.replace("windowed", "between"), "{{ config(materialized='incremental') }} "


@pytest.mark.parametrize(
    ("changed", "right"),
    [
        ({}, True),
        ({"models/between.sql": "select * from {{ ref('windowed') }}", "models/spend.sql": BETWEEN}, True),
        ({"models/spend.sql": VIEW + " where amount > 0"}, False),
        ({"models/spend.sql": VIEW.replace("select", "select distinct")}, False),
        ({"models/spend.sql": INCREMENTAL + VIEW}, False),
        ({"models/windowed.sql": INCREMENTAL + WINDOWED}, True),
        ({"models/windowed.sql": WINDOWED + " union all select 1, null, null"}, True),
        ({"models/windowed.sql": f"with a as ({WINDOWED}) select * from a where ordered_at > 1"}, False),
        ({"models/windowed.sql": INCREMENTAL + f"with a as ({WINDOWED}) select * from a"}, False),
        ({"models/spend.sql": VIEW.replace("windowed", "windowed', v='1"), "models/windowed_v1.sql": WINDOWED}, True),
        ({"models/spend.sql": VIEW + " union all " + VIEW}, True),
    ],
)  # fmt: skip
def test_a_views_own_test_counts_for_models_whose_rows_it_has_all(
    tmp_path: Path, changed: dict[str, str], right: bool
) -> None:
    files = {
        "dbt_project.yml": "name: shop\n",
        "models/shop.yml": "models:\n  - name: spend\n    meta: {feature_view: {entities: [customer]}}\n"
        "    data_tests: [{grain: {arguments: {columns: [customer_id, event_timestamp]}}}]\n",
        "models/windowed.sql": WINDOWED,
        "models/spend.sql": VIEW,
    } | changed
    found = lint(write_project(tmp_path, files))
    assert "unreadable" not in [each.rule for each in found.findings]
    assert [each.rule for each in found.findings] == ([] if right else ["unstable_order"])
