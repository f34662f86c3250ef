"""features keys, as a user types it: the file is the truth, Redis' copy follows, and sync restores it."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import redis

from feature_server.access.file import read_keys
from feature_server.definitions.facts import FeatureRef, FeatureService
from feature_server.definitions.registry import Registry, write_registry
from feature_server.settings import load_settings
from tests.support.ran import Ran, Typing
from tests.support.served import eventually, served
from tests.support.sync_project import Tables, at, make_view

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
KEY = re.compile(r"fw_[0-9a-f]{8}_[\w-]{43}")
SPEND = make_view(features={"spend": "float64", "card": "string"}, refresh="hourly")
FRAUD = FeatureService(name="fraud_v1", features=(FeatureRef(SPEND.id, "spend", f"{SPEND.id}:spend"),))
READ = {"feature_service": "fraud_v1", "entities": {"customer_id": [42]}}


@pytest.fixture
def features(
    tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Runs `features` in a home with a view published."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATURES_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FEATURES_REDIS_URL", valkey)
    monkeypatch.setenv("FEATURES_CLOCK", at(90).isoformat())
    settings = load_settings()
    Tables(settings.offline).commit(SPEND, [[(42, at(5), 12.5, "visa")]])
    registry = Registry(project="test", feature_views=(SPEND,), feature_services=(FRAUD,))
    write_registry(settings.registry_path, registry)

    return Typing(monkeypatch, capsys)


def made(ran: Ran) -> str:
    assert ran.code == 0, ran.err
    (text,) = KEY.findall(ran.out)
    return text


def status(address: str, key: str | None) -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.post(f"{address}/get-online-features", json=READ, headers=headers, trust_env=False).status_code


def test_a_key_from_its_making_to_its_end(features: Callable[..., Ran], valkey: str, tmp_path: Path) -> None:
    assert features("keys", "list").out == "no key was made yet: `features keys create`\n"
    assert features("sync").code == 0
    with served(valkey, FEATURES_HOME=str(tmp_path / "home"), clock=at(90).isoformat()) as server:
        assert status(server.address, None) == 200
        first = made(
            features("keys", "create", "--owner", "Fraud model", "--scope", "read:fraud_v1", "--expires", "90d")
        )
        assert (status(server.address, None), status(server.address, first)) == (401, 200)
        listed = json.loads(features("keys", "list", "--json").out)["keys"]
        assert [(key["owner"], key["scopes"], key["state"]) for key in listed] == [
            ("Fraud model", ["read:service/fraud_v1"], "valid")
        ]
        assert "sha256" not in listed[0]
        second = made(features("keys", "rotate", first.split("_")[1], "--grace", "1h"))
        assert (status(server.address, first), status(server.address, second)) == (200, 200)
        third = made(features("keys", "rotate", second.split("_")[1], "--grace", "0"))
        assert (status(server.address, second), status(server.address, third)) == (401, 200)
        assert features("keys", "revoke", first.split("_")[1]).code == 0
        assert (status(server.address, first), status(server.address, third)) == (401, 200)
        text = features("keys", "list").out
        assert [line.split()[1] for line in text.splitlines()] == ["revoked", "expired", "valid"]
        assert not any(key in server.log() + text for key in (first, second, third))


def test_the_commands_of_the_page_run(features: Callable[..., Ran]) -> None:
    typed = [line for line in PAGE.read_text().splitlines() if line.startswith("features ")]
    key_id = ""
    for line in typed:
        line = line.replace("1f2e3d4c", key_id).replace(" --scope push:payments.transactions", "")
        ran = features(*shlex.split(line)[1:])
        assert ran.code == 0, line + ran.err
        if line.startswith("features keys create") and "--oidc-group" not in line:
            key_id = made(ran).split("_")[1]
        if line.startswith("features keys reset"):
            assert features("keys", "list").out.startswith("no key was made yet")
    assert {"create", "list", "rotate", "revoke", "reset"} <= {line.split()[2] for line in typed}


def test_a_key_for_tokens_has_no_text(features: Callable[..., Ran], tmp_path: Path) -> None:
    create = ("keys", "create", "--owner", "Fraud team", "--oidc-group", "analysts", "--scope", "read:fraud_v1")
    ran = features(*create, "--json")
    told = json.loads(ran.out)
    assert (ran.code, KEY.search(ran.out + ran.err), told["oidc_group"]) == (0, None, "analysts")
    assert "key" not in told
    assert features("keys", "list").out == (
        f"{told['id']}  valid     Fraud team  read:service/fraud_v1  for tokens of analysts\n"
    )
    (kept,) = read_keys(tmp_path / "home" / "keys.json") or ()
    assert kept.sha256 == ""
    ran = features("keys", "rotate", told["id"])
    assert (ran.code, "no text to replace" in ran.err) == (1, True)
    assert features("keys", "revoke", told["id"]).code == 0
    assert "revoked" in features("keys", "list").out
    ran = features(*create[:4], "--oidc-group", " ", *create[-2:])
    assert (ran.code, "--oidc-group" in ran.err) == (1, True)


def test_what_is_kept_is_private_and_opens_nothing(features: Callable[..., Ran], tmp_path: Path) -> None:
    text = made(features("keys", "create", "--owner", "me", "--scope", "admin"))
    kept = tmp_path / "home" / "keys.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert text.split("_", 2)[2] not in kept.read_text()
    ring = read_keys(kept)
    assert ring is not None
    assert [key.id for key in ring] == [text.split("_")[1]]


def test_sync_restores_what_an_emptied_redis_has_lost(
    features: Callable[..., Ran], valkey: str, tmp_path: Path
) -> None:
    text = made(features("keys", "create", "--owner", "me", "--scope", "read:*"))
    assert features("sync").code == 0
    link = redis.Redis.from_url(valkey)
    before = link.get("features:keys")
    link.flushall()
    assert features("sync").code == 0
    assert link.get("features:keys") == before
    assert b'"keyed":true' in (link.get("features:registry") or b"")
    epoch = link.get("features:epoch")
    assert features("sync").code == 0
    assert link.get("features:epoch") == epoch  # nothing to restore, nothing moved
    with served(valkey, FEATURES_HOME=str(tmp_path), clock=at(90).isoformat()) as server:
        assert (status(server.address, None), status(server.address, text)) == (401, 200)


def test_a_server_restores_them_where_its_home_has_them(
    features: Callable[..., Ran], valkey: str, tmp_path: Path
) -> None:
    text = made(features("keys", "create", "--owner", "me", "--scope", "read:*"))
    assert features("sync").code == 0
    redis.Redis.from_url(valkey).delete("features:keys")
    with served(valkey, FEATURES_HOME=str(tmp_path / "home"), clock=at(90).isoformat()) as server:
        assert (status(server.address, None), status(server.address, text)) == (401, 200)


def test_without_any_key_left_this_machine_may_do_all_again(
    features: Callable[..., Ran], valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    text = made(features("keys", "create", "--owner", "me", "--scope", "read:*"))
    assert features("sync").code == 0
    with served(valkey, FEATURES_HOME=str(tmp_path / "home"), clock=at(90).isoformat()) as server:
        assert status(server.address, None) == 401
        assert features("keys", "reset").code == 1  # nobody says yes
        assert status(server.address, None) == 401
        assert features("keys", "reset", "--yes").code == 0
        assert (status(server.address, None), status(server.address, text)) == (200, 200)
    with served(valkey, FEATURES_HOME=str(tmp_path / "home"), clock=at(90).isoformat()) as server:
        assert status(server.address, None) == 200
    assert features("serve", "--host", "0.0.0.0", "--port", "0").code == 1
    assert features("keys", "list").out == "no key was made yet: `features keys create`\n"


def test_homes_of_one_project_have_one_list(
    features: Callable[..., Ran], valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The admin's, Airflow's, and one restored from a backup."""
    shutil.copytree(tmp_path / "home", tmp_path / "airflow")
    mine = made(features("keys", "create", "--owner", "me", "--scope", "read:*"))
    assert features("sync").code == 0
    backup = (tmp_path / "home" / "keys.json").read_bytes()
    with served(valkey, FEATURES_HOME=str(tmp_path), clock=at(90).isoformat()) as server:
        monkeypatch.setenv("FEATURES_HOME", str(tmp_path / "airflow"))
        theirs = made(features("keys", "create", "--owner", "Airflow", "--scope", "read:*"))
        assert (status(server.address, mine), status(server.address, theirs)) == (200, 200)
        assert features("keys", "revoke", mine.split("_")[1]).code == 0
        assert (status(server.address, mine), status(server.address, theirs)) == (401, 200)
        monkeypatch.setenv("FEATURES_HOME", str(tmp_path / "home"))
        (tmp_path / "home" / "keys.json").write_bytes(backup)
        assert features("sync").code == 0
        assert (status(server.address, mine), status(server.address, theirs)) == (401, 200)
        assert [line.split()[1] for line in features("keys", "list").out.splitlines()] == ["revoked", "valid"]
        assert features("keys", "reset", "--yes").code == 0
        assert status(server.address, None) == 200


