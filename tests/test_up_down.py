"""make up and make down: what they start, wait for and end, shown on small real processes and once on all of it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient

from feature_server.definitions.registry import Registry, write_registry
from feature_server.errors import FeatureStoreError
from feature_server.settings import load_settings
from scripts.example import has_example
from scripts.local_only import LocalOnly
from scripts.services import (
    Running,
    Service,
    check_port,
    check_settings,
    only_one,
    recorded,
    start,
    started_at,
    stop,
    wait_until_healthy,
)
from scripts.up import streams, up
from tests.support.live_project import NOW, SOURCE, LiveProject, make_live_view, payment

ROOT = Path(__file__).parents[1]
WEB = (
    "import http.server as h; h.ThreadingHTTPServer(('127.0.0.1', {port}), h.SimpleHTTPRequestHandler).serve_forever()"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def service(code: str, name: str = "web") -> Service:
    """A service that runs `code`, in which {port} is the port it is expected on."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    return Service(name, [sys.executable, "-c", code.replace("{port}", str(port))], port, url, url)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for logs and records; whatever is recorded in it at the end is ended."""
    yield tmp_path
    for running in recorded(tmp_path):
        stop(running, tmp_path, seconds=5)


def alive(pid: int) -> bool:
    return started_at(pid) is not None


def test_a_service_is_up_when_it_answers_and_ends_with_down(folder: Path) -> None:
    web = service(WEB)
    (running,) = up([web], folder, os.environ, folder)
    assert urllib.request.urlopen(web.url).status == 200
    assert recorded(folder) == [running]
    assert stop(running, folder, seconds=10) == f"web ended (process {running.pid})"
    assert not alive(running.pid)
    assert recorded(folder) == []


def test_a_service_without_an_address_is_up_when_it_has_said_something(folder: Path) -> None:
    code = "import time; time.sleep(0.5); print('at work', flush=True); time.sleep(60)"
    (running,) = up([Service("worker", [sys.executable, "-c", code])], folder, os.environ, folder)
    assert Path(running.log).read_text() == "at work\n"
    mute = Service("mute", [sys.executable, "-c", "raise SystemExit('no such source')"])
    with pytest.raises(FeatureStoreError, match=r"mute has ended(.|\n)*    no such source"):
        up([mute], folder, os.environ, folder)


def test_each_event_source_in_force_has_a_worker(tmp_path: Path) -> None:
    settings = load_settings({"FEATURES_HOME": str(tmp_path)})
    assert streams(settings) == []
    view = make_live_view()
    two = msgspec.structs.replace(view, name="customer__other")
    write_registry(settings.registry_path, Registry(project="test", sources=(SOURCE,), feature_views=(two, view)))
    assert streams(settings) == ["shop.payments"]


def test_a_worker_that_is_ended_has_landed_what_was_pushed(folder: Path, valkey: str) -> None:
    project = LiveProject(folder / "project", valkey, make_live_view())
    project.landed("a", [payment(1, 1, 60)])
    project.publish()
    project.sync()
    own = {"PROJECT_DIR": project.folder, "HOME": folder / "home", "REDIS_URL": valkey, "CLOCK": NOW.isoformat()}
    write_registry(folder / "home" / "registry.json", project.registry)
    environment = os.environ | {f"FEATURES_{name}": str(value) for name, value in own.items()}
    command = [sys.executable, "-m", "feature_server", "stream", SOURCE.name]
    (running,) = up([Service(f"stream-{SOURCE.name}", command)], folder, environment, folder)
    project.push(payment(2, 1, 5))
    assert stop(running, folder, seconds=30).startswith("stream-shop.payments ended")
    assert len(list(project.landing.glob("live-*.parquet"))) == 1
    assert "landed=1 files=1" in Path(running.log).read_text()


def test_a_second_up_starts_nothing_that_runs_and_whatever_does_not(folder: Path) -> None:
    web, other = service(WEB), service(WEB, name="other")
    (first,) = up([web], folder, os.environ, folder)
    again = up([web, other], folder, os.environ, folder)
    assert [running.name for running in again] == ["web", "other"]
    assert again[0] == first


def test_an_up_with_other_settings_than_what_is_up_is_refused_and_names_them(folder: Path) -> None:
    first = {"FEATURES_CLOCK": "2013-12-30T23:00:00+00:00", "FEATURES_REDIS_URL": "redis://127.0.0.1:1?password=secret"}
    web = service(WEB)
    up([web], folder, os.environ | first, folder)
    assert "secret" not in (folder / "web.json").read_text()
    check_settings(recorded(folder), os.environ | first)
    for other, named in (
        ({"FEATURES_CLOCK": "2013-12-30T12:00:00+00:00"}, "FEATURES_CLOCK"),
        ({"FEATURES_REDIS_URL": ""}, "FEATURES_REDIS_URL"),
        ({"FEATURES_ALLOWED_HOSTS": "shop.example"}, "FEATURES_ALLOWED_HOSTS"),
    ):
        with pytest.raises(FeatureStoreError, match=rf"another {named}(.|\n)*make down") as caught:
            check_settings(recorded(folder), os.environ | first | other)
        assert "secret" not in str(caught.value)


