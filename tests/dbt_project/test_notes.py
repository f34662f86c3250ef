"""What builds note of themselves: models that failed, several threads, seeds' rows, appended models."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.dbt_project.world import ROOT, World
from tests.support.example import install_package
from tests.support.tiny_project import write_project

pytestmark = pytest.mark.heavy

DAYS = ("2024-01-02T00:00:00Z", "2024-01-03T00:00:00Z", "2024-01-04T00:00:00Z")
RATES = "country,rate\nNL,1\nBE,2\n"
STAGING = """
select order_id, customer_id, country, eur, known_at
from (values
    (1, 7, 'NL', 10, timestamptz '2024-01-01T10:00:00Z'), (2, 7, 'BE', 20, timestamptz '2024-01-02T10:00:00Z'),
    (3, 8, 'NL', 30, timestamptz '2024-01-03T10:00:00Z')
) as orders (order_id, customer_id, country, eur, known_at)
where known_at <= {{ feature_warehouse.as_of() }} and known_at <> timestamptz '2024-01-03T00:00:00Z'
"""
APPENDED = """
{{ config(materialized='incremental', on_schema_change='fail') }}
select customer_id, country, eur, known_at from {{ ref('stg_orders') }}
where known_at > {{ feature_warehouse.known_after() }}
"""
SPEND = """
select customer_id::bigint as customer_id, known_at as event_timestamp, (eur * rate)::bigint as amount
from {{ ref('int_orders') }} inner join {{ ref('rates') }} using (country)
where known_at > {{ feature_warehouse.known_after() }}
"""
COUNTED = """
select customer_id::bigint as customer_id, known_at as event_timestamp, eur::bigint as amount
from {{ ref('stg_orders') }} where known_at > {{ feature_warehouse.known_after() }}
"""
BAD = COUNTED.replace("eur::bigint", "(eur || ' euros')::bigint")
BELOW = "select * from {{ ref('customer__bad') }} where event_timestamp > {{ feature_warehouse.known_after() }}"
GOOD = ("customer__spend", *(f"customer__n{number}" for number in range(6)))
FAILED = ("customer__bad", "customer__below")
VIEW = """
  - name: {name}
    description: What a customer paid. One row per order.
    config: {{group: shop, meta: {{feature_view: {{entities: [customer], refresh: daily, online: false}}}}}}
    columns:
      - {{name: customer_id, data_type: bigint, description: The customer.}}
      - {{name: event_timestamp, data_type: timestamptz, description: When it was known.}}
      - {{name: amount, data_type: bigint, description: The amount.}}
"""
ENTITY = """
groups:
  - name: shop
    owner: {name: Shop, email: shop@example.com}
models:
  - name: customers
    description: Customers. One row per customer.
    config: {contract: {enforced: false}, meta: {entity: {name: customer, join_keys: [customer_id]}}}
    columns:
      - {name: customer_id, data_type: bigint, description: The customer.}
