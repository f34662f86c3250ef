"""Three hundred small feature views through every command: what each holds, and what reads give, by a formula."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from feature_server.cli.main import load_commands
from feature_server.client.features import FeatureClient
from feature_server.settings import load_settings
from tests.support.many_project import NOW, WIDE, many_project, views, write_payments
from tests.support.served import Served, served
from tests.support.tiny_project import write_project

pytestmark = pytest.mark.heavy

VIEWS = views(300)
SIXTY = VIEWS[:60]
OLD = [view.id.replace("@v2", "@v1") for view in VIEWS if view.id.endswith("@v2")]
IDS = sorted([*(view.id for view in VIEWS), *OLD, "customer__wide"])
OPEN_FILES = 256  # what macOS gives a process


@pytest.fixture(scope="module", autouse=True)
def few_open_files() -> Iterator[None]:
    """Nothing here may need more open files, the more views there are."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + OPEN_FILES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project, built by dbt; FEATURES_… name it and stop the clock."""
    folder = write_project(tmp_path_factory.mktemp("many"), many_project(len(VIEWS)))
    write_payments(folder)
    (folder / ".features").mkdir()
    dbt = [str(Path(sys.executable).with_name("dbt")), "--quiet", "build", "--profiles-dir", "profiles"]
    built = subprocess.run(dbt, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURES_PROJECT_DIR", str(folder))
        patch.setenv("FEATURES_CLOCK", NOW.isoformat())
        patch.chdir(folder)
        yield folder


def features(*words: str) -> Any:
    """What a command gives as JSON."""
    run = CliRunner().invoke(load_commands(), [*words, "--json"])
    assert run.exit_code == 0, run.output
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def loaded(project: Path) -> dict[str, Any]:
    """What each command said, from check to status."""
    return {
        "check": features("check", "--no-parse"),
        "apply": features("apply", "--no-parse"),
        "publish": features("publish"),
        "sync": features("sync"),
        "verify": features("verify"),
        "status": features("status"),
        "again": features("sync"),
    }


@pytest.fixture(scope="module")
def server(project: Path, loaded: dict[str, Any]) -> Iterator[Served]:
    with served(None, clock=NOW.isoformat(), FEATURES_PROJECT_DIR=str(project)) as running:
        yield running


def test_every_command_takes_every_view(loaded: dict[str, Any]) -> None:
    assert loaded["check"]["problems"] == []
    assert loaded["check"]["feature_views"] == len(IDS) == 326
    assert loaded["apply"]["feature_views"] == len(IDS)
    assert [done["view"] for done in loaded["publish"]["published"]] == IDS
    assert [done["view"] for done in loaded["sync"]["results"]] == IDS
    assert loaded["sync"]["failures"] == {}
    assert {view["view"]: view["different"] for view in loaded["verify"]["verified"]} == dict.fromkeys(IDS, 0)
    assert {view["view"]: view["problems"] for view in loaded["status"]["views"]} == {name: [] for name in IDS}
    assert [done["rows"] for done in loaded["again"]["results"]] == [0] * len(IDS)


@pytest.mark.parametrize("reader", ["client", "server"])
def test_a_service_reads_sixty_views(loaded: dict[str, Any], server: Served, reader: str) -> None:
    expected = {view.feature: [view.value(1), view.value(4)] for view in SIXTY}
    entities = {"customer_id": [1, 4], "country": ["NL", "NL"], "shop_number": [1, 4]}
    if reader == "client":
        with FeatureClient(settings=load_settings()) as client:
            found = client.get_many("sixty", **entities)
    else:
        with FeatureClient(server.address) as client:
            found = client.get_many("sixty", **entities)
    assert found.values == expected
    assert {status for column in found.statuses.values() for status in column} == {"PRESENT"}


def test_a_service_reads_two_hundred_features_of_one_view(server: Served) -> None:
    with FeatureClient(server.address) as client:
        found = client.get("wide", customer_id=3)
    assert found.values == {f"wide_{i}": 1000 * i + 3 for i in range(WIDE)}


def test_a_pushed_event_is_in_the_windows_of_every_view_over_its_source(server: Served) -> None:
    streams = [view for view in SIXTY if view.kind in ("window", "lifetime")]
    event = {
        "transaction_id": 9000, "customer_id": 2, "merchant": "m", "kind": "purchase", "amount_eur": "5.00",
        "occurred_at": (NOW - timedelta(seconds=30)).isoformat(), "ingested_at": NOW.isoformat(),
    }  # fmt: skip
    with FeatureClient(server.address) as client:
        assert client.push("payments.transactions", [event]).accepted == 1
        found = client.get("sixty", customer_id=2, country="NL", shop_number=2)
    assert len(streams) == 10
    assert {view.feature: found.values[view.feature] for view in streams} == {
        view.feature: view.value(2) + 1 for view in streams
    }


def test_the_servers_pages_and_metrics_know_every_view(server: Served) -> None:
    assert httpx.get(f"{server.address}/ready", timeout=30).json()["ready"] is True
    page = httpx.get(server.address, headers={"accept": "text/html"}, timeout=30).text
    assert [name for name in IDS if f"/feature-views/{name}" not in page.replace("%40", "@")] == []
    metrics = httpx.get(f"{server.address}/metrics", timeout=30).text
    assert metrics.count("\nfeatures_view_rows{") == len(IDS)


def test_the_docs_site_lists_every_view_and_its_picture_can_be_read(loaded: dict[str, Any]) -> None:
    assert features("docs")["feature_views"] == len(IDS)
    page = Path(load_settings().home / "docs" / "index.html").read_text("utf-8")
    assert [name for name in IDS if f"/model/model.tiny.{name.replace('@', '.')}" not in page] == []