def test_a_service_that_ends_is_reported_with_the_end_of_its_log_and_the_others_are_ended(folder: Path) -> None:
    web, broken = service(WEB), service("raise SystemExit('the disk is full')", name="broken")
    with pytest.raises(FeatureStoreError, match="broken has ended") as caught:
        up([web, broken], folder, os.environ, folder)
    assert "    the disk is full" in str(caught.value)
    assert recorded(folder) == []


def test_a_service_that_does_not_answer_in_time_is_not_healthy(folder: Path) -> None:
    silent = service("import time; print('starting', flush=True); time.sleep(60)")
    running = start(silent, folder, os.environ, folder)
    with pytest.raises(FeatureStoreError, match=r"web is not healthy after 1 s(.|\n)*    starting"):
        wait_until_healthy(silent, running, seconds=1)


def test_a_port_that_is_taken_is_named_before_anything_starts(folder: Path) -> None:
    web, taken = service(WEB), service(WEB, name="docs")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", taken.port))
        listener.listen()
        with pytest.raises(FeatureStoreError, match=rf"port {taken.port} cannot be used for docs(.|\n)*--docs-port"):
            up([web, taken], folder, os.environ, folder)
    check_port(taken)
    assert recorded(folder) == []


CHILDREN = """
import os, subprocess, sys, time
sleep = [sys.executable, '-c', 'import time; time.sleep(300)']
children = [subprocess.Popen(sleep, **where) for where in ({}, {'process_group': 0}, {'start_new_session': True})]
print(*(child.pid for child in children), flush=True)
time.sleep(300)
"""


def started_children(running: Running) -> list[int]:
    """The process ids that CHILDREN prints."""
    while not (printed := Path(running.log).read_text()).endswith("\n"):
        time.sleep(0.02)
    return [int(pid) for pid in printed.split()]


def test_children_end_with_their_service_whatever_group_or_session_they_are_in(folder: Path) -> None:
    running = start(service(CHILDREN), folder, os.environ, folder)
    children = started_children(running)
    assert all(map(alive, children))
    stop(running, folder, seconds=10)
    assert not any(map(alive, [running.pid, *children]))


def test_what_a_dead_service_left_behind_is_ended(folder: Path) -> None:
    running = start(service(CHILDREN), folder, os.environ, folder)
    in_session = started_children(running)[:2]
    os.kill(running.pid, 9)
    os.waitpid(running.pid, 0)
    assert stop(running, folder, seconds=10) == f"web ended (process {running.pid})"
    assert not any(map(alive, in_session))


def test_a_service_that_will_not_end_is_killed(folder: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(300)"
    )
    running = start(service(stubborn), folder, os.environ, folder)
    while "deaf" not in Path(running.log).read_text():
        time.sleep(0.02)
    assert stop(running, folder, seconds=1).startswith("web was killed")
    assert not alive(running.pid)


