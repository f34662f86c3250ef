"""`look_ahead` beyond frames: joins with later rows, places from the last row on, sums of a time that has begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_server.errors import FeatureStoreError
from feature_server.lint.run import lint
from tests.support.tiny_project import write_project

YAML = """
sources:
  - name: bank
    tables:
      - {name: payments, columns: [{name: customer_id}, {name: euros}, {name: paid_at}]}
      - {name: logins, columns: [{name: customer_id}, {name: device}, {name: at}]}
models:
  - name: spend
    meta: {feature_view: {entities: [customer]}}
    data_tests: [{grain: {arguments: {columns: [customer_id, event_timestamp]}}}]
  - name: payments
    data_tests: [{unique: {column_name: payment_id}}]
  - name: logins
    data_tests: [{unique: {column_name: login_id}}]
"""
FILES = {
    "dbt_project.yml": "name: shop\n",
    "models/shop.yml": YAML,
    "models/payments.sql": "select payment_id, customer_id, euros, paid_at from {{ source('bank', 'payments') }}",
    "models/logins.sql": "select login_id, customer_id, device, at from {{ source('bank', 'logins') }}",
}
P, L = "{{ ref('payments') }} as p", "{{ ref('logins') }} as l"
KEYS = "select p.customer_id, p.paid_at as event_timestamp"
ON = "on p.customer_id = l.customer_id and"
SINCE = (
    "with since as (select customer_id, device, at, lead(at) over (partition by customer_id order by at) as valid_to "
)
HISTORY = SINCE + f"from {L}) {KEYS}, since.device from {P} join since on p.customer_id = since.customer_id and "
RANKED = f"select *, row_number() over (partition by customer_id order by paid_at desc, payment_id) as rn from {P}"
DAILY = f"select customer_id, date_trunc('day', paid_at) as day, sum(euros) as spent from {P} group by 1, 2"
TOTALS = f"select customer_id, count(*) as n, max(at) as last_at from {L} group by all"
CAUGHT = [
    f"{KEYS}, count(*) as n from {P} join {L} {ON} l.at::date <= p.paid_at::date group by all",
    f"{KEYS}, count(*) as n from {P} join {L} {ON} date_trunc('month', l.at) < p.paid_at::date group by all",
    f"{KEYS}, count(*) as n from {P} join {L} {ON} (l.at - interval 2 days)::date < p.paid_at::date group by all",
    HISTORY + "p.paid_at < since.valid_to",
    HISTORY.replace("since.device", "since.valid_to") + "since.at <= p.paid_at and p.paid_at < since.valid_to",
    HISTORY.replace("since.device", "since.*") + "since.at <= p.paid_at and p.paid_at < since.valid_to",
    HISTORY + "since.at <= p.paid_at and since.valid_to < p.paid_at",
    HISTORY + "since.at <= p.paid_at and (since.valid_to is null or since.device = 'phone')",
    HISTORY + "since.at <= p.paid_at and p.paid_at < since.valid_to - interval 1 day",
    HISTORY.replace("since.device", "p.paid_at < since.valid_to as lasts") + "since.at <= p.paid_at",
    HISTORY.replace("lead(at)", "lead(device)") + "since.at <= p.paid_at and p.paid_at < since.valid_to",
    f"with totals as ({TOTALS}) {KEYS}, totals.n from {P} join totals using (customer_id)",
    f"with last as (select * from {L} qualify row_number() over (partition by customer_id order by at desc) = 1) "
    f"{KEYS}, last.device from {P} left join last on last.customer_id = p.customer_id",
    f"{KEYS}, count(l.device) as n from {P} left join {L} on l.customer_id = p.customer_id group by all",
    f"{KEYS}, count(*) as n from {P} join {L} {ON} l.at > p.paid_at group by all",
    f"{KEYS}, count(l.login_id) as n from {P} left join {L} {ON} l.at >= p.paid_at group by all",
    f"{KEYS}, count(*) as n from {P} join {L} {ON} l.at between p.paid_at and p.paid_at + interval 1 hour group by all",
    f"{KEYS}, count(*) as n from {P} join {L} {ON} l.at between p.paid_at - interval 1 hour and "
    "p.paid_at + interval 1 hour group by all",
    f"{KEYS}, l.device from {P} asof join {L} {ON} p.paid_at <= l.at",
    f"{KEYS}, count(*) as n from {P} join {L} {ON} l.at <= date_add(p.paid_at, interval 30 day) group by all",
    f"{KEYS}, (select count(*) from {L} where l.customer_id = p.customer_id and l.at > p.paid_at) as n from {P}",
    f"{KEYS} from {P} where exists (select 1 from {L} where l.customer_id = p.customer_id and l.at > p.paid_at)",
    f"{KEYS}, n from {P}, lateral (select count(*) as n from {L} where l.customer_id = p.customer_id "
    "and l.at > p.paid_at) as later",
    f"with ranked as ({RANKED}) select customer_id, paid_at as event_timestamp, rn from ranked",
    f"with ranked as ({RANKED}) select customer_id, paid_at as event_timestamp, rn = 1 as is_last from ranked",
    f"with ranked as ({RANKED}) select customer_id, paid_at as event_timestamp, rn from ranked where rn <= 3",
    f"select customer_id, paid_at as event_timestamp, 1 / rank() over (partition by customer_id order by "
    f"-epoch(paid_at)) as nearness from {P}",
    f"select customer_id, date_trunc('day', paid_at) as event_timestamp, sum(euros) as spent from {P} group by 1, 2",
    f"select customer_id, paid_at::date as event_timestamp, sum(euros) as spent from {P} group by 1, 2",
    f"select customer_id, time_bucket(interval '1 hour', paid_at) as event_timestamp, count(*) as n from {P} "
    "group by all",
    f"with daily as ({DAILY}) select customer_id, day as event_timestamp, spent from daily",
    f"with a as (select *, date_trunc('day', paid_at) as day from {P}) "
    "select customer_id, day as event_timestamp, sum(euros) as spent from a group by all",
    f"select customer_id, paid_at as event_timestamp, count(*) over (partition by customer_id, paid_at::date) as n "
    f"from {P}",
    f"select customer_id, paid_at as event_timestamp, count(*) over (w rows between current row and unbounded "
    f"following) as n from {P} window w as (partition by customer_id order by paid_at, payment_id)",
    f"with daily as ({DAILY}) select customer_id, day::timestamptz as event_timestamp, spent / 2 as half from daily",
]
RIGHT = [
    f"{KEYS}, count(*) as n from {P} join {L} {ON} l.at::date < p.paid_at::date group by all",
    f"{KEYS}, count(*) as n from {P} join {L} {ON} date_trunc('day', p.paid_at) > date_trunc('day', l.at) group by all",
    HISTORY + "since.at <= p.paid_at and p.paid_at < since.valid_to",
    HISTORY + "since.at <= p.paid_at and (p.paid_at < since.valid_to or since.valid_to is null)",
    HISTORY + "since.at <= p.paid_at and p.paid_at < coalesce(since.valid_to, timestamp '9999-12-31')",
    f"{KEYS}, l.device, l.at from {P} join {L} on l.customer_id = p.customer_id",
    f"with lines as (select payment_id, max(paid_at) as paid, count(*) as n from {P} group by all) "
    f"{KEYS}, lines.n from {P} join lines using (payment_id)",
    f"with joined as (select p.customer_id, p.paid_at, l.at, l.device from {P} join {L} using (customer_id)) "
    "select customer_id, paid_at as event_timestamp, count(device) as n from joined where at <= paid_at group by all",
    f"select customer_id, paid_at as event_timestamp, count(*) over (w order by paid_at) as n from {P} "
    "window w as (partition by customer_id)",
    f"{KEYS}, count(*) as n from {P} join {L} {ON} l.at <= p.paid_at group by all",
    f"{KEYS}, count(*) as n from {P} join {L} {ON} l.at between p.paid_at - interval 1 hour and p.paid_at group by all",
    f"{KEYS}, count(*) as n from {P} join {L} {ON} l.at < date_trunc('day', p.paid_at) group by all",
    f"{KEYS}, count(*) as n from {P} join {L} {ON} p.paid_at > l.at and p.paid_at < l.at + interval 1 day group by all",
    f"{KEYS}, l.device from {P} asof join {L} {ON} p.paid_at >= l.at",
    f"select p.customer_id, l.at as event_timestamp, p.euros from {P} join {L} {ON} l.at > p.paid_at",
    f"select p.customer_id, greatest(l.at, p.paid_at) as event_timestamp, p.euros from {P} join {L} {ON} "
    "l.at between p.paid_at - interval 1 hour and p.paid_at + interval 1 hour",
    f"select p.customer_id, max(l.at) as event_timestamp, count(*) as n from {P} join {L} {ON} l.at > p.paid_at "
    "group by all",
    f"{KEYS}, (select count(*) from {L} where l.customer_id = p.customer_id and l.at < p.paid_at) as n from {P}",
    f"{KEYS}, p.euros from {P} left join {L} {ON} l.at > p.paid_at",
    f"with ranked as ({RANKED}) select customer_id, paid_at as event_timestamp, euros from ranked where rn = 1",
    f"with ranked as ({RANKED}) select * from ranked where rn = 1",
    f"select customer_id, paid_at as event_timestamp, row_number() over (partition by customer_id "
    f"order by paid_at desc, payment_id) as rn from {P} qualify rn = 1",
    f"select customer_id, paid_at as event_timestamp, row_number() over (partition by customer_id order by paid_at, "
    f"payment_id) as nth from {P}",
    f"select customer_id, date_trunc('day', paid_at) + interval 1 day as event_timestamp, sum(euros) as spent from {P} "
    "group by all",
    f"select customer_id, max(paid_at) as event_timestamp, sum(euros) as spent from {P} "
    "group by customer_id, date_trunc('day', paid_at)",
    f"with daily as ({DAILY}) select customer_id, day + interval 1 day as event_timestamp, spent from daily",
    f"with daily as ({DAILY}) select customer_id, day as event_timestamp, lag(spent) over (partition by customer_id "
    "order by day) as spent_before from daily",
    f"select customer_id, date_trunc('day', paid_at) as event_timestamp, euros from {P}",
]


def found(folder: Path, sql: str) -> list[tuple[str, str]]:
    linted = lint(write_project(folder, FILES | {"models/spend.sql": f"-- spend\n{sql}"}))
    assert "unreadable" not in [each.rule for each in linted.findings]
    return [(each.file, each.rule) for each in linted.findings if each.rule != "unstable_order"]


@pytest.mark.parametrize("sql", CAUGHT)
def test_what_is_known_only_later_is_found(tmp_path: Path, sql: str) -> None:
    assert found(tmp_path, sql) == [("models/spend.sql", "look_ahead")]


@pytest.mark.parametrize("sql", RIGHT)
def test_what_was_known_is_right(tmp_path: Path, sql: str) -> None:
    assert found(tmp_path, sql) == []


def test_a_number_of_another_model_is_found_where_the_view_gives_it(tmp_path: Path) -> None:
    files = {"models/ranked.sql": RANKED, "models/spend.sql": "select customer_id, rn\nfrom {{ ref('ranked') }}"}
    linted = lint(write_project(tmp_path, FILES | files))
    [one] = [each for each in linted.findings if each.rule == "look_ahead"]
    assert (one.file, one.line, one.got) == ("models/spend.sql", 1, "rn, of which the last is 1: rn")


OF_THE_RUN = [
    ("present_time", "date_diff('day', paid_at, '{{ run_started_at }}'::timestamptz)"),
    ("present_time", "date_diff('day', paid_at, timestamptz '{{ run_started_at.strftime(\"%Y-%m-%d\") }}')"),
    ("present_time", "paid_at < '{{ modules.datetime.datetime.now() }}'"),
    ("present_time", "paid_at < '{{ (run_started_at - modules.datetime.timedelta(days=1)).date() }}'"),
    ("present_time", "{{ modules.datetime.date.today().year }}"),
    ("random", "'{{ invocation_id }}'"),
]


@pytest.mark.parametrize(("rule", "expression"), OF_THE_RUN)
def test_what_is_another_in_each_run_is_found_where_jinja_writes_it(tmp_path: Path, rule: str, expression: str) -> None:
    sql = f"select customer_id, paid_at as event_timestamp, {expression} as x from {P}"
    assert found(tmp_path, sql) == [("models/spend.sql", rule)]


ESCAPES = [
    "{{ lipsum.__globals__.os.system('touch escaped') }}",
    "{{ modules.datetime.sys.exit(0) }}",
    "{{ modules.re.enum.sys.exit(0) }}",
    "{{ ().__class__.__base__.__subclasses__() }}",
]


@pytest.mark.parametrize("jinja", ESCAPES)
def test_a_template_runs_nothing_of_this_machine(tmp_path: Path, jinja: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    linted = lint(write_project(tmp_path, FILES | {"models/spend.sql": f"select 1 as x {jinja}"}))
    assert not (tmp_path / "escaped").exists()
    assert linted.views == 1


@pytest.mark.parametrize("folders", ["3", "models"])
def test_folders_that_are_no_list_are_an_error(tmp_path: Path, folders: str) -> None:
    with pytest.raises(FeatureStoreError, match="folders cannot be read"):
        lint(write_project(tmp_path, {"dbt_project.yml": f"name: shop\nmodel-paths: {folders}\n"}))
