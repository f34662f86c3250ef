"""What is pii of a real project, on a running server: read with its scope alone, masked elsewhere, never in errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pyarrow as pa
import pytest
import redis

from feature_server.access.file import change_keys
from feature_server.access.keys import create_key
from feature_server.errors import AccessDenied
from feature_server.store import FeatureStore
from tests.support.keys import Keys, bearing
from tests.support.pii_project import FILES
from tests.support.served import Served, served
from tests.support.tiny_project import write_project

pytestmark = pytest.mark.heavy
EMAIL, HOLDER, REGION = "ada@example.com", "ADA LOVELACE", "172"
SECRETS = (EMAIL, HOLDER, HOLDER.title(), "172.16.9.9", "c160f8cc69a4f0bf2b0362752353d060")  # the last is md5 of EMAIL
NOW = datetime.now(UTC).replace(microsecond=0)
PAYMENTS = f"""
select 1::bigint as transaction_id, 1::bigint as customer_id, '{HOLDER.title()}' as card_holder, '172.16.9.9' as ip,
    9.50::decimal(12, 2) as amount_eur, timestamptz '{NOW - timedelta(minutes=3)}' as occurred_at,
    timestamptz '{NOW - timedelta(minutes=2)}' as ingested_at
"""


class Project:
    """A built, published and synced project, with its Redis."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        write_project(folder, FILES | {"seeds/contacts.csv": f"customer_id,email,plan,since\n1,{EMAIL},gold,{NOW}\n"})
        landing = folder / "landing" / "transactions"
        landing.mkdir(parents=True)
        duckdb.sql(PAYMENTS).write_parquet(str(landing / "batch.parquet"))

    def features(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("FEATURES_", "DBT_"))}
        return subprocess.run(
            [sys.executable, "-m", "feature_server", *arguments], cwd=self.folder, text=True, capture_output=True,
            env=environ | {"FEATURES_REDIS_URL": self.url, "PYTHONPATH": str(Path(__file__).parents[2])}, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, valkey_server: str) -> Project:
    with redis.Redis.from_url(valkey_server) as connection:
        connection.flushall()
    project = Project(tmp_path_factory.mktemp("pii"), valkey_server)
    run = project.features("run")
    assert run.returncode == 0, run.stdout + run.stderr
    assert not any(secret in run.stdout + run.stderr for secret in SECRETS)
    return project


@pytest.fixture(scope="module")
def keys(project: Project) -> Keys:
    return Keys(project.url)


@pytest.fixture(scope="module")
def server(project: Project) -> Iterator[Served]:
    with served(project.url, clock=None, FEATURES_PROJECT_DIR=str(project.folder)) as running:
        yield running
        log = running.stop()
        assert "Traceback" not in log
        assert not any(secret in log for secret in SECRETS)


def ask(server: Served, key: str, asked: dict[str, Any]) -> httpx.Response:
    body = {"entities": {"customer_id": [1]}} | asked
    return httpx.post(f"{server.address}/get-online-features", json=body, headers=bearing(key), trust_env=False)


def see(server: Served, key: str, path: str, accept: str = "application/json") -> httpx.Response:
    headers = bearing(key) | {"accept": accept}
    return httpx.get(server.address + path, headers=headers, trust_env=False, timeout=60)


def test_a_service_with_pii_is_read_with_both_scopes_alone(server: Served, keys: Keys) -> None:
    reading = keys.make("read:*", "explain:*", "train:*", "push:*", "metrics")
    denied = ask(server, reading, {"feature_service": "fraud_v1"})
    told = denied.json()
    assert (denied.status_code, told["error"], told["where"]) == (403, "AccessDenied", "customer__contact:email")
    assert told["expected"] == "the scope pii:view/customer__contact, too"
    assert ask(server, keys.make("pii:*"), {"feature_service": "fraud_v1"}).status_code == 403
    for pii in ("pii:service/fraud_v1", "pii:view/customer__contact", "pii:group/growth", "pii:*"):
        given = ask(server, keys.make("read:*", pii), {"feature_service": "fraud_v1"})
        assert [each["values"][0] for each in given.json()["results"][1:]][-2:] == ["gold", EMAIL], pii
    assert ask(server, keys.make("admin"), {"features": ["customer__payments:last_holder"]}).is_success
    other = ask(server, keys.make("read:*", "pii:group/risk"), {"features": ["customer__contact:email_hash"]})
    assert other.status_code == 403


