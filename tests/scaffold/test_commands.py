"""A project that never heard of feature views, from its table to an online read and a green DAG, as it is typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scaffold.shop import write_shop

pytestmark = pytest.mark.heavy
BIN = Path(sys.executable).parent
TYPED = (
    "features init",
    "features new view customer__orders --from 'source(raw, orders)' --entity customer --key customer "
    "--time ordered_at",
    "features run",
    "features get customer__orders:amount customer=3",
)
SCHEDULED = ("airflow db migrate", "airflow dags test refresh_daily")


def test_from_a_table_to_an_online_read_and_a_green_dag_without_a_failing_command(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "the shop's project")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("FEATURES_", "DBT_", "AIRFLOW"))}
    environment = own | {
        "PATH": f"{BIN}{os.pathsep}{own['PATH']}",
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(shop / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    said = ""
    for command in (*TYPED, *SCHEDULED):
        done = subprocess.run(
            command, shell=True, cwd=shop, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said = said if command in SCHEDULED else done.stdout
    assert said.split()[:2] == ["amount", "19700"]
    assert "state=success" in done.stdout + done.stderr
