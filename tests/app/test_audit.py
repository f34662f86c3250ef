"""The audit trail of a running feature server: a line for what is read, pushed, explained or denied, and no values."""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import redis

from feature_server.access.audit import registry_hash
from feature_server.definitions.facts import Owner
from feature_server.online.store import OnlineStore
from tests.support.audit_lines import lines, told
from tests.support.keys import Keys, bearing
from tests.support.online_rows import NOW, OnlineRows
from tests.support.served import Served, eventually, served
from tests.support.serving_cases import FRAUD, PROFILE, RISK, TRANSACTIONS
from tests.support.stream_views import payment, put_online, stream_view

READ, PUSH = "/get-online-features", "/push"
RATIO = {"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"]}}
BOTH = {"feature_service": "fraud_v1", "entities": {"merchant_id": ["a", None, "x|y"], "customer_id": [42, 7, 8]}}
SECRET = "0123456789abcdef0123456789abcdef"
FORM = re.compile(r'name="form" value="([^"]+)"')
WHO = {"who": "checkout", "from": "127.0.0.1"}


@pytest.fixture
def store(valkey: str) -> str:
    rows = OnlineRows(valkey)
    private = msgspec.structs.replace(PROFILE, access="private", owner=Owner(name="Risk", group="risk"))
    rows.define(TRANSACTIONS, private, RISK, services=[FRAUD])
    rows.put("merchant__risk", "a", NOW, 0.8372615)
    return valkey


@pytest.fixture
def keys(store: str) -> Keys:
    return Keys(store)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "trail.jsonl"


@pytest.fixture
def server(store: str, path: Path) -> Iterator[Served]:
    with served(store, FEATURES_AUDIT=str(path)) as running:
        yield running
        assert "Traceback" not in running.stop()


def read(server: Served, key: str | None, asked: dict[str, Any] = RATIO, **headers: str) -> httpx.Response:
    return httpx.post(server.address + READ, json=asked, headers=bearing(key) | headers, trust_env=False)


