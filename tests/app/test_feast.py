"""Feast's own client and a key: its remote online store shows what `auth` holds as its OIDC token."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support import feast_read
from tests.support.keys import Keys
from tests.support.online_rows import NOW, OnlineRows
from tests.support.served import served
from tests.support.serving_cases import RISK

FEAST_PYTHON = os.environ.get("FEAST_PYTHON")  # an interpreter that has Feast, as in `benchmarks.run --feast-python`


@pytest.fixture
def store(valkey: str) -> str:
    rows = OnlineRows(valkey)
    rows.define(RISK)
    rows.put("merchant__risk", "a", NOW, 0.5)
    return valkey


def test_a_request_as_feast_0_67_sends_it(store: str) -> None:
    keys = Keys(store)
    body = (
        b'{"entities": {"merchant_id": ["a", "b"]}, "full_feature_names": false, '
        b'"include_feature_view_version_metadata": false, "features": ["merchant__risk:ratio"]}'
    )
    headers = {"Accept-Encoding": "gzip, deflate", "Connection": "keep-alive", "Content-Type": "application/json"}
    with served(store) as server:

        def ask(key: str) -> httpx.Response:
            shown = headers | {"Authorization": f"Bearer {key}"}
            return httpx.post(f"{server.address}/get-online-features", content=body, headers=shown, trust_env=False)

        answer = ask(keys.make("read:view/merchant__risk")).json()
        assert answer["results"][1]["values"] == [0.5, None]
        assert ask(keys.make("metrics")).status_code == 403


@pytest.mark.skipif(FEAST_PYTHON is None, reason="FEAST_PYTHON names no interpreter that has Feast")
def test_feasts_client_shows_its_key(store: str, tmp_path: Path) -> None:
    keys = Keys(store)
    with served(store) as server:
        good, other = keys.make("read:view/merchant__risk"), keys.make("metrics")
        command = [str(FEAST_PYTHON), feast_read.__file__, server.address, "", good, other, "fw_00000000_x"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        without, found, denied, wrong = map(json.loads, done.stdout.splitlines())
    assert found == {"merchant_id": ["a", "b"], "ratio": [0.5, None]}
    assert "AccessDenied" in denied
    assert "NotSignedIn" in without
    assert "NotSignedIn" in wrong
