"""Every command in projects that lack what most have: sources, services, views, models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from feature_server.cli.main import load_commands
from tests.support.served import served
from tests.support.tiny_project import DBT_PROJECT, PROFILES, write_project

pytestmark = pytest.mark.heavy

NOW = "2024-05-01T12:00:00+00:00"
BASE = {
    "dbt_project.yml": DBT_PROJECT + "snapshot-paths: [snapshots]\nseed-paths: [seeds]\n",
    "profiles/profiles.yml": PROFILES.replace("tiny.duckdb", ".features/warehouse.duckdb"),
}
VIEW = """
  - name: customer__{name}
    description: A view.
    config: {{group: risk, meta: {{feature_view: {{entities: [customer], refresh: daily}}{entity}}}}}
    columns:
      - {{name: customer_id, data_type: bigint, description: The customer.}}
      - {{name: event_timestamp, data_type: timestamp, description: When.}}
      - {{name: {name}, data_type: bigint, description: A number.}}
"""
ENTITY = ", entity: {name: customer, join_keys: [customer_id]}"  # of the view's own model
GROUPS = "groups:\n  - {name: risk, owner: {name: Risk}}\n"
ROW = "select 1::bigint as customer_id, timestamp '2024-05-01 11:00:00' as event_timestamp, 7::bigint as "
UPSTREAM = "select customer_id::bigint as customer_id, event_timestamp, value::bigint as {} from {{{{ ref('{}') }}}}"
PROJECTS = {
    "nothing at all": BASE,
    "one view, which is its own entity": BASE
    | {
        "models/views.yml": GROUPS + "models:\n" + VIEW.format(name="alone", entity=ENTITY),
        "models/customer__alone.sql": ROW + "alone",
    },
    "views on a seed, a snapshot and an ephemeral model, no source but one without tables": BASE
    | {
        "models/views.yml": GROUPS
        + "sources:\n  - name: empty\n"
        + "models:\n"
        + VIEW.format(name="seeded", entity=ENTITY)
        + VIEW.format(name="kept", entity="")
        + VIEW.format(name="passing", entity=""),
        "seeds/numbers.csv": "customer_id,event_timestamp,value\n1,2024-05-01 11:00:00,7\n",
        "models/between.sql": "{{ config(materialized='ephemeral') }} " + ROW + "value",
        "snapshots/history.sql": "{% snapshot history %}{{ config(unique_key='customer_id', strategy='check',"
        " check_cols=['value']) }} select * from {{ ref('numbers') }}{% endsnapshot %}",
        "models/customer__seeded.sql": UPSTREAM.format("seeded", "numbers"),
        "models/customer__kept.sql": UPSTREAM.format("kept", "history"),
        "models/customer__passing.sql": UPSTREAM.format("passing", "between"),
    },
}


@pytest.mark.parametrize("name", PROJECTS)
def test_every_command_says_what_there_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_project(tmp_path, PROJECTS[name])
    (folder / ".features").mkdir()
    views = [path.stem for path in sorted(folder.glob("models/customer__*.sql"))]
    dbt = [str(Path(sys.executable).with_name("dbt")), "--quiet", "build", "--profiles-dir", "profiles"]
    built = subprocess.run(dbt, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    for variable, value in {"FEATURES_PROJECT_DIR": str(folder), "FEATURES_CLOCK": NOW}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(folder)
    said = {}
    for command in (
        "check --no-parse",
        "apply --no-parse",
        "plan --no-parse",
        "publish",
        "sync",
        "verify",
        "status",
        "docs",
    ):
        run = CliRunner().invoke(load_commands(), command.split())
        assert (run.exit_code, run.exception) == (0, None), f"{command}: {run.output}"
        said[command] = run.stdout
    assert f", {len(views)} feature view" in said["check --no-parse"]
    assert said["plan --no-parse"] == "no changes\n"
    assert [line.split()[1] for line in said["verify"].splitlines()] == views
    assert f"{len(views)} feature view" in said["status"].splitlines()[-1]
    assert "data:image/svg+xml" in (folder / ".features" / "docs" / "index.html").read_text("utf-8")
    with served(None, clock=NOW, FEATURES_PROJECT_DIR=str(folder)) as server:
        assert httpx.get(f"{server.address}/ready", timeout=30).json()["ready"] is True
        page = httpx.get(server.address, headers={"accept": "text/html"}, timeout=30)
        assert page.status_code == 200
        assert [view for view in views if view not in page.text] == []
        for path in ("/metrics", "/openapi.json", "/entities", "/feature-views", "/feature-services"):
            assert httpx.get(server.address + path, timeout=30).status_code == 200