def test_a_read_is_a_line(server: Served, keys: Keys, store: str, path: Path) -> None:
    mine = keys.make("read:*", group="risk")
    with OnlineStore(store) as online:
        found = online.registry()
    assert found is not None
    before = time.time()
    assert read(server, mine, RATIO | {"entities": {"merchant_id": ["a", "b", "c"]}}).is_success
    told(path, 1)
    (line,) = lines(path)
    at = line.pop("at")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", at)
    assert abs(time.mktime(time.strptime(at[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone - before) < 10
    epoch = line.pop("epoch")
    assert epoch.isdecimal()
    assert line == {
        "event": "read", "outcome": "allowed", "status": 200, "who": "checkout", "key": mine.split("_")[1],
        "group": "risk", "from": "127.0.0.1", "views": ["merchant__risk"], "features": ["merchant__risk:ratio"],
        "entities": 3, "registry": registry_hash(found.registry),
    }  # fmt: skip


def test_whoever_is_not_known_is_told_too(server: Served, keys: Keys, path: Path) -> None:
    mine = keys.make("read:view/customer__profile")
    claimed = mine[:12] + "x" * 43
    for key in (mine, None, claimed):
        assert not read(server, key).is_success
    keys.revoke(mine)
    read(server, mine)  # is known to be revoked once the rows are there
    denied, nobody, wrong, revoked = told(path, 4)
    assert denied["why"].startswith("merchant__risk:ratio: key ")
    assert denied["why"].endswith("has no right to read a feature; expected the scope read:view/merchant__risk")
    common = {"event": "read", "outcome": "denied", "status": 401, "from": "127.0.0.1", "error": "NotSignedIn"}
    assert (denied["outcome"], denied["status"], denied["key"]) == ("denied", 403, mine[3:11])
    assert (denied["views"], denied["entities"]) == (["merchant__risk"], 1)
    assert nobody == common | {"who": "unknown", "why": "the request shows no key"}
    assert wrong == common | {"who": "unknown", "why": "a key that this server does not know", "claimed": mine[3:11]}
    of_read = ("views", "features", "entities", "registry", "epoch")
    told_of_key = {"who": "checkout", "key": mine[3:11], "why": f"key {mine[3:11]} is revoked"}
    assert {name: value for name, value in revoked.items() if name not in of_read} == common | told_of_key
    assert mine[12:] not in path.read_text()


def test_without_keys_everybody_is_anonymous_and_what_fails_is_told(server: Served, path: Path) -> None:
    assert read(server, None).is_success
    assert read(server, None, RATIO | {"entities": {"nobody@example.org": [1]}}).status_code == 422
    assert read(server, None, {"feature_service": "planted", "entities": {}}).status_code == 404
    assert read(server, None, RATIO, host="elsewhere.example").status_code == 421
    found = told(path, 4)
    assert [(line["who"], line["outcome"], line.get("error")) for line in found] == [
        ("anonymous", "allowed", None), ("anonymous", "failed", "RequestError"),
        ("anonymous", "failed", "UnknownNameError"), ("unknown", "denied", "UnknownHost"),
    ]  # fmt: skip
    assert not re.search("nobody|planted|elsewhere", path.read_text())


def test_pages_are_told_where_they_are_denied_and_sign_ins_always(server: Served, keys: Keys, path: Path) -> None:
    mine = keys.make("read:*")
    with httpx.Client(base_url=server.address, trust_env=False) as browser:
        assert browser.get("/").status_code == 401
        assert browser.get("/health").is_success
        for key in ("fw_00000000_" + "a" * 43, "planted", mine):
            page = browser.get("/sign-in")
            browser.post("/sign-in", data={"key": key, "form": FORM.findall(page.text)[0]})
        assert browser.get("/entities").is_success
        assert browser.get("/metrics").status_code == 403
        assert browser.get("/explain?feature=merchant__risk:ratio&merchant_id=planted").status_code == 403
        assert browser.post("/sign-in", data={"key": mine, "form": "forged"}).status_code == 422
    found = told(path, 7)
    facts = [(line["event"], line["path"], line["outcome"], line["who"], line.get("claimed")) for line in found]
    assert facts == [
        ("page", "/", "denied", "unknown", None),
        ("sign_in", "/sign-in", "denied", "unknown", "00000000"),
        ("sign_in", "/sign-in", "denied", "unknown", None),
        ("sign_in", "/sign-in", "allowed", "checkout", None),
        ("page", "/metrics", "denied", "checkout", None),
        ("explain", "/explain", "denied", "checkout", None),
        ("sign_in", "/sign-in", "failed", "unknown", None),
    ]
    assert found[5]["features"] == ["merchant__risk:ratio"]
    assert not re.search(f"planted|{mine[12:]}", path.read_text())


def test_entities_are_told_by_hmac_alone_and_only_where_that_is_set(store: str, tmp_path: Path) -> None:
    path, secret = tmp_path / "trail.jsonl", tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    for keyed in ({"FEATURES_AUDIT_KEYS": str(secret)}, {"FEATURES_AUDIT_KEYS": "env:SALT", "SALT": SECRET}, {}):
        path.unlink(missing_ok=True)
        with served(store, FEATURES_AUDIT=str(path), **keyed) as server:
            assert read(server, None, BOTH).is_success
            assert read(server, None, RATIO | {"entities": {"merchant_id": ["a"] * 5_000}}).is_success
            httpx.get(f"{server.address}/explain?feature=merchant__risk:ratio&merchant_id=a", trust_env=False)
            both, many, explained = told(path, 3)
        assert (both["service"], both["entities"], many["entities"], explained["entities"]) == ("fraud_v1", 3, 5_000, 1)
        assert "features" not in both
        if not keyed:
            assert not any("entity_hmacs" in line for line in (both, many, explained))
            continue
        texts = ("customer_id=42|merchant_id=a", "customer_id=7|merchant_id=", "customer_id=8|merchant_id=x%7Cy")
        assert both["entity_hmacs"] == [hashed(text) for text in texts]
        assert many["entity_hmacs"] == [hashed("merchant_id=a")] * 5_000
        assert explained["entity_hmacs"] == [hashed("merchant_id=a")]


def hashed(text: str) -> str:
    return hmac.new(SECRET.encode(), text.encode(), "sha256").hexdigest()


def test_no_line_holds_a_value(server: Served, keys: Keys, path: Path, store: str) -> None:
    reader, other = keys.make("read:*"), keys.make("read:view/customer__profile")
    planted = {"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a", "planted@example.org"]}}
    for key in (reader, other, None):
        answer = read(server, key, planted)
    assert read(server, reader, planted).json()["results"][1]["values"] == [pytest.approx(0.8372615), None]
    read(server, reader, planted | {"features": ["planted:planted"]})
    read(server, reader, planted | {"planted": "planted"})
    httpx.get(
        f"{server.address}/explain?feature=planted:x&merchant_id=planted", headers=bearing(reader), trust_env=False
    )
    httpx.get(f"{server.address}/entities/planted?planted=1", trust_env=False)
    httpx.post(f"{server.address}/push", content=b'{"push_source_name": "s", "df": {"planted": ["x"]}', trust_env=False)
    assert answer.status_code == 401
    told(path, 9)
    text = path.read_text()
    assert not [word for word in ("planted", "0.83", *(key[12:] for key in (reader, other))) if word in text]
    assert path.stat().st_mode & 0o777 == 0o600


def test_pushes_and_what_they_came_to(valkey: str, path: Path) -> None:
    put_online(valkey, stream_view())
    keys = Keys(valkey)
    pusher, other = keys.make("push:payments.transactions"), keys.make("read:*")
    columns = {name: [value] * 2 for name, value in payment(1, customer_id=1, merchant="planted").items()}
    wrong = columns | {"customer_id": [1, "planted"], "transaction_id": [1, 2]}
    with served(valkey, FEATURES_AUDIT=str(path)) as server:
        for key, body in ((pusher, wrong), (other, wrong), (pusher, {"planted": [1]})):
            asked = {"push_source_name": "payments.transactions", "df": body}
            httpx.post(f"{server.address}/push", json=asked, headers=bearing(key), trust_env=False)
        taken, denied, failed = told(path, 3)
    assert (taken["source"], taken["accepted"], taken["rejected"]) == ("payments.transactions", 1, 1)
    assert (taken["outcome"], taken["status"], taken["key"]) == ("allowed", 200, pusher[3:11])
    assert re.fullmatch("[0-9a-f]{16}", taken["registry"])
    assert denied["why"].startswith("payments.transactions: key ")
    assert (denied["outcome"], "accepted" in denied) == ("denied", False)
    assert failed["outcome"] in ("failed", "allowed")
    assert "planted" not in path.read_text()


def test_the_address_of_a_client_is_the_proxys_word_only_where_that_is_trusted(store: str, path: Path) -> None:
    told_by = {"x-forwarded-for": "198.51.100.9, 203.0.113.7"}
    for trusted in ("", "127.0.0.0/8", "192.0.2.1"):
        with served(store, FEATURES_AUDIT=str(path), FEATURES_TRUSTED_PROXIES=trusted) as server:
            assert read(server, None, RATIO, **told_by).is_success
    assert [line["from"] for line in lines(path)] == ["127.0.0.1", "203.0.113.7", "127.0.0.1"]


def test_the_definitions_of_a_line_are_those_in_force(server: Served, store: str, path: Path) -> None:
    read(server, None)
    rows = OnlineRows(store)
    rows.define(RISK)
    rows.put("merchant__risk", "a", NOW, 0.5)
    read(server, None)
    first, second = told(path, 2)
    assert first["registry"] != second["registry"]
    assert first["epoch"] != second["epoch"]
    with OnlineStore(store) as online:
        found = online.registry()
    assert found is not None
    assert second["registry"] == registry_hash(found.registry)
    assert eventually(lambda: redis.Redis.from_url(store).get("features:epoch")) == second["epoch"].encode()
