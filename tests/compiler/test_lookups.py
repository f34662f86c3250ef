"""Lookups under a stream view: what they give live and in history is what DuckDB gives for the analyst's join."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import duckdb
import msgspec
import pytest

from feature_server.compiler.layers import EVENTS, Constant
from feature_server.compiler.model import CompiledModel, compile_stream_view
from feature_server.compiler.refusals import Refused
from feature_server.definitions.facts import FeatureView, JoinKey
from feature_server.definitions.stream import EventSource, SourceColumn, StreamPlan
from feature_server.dtypes import parse_sql_type
from feature_server.ingest.rows import RowQueries
from feature_server.manifest.views import fingerprint
from feature_server.offline.session import event_types

COLUMNS = {
    "payment_id": "bigint", "customer_id": "bigint", "shop": "varchar", "kind": "integer", "amount": "decimal(12,2)",
    "paid_at": "timestamptz", "ingested_at": "timestamptz",
}  # fmt: skip
SOURCE = EventSource(
    name="shop.payments",
    columns=tuple(SourceColumn(name, parse_sql_type(text)) for name, text in COLUMNS.items()),
    event_id="payment_id",
    event_timestamp="paid_at",
    created_timestamp="ingested_at",
)
SHOPS = [("A", "NL", Decimal("0.10")), ("B", "BE", Decimal("0.25")), ("é'\"|", None, None), (None, "XX", Decimal(9))]
HOUR = "over (partition by customer_id order by paid_at range between interval 1 hour preceding and current row)"
MODEL = f"""
select
    customer_id, paid_at as event_timestamp, country as last_country,
    sum(amount * risk) {HOUR} as risk_1h, count(distinct country) {HOUR} as countries_1h
from stg
"""
VALUES = """
    with countries(code, country, risk) as (
        values ('A', 'NL', 0.10), ('B', 'BE', 0.25), ('é''"|', null, null), (null, 'XX', 9)
    )
    select p.*, countries.country, countries.risk
    from payments as p left join countries on p.shop = countries.code
"""
UNION = """
    with kinds as (select 1 as kind, 'buy' as name union all select 2, 'refund'),
    countries as (select code, upper(country) as country, risk from shops where code is not null)
    select payments.*, country, risk, kinds.name as kind_name
    from payments
    left join countries on shop = code
    inner join kinds using (kind)
"""
VERSIONED = """
    with latest as (
        select payments.*, s.country, s.risk from payments join shops as s on s.code = shop and s.country = 'NL'
        qualify row_number() over (partition by payment_id order by ingested_at desc) = 1
    )
    select * from latest where amount > 0
"""
FROM_FIRST = """
    from payments
    left join (select code, any_value(country) as country, max(risk) as risk from shops group by code) as c
        on shop = c.code
    select payments.*, country, risk where country is distinct from 'BE'
