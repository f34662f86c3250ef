"""Two projects in one Airflow, run by itself with nothing set: one as dbt makes it, one laid out in its own way.

The PATH has no program of ours or dbt's, the current folder is none of the projects'.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_server import FeatureClient
from feature_server.offline.store import OfflineStore
from feature_server.online.embedded import EmbeddedValkey
from feature_server.settings import load_settings
from tests.support.tiny_project import features, write_project

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
PLAIN = """
name: bank
version: "1.0"
profile: bank
flags: {send_anonymous_usage_stats: false}
"""
OWN_WAY = """
name: shop
version: "1.0"
profile: anything
model-paths: [transform, more/sql]
target-path: build
log-path: build/logs
models: {shop: {features: {+schema: feats}}}
flags: {send_anonymous_usage_stats: false}
"""
PROFILE = """
{name}:
  target: dev
  outputs: {{dev: {{type: duckdb, path: {path}, schema: analytics, settings: {{TimeZone: UTC}}}}}}
"""
YAML = """
groups: [{name: risk, owner: {name: Risk, email: risk@example.com}}]
models:
  - name: customers
    description: Customers. One row per customer.
    config: {materialized: table, meta: {entity: {name: customer, join_keys: [customer_id]}}}
    columns:
      - {name: customer_id, data_type: bigint, description: The customer., data_tests: [unique, not_null]}
  - name: customer__spend
    description: What a customer has spent. One row per customer.
    config:
      group: risk
      materialized: table
      meta: {feature_view: {entities: [customer], refresh: daily}}
    columns:
      - {name: customer_id, data_type: bigint, description: The customer., data_tests: [unique]}
      - {name: event_timestamp, data_type: timestamptz, description: When.}
      - {name: spent, data_type: bigint, description: In cents.}
"""
CUSTOMERS = "select 1::bigint as customer_id"
SPEND = """
select customer_id, timestamptz '2024-05-01 11:00:00+00' as event_timestamp, {}::bigint as spent
from {{{{ ref('customers') }}}}
"""
SHOP_DAGS = '''"""The DAGs of the shop."""
from feature_server.airflow import refresh_dags

refresh_dags(name="shop", project_dir={folder!r}, environment={{"FEATURES_REDIS_URL": {url!r}}}, retries=0)
'''


class Airflow:
    """An Airflow of its own, of which nothing is set but where its files are, with the files of two projects."""

    def __init__(self, folder: Path, bank_url: str, shop_url: str) -> None:
        self.folder, self.urls = folder, {"bank": bank_url, "shop": shop_url}
        bank = {
            "dbt_project.yml": PLAIN,
            "profiles/profiles.yml": PROFILE.format(name="bank", path="bank.duckdb"),
            "models/views.yml": YAML, "models/customers.sql": CUSTOMERS,
            "models/customer__spend.sql": SPEND.format(700),
        }  # fmt: skip
        shop = {
            "dbt_project.yml": OWN_WAY, "profiles.yml": PROFILE.format(name="anything", path="files/shop.duckdb"),
            "transform/features/views.yml": YAML, "more/sql/customers.sql": CUSTOMERS,
            "transform/features/customer__spend.sql": SPEND.format(900), "files/.gitkeep": "",
        }  # fmt: skip
        for name, files in (("bank", bank), ("shop", shop)):
            project = write_project(folder / name, files)
            applied = features("apply", cwd=project)
            assert applied.returncode == 0, applied.stdout + applied.stderr
        dags = folder / "dags"
        dags.mkdir()
        (dags / "shop.py").write_text(SHOP_DAGS.format(folder=str(folder / "shop"), url=shop_url))
        text = SHOP_DAGS.format(folder=str(folder / "bank"), url=bank_url).replace('name="shop", ', "")
        (dags / "bank.py").write_text(text)
        kept = ("HOME", "LANG", "TMPDIR", "VALKEY_BINARY")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ} | {
            "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }  # fmt: skip
        self.run("db", "migrate")

    def run(self, *arguments: str, good: bool = True) -> str:
        """What a command of Airflow's prints."""
        command = [sys.executable, "-m", "airflow", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode == 0) == good, done.stdout[-6000:] + done.stderr[-2000:]
        return done.stdout + done.stderr

    def spent(self, name: str) -> int | None:
        """What the project serves of its customer."""
        settings = load_settings({}, project_dir=self.folder / name)
        with FeatureClient(self.urls[name], settings=settings) as client:
            found: int | None = client.get(features=["customer__spend:spent"], customer_id=1)["spent"]
        return found

    def rows(self, name: str) -> int:
        return OfflineStore(self.folder / name / ".features" / "offline").table("customer__spend").rows


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    first, second = (tmp_path_factory.mktemp(name) for name in ("bank_valkey", "shop_valkey"))
    with EmbeddedValkey(first) as bank, EmbeddedValkey(second) as shop:
        yield Airflow(tmp_path_factory.mktemp("two"), bank.url, shop.url)


