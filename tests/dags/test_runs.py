"""Refresh DAGs run by Airflow itself: green runs, one with a bad row, one of a project that is not what is applied."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from feature_server import FeatureClient
from feature_server.offline.store import OfflineStore
from feature_server.online.embedded import EmbeddedValkey
from feature_server.settings import load_settings
from tests.support.dags_project import ACTIVITY_SQL, FILES, TOTALS_SQL
from tests.support.tiny_project import write_project

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
RECEIPTS = "account__receipts"
VIEWS = ("account__activity@v1", "account__activity@v2")
GOOD_ROWS = """account_id,occurred_at,amount_cents
1,2024-01-31 20:00:00Z,500
2,2024-01-31 21:30:00Z,700
1,2024-01-31 22:30:00Z,900
"""
NEW_VIEW = """
models:
  - name: account__refunds
    description: A view that nobody has applied. One row per account.
    config:
      group: money
      materialized: table
      contract: {enforced: true}
      meta: {feature_view: {entities: [account], refresh: hourly}}
    columns:
      - {name: account_id, data_type: bigint, description: The account.}
      - {name: event_timestamp, data_type: timestamptz, description: When it last paid.}
      - {name: payments, data_type: bigint, description: How often it has paid.}

exposures:
  - name: refunds_v1
    type: ml
    owner: {name: Risk, email: risk@example.com}
    description: A service that nobody has applied; it would bind a view that is held back to others.
    depends_on: ["ref('account__activity', v=1)", "ref('account__totals')"]
    config:
      meta:
        feature_service:
          consistent: run
          features: [account__activity@v1:amount_cents, account__totals:payments]
