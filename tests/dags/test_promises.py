"""The DAG `freshness`, run by Airflow itself with the notifier of its README: a quiet night alerts nobody, a source
that has stopped alerts once, and so does its coming back."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from feature_server.dbt.compiled import dbt_manifest
from feature_server.definitions.registry import write_registry
from feature_server.manifest.load import load_registry
from feature_server.manifest.schedule import note_schedule
from feature_server.publish.noted import note_published
from feature_server.settings import load_settings
from feature_server.times import to_us
from tests.support.dags_project import FILES
from tests.support.tiny_project import write_project

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
DAILY = "account__daily"
MODELS = FILES["models/models.yml"]
PROMISED = MODELS.replace("refresh: daily}", "refresh: daily, online: false, freshness: {error: 6h}}").replace(
    "      - name: receipts\n        config:\n",
    "      - name: receipts\n        config:\n          loaded_at_field: received_at\n"
    "          freshness: {error_after: {count: 1, period: day}}\n",
)
DAILY_SQL = FILES["models/account__daily.sql"] + "\n-- depends_on: {{ source('till', 'receipts') }}"


def dags_that_notify(folder: Path, alerts: Path) -> Path:
    """The DAGs with what their README says is to be written to have alerts sent, to the file `alerts`."""
    shutil.copytree(ROOT / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.M | re.S)
    assert "/var/log/features/alerts.txt" in snippet
    (folder / "refresh.py").write_text(snippet.replace("/var/log/features/alerts.txt", str(alerts)))
    return folder


def test_a_quiet_night_alerts_nobody_and_a_stopped_source_alerts_once(tmp_path: Path) -> None:
    project = write_project(
        tmp_path / "project", FILES | {"models/models.yml": PROMISED, "models/account__daily.sql": DAILY_SQL}
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith(("FEATURES_", "AIRFLOW"))}
    environment = own | {
        "FEATURES_PROJECT_DIR": str(project),
        "FEATURES_HOME": str(tmp_path / "home"),
        "FEATURES_WAREHOUSE": str(tmp_path / "home" / "warehouse.duckdb"),
        "FEATURES_CLOCK": "2024-01-31T23:00:00Z",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_that_notify(tmp_path / "dags", tmp_path / "alerts.txt")),
        "TILL_PAYMENTS": "none.csv",
        "TILL_LANDING": str(tmp_path / "landing"),
    }
    receipts = tmp_path / "landing" / "receipts"
    receipts.mkdir(parents=True)
    (tmp_path / "home").mkdir()
    sent = tmp_path / "alerts.txt"

    def load(received_at: str) -> None:
        row = (
            f"1::bigint as receipt_id, 1::bigint as account_id, {received_at} as printed_at, printed_at as received_at"
        )
        duckdb.sql(f"copy (select {row}) to '{receipts}/a.parquet'")

    def run() -> tuple[str, list[str], str]:
        command = [sys.executable, "-m", "scripts.refresh", "freshness", "--at", "2024-01-31T23:00Z", "--json"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        states = {task["task"]: task["state"] for task in told["runs"][0]["tasks"]}
        return states[f"freshness.{DAILY}"], told["reasons"], states["sources"]

    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        dbt_manifest(load_settings(project_dir=project))
        settings = load_settings(environment)
        registry = load_registry(project, project / "target")
        note_schedule(settings, registry)
    write_registry(settings.registry_path, registry)
    view = registry.feature_view(DAILY)
    load("now()::timestamptz")
    note_published(view, settings, as_of_us=to_us(settings.now()), stale=None)
    assert run() == ("success", [], "success")
    assert not sent.exists()
    load("timestamptz '2024-01-31 10:00Z'")
    environment["FEATURES_CLOCK"] = "2024-02-01T06:00:00Z"
    state, reasons, sources = run()
    assert (state, sources) == ("failed", "skipped")
    (alert,) = [reason for reason in reasons if reason.startswith(DAILY)]
    assert "no data: source till.receipts was last loaded at 2024-01-31 10:00 UTC" in alert
    assert sent.read_text() == f"{alert}\n"
    assert run() == ("success", [], "skipped")
    assert sent.read_text() == f"{alert}\n"

    load("now()::timestamptz")
    note_published(view, load_settings(environment), as_of_us=to_us(load_settings(environment).now()), stale=None)
    assert run() == ("success", [], "success")
    assert sent.read_text() == f"{alert}\n{DAILY} keeps its freshness promise again\n"
