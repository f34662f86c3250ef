"""`known_time`: views that count rows from their event time on, though of a source it is said when they were known."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import feature_server
from feature_server.lint.rules import RULES
from feature_server.lint.run import lint
from tests.support.tiny_project import write_project

STREAM = "config: {meta: {event_stream: {event_id: id, event_timestamp: paid_at, created_timestamp: landed_at}}}"
LOADED, AFTER = "config: {loaded_at_field: landed_at}", "config: {meta: {available_after: 2h}}"
YAML = """
sources:
  - name: bank
    tables:
      - name: payments
        {source}
      - name: rates
models:
  - name: spend
    config: {{meta: {{feature_view: {{entities: [customer]{created}}}}}}}
    data_tests: [{{grain: {{arguments: {{columns: [customer_id, event_timestamp]}}}}}}]
"""
CREATED = ", created_timestamp: created_timestamp"
PAYMENTS = "{{ ref('stg_payments') }}"
LATE_ENOUGH = (
    "landed_at + interval 1 day", "max(landed_at)", "max(landed_at) over (partition by id order by paid_at)",
    "greatest(max(landed_at), min(paid_at))", "greatest(landed_at, paid_at - interval 1 day)",
    "coalesce(landed_at, paid_at)", "landed_at::timestamptz at time zone 'UTC'",
    "max(landed_at) filter (where euros > 0)",
    "case when landed_at > paid_at then landed_at else paid_at end", "date_trunc('day', landed_at) + interval 1 day",
    "to_timestamp(landed_at)", "paid_at + (landed_at - paid_at)", "max_by(landed_at, paid_at)",
)  # fmt: skip


def found(
    folder: Path, source: str, sql: str, created: str = CREATED, staging: str = "*"
) -> list[tuple[str, int, str]]:
    files = {
        "dbt_project.yml": "name: shop\n",
        "models/shop.yml": YAML.format(source=source, created=created),
        "models/stg_payments.sql": f"select {staging} from {{{{ source('bank', 'payments') }}}}",
        "models/spend.sql": sql,
    }
    linted = lint(write_project(folder, files))
    assert "unreadable" not in [each.rule for each in linted.findings]
    return [(each.file, each.line, each.got) for each in linted.findings if each.rule == "known_time"]


@pytest.mark.parametrize("source", [STREAM, LOADED, "loaded_at_field: cast(landed_at as timestamp)", AFTER])
def test_a_view_that_does_not_say_when_its_rows_were_known_is_found(tmp_path: Path, source: str) -> None:
    sql = f"select customer_id, paid_at as event_timestamp, euros from {PAYMENTS}"
    assert found(tmp_path, source, sql, "") == [("models/shop.yml", 8, "no created_timestamp, over bank.payments")]
    at_event = sql.replace("euros", "paid_at as created_timestamp")
    got = "created_timestamp: created_timestamp, which is not when they landed, over bank.payments"
    assert found(tmp_path, source, at_event) == [("models/shop.yml", 8, got)]


@pytest.mark.parametrize(
    ("source", "sql", "staging"),
    [
        (STREAM, f"select landed_at as created_timestamp from {PAYMENTS}", "*"),
        (LOADED, f"select known_at as created_timestamp from {PAYMENTS}", "id, landed_at as known_at"),
        (LOADED, f"select max(known_at) as created_timestamp from {PAYMENTS}", "* rename (landed_at as known_at)"),
        (STREAM, f"select greatest(landed_at, paid_at) as created_timestamp from {PAYMENTS}", "*"),
        (AFTER, f"select paid_at + interval 2 hours as created_timestamp from {PAYMENTS}", "*"),
        (AFTER, f"select known_at as created_timestamp from {PAYMENTS}", "paid_at + interval '2h' as known_at"),
        (STREAM, f"with seen as (select * from {PAYMENTS}), b as (select landed_at as created_timestamp from seen) "
         "select * from b union all select * from b", "*"),
        (AFTER, f"select date_add(paid_at, interval '1 day') as created_timestamp from {PAYMENTS}", "*"),
        (AFTER, f"select paid_at + to_minutes(120) as created_timestamp from {PAYMENTS}", "*"),
        (AFTER, f"select paid_at + 2 * interval '1 hour' as created_timestamp from {PAYMENTS}", "*"),
        *((STREAM, f"select {known} as created_timestamp from {PAYMENTS}", "*") for known in LATE_ENOUGH),
        (STREAM, f"select id, landed_at as created_timestamp from {PAYMENTS} union all "
         f"select id, landed_at as at from {PAYMENTS}", "*"),
        (STREAM, f"select landed_at as created_timestamp from {PAYMENTS} union all "
         "select since as created_timestamp from {{ source('bank', 'rates') }}", "*"),
        (STREAM, f"select id, landed_at as created_timestamp from {PAYMENTS} union all by name "
         f"select landed_at as created_timestamp, id from {PAYMENTS}", "*"),
        (AFTER, f"select date_trunc('day', paid_at) + interval 26 hours as created_timestamp from {PAYMENTS}", "*"),
        (AFTER, f"select paid_at + interval 1 hour + interval 1 hour as created_timestamp from {PAYMENTS}", "*"),
        (AFTER, f"select paid_at::timestamptz + interval 2 hours as created_timestamp from {PAYMENTS}", "*"),
        ("description: none", f"select paid_at as created_timestamp from {PAYMENTS}", "*"),
        (STREAM, "select since as created_timestamp from {{ source('bank', 'rates') }}", "*"),
    ],
)  # fmt: skip
def test_one_that_does_is_right(tmp_path: Path, source: str, sql: str, staging: str) -> None:
    assert found(tmp_path, source, sql, staging=staging) == []


@pytest.mark.parametrize(("source", "known"), [
    (AFTER, "paid_at + interval 119 minutes"), (AFTER, "paid_at + to_hours(1)"), (AFTER, "paid_at - interval 2 hours"),
    (AFTER, "interval '1h' + paid_at"), (STREAM, "paid_at + interval 2 hours"),
    (AFTER, "date_trunc('day', paid_at) + interval 2 hours"), (AFTER, "paid_at::date + interval 25 hours"),
    (AFTER, "paid_at - interval 1 hour + interval 2 hours"), (AFTER, "date_trunc('month', paid_at) + interval 2 days"),
    (STREAM, "date_trunc('month', landed_at) + interval 1 day"),
    (STREAM, "least(landed_at, paid_at)"), (LOADED, "min(landed_at)"), (STREAM, "landed_at - interval 1 day"),
    (STREAM, "min(landed_at) over (partition by id order by landed_at)"), (STREAM, "date_trunc('day', landed_at)"),
    (STREAM, "landed_at + interval '-1 day'"), (STREAM, "coalesce(paid_at, landed_at)"), (STREAM, "landed_at::date"),
    (STREAM, "max(landed_at) filter (where landed_at < paid_at) - interval 1 hour"),
    (STREAM, "lag(landed_at) over (order by paid_at)"), (STREAM, "case when landed_at > paid_at then paid_at end"),
    (STREAM, "(least(landed_at, paid_at))::timestamptz"), (STREAM, "landed_at + -interval 1 day"),
])  # fmt: skip
def test_a_time_that_is_too_early_is_found(tmp_path: Path, source: str, known: str) -> None:
    assert len(found(tmp_path, source, f"select {known} as created_timestamp from {PAYMENTS}")) == 1


@pytest.mark.parametrize("columns", ["landed_at, paid_at", "paid_at, landed_at"])
def test_each_side_of_a_union_says_when_by_the_place_of_the_column(tmp_path: Path, columns: str) -> None:
    first, second = columns.split(", ")
    sides = [f"select id, {each} as created_timestamp from {PAYMENTS}" for each in (first, second)]
    for union in (" union all ", " union ", " union all by name "):
        assert len(found(tmp_path, STREAM, union.join(sides))) == 1
    turned = f"select {columns} as created_timestamp from {PAYMENTS}"
    other = f"select landed_at as created_timestamp, paid_at from {PAYMENTS}"
    assert len(found(tmp_path, STREAM, f"{turned} union all {other}")) == 1


FIRST = "first_known as (select id, day, min(landed_at) as created_timestamp from told group by all)"
TOLD = f"told as (select *, date_trunc('day', paid_at) + interval 1 day as day from {PAYMENTS})"
BY_THEN = "told.id = first_known.id and told.paid_at <= first_known.day"
COUNT = "select first_known.*, n from first_known, lateral (select count(*) as n from told where"


@pytest.mark.parametrize(
    "sql",
    [
        "select * from first_known",
        "select id, min(landed_at)::timestamptz as created_timestamp from told group by id",
        "select id, day, (min(landed_at)) as created_timestamp from told where euros > 0 group by 1, 2",
        "select * from first_known union all select id, day, landed_at from told",
        "select first_known.id, first_known.created_timestamp, sum(told.euros) from first_known left join told "
        f"on {BY_THEN} and told.landed_at <= first_known.created_timestamp group by all",
        f"select first_known.*, told.euros from first_known join told on {BY_THEN} "
        "where first_known.created_timestamp > told.landed_at",
        f"{COUNT} {BY_THEN} and told.landed_at <= first_known.created_timestamp)",
        "select *, (select count(*) from told where told.id = first_known.id and "
        "first_known.created_timestamp >= told.landed_at) as n from first_known",
        f"select first_known.id, greatest(first_known.created_timestamp, told.landed_at) as created_timestamp, euros "
        f"from first_known join told on {BY_THEN}",
        "select first_known.id, told.landed_at as created_timestamp from first_known join told "
        "on told.id = first_known.id and first_known.created_timestamp < told.landed_at",
    ],
)
def test_a_group_is_known_from_its_first_row_on_where_nothing_later_is_in_it(tmp_path: Path, sql: str) -> None:
    assert found(tmp_path, STREAM, f"with {TOLD}, {FIRST} {sql}") == []


@pytest.mark.parametrize(
    "sql",
    [
        "select id, sum(euros), min(landed_at) as created_timestamp from told group by id",
        "select id, min(landed_at) as created_timestamp from told group by id having count(*) > 3",
        "select id, min(landed_at) as created_timestamp, row_number() over (partition by id order by id) as n "
        "from told group by id",
        "select id, min(landed_at) as created_timestamp from told where exists (select 1 from told as late "
        "where late.id = told.id and late.paid_at < told.paid_at) group by id",
        "select first_known.id, first_known.created_timestamp, sum(told.euros) from first_known left join told "
        f"on {BY_THEN} group by all",
        f"select first_known.*, told.euros, told.landed_at from first_known join told on {BY_THEN} "
        "and told.paid_at <= first_known.created_timestamp",
        f"select first_known.*, told.euros from first_known join told on {BY_THEN} "
        "and first_known.created_timestamp <= told.landed_at",
        f"select first_known.*, told.euros from first_known join (select *, landed_at as created_timestamp from told) "
        f"as told on {BY_THEN}",
        f"{COUNT} {BY_THEN})",
        "select *, (select count(*) from told where told.id = first_known.id) as n from first_known",
        "select * from first_known semi join told using (id)",
        "select * from first_known except select id, day, landed_at from told where euros < 0",
    ],
)
def test_a_group_that_holds_what_was_known_after_its_first_row_is_found(tmp_path: Path, sql: str) -> None:
    assert len(found(tmp_path, STREAM, f"with {TOLD}, {FIRST} {sql}")) == 1


@pytest.mark.parametrize(
    ("written", "instead", "count"),
    [
        ("and {{ events }}.known_at <= {{ ticks }}.created_timestamp", "and true", 1),
        ("{{ events }}.known_at <= {{ ticks }}.created", "{{ events }}.occurred_at <= {{ ticks }}.created", 1),
        ("corrections.known_at as created_timestamp", "corrections.occurred_at as created_timestamp", 1),
        ("min(known_at) as created", "min(tick) as created", 1),
        ("interval '1 microsecond'", "interval '2 microseconds'", 0),
    ],
)
def test_the_ticks_of_the_package_are_right_and_faults_in_them_are_found(
    tmp_path: Path, written: str, instead: str, count: int
) -> None:
    package = Path(feature_server.__file__).parent / "dbt_package"
    own = shutil.copytree(package, tmp_path / "dbt_packages" / "feature_warehouse")
    macro = own / "macros" / "window_ticks.sql"
    text = macro.read_text()
    assert written in text
    macro.write_text(text.replace(written, instead))
    staging = "*, paid_at as occurred_at, landed_at as known_at, null::timestamp as superseded_at"
    sql = (
        "with payments as ({{ feature_warehouse.window_input(ref('stg_payments'), '1 day', ['7 days']) }}), "
        "ticks as ({{ feature_warehouse.window_ticks('payments', ['id'], '1 day', ['7 days']) }}) "
        "select ticks.*, count(payments.id) as payments_7d "
        "from {{ feature_warehouse.in_window('ticks', 'payments', ['id'], '7 days') }} group by all"
    )
    assert len(found(tmp_path, STREAM, sql, staging=staging)) == count


def test_a_view_over_a_source_that_says_nothing_and_one_with_a_stream_are_right(tmp_path: Path) -> None:
    sql = f"select paid_at as event_timestamp from {PAYMENTS}"
    assert found(tmp_path, "description: none", sql, "") == []
    assert found(tmp_path, STREAM, sql, ", stream: bank.payments") == []


BROKEN = {  # by rule, a view's SQL that breaks it alone
    "present_time": "select now() as at",
    "random": "select random() as a",
    "look_ahead": "select lead(a) over (partition by customer_id order by event_timestamp) as a from {{ ref('told') }}",
    "unstable_order": "select first(a) as a from {{ ref('told') }}",
    "current_state": "select a, country from {{ ref('told') }} join {{ ref('customers') }} using (customer_id)",
    "known_time": f"select id from {PAYMENTS}",
    "no_grain_test": "select 1 as a",
    "unreadable": "select from where (",
}


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_each_rule_is_broken_on_purpose_where_the_model_says_so(tmp_path: Path, rule: str) -> None:
    told = "columns: [customer_id, event_timestamp]"
    yaml = (
        YAML.format(source=STREAM, created="")
        + f"""
  - name: told
    data_tests: [{{grain: {{arguments: {{{told}}}}}}}]
  - {{name: customers, meta: {{entity: {{name: customer, join_keys: [customer_id]}}}}}}
"""
    )
    if rule == "no_grain_test":
        yaml = yaml.replace(f"data_tests: [{{grain: {{arguments: {{{told}}}}}}}]", "description: none", 1)
    files = {
        "dbt_project.yml": "name: shop\n",
        "models/shop.yml": yaml,
        "models/stg_payments.sql": "select * from {{ source('bank', 'payments') }}",
        "models/told.sql": "select customer_id, event_timestamp, a from raw.told",
        "models/customers.sql": "select customer_id, country from raw.customers",
        "models/spend.sql": BROKEN[rule],
    }
    assert [each.rule for each in lint(write_project(tmp_path, files)).findings] == [rule]
    meta = "meta: {feature_view: {entities: [customer]}"
    assert meta in yaml
    files["models/shop.yml"] = yaml.replace(meta, f"{meta}, lint: {{allow: {rule}, reason: a test}}")
    assert lint(write_project(tmp_path, files)).findings == ()
