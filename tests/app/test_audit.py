"""The audit trail of a running feature server: a line for what is read, pushed, explained or denied, and no values."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from feature_server.access.audit import registry_hash
from feature_server.definitions.facts import Owner
from feature_server.online.store import OnlineStore
from tests.support.keys import Keys, bearing
from tests.support.online_rows import NOW, OnlineRows
from tests.support.served import Served, eventually, served
from tests.support.serving_cases import FRAUD, PROFILE, RISK, TRANSACTIONS
from tests.support.stream_views import payment

READ, PUSH = "/get-online-features", "/push"
RATIO = {"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"]}}
EVENT = {"push_source_name": "payments.transactions", "df": {k: [v] for k, v in payment(1, customer_id=1).items()}}
SECRET = "0123456789abcdef0123456789abcdef"
AS_BROWSER = {"accept": "text/html"}


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


def lines(path: Path) -> list[dict[str, Any]]:
    """All of them, those put aside first; each is whole."""
    files = sorted(path.parent.glob(f"{path.name}*"), key=lambda file: -int("0" + file.name[len(path.name) + 1 :]))
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def told(path: Path, count: int) -> list[dict[str, Any]]:
    """As many lines as there are to be, without their times."""
    found = eventually(lambda: path.exists() and len(lines(path)) >= count and lines(path))
    assert len(found) == count, found
    return [{name: value for name, value in line.items() if name != "at"} for line in found]


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
