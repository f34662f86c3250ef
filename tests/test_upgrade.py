"""A version from before the format number and this one side by side, until a full sync; and going back."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from feature_server.cli.main import app, load_commands
from feature_server.online.store import OnlineStore
from tests.support.live_project import NOW, LiveProject, settings_of
from tests.support.served import Served, served
from tests.support.stored_formats import CUSTOMERS, PAYMENTS, SHOPS, fill, names_of

ROOT = Path(__file__).parents[1]
BEFORE = "2964d00"  # the last version without a format number


@pytest.fixture(scope="module")
def package_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it was at BEFORE."""
    found = subprocess.run(["git", "archive", BEFORE, "feature_server"], cwd=ROOT, capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"the history is too shallow: commit {BEFORE} is not in it")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def project(tmp_path: Path, valkey: str) -> LiveProject:
    """As a version from before left it: everything in format 1."""
    project = fill(tmp_path, valkey)
    project.sync(full=True, format=1)
    return project


@pytest.fixture
def old(project: LiveProject, package_before: Path) -> Iterator[Served]:
    with served(project.url, clock=NOW.isoformat(), package=package_before) as server:
        yield server


@pytest.fixture
def new(project: LiveProject) -> Iterator[Served]:
    with served(project.url, clock=NOW.isoformat()) as server:
        yield server


def ask(server: Served, customers: list[int]) -> httpx.Response:
    body = {"features": names_of(PAYMENTS, SHOPS), "full_feature_names": True, "entities": {"customer": customers}}
    return httpx.post(f"{server.address}/get-online-features", json=body, trust_env=False, timeout=60)


def push(server: Served, number: int) -> None:
    event: dict[str, Any] = {
        "payment_id": number, "customer": 1, "merchant": "shop 9", "amount": "2.00",
        "paid_at": NOW.isoformat(), "ingested_at": NOW.isoformat(),
    }  # fmt: skip
    body = {"push_source_name": "shop.payments", "df": {name: [value] for name, value in event.items()}}
    answer = httpx.post(f"{server.address}/push", json=body, trust_env=False, timeout=60)
    assert answer.status_code == 200, answer.text


def payments(server: Served) -> int:
    answer = ask(server, [1])
    names = answer.json()["metadata"]["feature_names"]
    return int(answer.json()["results"][names.index("customer__shops__payments")]["values"][0])


def test_an_old_and_a_new_server_side_by_side_until_a_full_sync_and_back(
    project: LiveProject, old: Served, new: Served
) -> None:
    answer = ask(new, list(CUSTOMERS))
    assert (answer.status_code, answer.json()) == (200, ask(old, list(CUSTOMERS)).json())
    before = payments(new)
    for number, server in ((700, old), (701, new), (702, old)):
        push(server, number)
    assert payments(old) == payments(new) == before + 3

    notice = project.sync().notice  # which leaves the format as it is
    assert notice is not None
    assert "features sync --full customer__payments customer__shops" in notice
    assert payments(old) == payments(new) == before + 3

    assert project.sync(full=True).notice is None
    refused = ask(old, [1])
    assert (refused.status_code, refused.json()["error"]) == (500, "OnlineStoreError")
    assert "missing required field `registry`" in refused.json()["got"]
    push(new, 703)
    assert payments(new) == before + 4

    project.sync(full=True, format=1)
    push(old, 704)
    assert payments(old) == payments(new) == before + 5
    assert ask(old, list(CUSTOMERS)).json() == ask(new, list(CUSTOMERS)).json()
    assert new.stop().count("features sync --full customer__payments customer__shops") == 2  # once each time


def test_commands_say_what_to_do_and_write_the_format_that_is_asked_for(
    project: LiveProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_of(project, monkeypatch)
    load_commands()
    run = CliRunner()
    page = (ROOT / "docs" / "upgrade.md").read_text()
    commands = [line for text in re.findall(r"^```bash\n(.*?)^```$", page, re.M | re.S) for line in text.splitlines()]
    assert len(commands) == 3
    for command in commands:  # they end where they began
        name, *arguments = shlex.split(command)
        done = run.invoke(app, arguments)
        assert (name, done.exit_code) == ("features", 0), (command, done.output)
    told = "note: format 1 holds customer__payments, customer__shops"
    assert told in run.invoke(app, ["sync"]).stderr
    assert told in run.invoke(app, ["status"]).stdout
    assert run.invoke(app, ["sync", "--format", "1"]).exit_code == 2
    assert run.invoke(app, ["sync", "--full", "--format", "4"]).exit_code == 2
    done = run.invoke(app, ["sync", "--full"])
    assert (done.exit_code, "note" in done.stderr) == (0, False)
    assert "note" not in run.invoke(app, ["status"]).stdout
    with OnlineStore(project.url) as online:
        registry = online.registry()
    assert registry is not None
    assert {name: view.format for name, view in registry.views.items()} == {
        "customer__limits": 1, "customer__payments": 2, "customer__profile": 1, "customer__shops": 2,
    }  # fmt: skip
    assert told in run.invoke(app, ["sync", "--full", "--format", "1"]).stderr