def test_what_is_no_pii_is_read_without_the_scope(server: Served, keys: Keys) -> None:
    given = ask(server, keys.make("read:*"), {"feature_service": "plain_v1"})
    assert given.status_code == 200
    assert [each["values"][0] for each in given.json()["results"][1:]][-2:] == ["gold", True]
    part = ask(server, keys.make("read:*"), {"features": ["customer__contact:plan", "customer__contact:email_domain"]})
    assert [each["values"][0] for each in part.json()["results"][1:]] == ["gold", "example.com"]


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_an_explanation_is_masked_without_the_scope(server: Served, keys: Keys, accept: str) -> None:
    plain, full = keys.make("explain:*"), keys.make("explain:*", "pii:view/customer__payments")
    for feature in ("last_holder", "payments_1h", "holders_1h", "region"):
        path = f"/explain?feature=customer__payments:{feature}&customer_id=1"
        answer = see(server, plain, path, accept)
        assert answer.status_code == 200
        assert "(pii)" in answer.text or feature in ("payments_1h", "region")
        assert not any(secret in answer.text for secret in SECRETS), feature
    path = "/explain?feature=customer__payments:last_holder&customer_id=1"
    assert HOLDER in see(server, full, path, accept).text
    partly = keys.make("explain:*", "pii:service/fraud_v1")  # which has none of that view
    assert HOLDER not in see(server, partly, path, accept).text


def test_training_sets_need_the_scope_too(server: Served, keys: Keys) -> None:
    spine = pa.table({"customer_id": [1], "event_timestamp": [NOW]})
    key = keys.make("train:*")
    with pytest.raises(AccessDenied, match="customer__contact:email"):
        FeatureStore(server.address, key=key).get_historical_features(spine, "fraud_v1")
    plain = FeatureStore(server.address, key=key).get_historical_features(spine, "plain_v1")
    assert plain.to_pandas()["plan"].tolist() == ["gold"]
    both = keys.make("train:*", "pii:service/fraud_v1")
    found = FeatureStore(server.address, key=both).get_historical_features(spine, "fraud_v1")
    assert found.to_pandas()["email"].tolist() == [EMAIL]


def test_no_page_and_no_metric_shows_a_value(server: Served, keys: Keys) -> None:
    key = keys.make("read:*", "explain:*", "metrics")
    for path in ("/", "/feature-views", "/feature-views/customer__payments", "/feature-services/fraud_v1", "/metrics"):
        for accept in ("application/json", "text/html"):
            answer = see(server, key, path, accept)
            assert answer.status_code == 200, path
            assert not any(secret in answer.text for secret in SECRETS), path
    features = {one["name"]: one for one in see(server, key, "/feature-views/customer__contact").json()["features"]}
    assert [name for name, one in features.items() if one.get("pii")] == ["email", "email_hash"]
    assert "string, pii" in see(server, key, "/feature-views/customer__contact", "text/html").text


def test_a_refused_event_is_told_without_its_pii(server: Served, keys: Keys, project: Project) -> None:
    event = {
        "transaction_id": 2, "customer_id": 1, "card_holder": HOLDER, "ip": "172.16.9.9", "amount_eur": "1e99",
        "occurred_at": NOW.isoformat(), "ingested_at": NOW.isoformat(),
    }  # fmt: skip
    for wrong in ({}, {"card_holder": [HOLDER]}, {"card_holder": 172, "amount_eur": "1.00"}, {"ip": {"a": HOLDER}}):
        body = {"push_source_name": "payments.transactions", "df": {k: [v] for k, v in (event | wrong).items()}}
        key = keys.make("push:payments.transactions")
        answer = httpx.post(f"{server.address}/push", json=body, headers=bearing(key), trust_env=False)
        assert not any(secret in answer.text for secret in SECRETS), answer.text
        assert "rejected" in answer.text or answer.status_code == 400


def test_a_plan_says_what_becomes_pii_and_which_keys_lose_it(project: Project) -> None:
    models = project.folder / "models" / "models.yml"
    made = [create_key(owner="Fraud", scopes=("read:*", *more), now_us=1)[0] for more in ((), ("pii:*",))]
    change_keys(project.folder / ".features" / "keys.json", lambda ring: ring.added(made[0]).added(made[1]))
    with_reason = "description: What the customer pays for."
    models.write_text(FILES["models/models.yml"].replace(with_reason, f"{with_reason}, meta: {{pii: true}}"))
    plan = project.features("plan").stdout.splitlines()
    assert plan[1:] == [
        "    plan becomes pii: it goes to rows of its own online, and only keys with a scope of pii may read it",
        f"key {made[0].id} of Fraud loses the right to read customer__contact:plan",
    ]
    models.write_text(FILES["models/models.yml"])


def test_verify_says_that_pii_differs_and_not_how(project: Project) -> None:
    path = project.folder / "seeds" / "contacts.csv"
    path.write_text(path.read_text().replace("ada@", "eve@").replace("gold", "free"))
    built = subprocess.run(
        [Path(sys.executable).with_name("dbt"), "build", "--profiles-dir", "profiles"], cwd=project.folder, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout
    assert project.features("publish", "customer__contact").returncode == 0
    found = project.features("verify", "customer__contact").stdout
    assert "email: online (pii), offline (pii): " in found
    assert "plan: online 'gold', offline 'free': " in found
    assert "@example.com" not in found
