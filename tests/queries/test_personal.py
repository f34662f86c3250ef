"""Which columns of a query are pii: what is made of a column that is one, and not what is counted of it."""

from __future__ import annotations

import pytest

from feature_server.queries.told import Read, Told
from feature_server.queries.traced import traced

READ = [
    Read('"db"."main"."people"', Told({"email": "people.email"}, columns=("id", "email", "age", "since"))),
    Read('"db"."main"."orders"', Told(columns=("id", "amount", "note"))),
    Read('"db"."main"."wide"', Told({"email": "wide.email", "phone": "wide.phone"})),  # columns that are not all known
    Read("__dbt__cte__inlined", Told({"name": "inlined.name"}, columns=("id", "name"))),
    Read('"db"."main"."script"', Told(every="people.email, through the Python model script", but=("id",))),
    Read('"db"."crm"."contacts"', Told({"email": "crm.contacts.email"}), in_files=True),
]
EMAILS = {f"email{mark}{number}" for mark in "_:" for number in (1, 2)}  # how DuckDB names those after the first
ELSEWHERE = {'"db"."main"."hidden"': Told({"email": "hidden.email"})}


def pii_of(*texts: str) -> set[str]:
    """The columns of models' SQL that are pii, as they are named; "*" where all are."""
    told = traced(texts, READ, ELSEWHERE, "tested")
    return {*told.names, *(["*"] if told.every else [])}


@pytest.mark.parametrize(
    "expression",
    [
        "email",
        "people.email",
        "p2.email",
        "lower(trim(email))",
        "email::varchar",
        "try_cast(email as varchar)",
        "email || '@'",
        "split_part(email, '@', 2)",
        "length(email)",
        "md5(email)",
        "sha256(email)",
        "hash(email)",
        "coalesce(email, 'nobody')",
        "nullif(email, '')",
        "case when age > 18 then email else 'a child' end",
        "if(age > 18, 'an adult', email)",
        "[email]",
        "{'a': email}",
        "struct_pack(mail := email)",
        "to_json(people)",
        "people",
        "max(email)",
        "min(email)",
        "first(email order by since)",
        "last(email)",
        "any_value(email)",
        "arg_max(email, since)",
        "max_by(email, since)",
        "mode(email)",
        "list(email)",
        "array_agg(email order by since)",
        "string_agg(email, ',')",
        "quantile_disc(email, 0.5)",
        "percentile_disc(0.5) within group (order by email)",
        "histogram(email)",
        "a_macro_that_nobody_knows(email)",
        "lag(email) over (partition by id order by since)",
        "lead(email, 1, 'x') over (order by since)",
        "first_value(email) over (order by since)",
        "last_value(email ignore nulls) over (order by since)",
        "max(email) filter (where age > 3) over (order by since)",
        "list(email)[1]",
        "list_transform([email], lambda x: upper(x))",
        "(select max(w.email) from wide as w where w.id = people.id)",
        "(select email)",
        "bool_or(email)",
    ],
)
def test_what_gives_a_value_or_is_made_of_it_is_pii(expression: str) -> None:
    assert pii_of(f"select people.id, {expression} as found from people join people as p2 using (id)") == {"found"}


