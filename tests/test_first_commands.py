"""What somebody types first, from the wheel on, in a fresh environment outside the repository: none of it fails.

The shell has the environment's programs and bash: no git, make or compiler, no variable but HOME and PATH.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from tests.scaffold.shop import write_shop
from tests.support.first_commands import A_NEW_PROJECT, A_TABLE, LIVE_EVENTS, READ_AGAIN, Step
from tests.support.pages import blocks
from tests.support.wheel import ROOT, build_wheel, clone_to, done, environment, install_wheel

IMPORT_ALL = """
import importlib, pkgutil, feature_server
names = [module.name for module in pkgutil.walk_packages(feature_server.__path__, "feature_server.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names), feature_server.__file__)
"""


class Shell:
    """A person's, with a home folder of her own."""

    def __init__(self, bin_: Path, folder: Path) -> None:
        self.home, self.cwd, tools = folder / "home", folder, folder / "tools"
        self.home.mkdir()
        tools.mkdir()
        for name in ("sh", "bash"):
            (tools / name).symlink_to(str(shutil.which(name)))
        self.environment = {"HOME": str(self.home), "PATH": f"{bin_}:{tools}"}

    def type(self, command: str) -> str:
        if command.startswith("cd "):
            self.cwd = self.cwd / command.removeprefix("cd ")
            return ""
        found = subprocess.run(
            ["sh", "-c", command], cwd=self.cwd, env=self.environment, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, f"{command}\n{found.stdout}\n{found.stderr}"
        return found.stdout + found.stderr

    def follow(self, steps: tuple[Step, ...]) -> None:
        """Each after the other; says what they took of processors."""
        for number, step in enumerate(steps, 1):
            assert number <= step.at_most, step.command
            if not step.command.startswith("pip install "):  # which `fresh` did, by uv, of the wheel just built
                before = _processor_seconds()
                said = self.type(step.command)
                print(f"{number} {step.command}: {_processor_seconds() - before:.1f} s of processors")
                assert re.search(step.said, said), f"{step.command}\n{said}"

    def tasks(self) -> dict[str, str]:
        """The state of each task that Airflow ran."""
        with sqlite3.connect(self.home / "airflow" / "airflow.db") as connection:
            return dict(connection.execute("select task_id, state from task_instance").fetchall())


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def files(bin_: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (bin_.parent / "lib").rglob("*")}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The `bin` of an environment with the wheel and all that it wants."""
    folder = tmp_path_factory.mktemp("fresh")
    clone, out = folder / "clone", folder / "wheels"
    clone.mkdir()
    wheel = build_wheel(clone_to(clone), out)
    bin_ = environment(folder / "environment")
    install_wheel(bin_, wheel, "[airflow]", "--compile-bytecode", folder=folder)
    yield bin_
    shutil.rmtree(bin_.parent)  # a gigabyte


def write_recent_shop(folder: Path) -> Path:
    """The shop, of which the last order is an hour old, and the next one in a file; 33 of customer 3 in a week."""
    write_shop(folder)
    (folder / "transform" / "customers.sql").write_text("select distinct customer_id from {{ ref('stg_orders') }}\n")
    now = datetime.now(UTC)
    with duckdb.connect(str(folder / "data" / "jaffle.duckdb")) as connection:
        later = "?::timestamptz - (select max(ordered_at) from raw.orders)"
        connection.execute(f"update raw.orders set ordered_at = ordered_at + ({later})", [now - timedelta(hours=1)])
    order = {"id": 1000, "customer": 3, "amount": 7, "ordered_at": now.isoformat()}
    (folder / "events.jsonl").write_text(json.dumps(order) + "\n")
    return folder


@pytest.mark.heavy
def test_a_view_of_a_table_in_a_project_that_never_heard_of_features(fresh: Path, tmp_path: Path) -> None:
    shell = Shell(fresh, tmp_path)
    shell.cwd = write_shop(tmp_path / "shop")
    shell.follow(A_TABLE)


@pytest.mark.heavy
def test_live_events_and_a_dag_in_a_project_that_never_heard_of_features(fresh: Path, tmp_path: Path) -> None:
    shell, before = Shell(fresh, tmp_path), files(fresh)
    shell.cwd = write_recent_shop(tmp_path / "the shop's project")
    shell.follow(LIVE_EVENTS)
    tasks = shell.tasks()
    assert {"compare", "stream.raw.orders", "dbt.customer__order_activity", "publish", "sync", "verify"} < set(tasks)
    assert set(tasks.values()) == {"success"}
    assert len(list(shell.cwd.glob("landing/orders/live-*.parquet"))) == 1
    assert re.search("orders_7d +34 ", shell.type(READ_AGAIN)), "landed, an event counts once"
    assert files(fresh) == before, "nothing is written where the libraries are"


@pytest.mark.heavy
def test_in_a_new_project(fresh: Path, tmp_path: Path) -> None:
    shell = Shell(fresh, tmp_path)
    shell.follow(A_NEW_PROJECT)
    assert set(shell.tasks().values()) == {"success"}


@pytest.mark.heavy
def test_every_module_is_imported_from_the_wheel_alone(fresh: Path, tmp_path: Path) -> None:
    home = {"AIRFLOW_HOME": str(tmp_path / "airflow")}
    count, where = done(fresh / "python", "-c", IMPORT_ALL, cwd=tmp_path, **home).split()
    assert int(count) > 200
    assert Path(where).is_relative_to(fresh.parent)


@pytest.mark.parametrize(
    ("page", "followed"), [("README.md", [A_TABLE]), ("docs/init.md", [LIVE_EVENTS, A_NEW_PROJECT])]
)
def test_the_pages_have_these_commands(page: str, followed: list[tuple[Step, ...]]) -> None:
    shown = [block.text.splitlines() for block in blocks((ROOT / page).read_text()) if block.language == "bash"]
    listed = [[step.command for step in steps] for steps in followed]
    assert [each for each in shown if each[0].startswith("pip ")] == listed
    assert page == "README.md" or shown == listed
