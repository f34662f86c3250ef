"""`features new view --stream`: windows over the live events of a table that there is, with all that they need."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from feature_server.project.process import dbt_command
from tests.scaffold.shop import write_shop
from tests.support.typed import Typed

VIEW = ("new", "view", "customer__orders", "--stream", "--entity", "customer", "--key", "customer", "--time",
        "ordered_at", "--from")  # fmt: skip
TABLE = "source(raw, orders)"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    shop = Typed(write_shop(tmp_path), {}, monkeypatch, capsys)
    assert shop.features("init")[0] == 0
    return shop


def good(shop: Typed, *arguments: str) -> str:
    code, said = shop.features(*arguments)
    assert code == 0, said
    return said


def read(shop: Typed, feature: str, key: str = "customer=3") -> object:
    [value] = json.loads(good(shop, "get", f"customer__orders:{feature}", key, "--json"))["features"].values()
    return value["value"]


def pushed(shop: Typed, source: str, **event: object) -> None:
    (shop.folder / "events.jsonl").write_text(json.dumps(event))
    good(shop, "push", source, "events.jsonl")


@pytest.mark.heavy
def test_from_a_table_to_a_pushed_event_that_counts_for_an_hour_and_lands_once(shop: Typed) -> None:
    said = good(shop, *VIEW, TABLE)
    assert "changed transform/staging/sources.yml: events of raw.orders arrive live" in said
    assert "# a table that the shop's system writes" in (shop.folder / "transform/staging/sources.yml").read_text()
    assert "0 findings" in good(shop, "lint")
    good(shop, "run")
    assert "1 event source, 1 feature view, 4 features" in good(shop, "check")
    assert read(shop, "orders_1h") == 0
    at = datetime.now(UTC) - timedelta(minutes=1)
    pushed(shop, "raw.orders", id=1000, customer=3, amount=7, ordered_at=at.isoformat())
    assert (read(shop, "orders_1h"), read(shop, "amount_sum_7d")) == (1, 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURES_CLOCK", (at + timedelta(hours=1, seconds=1)).isoformat())
        assert (read(shop, "orders_1h"), read(shop, "orders_7d")) == (0, 1)
    assert "landed=1" in good(shop, "stream", "raw.orders", "--once")
    for _ in range(2):
        good(shop, "run")
        assert (read(shop, "orders_1h"), read(shop, "amount_sum_7d")) == (1, 7)
    assert "different=0" in good(shop, "verify")
    with duckdb.connect(str(shop.folder / "data" / "jaffle.duckdb")) as connection:
        count = "select count(*), max(orders_1h) from customer__orders where event_timestamp > '2025-01-01'"
        assert connection.execute(count).fetchall() == [(1, 1)]
        assert connection.execute("select count(*) from raw.orders").fetchall() == [(200,)]
    assert "1 clean" in good(shop, "leaktest", "--landed", "ordered_at")


def test_a_second_view_of_a_table_reads_the_staging_model_of_the_first(shop: Typed) -> None:
    good(shop, *VIEW, TABLE)
    sources = (shop.folder / "transform/staging/sources.yml").read_text()
    said = good(shop, "new", "view", "amount__orders", "--stream", "--entity", "amount", "--key", "amount", "--time",
                "ordered_at", "--from", TABLE, "--window", "30m", "--window", "90 days")  # fmt: skip
    assert sorted(line.partition(":")[0] for line in said.splitlines()[:-1]) == [
        "wrote transform/entities/amounts.sql", "wrote transform/entities/amounts.yml",
        "wrote transform/features/amount__orders.sql", "wrote transform/features/amount__orders.yml",
    ]  # fmt: skip
    assert (shop.folder / "transform/staging/sources.yml").read_text() == sources
    sql = (shop.folder / "transform/features/amount__orders.sql").read_text()
    assert "from {{ ref('stg_orders_live') }}" in sql
    assert "range between interval 90 days preceding and current row" in sql
    assert "1 event source, 2 feature views, 8 features" in good(shop, "check")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*VIEW, "ref(stg_orders)"), "`features new view NAME --stream --from \"source('raw', 'orders')\" --entity"),
        ((*VIEW, TABLE, "--window", "91 days"), "a length of at most 90 days"),
        ((*VIEW, TABLE, "--window", "soon"), "that is no window"),
        ((*VIEW, TABLE, "--event-id", "amount_id"), "has no column 'amount_id'"),
        ((*VIEW, TABLE, "--event-id", "customer"), "5 ids in 200 rows"),
        ((*VIEW, TABLE, "--created", "amount"), "has a type that it cannot have"),
        ((*VIEW[:-2], "amount", "--from", TABLE), "has a type that it cannot have"),
        ((*VIEW, "source(raw, order)"), "did you mean 'raw.orders'?"),
    ],
)
def test_what_live_events_cannot_be_is_told_and_nothing_is_written(
    shop: Typed, arguments: tuple[str, ...], words: str
) -> None:
    before = {path: path.read_bytes() for path in (shop.folder / "transform").rglob("*") if path.is_file()}
    code, said = shop.features(*arguments)
    assert (code, words in said, "Traceback" in said) == (1, True, False), said
    assert before == {path: path.read_bytes() for path in (shop.folder / "transform").rglob("*") if path.is_file()}


@pytest.mark.heavy
def test_the_id_of_events_may_be_a_reserved_word(shop: Typed) -> None:
    with duckdb.connect(str(shop.folder / "data" / "jaffle.duckdb")) as connection:
        connection.execute(
            'create table raw.words as select i as "order", 1 + i % 5 as customer, 2 * i as "user", '
            "timestamp '2024-01-01' + to_hours(i::int) as \"at\" from range(10) as numbers (i)"
        )
    sources = shop.folder / "transform" / "staging" / "sources.yml"
    sources.write_text(sources.read_text() + "      - name: words\n")
    good(shop, "new", "view", "customer__words", "--stream", "--from", "raw.words", "--entity", "customer", "--key",
         "customer", "--time", "at", "--event-id", "order")  # fmt: skip
    good(shop, "run")
    assert "1 event source, 1 feature view" in good(shop, "check")


CORNER = {
    "dbt_project.yml": """
        name: corner
        version: "1.0"
        profile: corner
        flags: {send_anonymous_usage_stats: false}
        """,
    "profiles.yml": """
        corner: {target: dev, outputs: {dev: {type: duckdb, path: corner.duckdb}}}
        """,
    "seeds/raw_orders.csv": "id,customer,amount,ordered_at,note\n"
    "1,3,10.50,2024-01-01 10:00:00,a\n2,3,4.25,2024-01-01 10:30:00,\n3,4,1.00,2024-01-02 10:00:00,b\n",
}


@pytest.mark.heavy
def test_a_seed_holds_events_too_and_those_of_its_file_and_those_pushed_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Typed(tmp_path, CORNER, monkeypatch, capsys)
    good(shop, "init")
    subprocess.run([*dbt_command(), "seed", "--quiet"], cwd=shop.folder, check=True, capture_output=True)
    assert "left out note: it is no amount to sum" in good(shop, *VIEW, "ref(raw_orders)")
    assert "0 findings" in good(shop, "lint")
    good(shop, "run")
    at = (datetime.now(UTC) - timedelta(minutes=1)).replace(tzinfo=None)
    pushed(shop, "raw_orders", id=9, customer=3, amount=7, ordered_at=at.isoformat(), note=None)
    assert (read(shop, "orders_1h"), read(shop, "amount_sum_7d")) == (1, 7.0)
    with (shop.folder / "seeds/raw_orders.csv").open("a") as file:
        file.write(f"9,3,7,{at.isoformat(sep=' ')},\n10,3,1,{at.isoformat(sep=' ')},c\n")  # her system has it too now
    assert "landed=1" in good(shop, "run")
    assert (read(shop, "orders_1h"), read(shop, "amount_sum_7d")) == (2, 8.0)
    assert "different=0" in good(shop, "verify")
