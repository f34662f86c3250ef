"""features publish and features verify, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from feature_server.definitions.registry import Registry
from tests.support.ran import Ran, Typing
from tests.support.relations import Relations, view_of

SPEND = view_of("spend", {"customer_id": "bigint"}, {"spend_eur": "integer"}, refresh="hourly")
VISITS = view_of("visits", {"customer_id": "bigint"}, {"visits": "integer"}, refresh="daily")
ROWS = "select 1::bigint as customer_id, timestamptz '2013-01-01' as event_timestamp, 3 as"


@pytest.fixture
def home(tmp_path: Path) -> Relations:
    """A project with two views in force, one of them built."""
    relations = Relations(tmp_path)
    relations.execute(f"create table spend as {ROWS} spend_eur")
    registry = Registry(project="test", feature_views=(SPEND, VISITS))
    (tmp_path / "registry.json").write_bytes(registry.to_json())
    return relations


Command = Callable[..., Ran]


@pytest.fixture
def features(
    home: Relations, tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs `features` with the arguments given, in the project's home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATURES_HOME", str(tmp_path))
    monkeypatch.setenv("FEATURES_REDIS_URL", valkey)
    monkeypatch.setenv("FEATURES_CLOCK", "2013-01-02T00:00:00Z")
    for name in ("FEATURES_OFFLINE", "FEATURES_WAREHOUSE", "FEATURES_PROJECT_DIR"):
        monkeypatch.delenv(name, raising=False)

    return Typing(monkeypatch, capsys)


def test_views_that_can_be_are_published_and_the_others_are_named(
    home: Relations, features: Callable[..., Ran]
) -> None:
    ran = features("publish")
    assert ran.code == 1
    assert ran.out.startswith("published spend version=0 rows=1 changed_buckets=1 rows_written=1 seconds=")
    assert ran.err.startswith("failed visits in ")
    assert "run `dbt build --select +visits`" in ran.err
    home.execute(f"create table visits as {ROWS} visits")
    again = features("publish", "--json")
    assert again.code == 0
    answer = json.loads(again.out)
    assert [(view["view"], view["version"], view["committed"]) for view in answer["published"]] == [
        ("spend", 0, False),
        ("visits", 0, True),
    ]
    assert answer["failed"] == {}


def test_views_are_chosen_by_name_and_by_cadence(features: Command) -> None:
    assert features("publish", "spend").code == 0
    assert features("publish", "--refresh", "hourly").code == 0
    wrong = features("publish", "--refresh", "weekly")
    assert (wrong.code, wrong.out) == (1, "")
    assert "expected: one of daily, hourly" in wrong.err
    unknown = features("publish", "spendd")
    assert (unknown.code, unknown.out) == (1, "")
    assert "did you mean 'spend'?" in unknown.err
    assert features("publish", "--wait", "soon").code == 2


def test_verify_prints_every_difference_and_fails_on_an_unexplained_one(
    home: Relations, features: Callable[..., Ran]
) -> None:
    features("publish", "spend")
    never = features("verify", "spend")
    assert never.code == 1
    assert never.out.startswith("spend * *: online nothing, offline 1 rows: never synced\nverified spend keys=0 ")
    assert features("sync", "spend").code == 0
    equal = features("verify", "--refresh", "hourly")
    assert equal.code == 0
    assert equal.out.startswith(
        "verified spend keys=1 different=0 unexplained=0 online_version=0 offline_version=0 behind_seconds=0 seconds="
    )
    home.execute("update spend set spend_eur = 4")
    features("publish", "spend")
    behind = features("verify", "spend", "--json")
    assert behind.code == 0
    (view,) = json.loads(behind.out)["verified"]
    assert view["behind_versions"] == 1
    assert view["differences"] == [
        {"key": "customer_id=1", "feature": "spend_eur", "online": "3", "offline": "4", "cause": "not yet synced"}
    ]


def test_verify_reads_the_files_of_the_views_named_and_prints_the_damaged_ones(
    home: Relations, features: Callable[..., Ran]
) -> None:
    features("publish", "spend")
    ran = features("verify", "spend", "--files")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("checked spend version=0 files=1 damaged=0 seconds=")
    (file,) = home.store.table("spend").files()
    body = bytearray(file.path.read_bytes())
    body[len(body) // 2] ^= 255
    file.path.write_bytes(body[:-1])
    ran = features("verify", "spend", "--files")
    assert ran.code == 1
    first, last, *_ = ran.out.splitlines()
    length = f"expected {len(body)} bytes, got {len(body) - 1} bytes"
    assert first == f"spend {file.path}: a data file has another length than was published: {length}"
    assert last.startswith("checked spend version=0 files=1 damaged=1 seconds=")
    assert ran.err == (
        "failed spend: damaged files: 1\n  remedy: run `features publish --full spend`, which writes their rows anew\n"
    )
    mended = features("publish", "spend", "--full")
    assert mended.out.splitlines()[1].startswith(f"  written anew: {file.path}: a data file has another length")
    answer = json.loads(features("verify", "--files", "--json").out)
    assert (answer["checked"][0]["damaged"], list(answer["failed"])) == ([], ["visits"])
