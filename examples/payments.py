"""Generate card payments and site visits: the same arguments give the same bytes.

    python -m examples.payments --out .features/landing [--customers 2000] [--transactions 200000] [--seed 7]

Rows land in files named for the day they were ingested. The world ends at `--until`: what would land later is not
written. What the generator plants, because real data has it: bursts of purchases within minutes, customers who never
buy or have stopped, busy nights, rows that land hours or days after they happened, corrected rows, refunds, and fraud
that is reported days later.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_server.durable import make_private

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
TIMESTAMP = pa.timestamp("us", tz="UTC")
MONEY = pa.decimal128(12, 2)
CATEGORIES = ["grocery", "fuel", "restaurant", "electronics", "travel", "fashion", "gambling", "digital"]
MEDIAN_CENTS = np.array([3200, 4800, 2600, 11900, 18900, 5400, 4000, 1500])
FRAUD_WEIGHT = np.array([0.4, 0.8, 0.4, 3.0, 1.5, 1.0, 3.0, 3.0])
COUNTRIES = ["DE", "FR", "NL", "AT", "ES", "IT"]
# Share of a day's payments in each hour, UTC: lunch, evening, and a second, smaller peak after midnight.
HOURS = np.array([5, 4, 2, 1, 1, 2, 4, 7, 9, 10, 10, 12, 14, 12, 10, 10, 12, 15, 17, 18, 16, 13, 10, 8], dtype=float)

Columns = dict[str, pa.Array]


@dataclass(frozen=True)
class World:
    """What to generate; times in microseconds since 1970 UTC."""

    customers: int
    merchants: int
    transactions: int
    start_us: int
    until_us: int


def decimals(cents: np.ndarray) -> pa.Array:
    """Exact decimal(12,2) values from integer cents, without a detour through floats."""
    words = np.empty((len(cents), 2), dtype="<i8")
    words[:, 0] = cents
    words[:, 1] = np.where(cents < 0, -1, 0)
    return pa.Array.from_buffers(MONEY, len(cents), [None, pa.py_buffer(words.tobytes())])


def timestamps(values: np.ndarray) -> pa.Array:
    return pa.array(values.astype("int64"), type=pa.int64()).cast(TIMESTAMP)


def labels(names: list[str], codes: np.ndarray) -> pa.Array:
    return pa.array(names).take(pa.array(codes))


def instants(rng: np.random.Generator, world: World, count: int) -> np.ndarray:
    """`count` instants with the hours' shape and quieter Sundays."""
    days = np.arange(world.start_us // DAY, world.until_us // DAY + 1)
    weights = np.where((days + 3) % 7 == 6, 0.6, 1.0)
    day = rng.choice(days, size=count, p=weights / weights.sum())
    hour = rng.choice(24, size=count, p=HOURS / HOURS.sum())
    return day * DAY + hour * HOUR + rng.integers(0, HOUR, size=count)


def landing_delay(rng: np.random.Generator, count: int, late_share: float) -> np.ndarray:
    """Microseconds from happening to landing: under a minute or so, but hours to days for the late share."""
    prompt = rng.exponential(20 * SECOND, size=count).astype("int64") + SECOND
    late = rng.exponential(12 * HOUR, size=count).astype("int64") + HOUR
    return np.where(rng.random(count) < late_share, np.minimum(late, 5 * DAY), prompt)


def people(rng: np.random.Generator, world: World) -> Columns:
    joined = world.start_us - rng.integers(0, 1500 * DAY, size=world.customers)
    return {
        "customer_id": pa.array(np.arange(1, world.customers + 1)),
        "country": labels(COUNTRIES, rng.choice(len(COUNTRIES), size=world.customers)),
        "signed_up_at": timestamps(joined),
        "ingested_at": timestamps(joined + 5 * SECOND),
    }


def shops(rng: np.random.Generator, world: World, category: np.ndarray) -> Columns:
    opened = world.start_us - rng.integers(0, 2500 * DAY, size=world.merchants)
    return {
        "merchant_id": pa.array([f"M{number:06d}" for number in range(1, world.merchants + 1)]),
        "category": labels(CATEGORIES, category),
        "country": labels(COUNTRIES, rng.choice(len(COUNTRIES), size=world.merchants)),
        "onboarded_at": timestamps(opened),
        "ingested_at": timestamps(opened + 5 * SECOND),
    }


def purchases(rng: np.random.Generator, world: World, category: np.ndarray) -> dict[str, np.ndarray]:
    """Purchases in the order they happened, as plain arrays; merchants and customers as numbers from 0."""
    count = world.transactions
    activity = rng.lognormal(0.0, 1.0, size=world.customers)
    activity[rng.random(world.customers) < 0.08] = 0.0
    customer = rng.choice(world.customers, size=count, p=activity / activity.sum())
    occurred = instants(rng, world, count)
    burst = rng.random(count) < 0.15
    burst[0] = False
    source = np.maximum.accumulate(np.where(burst, 0, np.arange(count)))
    customer = customer[source]
    occurred = np.where(burst, occurred[source] + rng.exponential(240 * SECOND, size=count).astype("int64"), occurred)
    stopped = world.start_us + rng.integers(5 * DAY, 30 * DAY, size=world.customers)
    stops = rng.random(world.customers) < 0.15
    gone = stops[customer] & (occurred > stopped[customer])
    kept = (occurred >= world.start_us) & (occurred < world.until_us) & ~gone
    popularity = 1.0 / np.arange(1, world.merchants + 1) ** 0.7
    merchant = rng.choice(world.merchants, size=count, p=popularity / popularity.sum())
    cents = (MEDIAN_CENTS[category[merchant]] * rng.lognormal(0.0, 0.7, size=count)).astype("int64") + 1
    night = (occurred // HOUR) % 24 < 4
    risk = 0.003 * FRAUD_WEIGHT[category[merchant]] * np.where(burst, 6, 1) * np.where(night, 3, 1)
    columns = {
        "customer": customer, "merchant": merchant, "occurred": occurred, "cents": cents,
        "fraud": rng.random(count) < risk,
    }  # fmt: skip
    order = np.argsort(occurred[kept], kind="stable")
    return {name: values[kept][order] for name, values in columns.items()}


def with_refunds(rng: np.random.Generator, world: World, bought: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Purchases and refunds together, numbered by the time they happened; `refunded` is the purchase's number or 0."""
    count = len(bought["occurred"])
    chosen = np.flatnonzero(rng.random(count) < 0.03)
    when = bought["occurred"][chosen] + rng.integers(HOUR, 10 * DAY, size=len(chosen))
    chosen, when = chosen[when < world.until_us], when[when < world.until_us]
    share = np.where(rng.random(len(chosen)) < 0.7, 100, rng.integers(10, 100, size=len(chosen)))
    occurred = np.concatenate([bought["occurred"], when])
    order = np.argsort(occurred, kind="stable")
    number = np.empty(len(order), dtype="int64")
    number[order] = np.arange(1, len(order) + 1)
    both = {name: np.concatenate([bought[name], bought[name][chosen]]) for name in ("customer", "merchant")}
    both["cents"] = np.concatenate([bought["cents"], np.maximum(bought["cents"][chosen] * share // 100, 1)])
    both["fraud"] = np.concatenate([bought["fraud"], np.zeros(len(chosen), dtype=bool)])
    both["refunded"] = np.concatenate([np.zeros(count, dtype="int64"), number[chosen]])
    both["occurred"] = occurred
    both["number"] = number
    return {name: values[order] for name, values in both.items()}


def with_corrections(rng: np.random.Generator, world: World, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each row with the time it landed, and for one in a hundred a second version that landed later."""
    count = len(rows["occurred"])
    first = {**rows, "ingested": rows["occurred"] + landing_delay(rng, count, 0.02)}
    chosen = np.flatnonzero(rng.random(count) < 0.01)
    second = {name: values[chosen].copy() for name, values in first.items()}
    second["ingested"] += rng.integers(10 * 60 * SECOND, 4 * DAY, size=len(chosen))
    second["cents"] = np.maximum(second["cents"] * rng.integers(50, 130, size=len(chosen)) // 100, 1)
    elsewhere = rng.random(len(chosen)) < 0.1
    second["merchant"] = np.where(elsewhere, rng.integers(0, world.merchants, size=len(chosen)), second["merchant"])
    earlier = np.where(rng.random(len(chosen)) < 0.2, rng.integers(0, 3 * HOUR, size=len(chosen)), 0)
    second["occurred"] = np.maximum(second["occurred"] - earlier, world.start_us)
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def transaction_columns(rows: dict[str, np.ndarray], merchant_ids: pa.Array) -> Columns:
    return {
        "transaction_id": pa.array(rows["number"]),
        "customer_id": pa.array(rows["customer"] + 1),
        "merchant_id": merchant_ids.take(pa.array(rows["merchant"])),
        "kind": labels(["purchase", "refund"], (rows["refunded"] > 0).astype("int8")),
        "amount_eur": decimals(rows["cents"]),
        "refunded_transaction_id": pa.array(rows["refunded"], mask=rows["refunded"] == 0),
        "occurred_at": timestamps(rows["occurred"]),
        "ingested_at": timestamps(rows["ingested"]),
    }


def fraud_columns(rng: np.random.Generator, rows: dict[str, np.ndarray]) -> Columns:
    number, occurred = rows["number"][rows["fraud"]], rows["occurred"][rows["fraud"]]
    reported = occurred + rng.integers(2 * HOUR, 12 * DAY, size=len(number))
    return {
        "transaction_id": pa.array(number),
        "reported_at": timestamps(reported),
        "ingested_at": timestamps(reported + landing_delay(rng, len(number), 0.05)),
    }


def visit_columns(rng: np.random.Generator, world: World) -> Columns:
    count = world.transactions
    curiosity = rng.lognormal(0.0, 1.2, size=world.customers)
    curiosity[rng.random(world.customers) < 0.05] = 0.0
    customer = rng.choice(world.customers, size=count, p=curiosity / curiosity.sum())
    started = instants(rng, world, count)
    seconds = np.minimum(rng.lognormal(4.6, 1.1, size=count), 7200).astype("int64") + 1
    ended = started + seconds * SECOND
    kept = (started >= world.start_us) & (ended < world.until_us)
    order = np.argsort(ended[kept], kind="stable")
    customer, started, ended, seconds = (values[kept][order] for values in (customer, started, ended, seconds))
    pages = 1 + rng.poisson(np.sqrt(seconds) / 3)
    return {
        "visit_id": pa.array(np.arange(1, len(started) + 1)),
        "customer_id": pa.array(customer + 1),
        "started_at": timestamps(started),
        "ended_at": timestamps(ended),
        "pages": pa.array(pages.astype("int32")),
        "ingested_at": timestamps(ended + landing_delay(rng, len(started), 0.03)),
    }


def land(columns: Columns, directory: Path, until_us: int) -> int:
    """Write a file for each day of ingestion, without rows ingested after `until_us`; return the number of rows."""
    table = pa.table(columns)
    ingested = columns["ingested_at"].cast(pa.int64()).to_numpy()
    order = np.argsort(ingested, kind="stable")
    order = order[: np.searchsorted(ingested[order], until_us, side="right")]
    table, ingested = table.take(pa.array(order, type=pa.int64())), ingested[order]
    make_private(directory)
    for stale in directory.glob("*.parquet"):
        stale.unlink()
    for day in np.unique(ingested // DAY):
        first, last = np.searchsorted(ingested, [day * DAY, (day + 1) * DAY])
        name = datetime.fromtimestamp(int(day) * 86400, UTC).date().isoformat()
        pq.write_table(table.slice(first, last - first), directory / f"{name}.parquet")
    return table.num_rows


def generate(out: Path, world: World, *, seed: int) -> dict[str, int]:
    """Write the five sources under `out` and return their row counts."""
    rng = np.random.default_rng(seed)
    make_private(out)
    category = rng.choice(len(CATEGORIES), size=world.merchants)
    customers, merchants = pa.table(people(rng, world)), pa.table(shops(rng, world, category))
    pq.write_table(customers, out / "customers.parquet")
    pq.write_table(merchants, out / "merchants.parquet")
    rows = with_refunds(rng, world, purchases(rng, world, category))
    frauds = fraud_columns(rng, rows)
    versions = with_corrections(rng, world, rows)
    merchant_ids = merchants.column("merchant_id").combine_chunks()
    return {
        "customers": customers.num_rows,
        "merchants": merchants.num_rows,
        "transactions": land(transaction_columns(versions, merchant_ids), out / "transactions", world.until_us),
        "visits": land(visit_columns(rng, world), out / "visits", world.until_us),
        "fraud_reports": land(frauds, out / "fraud_reports", world.until_us),
    }


def instant(text: str) -> int:
    """Microseconds since 1970 of an ISO timestamp; a naive one is UTC."""
    parsed = datetime.fromisoformat(text)
    parsed = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return round(parsed.timestamp()) * SECOND


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return value


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.payments", description="Generate card payments and site visits."
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write to, such as .features/landing")
    parser.add_argument("--customers", type=positive, default=2000)
    parser.add_argument("--merchants", type=positive, default=300)
    parser.add_argument("--days", type=positive, default=45)
    parser.add_argument("--until", type=instant, default="2013-12-30T23:00:00Z", help="end of the world, ISO, UTC")
    parser.add_argument("--transactions", type=positive, help="default: 100 a customer")
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args(arguments)
    world = World(
        customers=given.customers,
        merchants=given.merchants,
        transactions=given.transactions or 100 * given.customers,
        start_us=given.until - given.days * DAY,
        until_us=given.until,
    )
    counts = generate(given.out, world, seed=given.seed)
    print(" ".join(f"{name}={count}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