"""
BAD_ROW = "2,2024-01-31 22:45:00Z,\n"
RECEIPT = (
    '{"receipt_id": 2, "account_id": 1, "printed_at": "2024-01-31T22:40:00Z", "received_at": "2024-01-31T22:40:00Z"}'
)


class Till:
    """The project of `dags_project` in a folder, with an Airflow and stores of its own."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.payments = folder / "payments.csv"
        self.receipts = folder / "landing" / "receipts"
        self.offline = folder / "home" / "offline"
        self.redis_url = redis_url
        self.project = write_project(folder / "project", FILES)
        own = {name: value for name, value in os.environ.items() if not name.startswith(("FEATURES_", "AIRFLOW"))}
        self.environment = own | {
            "FEATURES_PROJECT_DIR": str(self.project),
            "FEATURES_HOME": str(folder / "home"),
            "FEATURES_WAREHOUSE": str(folder / "home" / "warehouse.duckdb"),
            "FEATURES_REDIS_URL": redis_url,
            "FEATURES_CLOCK": "2024-01-31T23:00:00Z",
            "TILL_PAYMENTS": str(self.payments),
            "TILL_LANDING": str(self.receipts.parent),
        }

    def airflow(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a module of `scripts` from another folder than the project's."""
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def refresh(self, hour: str, *options: str) -> subprocess.CompletedProcess[str]:
        """The hourly refresh of the interval that ends at `hour`."""
        return self.airflow("scripts.refresh", "hourly", "--at", f"2024-01-31T{hour}:00Z", *options)

    def published(self) -> dict[str, tuple[int, int]]:
        """Version and number of rows of each hourly view's offline table."""
        tables = {view: OfflineStore(self.offline).table(view) for view in VIEWS}
        return {view: (table.version, sum(file.rows for file in table.files())) for view, table in tables.items()}

    def offline_rows(self, view: str) -> int:
        return OfflineStore(self.offline).table(view).rows

    def receipts_1h(self) -> int:
        """Receipts of account 1 in the hour before 23:00."""
        with FeatureClient(self.redis_url, settings=load_settings(self.environment)) as client:
            found: int = client.get(features=[f"{RECEIPTS}:receipts_1h"], account_id=1)["receipts_1h"]
        return found

    def bound_service(self) -> list[tuple[int, int]]:
        """What `risk_v1` reads of accounts 1 and 2: of one run, whatever that was."""
        with FeatureClient(self.redis_url) as client:
            rows = client.get_many("risk_v1", account_id=[1, 2])
            return [(row.values["amount_cents"], row.values["payments"]) for row in rows]

    def served(self) -> list[int | None]:
        """The latest payment of accounts 1 and 2, as a model would read it."""
        with FeatureClient(self.redis_url) as client:
            rows = client.get_many(features=["account__activity:amount_cents"], account_id=[1, 2])
            return [row.values["amount_cents"] for row in rows]


def states_of(run: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {line.split()[-1]: line.split()[0] for line in run.stdout.splitlines() if line.startswith("  ")}


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server that no other module writes to: what a refresh left must be there for the next."""
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture(scope="module")
def till(tmp_path_factory: pytest.TempPathFactory, own_valkey: str) -> Till:
    """A project that Airflow has refreshed once, up to ten in the evening."""
    till = Till(tmp_path_factory.mktemp("till"), own_valkey)
    till.payments.write_text(GOOD_ROWS)
    till.receipts.mkdir(parents=True)
    first = "1::bigint as receipt_id, 1::bigint as account_id, timestamptz '2024-01-31 21:50:00+00' as printed_at"
    duckdb.sql(f"copy (select {first}, printed_at as received_at) to '{till.receipts}/a.parquet'")
    checked = till.airflow("feature_server", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    never = till.refresh("22")
    assert never.returncode == 1
    assert states_of(never)["compare"] == "failed"
    assert "nothing was built" in never.stdout
    applied = till.airflow("feature_server", "apply")
    assert applied.returncode == 0, applied.stderr
    run = till.airflow("scripts.airflow_env", "dags", "test", "refresh_hourly", "2024-01-31T22:00:00+00:00")
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    return till


def test_a_refresh_publishes_and_serves_what_was_known_at_the_end_of_its_interval(till: Till) -> None:
    assert till.published() == dict.fromkeys(VIEWS, (0, 2))
    assert till.served() == [500, 700]


def test_a_view_fails_alone_and_the_next_good_run_repairs_it(till: Till) -> None:
    before = (till.published(), till.served())
    till.payments.write_text(GOOD_ROWS + BAD_ROW)
    (till.receipts.parent / "receipts.jsonl").write_text(RECEIPT)
    pushed = till.airflow("feature_server", "push", "till.receipts", str(till.receipts.parent / "receipts.jsonl"))
    assert pushed.stdout == "pushed till.receipts accepted=1 rejected=0\n", pushed.stderr
    assert (till.offline_rows(RECEIPTS), till.receipts_1h()) == (1, 1)
    failed = till.refresh("23")
    assert failed.returncode == 1
    states = states_of(failed)
    assert {name for name, state in states.items() if state == "failed"} == {
        "dbt.account__activity_v1", "dbt.account__activity_v2",
    }  # fmt: skip
    assert {name for name, state in states.items() if state == "upstream_failed"} == {"good"}
    assert "test.till.not_null_account__activity_v2_amount_cents" in failed.stdout
    assert re.search(
        r"ON CALL refresh_hourly\.dbt\.account__activity_v2 of run \S+: the view keeps what was", failed.stdout
    )
    assert (till.published(), till.served()) == before
    assert len(list(till.receipts.glob("live-*"))) == 1
    assert (till.offline_rows(RECEIPTS), till.receipts_1h()) == (2, 1)
    assert states["dbt.account__totals"] == "success"
    assert till.bound_service() == [(500, 1), (700, 1)]

    till.payments.write_text(GOOD_ROWS)
    repaired = till.refresh("23", "--json")
    assert repaired.returncode == 0
    (run,) = json.loads(repaired.stdout)["runs"]
    assert {task["state"] for task in run["tasks"]} == {"success"}
    assert till.published() == dict.fromkeys(VIEWS, (1, 3))
    assert till.served() == [900, 700]
    assert till.bound_service() == [(900, 2), (700, 1)]


def test_a_view_that_the_project_defines_otherwise_is_held_back_until_it_is_applied(till: Till) -> None:
    model, edited = till.project / "models" / "account__activity_v1.sql", ACTIVITY_SQL + " where amount_cents > 500"
    model.write_text(edited)
    (till.project / "models" / "account__refunds.sql").write_text(TOTALS_SQL)
    (till.project / "models" / "refunds.yml").write_text(NEW_VIEW)
    checked = till.airflow("feature_server", "check")
    assert checked.returncode == 0, checked.stdout
    till.payments.write_text(GOOD_ROWS + "2,2024-01-31 22:50:00Z,300\n")
    held = till.refresh("23")
    assert held.returncode == 1
    states = states_of(held)
    assert {name for name, state in states.items() if state == "failed"} == {
        "dbt.account__activity_v1", "dbt.account__refunds",
    }  # fmt: skip
    assert "model.till.account__activity.v1 is held back" in held.stdout
    assert "`features apply` puts it in force" in held.stdout
    (one, two) = VIEWS
    published = till.published()
    assert (published[one], published[two]) == ((1, 3), (2, 4))
    assert till.served() == [900, 300]

    applied = till.airflow("feature_server", "apply")
    assert applied.returncode == 0, applied.stderr
    good = till.refresh("23")
    assert good.returncode == 0, good.stdout
    assert till.published()[one] == (2, 2)
    assert till.offline_rows("account__refunds") == 2


def test_an_incremental_view_of_a_new_definition_is_made_anew_apart_and_the_others_go_on(till: Till) -> None:
    models = till.project / "models"
    yaml = (models / "models.yml").read_text()
    assert yaml.count("{v: 1}") == 1
    incremental = "{v: 1, config: {materialized: incremental, on_schema_change: fail}}"
    (models / "models.yml").write_text(yaml.replace("{v: 1}", incremental))
    later = "{% if is_incremental() %} and occurred_at > (select max(event_timestamp) from {{ this }}) {% endif %}"
    (models / "account__activity_v1.sql").write_text(f"{ACTIVITY_SQL} where amount_cents > 600 {later}")
    if (refunds := models / "refunds.yml").exists():  # with its service, which binds this view to all others
        refunds.write_text(NEW_VIEW.partition("exposures:")[0])
    assert till.airflow("feature_server", "apply").returncode == 0
    (one, two) = VIEWS
    before = till.published()
    till.payments.write_text(GOOD_ROWS + "2,2024-01-31 22:55:00Z,400\n")
    meanwhile = till.refresh("23")
    assert meanwhile.returncode == 0, meanwhile.stdout
    states = states_of(meanwhile)
    assert {name for name, state in states.items() if state == "skipped"} == {"dbt.account__activity_v1", "good"}
    assert till.published()[one] == before[one]
    assert till.published()[two][0] == before[two][0] + 1
    assert till.served() == [900, 400]
    assert till.bound_service() == [(900, 2), (400, 2)]

    rebuilt = till.airflow("scripts.refresh", "rebuild")
    assert rebuilt.returncode == 0, rebuilt.stdout
    assert set(states_of(rebuilt).values()) == {"success"}
    assert till.published()[one] == (before[one][0] + 1, 2)  # of 700 and 900 cents
    assert not list((till.offline.parent).glob(".*.rebuild"))
    again = till.airflow("scripts.refresh", "rebuild")
    assert set(states_of(again).values()) == {"skipped"}, again.stdout
    good = till.refresh("23")
    assert (good.returncode, states_of(good)["good"]) == (0, "success"), good.stdout


def test_a_view_that_an_old_schedule_lacks_keeps_what_it_had_and_the_run_is_red(till: Till) -> None:
    """As where a run begins before the file is written that a newly applied view stands in."""
    path, before = till.offline.parent / "schedule.json", till.published()
    known = json.loads(path.read_text())
    for kind in ("views", "models"):
        known[kind] = [one for one in known[kind] if one["unique_id"] != "model.till.account__receipts"]
    path.write_text(json.dumps(known))
    till.payments.write_text(GOOD_ROWS + "1,2024-01-31 22:58:00Z,800\n")
    version = OfflineStore(till.offline).table(RECEIPTS).version
    old = till.refresh("23")
    assert old.returncode == 1, old.stdout
    states = states_of(old)
    assert {name for name, state in states.items() if state == "failed"} == {"publish"}
    assert f"dbt.{RECEIPTS}" not in states
    assert f"in force, but in no schedule: {RECEIPTS}. Run `features check`" in old.stdout
    assert OfflineStore(till.offline).table(RECEIPTS).version == version
    assert till.published()[VIEWS[1]] == (before[VIEWS[1]][0] + 1, 4)


def test_a_run_applies_the_project_itself_where_it_is_told_to(till: Till) -> None:
    """After the test above: with the schedule that lacks a view, which `apply` writes anew before it is published."""
    (till.project / "models" / "models.yml").write_text(FILES["models/models.yml"])
    (till.project / "models" / "account__activity_v1.sql").write_text(ACTIVITY_SQL)
    till.payments.write_text(GOOD_ROWS + "2,2024-01-31 22:55:00Z,400\n")
    till.environment["FEATURES_AUTO_APPLY"] = "1"
    before = till.published()[VIEWS[0]][0]
    run = till.refresh("23")
    assert run.returncode == 0, run.stdout
    assert states_of(run)["apply"] == "success"
    assert till.published()[VIEWS[0]] == (before + 1, 4)


def test_after_a_check_that_found_a_mistake_runs_go_on_by_what_was_good(till: Till) -> None:
    models = till.project / "models" / "models.yml"
    good = models.read_text()
    models.write_text(good.replace("refresh: hourly}", "refresh: hourly, ttl: soon}", 1))
    till.environment.pop("FEATURES_AUTO_APPLY", None)
    checked = till.airflow("feature_server", "check")
    assert (checked.returncode, "soon" in checked.stdout) == (1, True)
    till.payments.write_text(GOOD_ROWS + "2,2024-01-31 22:59:00Z,600\n")
    before = till.published()[VIEWS[1]][0]
    run = till.refresh("23")
    assert run.returncode == 0, run.stdout
    assert set(states_of(run).values()) == {"success"}
    assert till.published()[VIEWS[1]] == (before + 1, 4)
    models.write_text(good)