def test_two_first_keys_are_not_one_list(
    features: Callable[..., Ran], valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tmp_path / "home", tmp_path / "airflow")
    monkeypatch.setenv("FEATURES_REDIS_URL", "redis://127.0.0.1:1")
    assert features("keys", "create", "--owner", "me", "--scope", "read:*").code == 1
    monkeypatch.setenv("FEATURES_REDIS_URL", valkey)
    monkeypatch.setenv("FEATURES_HOME", str(tmp_path / "airflow"))
    theirs = made(features("keys", "create", "--owner", "Airflow", "--scope", "read:*"))
    monkeypatch.setenv("FEATURES_HOME", str(tmp_path / "home"))
    for command in (("keys", "create", "--owner", "me", "--scope", "read:*"), ("keys", "reset", "--yes")):
        ran = features(*command)
        assert (ran.code, "those of another home" in ran.err) == (1, True)
        assert not KEY.search(ran.out)
    ran = features("sync")
    assert (ran.code, "those of another home" in ran.err) == (0, True)
    with served(valkey, FEATURES_HOME=str(tmp_path), clock=at(90).isoformat()) as server:
        assert (status(server.address, None), status(server.address, theirs)) == (401, 200)


def test_a_key_is_rotated_once(features: Callable[..., Ran]) -> None:
    first = made(features("keys", "create", "--owner", "me", "--scope", "read:*")).split("_")[1]
    second = made(features("keys", "rotate", first, "--grace", "1h")).split("_")[1]
    ran = features("keys", "rotate", first)
    assert (ran.code, f"rotate {second}" in ran.err) == (1, True)
    assert "until" not in features("keys", "list").out.splitlines()[1]


