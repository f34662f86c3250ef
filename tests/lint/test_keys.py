"""What tells rows apart: as DuckDB's rows show it, and by the tests of a project's models and sources."""

from __future__ import annotations

import random
from pathlib import Path

import duckdb
import pytest
import sqlglot

from feature_server.lint.keys import Reading
from feature_server.lint.run import lint
from feature_server.queries.rows import Rows
from tests.support.tiny_project import write_project

TABLES = {  # keys, and rows of small numbers and nulls
    "a": (("id",), ("x", "y")),
    "b": (("x", "y"),),
    "c": (("x",),),
    "d": (),
}
QUERIES = [
    "select * from a",
    "select id, x from a",
    "select x as p, y as q from a",
    "select * exclude (id) from a",
    "select b.*, a.id as n from b join a using (x)",
    "select a.*, b.z from a join b on a.x = b.x",
    "select a.id, b.y from a join b on a.x = b.x",
    "select a.id, b.x as bx, b.y from a left join b on a.x = b.x and b.y > 1",
    "select a.id, b.x as bx, b.y from a right join b on a.x = b.x",
    "select a.id, b.x, b.y from a full join b on a.x = b.x",
    "select id, x, a.y from a full join c using (x)",
    "select a.id, c.z from a left join c on a.y = c.x",
    "select a.id, c.x as cx from a right join c on a.y = c.x",
    "select a.id, c.x as cx from a join c on a.id = c.x",
    "select a.id, b.x as bx, b.y as y2, c.x as cx from a join b on a.x = b.x join c on b.y = c.x",
    "select a.id, b.x as bx, b.y as y2 from a, b where a.x = b.x",
    "select a.id, b.x as bx, b.y as y2 from a cross join b",
    "select id from a semi join b using (x)",
    "select id from a anti join b using (x)",
    "select a.id from a asof join b on a.x = b.x and a.y >= b.y",
    "select * from d",
    "select distinct x, y from d",
    "select distinct on (x) x, y from d",
    "select x, count(*) as n from d group by x",
    "select x, y, count(*) as n from d group by all",
    "select x + 1 as more, count(*) as n from d group by x + 1",
    "select x + 1 as more, count(*) as n from d group by more",
    "select a.x, b.y, count(*) as n from a join b using (x) group by a.x, b.y",
    "select x, count(*) as n from a join b using (x) group by x",
    "select count(*) as n from d",
    "select x, y, count(*) as n from d group by rollup (x, y)",
    "select x, y from d qualify row_number() over (partition by x) = 1",
    "select x, y, row_number() over (partition by x) as n from d",
    "select x, y from (select *, row_number() over (partition by x) as n from d) where n = 1",
    "select x, y, row_number() over (partition by x) as n from d qualify n <= 1",
    "select y, z from a where x = 2",
    "select y from b where b.x = 2",
    "select x from d union select x from b",
    "select x from a union all select x from a",
    "select x, y from a intersect select x, y from b",
    "select id, unnest([1, 2]) as n from a",
    "select z from d limit 1",
    "select id::text as t, x::bigint as big from a",
    "select id // 2 as half from a",
    "select x, x as also, y from b",
    "with e(m, n) as (select id, x from a) select m from e",
    "with e as (select x, max(id) as id from a group by x), f as (select * from a) select f.id from f join e using (x)",
    "select id from a where exists (select 1 from d where d.x = a.x)",
    "select * from a join c using (x) join d using (y)",
    "select a.id as one, other.id as two from a join a as other on a.x = other.x",
    "select a.id from a left join c on c.x = a.x and c.z = a.z",
    "select coalesce(a.x, c.x) as x from a full join c on a.x = c.x",
    "select x, sum(y) over (partition by x) as s from b",
    "select * from (values (1::bigint, 'a', 1), (2, 'b', null), (3, 'a', 01)) as v(n, t, m)",
    "select * from (values (1, '1', null), (2, '01', null), (1.0, 1, 5)) as v(n, t, m)",
    "select * from (values (timestamp '2024-01-01', '1'::int), (timestamp '2024-01-01 00:00', '01'::int)) as v(n, t)",
]
KNOWN_OF = 44  # so many of the queries


def filled(seed: int) -> duckdb.DuckDBPyConnection:
    """Tables of random rows that their keys tell apart."""
    chance, connection = random.Random(seed), duckdb.connect()
    for name, keys in TABLES.items():
        columns = ("id", "x", "y", "z") if name == "a" else ("x", "y", "z")
        connection.execute(f"create table {name}({', '.join(f'{column} int' for column in columns)})")
        seen = set[object]()
        for _ in range(14):
            row = {column: chance.choice([0, 1, 2, 3, 4, None]) for column in columns}
            if name == "a":
                row["id"] = chance.randrange(100)
            marks = {(key, tuple(row[column] for column in key)) for key in keys}
            if seen.isdisjoint(marks):
                seen |= marks
                connection.execute(f"insert into {name} values ({', '.join('?' * len(columns))})", list(row.values()))
    return connection