@pytest.mark.parametrize(
    "expression",
    [
        "age",
        "'email'",
        "count(*)",
        "count(email)",
        "count(distinct email)",
        "approx_count_distinct(email)",
        "count_if(email is null)",
        "email is null",
        "email is not null",
        "email = 'a@example.com'",
        "email like '%@example.com'",
        "email in ('a', 'b')",
        "email between 'a' and 'b'",
        "email ilike 'a%' or email <> 'b'",
        "email is distinct from 'a'",
        "regexp_matches(email, 'a')",
        "starts_with(email, 'a')",
        "contains(email, 'a')",
        "case when email is null then 0 else age end",
        "case email when 'a' then 1 else 0 end",
        "if(email is null, 0, 1)",
        "sum(length(email))",
        "avg(length(email)) over (partition by email order by since)",
        "stddev(length(email))",
        "row_number() over (partition by email order by since)",
        "arg_max(age, email)",
        "list(age order by email)",
        "max(age) filter (where email is not null)",
        "lag(age) over (partition by email order by since)",
        "exists (select 1 from wide where wide.email = people.email)",
        "(select count(email) from wide)",
        "cast(count(email) as bigint) + 1",
    ],
)
def test_what_is_counted_or_compared_is_none(expression: str) -> None:
    assert pii_of(f"select id, {expression} as found from people") == set()


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("select * from people", {"email"}),
        ("from people", {"email"}),
        ("select * from wide", {"email", "phone"}),
        ("select w.* exclude (phone) from wide as w", {"email"}),
        ("select * replace (md5(email) as email, 1 as phone) from wide", {"email"}),
        ("select * exclude (phone) replace (email is null as email) from wide", set()),
        ("select * like 'e%' from people", {"email"}),
        ("select people.* not ilike 'x%' from people", {"email"}),
        ("select w.email.domain as d, w.payload.amount as a, w.payload.email as e from wide as w", {"d"}),
        ("select payload.amount as a, (wide).email as e from wide", {"e"}),
        ("select x.value from people, json_each(people.email) as x", {"value"}),
        ("select x.v from people, a_macro('people') as x", {"v"}),
        ("select i from people, range(10) as r(i)", set()),
        ("select array(select email from people) as e", {"e"}),
        ("select max(p) as row, to_json(*) as j, count(*) as n from people as p", {"row", "j"}),
        ("table people", {"email"}),
        ("select * rename (email as mail) from people", {"mail"}),
        ("select columns('e.*') from people", {"email"}),
        ("select count(columns(*)) from people", set()),
        ("select orders.* from people join orders using (id)", set()),
        ('select p."Email" as x from "db"."main"."people" as p', {"x"}),
        ("select EMAIL as x from main.people", {"x"}),
        ("with a as (select id, email as mail from people), b as (select * from a) select mail as m, id from b", {"m"}),
        ("with a(one, two) as (select id, email from people) select one, two from a", {"two"}),
        ("select t.b from (select id, email from people) as t(a, b)", {"b"}),
        ("select email as a, a as b, upper(b) as c from people", {"a", "b", "c"}),
        ("select lower(email) as email from people", {"email"}),
        ("select id, email from people union all select id, note from orders", {"email"}),
        ("select id, note from orders union all select id, email from people", {"note"}),
        ("select id, note as email from orders union all by name select email, id from people", {"email"}),
        ("select id, note from orders except select id, email from people", set()),
        ("select * from people union all select * from people", {"email"}),
        ("select * from wide union all select * from orders", {"*"}),
        ("select phone from wide union all select note from orders", {"phone"}),
        (
            "with recursive t as (select id, email as e from people union all select id, e from t) select e from t",
            {"e"},
        ),
        ("with __dbt__cte__inlined as (select 1 as id, 'x' as name) select * from __dbt__cte__inlined", {"name"}),
        ("select id, whatever from script", {"whatever"}),
        ("select id, amount from orders join script using (id)", set()),
        ("select o.amount, s.anything from orders as o join script as s using (id)", {"anything"}),
        ("select * from 'landing/contacts/*.parquet'", {"email"}),
        ("select email as mail from read_parquet('landing/contacts/*.parquet')", {"mail"}),
        ("select email from main.hidden", {"email"}),
        ("select email from elsewhere.unknown_table", {"email"}),  # what is left of what dbt says is read
        ("pivot people on age using count(*)", {"*"}),
        ("select * from (select id, email from people) pivot (count(*) for id in (1, 2))", {"*"}),
        ("select x from wide, unnest(wide.phone) as t(x)", {"x"}),
        ("select l.e from people, lateral (select people.email as e) as l", {"e"}),
        ("select * from query_table('people')", {"*"}),
        (
            "select a.email, b.email from orders as o join people as a using (id) join wide as b using (id)",
            {"email", *EMAILS},
        ),
        ("select p.id, upper(email) from people as p", {"*"}),
        ("select distinct on (email) id from people order by email", set()),
        ("select id from people where email is not null group by id having max(email) > 'a'", set()),
        ("select from where", {"*"}),
        ("describe people", {"*"}),
    ],
)
def test_columns_pass_through_queries(sql: str, found: set[str]) -> None:
    assert pii_of(sql) == found


def test_each_text_of_a_model_counts() -> None:
    assert pii_of("select id, age as x from people", "select id, email as x from people") == {"x"}


@pytest.mark.parametrize("sql", [
    "select s.* from (select {'e': email} as s from people) as t",
    "select t.s.* from (select {'e': email} as s from people) as t",
    "with x as (select struct_pack(e := email) as s from people) select s.* from x",
    "with x as (select c from people as c) select c.* from x",
    "with x as (select unnest({'e': email}) from people) select e from x",
    "select unnest({'e': email}) as found from people",
    "select (s).* from (select {'e': email} as s from people) as t",
    "select columns('(e)mail') as '\\1' from people",
    "with q as (select #2 from people) select email as e from q",
    "with q as (select email::varchar from people) select \"CAST(email AS VARCHAR)\" as e from q",
    "select e from (select * from wide union all select id, email, age, since as e from people) as t",
])  # fmt: skip
def test_columns_named_by_a_structs_fields_or_by_a_pattern_are_pii(sql: str) -> None:
    told = traced([sql], READ, ELSEWHERE, "tested")
    assert told.origin("e")


@pytest.mark.parametrize("sql", [
    "select s.* from (select {'e': age} as s, 1 as one from people) as t",
    "select unnest({'e': age}) from people",
    "select columns('(a)ge') as '\\1' from orders",
])  # fmt: skip
def test_fields_of_what_is_no_pii_are_none(sql: str) -> None:
    assert not traced([sql], READ, ELSEWHERE, "tested").any


def test_a_model_that_reads_what_it_gave_before_passes_pii_on() -> None:
    full = "select id, email, null as previous, null as earlier from people"
    again = (
        "select n.id, n.email, t.email as previous, t.previous as earlier from people as n "
        'left join "db"."main"."kept" as t on n.id = t.id'
    )
    told = traced([full, again], READ, ELSEWHERE, "tested", '"db"."main"."kept"')
    assert [bool(told.origin(name)) for name in ("id", "email", "previous", "earlier")] == [False, True, True, True]


def test_a_relation_may_be_named_by_database_and_name_alone() -> None:
    assert traced(["select email as e from db.people"], READ, ELSEWHERE, "tested").origin("e")