def test_a_process_that_got_the_id_of_a_service_is_left_alone(folder: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    try:
        record = Running("web", stranger.pid, "12345", "http://127.0.0.1:1", str(folder / "web.log"))
        assert not record.leads
        assert stop(record, folder, seconds=5) == "web was not running"
        assert alive(stranger.pid)
    finally:
        stranger.kill()
        stranger.wait()


def test_what_another_container_or_boot_has_started_is_not_ended_here(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        started = started_at(stranger.pid)
        assert started is not None
        record = Running("web", stranger.pid, started, "", str(tmp_path / "web.log"), place="another boot pid:[1]")
        assert not record.leads
        assert stop(record, tmp_path, 1) == "web was not running"
        assert stranger.poll() is None
        stranger.kill()


def test_two_ups_at_once_are_refused(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(FeatureStoreError, match="another `make up`"), only_one(tmp_path):
        pass


def test_what_is_served_locally_is_no_other_sites_to_ask_for(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("the catalogue")
    client = TestClient(LocalOnly(StaticFiles(directory=tmp_path, html=True)), base_url="http://localhost:8090")
    cases = {
        "as itself": {},
        "by its number": {"host": "127.0.0.1:8090"},
        "by its own page": {"origin": "http://localhost:8090"},
        "by a name that was bound to this machine": {"host": "evil.example:8090"},
        "by a page of another site": {"origin": "http://evil.example"},
    }
    answers = {how: client.get("/", headers=headers) for how, headers in cases.items()}
    assert [answer.status_code for answer in answers.values()] == [200, 200, 200, 421, 403]
    assert [answer.text == "the catalogue" for answer in answers.values()] == [True, True, True, False, False]


def test_a_project_without_the_examples_generators_has_no_example(tmp_path: Path) -> None:
    assert has_example(ROOT)
    assert not has_example(tmp_path)


def run(module: str, *arguments: str, home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FEATURES_", "AIRFLOW"))}
    environment |= {"FEATURES_HOME": str(home), "FEATURES_TARGET_PATH": str(home / "target")}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def asked(url: str, body: object = None, **headers: str) -> Any:
    """The JSON that a server of `make up` answers with."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def check_airflow(url: str) -> None:
    """All DAGs are there and green, nothing is due, and a run started by hand is green too."""
    assert asked(f"{url}/importErrors")["import_errors"] == []
    dags = asked(f"{url}/dags")["dags"]
    assert {dag["dag_id"]: (dag["is_paused"], dag["timetable_summary"]) for dag in dags} == dict.fromkeys(
        ("refresh_hourly", "refresh_daily", "catalogue", "freshness", "rebuild"), (False, None)
    )
    for name in ("catalogue", "freshness"):
        by_hand = asked(f"{url}/dags/{name}/dagRuns", {"logical_date": datetime.now(UTC).isoformat()})["dag_run_id"]
        while asked(f"{url}/dags/{name}/dagRuns/{by_hand}")["state"] in ("queued", "running"):
            time.sleep(0.5)
    runs = asked(f"{url}/dags/~/dagRuns")["dag_runs"]
    assert sorted((each["dag_id"], each["state"]) for each in runs) == [
        ("catalogue", "success"), ("catalogue", "success"), ("freshness", "success"), ("refresh_daily", "success"),
        ("refresh_hourly", "success"),
    ]  # fmt: skip
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
        with pytest.raises(urllib.error.HTTPError, match=r"421|403"):
            asked(f"{url}/dags", **headers)


@pytest.mark.timeout(1500)  # Airflow and two refreshes, beside the other tests
@pytest.mark.heavy
def test_a_fresh_clone_comes_up_loaded_and_green_at_one_time_and_goes_down(tmp_path: Path) -> None:
    ports = {name: free_port() for name in ("airflow", "server", "docs")}
    options = [part for name, port in ports.items() for part in (f"--{name}-port", str(port))]
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    try:
        first = run("scripts.up", *options, home=tmp_path)
        assert first.returncode == 0, first.stdout + first.stderr
        for name in ports:
            assert re.search(rf"{name}.* {urls[name]}\b", first.stdout), first.stdout
        assert "refresh_hourly: success" in first.stdout
        clock = re.search(r"clock +stopped at (\S+) for all of these", first.stdout)
        assert clock is not None
        assert datetime.fromisoformat(asked(f"{urls['server']}/ready")["clock"].split()[2]) == datetime.fromisoformat(
            clock[1]
        )
        wanted = {"features": ["customer__transactions:transactions_1h"], "entities": {"customer_id": [456]}}
        served = asked(f"{urls['server']}/get-online-features", wanted)["results"][1]["values"]
        shown = run(
            "feature_server", "get", *wanted["features"], "customer_id=456", "--json",
            home=tmp_path, FEATURES_CLOCK=clock[1],
        )  # fmt: skip
        assert (served, json.loads(shown.stdout)["features"]["transactions_1h"]["value"]) == ([4], 4)
        check_airflow(f"{urls['airflow']}/api/v2")
        with urllib.request.urlopen(urls["docs"]) as catalogue:
            assert len(catalogue.read()) > 1_000_000
        again = run("scripts.up", *options, home=tmp_path).stdout
        assert "already up" in again
        assert "loading" not in again
        other = run("scripts.up", *options, home=tmp_path, FEATURES_CLOCK="2013-12-30T12:00:00Z")
        assert (other.returncode, other.stdout) == (1, "")
        assert "is up with another FEATURES_CLOCK" in other.stderr
    finally:
        running = recorded(tmp_path / "run")
        down = run("scripts.down", home=tmp_path)
    # Airflow may have to be killed: a task's process that is ended as it reports leaves the scheduler waiting for it.
    said = [line.partition(" (")[0] for line in down.stdout.splitlines()]
    assert [line.removesuffix(" ended") for line in said if "airflow" not in line] == [
        each.name for each in running if each.name != "airflow"
    ]
    assert said[0].startswith(("airflow ended", "airflow was killed"))
    assert not any(alive(each.pid) or each.members() for each in running)
    streams = ["stream-flights.arrivals", "stream-flights.departures", "stream-payments.transactions"]
    assert [each.name for each in running] == ["airflow", "docs", "server", *streams]
    for url in urls.values():
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(url)
    assert run("scripts.down", home=tmp_path).stdout == "nothing was up\n"
