"""`current_state`: joins with how things are now, which must be caught, and those that are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_server.lint.run import lint
from tests.support.tiny_project import write_project

YAML = """
sources:
  - name: bank
    tables:
      - {name: payments, columns: [{name: customer_id}, {name: euros}, {name: paid_at}]}
      - {name: limits, columns: [{name: customer_id}, {name: most_euros}]}
      - {name: addresses, columns: [{name: customer_id}, {name: city}, {name: moved, data_type: timestamptz}]}
      - {name: homes, columns: [{name: customer_id}, {name: city}, {name: valid_from}, {name: valid_to}]}
      - {name: flagged, columns: [{name: customer_id}, {name: city}, {name: valid_from}, {name: is_current}]}
      - {name: unsaid}
models:
  - name: spend
    meta: {feature_view: {entities: [customer]}}
    data_tests: [{grain: {arguments: {columns: [customer_id, event_timestamp]}}}]
  - name: customers
    meta: {entity: {name: customer, join_keys: [customer_id]}}
    data_tests: [{unique: {column_name: customer_id}}]
"""
FILES = {
    "dbt_project.yml": "name: shop\n",
    "models/shop.yml": YAML,
    "models/customers.sql": "select customer_id, country, known_at from raw.customers",
    "models/stg_shops.sql": "select shop, category from {{ source('bank', 'shops') }}",
    "models/payments.sql": "select * from {{ source('bank', 'payments') }}",
    "seeds/countries.csv": "country,continent\n",
}
PAYMENTS, CUSTOMERS = "{{ ref('payments') }} as payments", "{{ ref('customers') }} as customers"
ADDRESSES = "{{ source('bank', 'addresses') }} as addresses"
FLAGGED = "{{ source('bank', 'flagged') }} as flagged"
HISTORY = "{{ source('bank', 'homes') }} as history"
CAUGHT = [
    f"select euros, country from {PAYMENTS} join {CUSTOMERS} using (customer_id)",
    f"select euros, customers.country from {PAYMENTS} left join {CUSTOMERS} "
    "on payments.customer_id = customers.customer_id",
    f"select payments.*, customers.* from {CUSTOMERS} join {PAYMENTS} on payments.customer_id = customers.customer_id",
    f"select * from {PAYMENTS} join {CUSTOMERS} using (customer_id)",
    f"select euros from {PAYMENTS} join {CUSTOMERS} using (customer_id) where country = 'DE'",
    f"select count(*) filter (where country = 'DE') from {PAYMENTS} join {CUSTOMERS} using (customer_id)",
    f"with people as (select * from {CUSTOMERS}) select euros, country from {PAYMENTS} join people using (customer_id)",
    f"with people as (select customer_id, upper(country) as land from {CUSTOMERS} where country is not null) "
    f"select euros, land from people, {PAYMENTS} where people.customer_id = payments.customer_id",
    f"select euros, category from {PAYMENTS} join {{{{ ref('stg_shops') }}}} using (shop)",
    f"select euros, country from {PAYMENTS} left join lateral (select country from {CUSTOMERS} where "
    "customers.customer_id = payments.customer_id) as now_ on true",
    f"select euros, n from {PAYMENTS}, lateral (select count(*) as n from {ADDRESSES} where "
    "addresses.customer_id = payments.customer_id and addresses.moved > '2020-01-01') as now_",
    f"select euros, n from {PAYMENTS}, lateral (select count(*) as n from {ADDRESSES} where "
    "addresses.customer_id = payments.customer_id and addresses.city = payments.city) as now_",
    f"select euros, most_euros from {PAYMENTS} join {{{{ source('bank', 'limits') }}}} using (customer_id)",
    f"select euros from {PAYMENTS} join {{{{ source('bank', 'limits') }}}} using (customer_id) "
    "where euros > most_euros",
    f"select euros, (select country from {CUSTOMERS} where customers.customer_id = payments.customer_id) as land "
    f"from {PAYMENTS}",
    f"with totals as (select customer_id, sum(euros) as total from {PAYMENTS} group by all) "
    f"select paid_at, total from {PAYMENTS} join totals using (customer_id)",
    f"select euros from {PAYMENTS} where exists (select 1 from {CUSTOMERS} where customers.customer_id = "
    "payments.customer_id and country = 'DE')",
    f"select euros, not exists (select 1 from {CUSTOMERS} where customers.customer_id = payments.customer_id "
    f"and customers.country in ('DE', 'NL')) as abroad from {PAYMENTS}",
    f"select euros from {PAYMENTS} where customer_id in (select customer_id from {CUSTOMERS} where country = 'DE')",
    f"select euros, customer_id not in (select customer_id from {CUSTOMERS} where country = 'DE') as abroad "
    f"from {PAYMENTS}",
    f"select euros from {PAYMENTS} semi join {CUSTOMERS} on payments.customer_id = customers.customer_id "
    "and customers.country = 'DE'",
    f"select euros from {PAYMENTS} anti join (select customer_id from {CUSTOMERS} where country = 'DE') as german "
    "using (customer_id)",
    f"with german as (select customer_id from {CUSTOMERS} where country = 'DE') "
    f"select euros from {PAYMENTS} join german using (customer_id)",
    f"select euros from {PAYMENTS} join {CUSTOMERS} on payments.customer_id = customers.customer_id "
    "and customers.country = 'DE'",
    f"select euros, (select max(country) from {CUSTOMERS} where customers.customer_id = payments.customer_id) as land "
    f"from {PAYMENTS}",
    f"select euros, city from {PAYMENTS} join {HISTORY} on payments.customer_id = history.customer_id "
    "and history.valid_to is null",
    f"select euros, city from {PAYMENTS} join {HISTORY} using (customer_id) where valid_to is null",
    f"with now_ as (select * from {HISTORY} where valid_to is null) "
    f"select euros, city from {PAYMENTS} join now_ using (customer_id)",
]
CAUGHT += [
    *(
        f"select euros, city from {PAYMENTS} join {HISTORY} on payments.customer_id = history.customer_id and {now}"
        for now in (
            "history.valid_to = '9999-12-31'",
            "history.valid_to >= timestamp '9999-01-01 00:00:00'",
            "date '2999-12-31' = history.valid_to::date",
            "coalesce(history.valid_to, '9999-12-31') = '9999-12-31'",
            "history.valid_to = 'infinity'",
        )
    ),
    *(
        f"select euros, city from {PAYMENTS} join {FLAGGED} on payments.customer_id = flagged.customer_id and {now}"
        for now in ("flagged.is_current", "flagged.is_current = true", "flagged.is_current is true")
    ),
    f"select euros, city from {PAYMENTS} join (select * from {FLAGGED} where is_current = 1) as now_ "
    "using (customer_id)",
    f"with rich as (select customer_id from {PAYMENTS} group by 1 having sum(euros) > 1000) "
    f"select payments.euros, paid_at from {PAYMENTS} join rich using (customer_id)",
    f"select euros from {PAYMENTS} where customer_id in (select customer_id from {ADDRESSES} group by 1 "
    "having count(*) > 3)",
    f"with german as (select customer_id from {CUSTOMERS} where country = 'DE') select euros, "
    f"german.customer_id is not null as is_german from {PAYMENTS} left join german using (customer_id)",
    f"select euros / (select avg(euros) from {PAYMENTS}) as relative from {PAYMENTS}",
    f"select euros, (select count(*) from {CUSTOMERS}) as customers from {PAYMENTS}",
    f"select customers.customer_id, days.day as event_timestamp, country from {CUSTOMERS} cross join "
    "generate_series(timestamp '2024-01-01', timestamp '2024-02-01', interval 1 day) as days(day)",
]
RIGHT = [
    f"select euros, city from {PAYMENTS} join {HISTORY} on payments.customer_id = history.customer_id "
    "and history.valid_from <= payments.paid_at and payments.paid_at < coalesce(history.valid_to, '9999-12-31')",
    f"select euros, city from {PAYMENTS} join {HISTORY} on payments.customer_id = history.customer_id "
    "and history.valid_from <= payments.paid_at and history.valid_to < '9999-12-31'",
    f"select euros, city from {PAYMENTS} join {FLAGGED} on payments.customer_id = flagged.customer_id "
    "and flagged.valid_from <= payments.paid_at and not flagged.is_current",
    f"select euros from {PAYMENTS} where paid_at <= (select max(paid_at) from {PAYMENTS})",
    f"select euros, (select avg(b.euros) from {{{{ ref('payments') }}}} as b where b.paid_at < payments.paid_at) "
    f"as before from {PAYMENTS}",
    f"select euros, (select count(*) from {{{{ ref('countries') }}}}) as countries from {PAYMENTS}",
    f"select euros, city from {PAYMENTS} join {HISTORY} on payments.customer_id = history.customer_id "
    "and history.valid_from <= payments.paid_at and (payments.paid_at < history.valid_to or history.valid_to is null)",
    f"select euros, city from {PAYMENTS} join {HISTORY} on payments.customer_id = history.customer_id "
    "and payments.paid_at >= history.valid_from and payments.paid_at < coalesce(history.valid_to, 'infinity')",
    f"select euros, city from {PAYMENTS} join {HISTORY} on payments.customer_id = history.customer_id "
    "and payments.paid_at between history.valid_from and history.valid_to",
    f"select customer_id, city, valid_from as moved_at from {HISTORY} where valid_to is not null",
    f"select euros from {PAYMENTS} where exists (select 1 from {CUSTOMERS} where customers.customer_id = "
    "payments.customer_id and country = 'DE' and customers.known_at <= payments.paid_at)",
    f"select euros from {PAYMENTS} where customer_id in (select customer_id from {CUSTOMERS})",
    f"select euros from {PAYMENTS} where customer_id in (select customer_id from {CUSTOMERS} "
    "where customer_id is not null)",
    f"select euros from {PAYMENTS} join {CUSTOMERS} on lower(payments.customer_id) = lower(customers.customer_id)",
    f"with german as (select customer_id from {CUSTOMERS} where country = 'DE') "
    f"select euros from {PAYMENTS} left join german using (customer_id)",
    f"select customers.customer_id, euros from {PAYMENTS} join {CUSTOMERS} using (customer_id)",
    f"select euros from {PAYMENTS} join {CUSTOMERS} on payments.customer_id = customers.customer_id",
    f"select euros, customers.customer_id is not null as known from {PAYMENTS} left join {CUSTOMERS} "
    "on payments.customer_id = customers.customer_id",
    f"select euros from {PAYMENTS} semi join {CUSTOMERS} using (customer_id)",
    f"select euros from {PAYMENTS} where exists (select 1 from {CUSTOMERS} where customers.customer_id = "
    "payments.customer_id)",
    f"select euros, country from {PAYMENTS} join {CUSTOMERS} on payments.customer_id = customers.customer_id "
    "and customers.known_at <= payments.paid_at",
    f"select euros, country from {PAYMENTS} join {CUSTOMERS} using (customer_id) where known_at <= paid_at",
    f"select euros, country from {PAYMENTS} left join lateral (select country from {CUSTOMERS} where "
    "customers.customer_id = payments.customer_id and customers.known_at <= payments.paid_at "
    "order by customers.known_at desc, customers.customer_id limit 1) as then on true",
    f"select euros, most from {PAYMENTS}, lateral (select max(moved) - min(moved) as most from {ADDRESSES} where "
    "addresses.customer_id = payments.customer_id and moved <= payments.paid_at) as then",
    f"select euros, n from {PAYMENTS}, (select count(*) as n from {ADDRESSES} where "
    "addresses.customer_id = payments.customer_id and addresses.moved < paid_at) as then",
    f"select country from {CUSTOMERS}",
    f"select euros, (select country from {CUSTOMERS} where customers.customer_id = payments.customer_id and "
    f"customers.known_at < payments.paid_at) as land from {PAYMENTS}",
    f"select * from {PAYMENTS} join {{{{ source('bank', 'addresses') }}}} using (customer_id)",
    f"select * from {PAYMENTS} join {{{{ source('bank', 'unsaid') }}}} using (customer_id)",
    f"select euros, continent from {PAYMENTS} join {{{{ ref('countries') }}}} using (country)",
    f"select euros, rate from {PAYMENTS} join (values ('EUR', 1)) as rates(currency, rate) using (currency)",
    f"select country, most_euros from {CUSTOMERS} join {{{{ source('bank', 'limits') }}}} using (customer_id)",
    f"with firsts as (select customer_id, min(paid_at) as first_one, min(euros) as least from {PAYMENTS} group by all) "
    f"select euros, least from {PAYMENTS} join firsts using (customer_id)",
]


def found(folder: Path, sql: str) -> list[tuple[str, str]]:
    linted = lint(write_project(folder, FILES | {"models/spend.sql": f"-- spend\n{sql}"}))
    assert "unreadable" not in [each.rule for each in linted.findings]
    return [(each.file, each.rule) for each in linted.findings]


@pytest.mark.parametrize("sql", CAUGHT)
def test_a_join_with_how_things_are_now_is_found(tmp_path: Path, sql: str) -> None:
    assert found(tmp_path, sql) == [("models/spend.sql", "current_state")]


@pytest.mark.parametrize("sql", RIGHT)
def test_what_has_a_time_or_is_not_used_is_right(tmp_path: Path, sql: str) -> None:
    assert found(tmp_path, sql) == []


def test_it_says_which_column_is_used_and_an_entity_may_say_what_is_so_now(tmp_path: Path) -> None:
    (one,) = lint(write_project(tmp_path, FILES | {"models/spend.sql": CAUGHT[1].replace(" left", "\nleft")})).findings
    assert (one.line, one.got) == (2, "ref('customers') as customers, of which country is used")
    entity = {"models/customers.sql": CAUGHT[-1], "models/spend.sql": f"select customer_id from {CUSTOMERS}"}
    assert lint(write_project(tmp_path, entity)).findings == ()