def known(name: str) -> Rows:
    columns = ("id", "x", "y", "z") if name == "a" else ("x", "y", "z")
    return Rows(frozenset(frozenset(key) for key in TABLES[name]), columns)


def test_no_two_rows_have_the_same_of_a_key() -> None:
    """For 40 sets of random rows; a key that is claimed and does not hold is found by DuckDB's own distinct."""
    claimed = {sql: Reading(lambda table: known(table.name)).rows(sqlglot.parse_one(sql, dialect="duckdb"), {}).keys
               for sql in QUERIES}  # fmt: skip
    for seed in range(40):
        with filled(seed) as connection:
            for sql, keys in claimed.items():
                for key in keys:
                    listed = ", ".join(sorted(key)) or "1"
                    told = f"select distinct {listed} from ({sql})"
                    counts = f"select (select count(*) from ({sql})), (select count(*) from ({told}))"
                    ((rows, told_apart),) = connection.execute(counts).fetchall()
                    assert rows == told_apart, f"{sql}: {sorted(key)} of seed {seed}"
    assert sum(bool(keys) for keys in claimed.values()) == KNOWN_OF


HELD = "config: {materialized: table, contract: {enforced: true}}\n    "
SHOP = {
    "dbt_project.yml": "name: shop\nmodels: {shop: {kept: {+materialized: incremental}}}\n",
    "models/shop.yml": """
sources:
  - name: bank
    tables:
      - name: payments
        config: {meta: {event_stream: {event_id: id, created_timestamp: seen_at}}}
      - name: shops
        columns: [{name: shop, data_tests: [unique]}]
models:
  - name: spend
    meta: {feature_view: {entities: [customer]}, lint: {allow: known_time, reason: not looked at here}}
    data_tests: [{grain: {arguments: {columns: [id, event_timestamp]}}}]
  - name: stg
    versions: [{v: 1}, {v: 2}]
""",
    "models/stg_v1.sql": "select * from {{ source('bank', 'payments') }}\n"
    "qualify row_number() over (partition by id order by seen_at desc) = 1",
    "models/stg_v2.sql": "select id, seen_at from {{ source('bank', 'payments') }}",
    "models/spend.sql": "select id,\n  row_number() over (\n    partition by 1 order by id) as n\n"
    "from {{ ref('stg', v=1) }}",
}


def places(folder: Path, **changed: str) -> list[tuple[str, int, str]]:
    files = SHOP | {name.replace("__", "/"): text for name, text in changed.items()}
    return [(each.file, each.line, each.got) for each in lint(write_project(folder, files)).findings]


def test_keys_are_known_through_models_and_of_sources(tmp_path: Path) -> None:
    assert places(tmp_path) == []


@pytest.mark.parametrize(
    ("changed", "line", "end"),
    [
        ({"models/spend.sql": SHOP["models/spend.sql"].replace("v=1", "v=2")}, 2, "differ in (1, id)"),
        ({"models/spend.sql": SHOP["models/spend.sql"].replace(", v=1", "")}, 2, "differ in (1, id)"),
        ({"models/stg_v1.sql": SHOP["models/stg_v2.sql"]}, 2, "differ in (1, id)"),
        ({"models/spend.sql": "select 1 as id\nfrom {{ ref('stg', v=1) }}\n\nlimit 1"}, 4, "without an order"),
    ],
)
def test_where_nothing_tells_rows_apart_it_is_said(
    tmp_path: Path, changed: dict[str, str], line: int, end: str
) -> None:
    ((file, at, got),) = places(tmp_path, **changed)
    assert (file, at) == ("models/spend.sql", line)
    assert got.endswith(end)