def test_beyond_this_machine_a_server_wants_a_key_first(features: Callable[..., Ran]) -> None:
    refused = features("serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.code == 1
    assert "no key of access yet" in refused.err
    assert "features keys create" in refused.err


def test_a_change_that_redis_does_not_hear_of_is_told_and_kept(
    features: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, valkey: str
) -> None:
    monkeypatch.setenv("FEATURES_REDIS_URL", "redis://127.0.0.1:1")
    ran = features("keys", "create", "--owner", "me", "--scope", "admin")
    assert ran.code == 1
    assert KEY.search(ran.out)  # it is shown this once, and valid
    assert "features sync" in ran.err
    assert len(json.loads((tmp_path / "home" / "keys.json").read_text())["keys"]) == 1
    monkeypatch.setenv("FEATURES_REDIS_URL", valkey)
    assert features("sync").code == 0
    assert eventually(lambda: redis.Redis.from_url(valkey).get("features:keys"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "--owner", "me", "--scope", "read:fraud_v2"), "did you mean 'fraud_v1'"),
        (("create", "--owner", "me", "--scope", "write:all"), "is no scope"),
        (("create", "--owner", "me", "--scope", "admin", "--group", "rsk"), "unknown group"),
        (("create", "--owner", "me", "--scope", "admin", "--expires", "tomorrow"), "not a duration"),
        (("create", "--owner", "", "--scope", "admin"), "no owner"),
        (("revoke", "00000000"), "unknown key"),
        (("rotate", "00000000"), "unknown key"),
    ],
)
def test_mistakes_change_nothing(features: Callable[..., Ran], tmp_path: Path, arguments: list[str], said: str) -> None:
    ran = features("keys", *arguments)
    assert ran.code == 1
    assert said in ran.err
    assert not (tmp_path / "home" / "keys.json").exists()


def test_a_damaged_list_is_refused_and_stays(features: Callable[..., Ran], tmp_path: Path) -> None:
    kept = tmp_path / "home" / "keys.json"
    kept.write_text('{"format": 1, "keys": [')
    for command in (("keys", "list"), ("keys", "create", "--owner", "me", "--scope", "admin"), ("sync",)):
        ran = features(*command)
        assert ran.code == 1
        assert "keys cannot be read" in ran.err
    kept.write_text('{"format": 2}')
    assert "format 2" in features("keys", "list").err