def test_each_project_is_refreshed_as_its_own_files_say(airflow: Airflow) -> None:
    airflow.run("dags", "test", "refresh_daily")
    assert (airflow.spent("bank"), airflow.rows("bank")) == (700, 1)
    assert not (airflow.folder / "shop" / ".features" / "offline").exists()
    airflow.run("dags", "test", "shop_refresh_daily")
    assert (airflow.spent("shop"), airflow.rows("shop")) == (900, 1)
    assert airflow.spent("bank") == 700
    shop = airflow.folder / "shop"
    assert (shop / "build" / "run_results.json").is_file()
    assert (shop / "files" / "shop.duckdb").is_file()
    assert (shop / ".features" / "run" / "shop_refresh_daily" / "dbt.log").is_file()
    assert not (shop / "target").exists()
    assert not (airflow.folder / "bank" / ".features" / "run" / "shop_refresh_daily").exists()


def test_a_home_that_two_projects_share_stays_the_first_ones(tmp_path: Path) -> None:
    """Neither `check`, of definitions not in force yet, nor a DAG file takes what the other project has written."""
    home, dags = tmp_path / "home", tmp_path / "dags"
    for name in ("bank", "shop"):
        files = {
            "dbt_project.yml": PLAIN.replace("bank", name), "profiles.yml": PROFILE.format(name=name, path="b.duckdb"),
            "models/views.yml": YAML, "models/customers.sql": CUSTOMERS, "models/customer__spend.sql": SPEND.format(1),
        }  # fmt: skip
        write_project(tmp_path / name, files)

    environment = {name: text for name, text in os.environ.items() if not name.startswith(("FEATURES_", "DBT_"))}
    environment |= {"PYTHONPATH": f"{ROOT}:{dags}", "AIRFLOW_HOME": str(tmp_path / "airflow")}

    def check(folder: str, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "feature_server", *(arguments or ("check",))]
        env = environment | {"FEATURES_HOME": str(home)}
        done = subprocess.run(command, cwd=tmp_path / folder, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    assert check("bank")[0] == 0
    written = (home / "schedule.json").read_bytes()
    code, said = check("shop")
    assert (code, f"{home}/schedule.json holds the features of bank.dev, not of shop.dev" in said) == (1, True), said
    assert "give each project, and each target of it, a FEATURES_HOME of its own" in said
    assert (home / "schedule.json").read_bytes() == written
    (tmp_path / "bank").rename(tmp_path / "moved")
    assert check("moved")[0] == 0  # the same project elsewhere, or a clone of it

    for name in ("moved", "shop"):
        dags.mkdir(exist_ok=True)
        given = f"project_dir={str(tmp_path / name)!r}, home={str(home)!r}"
        text = f"from feature_server.airflow import refresh_dags\n\nmade = refresh_dags(name={name!r}, {given})\n"
        (dags / f"{name}.py").write_text(text)
    show = "import moved, shop; print(*moved.made, shop.made['shop_refresh_daily'].tasks[0].problem)"
    shown = subprocess.run([sys.executable, "-c", show], env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "moved_refresh_daily" in shown.stdout
    assert "schedule.json holds the features of bank.dev, not of shop.dev" in shown.stdout

    assert check("shop", "apply", "--adopt", "bank.dev")[0] == 0  # where it is the same under another name
    assert b'"project": "shop"' in (home / "schedule.json").read_bytes()