"""
MODELS = "models/features/customer"
FILES = {
    "models/staging/shop/stg_orders.sql": STAGING,
    "models/intermediate/int_orders.sql": APPENDED,
    "models/entities/customers.sql": "select distinct customer_id::bigint as customer_id from {{ ref('stg_orders') }}",
    "models/entities/customers.yml": ENTITY,
    "seeds/rates.csv": RATES,
    f"{MODELS}/views.yml": "models:" + "".join(VIEW.format(name=name) for name in (*GOOD, *FAILED)),
    f"{MODELS}/customer__spend.sql": SPEND,
    **{f"{MODELS}/{name}.sql": COUNTED for name in GOOD[1:]},
    f"{MODELS}/customer__bad.sql": BAD,
    f"{MODELS}/customer__below.sql": BELOW,
}


class Shop(World):
    """A small project with this one's macros and settings."""

    def build(self, day: int) -> int:
        return self.dbt("build", "--threads", "4", as_of=DAYS[day]).returncode

    def good(self, *arguments: str) -> str:
        done = self.features(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        with self.connect() as connection:
            return connection.execute(sql).fetchall()

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Applied, and built once with a model that fails."""
    folder = tmp_path_factory.mktemp("notes")
    root = write_project(folder / "project", FILES)
    for name in ("macros", "profiles"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "dbt_project.yml", root)
    install_package(root)
    (folder / "home").mkdir()
    shop = Shop(folder / "home", root)
    shop.good("apply")
    assert shop.build(0) == 1
    return shop


def test_models_that_failed_are_noted_and_all_others_of_several_threads_whole(shop: Shop) -> None:
    assert shop.rows("from failed_tests order by all") == [
        ("customer__bad", "build: error"), ("customer__below", "build: skipped"),
    ]  # fmt: skip
    built = shop.rows("select model, count(*), count(made_from), count(changed_from) from feature_builds group by 1")
    assert sorted(built) == sorted([(name, 1, 1, 0) for name in (*GOOD, "int_orders")])
    [(made_from,)] = shop.rows("select made_from from feature_builds where model = 'customer__spend'")
    assert [pair.split()[0] for pair in str(made_from).split(",")] == [
        "model.example.customer__spend", "model.example.int_orders",
        "model.example.stg_orders", "seed.example.rates",
    ]  # fmt: skip
    published = shop.features("publish", "--json")
    assert published.returncode == 3, published.stderr
    said = json.loads(published.stdout)
    assert ([one["view"] for one in said["published"]], [*said["failed"]]) == (sorted(GOOD), sorted(FAILED))
    assert "build: error" in str(said["failed"]["customer__bad"]["got"])


def test_a_model_that_is_mended_is_published_and_a_literal_may_be_the_instant_of_the_run(shop: Shop) -> None:
    shop.write(f"{MODELS}/customer__bad.sql", COUNTED)
    shop.good("apply")
    assert shop.build(1) == 0
    assert shop.rows("from failed_tests") == []
    assert "published customer__below version=0 rows=2" in shop.good("publish")


def test_rows_of_a_seed_that_were_loaded_and_not_applied_are_refused(shop: Shop) -> None:
    shop.write("seeds/rates.csv", RATES.replace("NL,1", "NL,5"))
    assert shop.build(2) == 0
    refused = shop.features("publish", "customer__spend", "customer__n0")
    assert refused.returncode == 3, refused.stderr
    assert "got: seed.example.rates, with other rows than seeds/rates.csv had" in refused.stderr
    assert "published customer__n0" in refused.stdout
    shop.write("seeds/rates.csv", RATES.replace("\n", "\r\n"))
    assert shop.build(2) == 0
    shop.good("publish")
    assert shop.rows("select sum(amount) from customer__spend") == [(10 + 40 + 30,)]


def test_what_is_appended_to_and_is_no_view_is_made_anew_by_another_definition(shop: Shop) -> None:
    shop.write("models/intermediate/int_orders.sql", APPENDED.replace("eur,", "-eur as eur,"))
    shop.good("apply")
    assert shop.build(2) == 0
    assert shop.rows("select count(*), max(eur) from int_orders") == [(3, -10)]
    assert shop.rows("select sum(amount) from customer__spend") == [(-80,)]
    shop.good("publish")
    assert shop.rows("select changed_from is null from feature_builds where model = 'customer__n0' order by rowid") == [
        (True,), (False,), (False,), (False,), (False,),
    ]  # fmt: skip


def test_a_registry_that_was_lost_is_told_by_what_was_published(shop: Shop) -> None:
    tokens = (shop.home / "definitions.json").read_bytes()
    (shop.home / "registry.json").unlink()
    shop.write(f"{MODELS}/customer__n5.sql", COUNTED.replace("eur::bigint", "(eur + 1)::bigint"))
    planned = shop.features("plan")
    assert "batch views are compared with what was published of them" in planned.stderr
    assert [line for line in planned.stdout.splitlines() if line.startswith(("+", "-", "~"))] == [
        "+ entity customer", "~ feature_view customer__n5",
    ]  # fmt: skip
    assert "eur + 1" in planned.stdout
    shop.write(f"{MODELS}/customer__n5.sql", COUNTED)
    shop.good("apply")
    assert (shop.home / "definitions.json").read_bytes() == tokens
    assert "rows_written=0" in shop.good("publish", "customer__spend")


def test_rows_that_failed_a_test_reach_no_view_that_is_built_by_itself(shop: Shop) -> None:
    """Also where the model that they are of is mended, and the view not built since."""
    held = "select count(*) from customer__n0 where amount < 0"
    in_range = "feature_warehouse.in_range: {arguments: {min: 0}}"
    test = f"models:\n  - {{name: stg_orders, columns: [{{name: eur, data_tests: [{{{in_range}}}]}}]}}\n"
    (shop.root / "models/staging/shop/orders.yml").write_text(test)
    shop.write("models/staging/shop/stg_orders.sql", STAGING.replace("'NL', 30", "'NL', -30"))
    shop.good("apply")
    assert shop.build(2) == 1
    assert "build: skipped" in shop.features("publish", "customer__n0").stderr
    assert shop.dbt("build", "--select", "customer__n0", as_of=DAYS[2]).returncode == 0
    assert shop.rows(held) == [(1,)]
    refused = shop.features("publish", "customer__n0")
    assert refused.returncode == 3
    assert "got: build: over rows that failed feature_warehouse_in_range" in refused.stderr
    assert "`dbt build --select +customer__n0 --full-refresh`" in refused.stderr

    shop.write("models/staging/shop/stg_orders.sql", STAGING)
    shop.good("apply", "--same-meaning", "customer__n0", "--reason", "the row was mended")
    for mended in ("stg_orders", "+customer__n0"):  # to which the latter appends
        assert shop.dbt("build", "--select", mended, as_of=DAYS[2]).returncode == 0
        refused = shop.features("publish", "customer__n0")
        assert refused.returncode == 3, refused.stdout
        assert "build: over rows that failed" in refused.stderr

    assert shop.dbt("build", "--select", "+customer__n0", "--full-refresh", as_of=DAYS[2]).returncode == 0
    assert shop.rows(held) == [(0,)]
    shop.good("publish", "customer__n0")


def test_of_a_table_what_it_was_built_over_is_past_with_the_next_build(shop: Shop) -> None:
    shop.write(f"{MODELS}/customer__n1.sql", "{{ config(materialized='table') }}" + COUNTED)
    shop.good("apply")
    shop.write("models/staging/shop/stg_orders.sql", STAGING.replace("'NL', 30", "'NL', -30"))
    assert shop.build(2) == 1
    assert shop.dbt("run", "--select", "customer__n1", as_of=DAYS[2]).returncode == 0
    assert "build: over rows" in shop.features("publish", "customer__n1").stderr
    shop.write("models/staging/shop/stg_orders.sql", STAGING)
    assert shop.dbt("build", "--select", "+customer__n1", as_of=DAYS[2]).returncode == 0
    shop.good("publish", "customer__n1")