@pytest.mark.parametrize(
    ("tests", "caught"),
    [
        ("columns: [{name: id, data_tests: [unique]}]", False),
        ("columns: [{name: id, tests: [{unique: {config: {severity: error}}}]}]", False),
        (f"{HELD}columns: [{{name: id, constraints: [{{type: primary_key}}]}}]", False),
        (f"{HELD}constraints: [{{type: unique, columns: [id]}}]", False),
        (f"{HELD}constraints: [{{type: unique}}]", True),
        (f"{HELD.replace('table', 'view')}constraints: [{{type: unique, columns: [id]}}]", True),
        ("constraints: [{type: unique, columns: [id]}]", True),
        ("data_tests: [{dbt_utils.unique_combination_of_columns: {arguments: {combination_of_columns: [id]}}}]", False),
        ("data_tests: [{unique: {column_name: id}}]", False),
        ("data_tests: [{grain: {columns: [id, seen_at]}}]", True),
        ("columns: [{name: id, data_tests: [not_null]}]", True),
        ("columns: [{name: id, data_tests: [{unique: {config: {severity: warn}}}]}]", True),
        ("columns: [{name: id, data_tests: [{unique: {config: {where: id > 0}}}]}]", True),
        ("data_tests: [{unique: {column_name: id || seen_at}}]", True),
    ],
)
def test_the_tests_that_tell_rows_apart(tmp_path: Path, tests: str, caught: bool) -> None:
    yaml = SHOP["models/shop.yml"].replace("versions: [{v: 1}, {v: 2}]", f"{tests}\n    versions: [{{v: 1}}, {{v: 2}}]")
    spend = SHOP["models/spend.sql"].replace("v=1", "v=2")
    assert bool(places(tmp_path, **{"models/shop.yml": yaml, "models/spend.sql": spend})) == caught


def test_what_an_incremental_model_is_made_of_tells_its_rows_apart_in_one_run_alone(tmp_path: Path) -> None:
    first = {"models/stg_v1.sql": "{{ config(materialized='incremental') }}" + SHOP["models/stg_v1.sql"]}
    assert len(places(tmp_path / "first", **first)) == 1
    second = {"models/kept/once.sql": "select distinct id from {{ ref('stg') }}",
              "models/spend.sql": "select id from {{ ref('once') }} order by id limit 1"}  # fmt: skip
    assert len(places(tmp_path / "second", **second)) == 1
    assert places(tmp_path / "third", **{**second, "dbt_project.yml": "name: shop\n"}) == []


def test_models_of_packages_are_looked_at(tmp_path: Path) -> None:
    package = {
        "dbt_packages/money/dbt_project.yml": "name: money\n",
        "dbt_packages/money/models/rates.sql": "select 1 as id,\nnow() as at",
        "models/spend.sql": "select * from {{ ref('money', 'rates') }}",
    }
    assert places(tmp_path, **package) == [("dbt_packages/money/models/rates.sql", 2, "now()")]


def test_the_events_of_a_view_with_a_stream_are_in_one_order(tmp_path: Path) -> None:
    view = {"models/spend.sql": "select last(id) over (partition by 1 order by seen_at) from {{ ref('stg', v=2) }}"}
    assert len(places(tmp_path, **view)) == 1
    yaml = SHOP["models/shop.yml"].replace("{entities: [customer]}", "{entities: [customer], stream: bank.payments}")
    assert places(tmp_path, **{**view, "models/shop.yml": yaml}) == []


@pytest.mark.parametrize(
    ("version", "caught"),
    [
        ("{v: 2}", True),
        ("{v: 2, data_tests: [{unique: {column_name: id}}]}", False),
        ("{v: 2, columns: [{include: all}, {name: id, data_tests: [unique]}]}", False),
        ("{v: 2, columns: [{include: [seen_at]}]}", True),
        ("{v: 2, columns: [{name: id, data_tests: [{unique: {config: {severity: warn}}}]}]}", True),
    ],
)
def test_a_version_has_tests_of_its_own(tmp_path: Path, version: str, caught: bool) -> None:
    yaml = SHOP["models/shop.yml"].replace("{v: 1}, {v: 2}", f"{{v: 1}}, {version}")
    spend = SHOP["models/spend.sql"].replace("v=1", "v=2")
    assert bool(places(tmp_path, **{"models/shop.yml": yaml, "models/spend.sql": spend})) == caught


@pytest.mark.parametrize(
    ("version", "caught"),
    [("{v: 2}", False), ("{v: 2, columns: [{include: all, exclude: [id]}]}", True), ("{v: 2, tests: []}", False),
     ("{v: 2, columns: [{include: [seen_at]}]}", True)],
)  # fmt: skip
def test_a_version_has_the_models_columns_but_those_it_leaves_out(tmp_path: Path, version: str, caught: bool) -> None:
    versions = f"columns: [{{name: id, data_tests: [unique]}}]\n    versions: [{{v: 1}}, {version}]"
    yaml = SHOP["models/shop.yml"].replace("versions: [{v: 1}, {v: 2}]", versions)
    spend = SHOP["models/spend.sql"].replace("v=1", "v=2")
    assert bool(places(tmp_path, **{"models/shop.yml": yaml, "models/spend.sql": spend})) == caught
