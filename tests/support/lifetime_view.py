"""A stream view with every lifetime aggregate there is, and what its features are, by plain SQL over all payments."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import duckdb

from tests.support.live_project import COLUMNS, Payment, make_live_view

WINDOW = "(partition by customer order by paid_at range between unbounded preceding and {end})"
ORDER = "order by paid_at, ingested_at"
DELAY = timedelta(hours=2)
TEXT, MONEY = "varchar", "decimal(12,2)"
NAN = "case when merchant = 'shop 2' then cast('nan' as double) else cast(amount as double) end"
# feature: aggregate with {order} where events are ordered, filter, type
LIFETIME: dict[str, tuple[str, str, str]] = {
    "payments": ("count(*)", "", "bigint"),
    "named": ("count(merchant)", "", "bigint"),
    "large": ("count(*)", "amount >= 20", "bigint"),
    "total": ("sum(amount)", "", "decimal(38,2)"),
    "total_of_shop_1": ("sum(amount)", "merchant = 'shop 1'", "decimal(38,2)"),
    "total_double": ("sum(amount::double)", "", "double"),
    "total_id": ("sum(payment_id)", "", "bigint"),
    "mean": ("avg(amount)", "", "double"),
    "mean_double": ("avg(amount::double)", "merchant is not null", "double"),
    "least": ("min(amount)", "", MONEY),
    "least_double": ("min(amount::double)", "amount >= 20", "double"),
    "most": ("max(amount)", "merchant <> 'shop 2'", MONEY),
    "last_shop_by_name": ("max(merchant)", "", TEXT),
    "oldest": ("min(paid_at)", "", "timestamptz"),
    "first_shop": ("first(merchant {order})", "", TEXT),
    "first_amount": ("first(amount {order})", "", MONEY),
    "last_shop": ("last(merchant {order})", "", TEXT),
    "last_amount": ("last(amount {order})", "", MONEY),
    "cheapest_shop": ("arg_min(merchant, amount {order})", "", TEXT),
    "dearest": ("arg_max(payment_id, amount {order})", "merchant is not null", "bigint"),
    "shop_of_last_name": ("arg_max(amount, merchant {order})", "", MONEY),
    "largest_with_nan": (f"max({NAN})", "", "double"),
    "least_with_nan": (f"min({NAN})", "merchant is not null", "double"),
    "shop_of_nan": (f"arg_max(merchant, {NAN} {{order}})", "", TEXT),
    "first_day": ("min(cast(paid_at as date))", "", "date"),
    "least_uuid": ("min(cast(md5(merchant) as uuid))", "", "uuid"),
    "last_pair": ("last([cast(amount as double), 1.5] {order})", "", "double[]"),
    "all_large": ("bool_and(amount >= 20)", "", "boolean"),
    "any_large": ("bool_or(amount >= 20)", "merchant = 'shop 1'", "boolean"),
    "all_named": ("bool_and(merchant < 'shop 3')", "", "boolean"),
}
DELAYED = {"payments_before": ("count(*)", "", "bigint"), "shop_before": ("last(merchant {order})", "", TEXT)}
PLAIN = {"latest_shop": ("merchant", TEXT), "share": ("largest / max(amount) over lifetime", "double")}


def _over(call: str, condition: str, end: str) -> str:
    chosen = f" filter (where {condition})" if condition else ""
    return f"{call.format(order='').replace(' )', ')')}{chosen} over {WINDOW.format(end=end)}"


MORE = {name: (_over(call, where, "current row"), of) for name, (call, where, of) in LIFETIME.items()}
MORE |= {name: (_over(call, where, "interval 2 hours preceding"), of) for name, (call, where, of) in DELAYED.items()}
MORE |= {
    "total_id": (f"cast({MORE['total_id'][0]} as bigint)", "bigint"),
    "latest_shop": ("merchant", TEXT),
    "share": (f"max(amount) over day / max(amount) over {WINDOW.format(end='current row')}", "double"),
}
VIEW = make_live_view(MORE)


def expected(payments: Iterable[Payment], customers: Iterable[int], now: datetime) -> list[dict[str, Any]]:
    """The features of each customer at an instant."""
    features = []
    for call, where, until in (
        ("count(*)", "paid_at >= $now - interval 1 hour", ""),
        ("sum(amount)", "paid_at >= $now - interval 1 hour", ""),
        ("max(amount)", "paid_at >= $now - interval 1 day", ""),
        *((call, where, "") for call, where, _ in LIFETIME.values()),
        *((call, where, "paid_at <= $now - interval 2 hours") for call, where, _ in DELAYED.values()),
        ("last(merchant {order})", "", ""),
        ("max(amount) filter (where paid_at >= $now - interval 1 day) / max(amount)", "", ""),
    ):
        conditions = " and ".join(f"({part})" for part in (where, until) if part)
        chosen = f" filter (where {conditions})" if conditions else ""
        features.append(f"{call.format(order=ORDER)}{chosen}")
    names = ["n", "spent", "largest", *LIFETIME, *DELAYED, "latest_shop", "share"]
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'; set threads = 1")
        listed = ", ".join(f"{name} {data_type}" for name, data_type in COLUMNS.items())
        connection.execute(f"create table versions ({listed})")
        rows = [list(payment) for payment in payments]
        if rows:
            connection.executemany(f"insert into versions values ({', '.join('?' * len(COLUMNS))})", rows)
        connection.execute(
            "create table payments as select * from "
            "(from versions qualify row_number() over (partition by payment_id order by ingested_at desc) = 1)"
            "where amount > 0"
        )
        sql = f"select customer, {', '.join(features)} from payments where paid_at <= $now group by customer"
        rows = {customer: values for customer, *values in connection.execute(sql, {"now": now}).fetchall()}
        nothing = connection.execute(f"select {', '.join(features)} from payments where false", {"now": now}).fetchone()
    return [dict(zip(names, rows.get(customer, nothing), strict=True)) for customer in customers]
