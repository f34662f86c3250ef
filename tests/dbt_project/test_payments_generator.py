"""The generated payments hold what they promise, and the same arguments give the same bytes."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from examples import payments

UNTIL = "2013-12-28T00:00:00Z"


def make(out: Path, *, seed: int = 7) -> dict[str, bytes]:
    payments.main(
        ["--out", str(out), "--customers", "200", "--merchants", "20", "--days", "30", "--until", UNTIL,
         "--seed", str(seed)]
    )  # fmt: skip
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("landing")
    make(out)
    return out


def one(landing: Path, query: str) -> tuple[float, ...]:
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    for name in ("transactions", "visits", "fraud_reports"):
        connection.execute(f"create view {name} as from '{landing / name}/*.parquet'")
    for name in ("customers", "merchants"):
        connection.execute(f"create view {name} as from '{landing / name}.parquet'")
    return connection.sql(query).fetchall()[0]


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(landing: Path, tmp_path: Path) -> None:
    written = {str(path.relative_to(landing)): path.read_bytes() for path in landing.rglob("*.parquet")}
    assert make(tmp_path / "again") == written
    other = make(tmp_path / "other", seed=8)
    assert other["transactions/2013-12-10.parquet"] != written["transactions/2013-12-10.parquet"]


def test_rows_lie_in_the_file_of_the_day_they_landed_and_none_after_the_end(landing: Path) -> None:
    for source in ("transactions", "visits", "fraud_reports"):
        strays, newest = one(
            landing,
            "select count(*) filter (parse_filename(filename, true) <> ingested_at::date::varchar),"
            f" max(ingested_at) <= '{UNTIL}' from read_parquet('{landing / source}/*.parquet', filename = true)",
        )
        assert (strays, newest) == (0, True), source


def test_money_is_exact_and_above_zero(landing: Path) -> None:
    assert one(landing, "select typeof(any_value(amount_eur)), min(amount_eur) > 0 from transactions") == (
        "DECIMAL(12,2)",
        True,
    )


def test_payments_have_the_traps_of_real_ones(landing: Path) -> None:
    count, corrected, late, refunds = one(
        landing,
        "select count(*), count(*) - count(distinct transaction_id),"
        " count(*) filter (ingested_at > occurred_at + interval '1 hour'), count(*) filter (kind = 'refund')"
        " from transactions",
    )
    assert count > 15_000
    assert 0.005 < corrected / count < 0.02
    assert 0.01 < late / count < 0.05
    assert 0.01 < refunds / count < 0.04
    bursts = one(
        landing,
        "select count(*) from (select occurred_at - lag(occurred_at, 3) over (partition by customer_id"
        " order by occurred_at) as span from transactions) where span < interval '10 minutes'",
    )[0]
    assert bursts > 50
    silent = one(
        landing, "select count(*) from customers where customer_id not in (select customer_id from transactions)"
    )
    assert 5 < silent[0] < 40
    by_hour = "count(*) filter (extract(hour from occurred_at) = {}) from transactions"
    assert one(landing, "select " + by_hour.format(18))[0] > 5 * one(landing, "select " + by_hour.format(3))[0]


def test_a_refund_follows_its_purchase_and_is_not_larger(landing: Path) -> None:
    refunds, odd = one(
        landing,
        """
        with first_versions as (
            from transactions qualify row_number() over (partition by transaction_id order by ingested_at) = 1
        )
        select count(*), count(*) filter (
            purchase.transaction_id is null or purchase.kind <> 'purchase'
            or purchase.customer_id <> refund.customer_id or purchase.occurred_at >= refund.occurred_at
            or purchase.amount_eur < refund.amount_eur
        )
        from first_versions as refund
        left join first_versions as purchase on refund.refunded_transaction_id = purchase.transaction_id
        where refund.kind = 'refund'
        """,
    )
    assert refunds > 200
    assert odd <= refunds * 0.05  # a purchase that has not landed yet, late as some are


def test_fraud_is_reported_later_and_more_often_at_night(landing: Path) -> None:
    frauds, early, night, day = one(
        landing,
        """
        select
            count(reported_at), count(*) filter (reported_at < occurred_at + interval '1 hour'),
            count(reported_at) filter (extract(hour from occurred_at) < 4)
            / count(*) filter (extract(hour from occurred_at) < 4),
            count(reported_at) filter (extract(hour from occurred_at) >= 4)
            / count(*) filter (extract(hour from occurred_at) >= 4)
        from transactions left join fraud_reports using (transaction_id)
        """,
    )
    assert frauds > 50
    assert early == 0
    assert night > 1.5 * day
