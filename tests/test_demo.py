"""`make demo`: the whole product once, on the example data, as a stranger would see it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.processes import processes_that

ROOT = Path(__file__).parents[1]


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that speak of the folder, on their command line or as their home."""
    found = []

    def speaks(process: psutil.Process) -> bool:
        command, home = process.cmdline(), process.environ().get("FEATURES_HOME", "")
        if spoken := any(str(folder) in fact for fact in (*command, home)):
            found.append(" ".join(command))
        return spoken

    processes_that(speaks)
    return found


@pytest.mark.heavy
def test_the_demo_runs_to_its_end_and_leaves_nothing_running(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FEATURES_", "DBT_", "AIRFLOW"))}
    places = {"FEATURES_HOME": str(tmp_path / "home"), "FEATURES_TARGET_PATH": str(tmp_path / "target")}
    run = subprocess.run(
        [sys.executable, "-m", "scripts.demo"],
        cwd=ROOT, env=kept | places, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    page = (ROOT / "docs" / "example.md").read_text()
    trained = re.findall(r"[\d,]+ rows x \d+ features", run.stdout)
    assert len(trained) == 2
    assert trained == re.findall(r"[\d,]+ rows x \d+ features", page)
    for expected in (
        "refresh_hourly: success",
        "refresh_daily: success",
        "marketing_v1 reads the same numbers",
        "when the answer comes",
        "transactions_1h in a training set",
        "401 NotSignedIn",
        "403 AccessDenied: customer__transactions:",
        "verified airport__departures",
        "PRESENT",
        "nothing is left running",
        "What to type next",
    ):
        assert expected in run.stdout
    docs = (tmp_path / "home" / "docs" / "index.html").read_text()
    assert len(docs) > 1_000_000
    assert "live from payments.transactions" in docs
    assert processes_of(tmp_path) == []