"""


def compiled(staging: str, model: str = MODEL, shops: list[tuple[Any, ...]] = SHOPS) -> StreamPlan:
    upstream = {
        "stg": staging, "payments": EVENTS,
        "shops": Constant("_seed_shops", {"code": "varchar", "country": "varchar", "risk": "decimal(4,2)"}),
    }  # fmt: skip
    features = ("last_country", "risk_1h", "countries_1h")
    compiled_model = CompiledModel(
        sql=model, join_keys=("customer_id",), event_timestamp="event_timestamp", created_timestamp=None,
        features=tuple(name for name in features if name in model),
    )  # fmt: skip
    with event_types(SOURCE) as session:
        load_shops(session.connection, "_seed_shops", shops)
        return compile_stream_view(compiled_model, SOURCE, lambda table: upstream.get(table.name), session)


def load_shops(connection: duckdb.DuckDBPyConnection, name: str, shops: list[tuple[Any, ...]]) -> None:
    connection.execute(f"create table {name} (code varchar, country varchar, risk decimal(4,2))")
    connection.executemany(f"insert into {name} values (?, ?, ?)", shops)


def view_of(plan: StreamPlan) -> FeatureView:
    view = FeatureView(
        name="v",
        entities=("customer",),
        join_keys=(JoinKey("customer_id", parse_sql_type("bigint")),),
        stream=plan,
        features=(),
    )
    return msgspec.structs.replace(view, fingerprint=fingerprint(view))


def payments(chance: random.Random, count: int) -> list[tuple[Any, ...]]:
    base = "2024-05-01 10:00:00+00"
    return [
        (
            number, chance.randint(1, 5), chance.choice(["A", "B", "é'\"|", "nowhere", None]),
            chance.choice([1, 2, 3, None]), chance.choice([None, Decimal("-1.00"), Decimal("12.50")]), base,
            f"2024-05-01 10:00:{version:02}+00",
        )
        for number in range(count)
        for version in range(chance.choice([1, 1, 2]))
    ]  # fmt: skip


def refused(staging: str, model: str = MODEL, shops: list[tuple[Any, ...]] = SHOPS) -> tuple[str, str, str]:
    with pytest.raises(Refused) as raised:
        compiled(staging, model, shops)
    (refusal,) = raised.value.refusals
    return refusal.expression, refusal.what, refusal.instead


@pytest.mark.parametrize("staging", [VALUES, UNION, VERSIONED, FROM_FIRST])
@pytest.mark.parametrize("count", [1, 3000])
def test_rows_of_live_events_are_what_duckdb_gives_for_the_join(staging: str, count: int) -> None:
    plan = compiled(staging)
    queries = RowQueries()
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute("create table payments (" + ", ".join(f"{n} {t}" for n, t in COLUMNS.items()) + ")")
        connection.executemany(f"insert into payments values ({', '.join('?' * len(COLUMNS))})",
                               payments(random.Random(count), count))  # fmt: skip
        load_shops(connection, "shops", SHOPS)
        events = connection.sql("select * from payments").to_arrow_table()
        rows = queries.rows(view_of(plan), events)
        queries.close()
        assert rows["event_id"].to_pylist() == events["payment_id"].to_pylist()
        connection.register("rows", rows)
        country, weighted = (next(a.name for a in plan.arguments if a.sql.endswith(end)) for end in ("country", "risk"))
        if plan.versioned:  # readers drop what has no key, and of the rest keep the latest version
            rows_sql = """select * from (
                select * from rows where customer_id is not null
                qualify row_number() over (partition by event_id order by created_timestamp desc) = 1
            )"""
        else:
            rows_sql = "select * from rows"
        found = connection.sql(
            f"select event_id, customer_id, {country}, {weighted} from ({rows_sql}) where counts order by all"
        ).fetchall()
        wanted = connection.sql(
            f"select payment_id, customer_id, country, amount * risk from ({staging}) order by all"
        ).fetchall()
    assert found == wanted
    assert count == 1 or len(found) > 200


def test_the_views_rows_are_new_when_what_it_looks_up_changes() -> None:
    before = view_of(compiled(UNION))
    changed = [*SHOPS[:1], ("B", "DE", Decimal("0.25")), *SHOPS[2:]]
    unused = "select payments.*, country, 0.1 as risk from payments left join shops on shop = code"
    assert view_of(compiled(UNION, shops=SHOPS[::-1])).fingerprint == before.fingerprint
    assert view_of(compiled(UNION, shops=changed)).fingerprint != before.fingerprint
    other_risk = [(code, country, Decimal(1)) for code, country, _ in SHOPS]
    assert view_of(compiled(unused)).fingerprint == view_of(compiled(unused, shops=other_risk)).fingerprint


def test_a_lookup_that_would_fan_out_is_refused_with_the_key() -> None:
    twice = [*SHOPS, ("B", "FR", Decimal(1))]
    expression, what, instead = refused("select payments.*, country, risk from payments left join shops on shop = code",
                                        shops=twice)  # fmt: skip
    assert expression == "LEFT JOIN shops ON shop = code"
    assert what == "a lookup with 2 rows for one key (shops.code = 'B')"
    assert instead == "one row a key: join on more columns, or correct it"
    nulls = [*SHOPS, (None, "FR", Decimal(1))]  # a null equals nothing
    assert compiled("select payments.*, country, risk from payments left join shops on shop = code", shops=nulls)


def joined(join: str) -> str:
    return f"select payments.*, 'NL' as country, 0.1 as risk from payments {join}"


@pytest.mark.parametrize(
    ("join", "what", "instead"),
    [
        ("join payments as other on other.payment_id = payments.payment_id", "a join with other events", "of its own"),
        ("right join shops on shop = code", "RIGHT JOIN with a lookup", "left join"),
        ("full join shops on shop = code", "FULL JOIN with a lookup", "left join"),
        ("cross join shops", "CROSS JOIN with a lookup", "left join"),
        ("semi join shops on shop = code", "SEMI JOIN with a lookup", "left join"),
        ("anti join shops on shop = code", "ANTI JOIN with a lookup", "left join"),
        (", shops where shop = code", "a lookup joined without ON", "left join"),
        ("left join shops on shop >= code", "something other than equality", "left join"),
        ("left join shops on shop = code or kind = 1", "something other than equality", "left join"),
        ("left join shops on kind = code", "compares integer with varchar", "cast(shops.code as integer)"),
        ("left join shops on amount = risk", "compares decimal(12,2) with decimal(4,2)", "cast(shops.risk as"),
        ("left join (select unnest(range(6000)) as n) as n on n.n = kind", "a lookup of 6,000 rows", "at most 5,000"),
        ("left join (select 'A' as code, [1] as a) as n on n.code = shop and n.a = [1]", "type integer[]", "cast it"),
        ("left join (select code from shops, payments) as n on n.code = shop", "a join with other", "of its own"),
        ("left join (select random()::varchar as code) as n on n.code = shop", "another value at each", "a column"),
        ("left join (select error('no') as code) as n on n.code = shop", "lookup that DuckDB refuses", "constant"),
    ],
)  # fmt: skip
def test_other_joins_are_refused(join: str, what: str, instead: str) -> None:
    found = refused(joined(join))
    assert what in found[1]
    assert instead in found[2]
    assert len(found[0]) < 300


def test_a_lookup_above_the_windows_is_refused() -> None:
    model = f"""
        with windows as (select customer_id, shop, paid_at as event_timestamp, count(*) {HOUR} as risk_1h from stg)
        select windows.*, country as last_country from windows left join shops on shop = code
    """
    expression, what, instead = refused("select * from payments", model)
    assert expression == "LEFT JOIN shops ON shop = code"
    assert (what, instead) == ("a join above the window functions", "join the lookup in staging")


def test_events_come_first_in_a_join() -> None:
    assert refused("select payments.*, country, risk from shops right join payments on shop = code")[1:] == (
        "a SELECT that does not read the stream's events", "from the view's event source, or a staging model of it"
    )  # fmt: skip


def test_the_model_itself_may_look_up() -> None:
    model = MODEL.replace("from stg", "from payments left join shops on shop = code")
    assert (
        compiled("", model).row_sql
        == compiled(
            "", model.replace("left join shops", "left join (select code, country, risk from shops) as shops")
        ).row_sql
    )
