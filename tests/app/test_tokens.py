"""Tokens of an identity provider on a running feature server: which are taken, and what each opens."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from feature_server.access.keys import KeyRing, create_key, for_tokens
from feature_server.client.features import FeatureClient
from feature_server.definitions.facts import Owner
from feature_server.errors import AccessDenied, NotSignedIn
from feature_server.online.store import OnlineStore
from tests.support.identity_provider import KEYS, Provider, forged, private_key, provider
from tests.support.online_rows import NOW, OnlineRows
from tests.support.served import Served, eventually, served
from tests.support.serving_cases import FRAUD, PROFILE, RISK, TRANSACTIONS

READ = "/get-online-features"
RATIO = {"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"]}}
AGE = {"features": [f"{PROFILE.name}:{PROFILE.feature_names[0]}"], "entities": {"customer_id": [1]}}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Provider]:
    with provider("first") as running:
        yield running


@pytest.fixture(scope="module")
def store(valkey_server: str) -> str:
    """Keys for tokens of groups: `fraud` reads a view, `risk` is dbt's group of a private one."""
    rows = OnlineRows(valkey_server)
    private = msgspec.structs.replace(PROFILE, access="private", owner=Owner(name="Risk", group="risk"))
    rows.define(TRANSACTIONS, private, RISK, services=[FRAUD])
    rows.put("merchant__risk", "a", NOW, 0.5)
    return valkey_server


@pytest.fixture(scope="module")
def ring(store: str) -> KeyRing:
    made = KeyRing()
    for oidc_group, scopes, group in (("fraud", ("read:view/merchant__risk",), None), ("risk", ("read:*",), "risk")):
        key, _ = create_key(owner=oidc_group, scopes=scopes, group=group, now_us=time.time_ns() // 1000)
        made = made.added(for_tokens(key, oidc_group))
    put(store, made)
    return made


@pytest.fixture(scope="module")
def server(store: str, issuer: Provider, ring: KeyRing) -> Iterator[Served]:
    with served(store, **issuer.environment) as running:
        yield running
        assert "Traceback" not in running.stop()


def put(url: str, ring: KeyRing) -> None:
    with OnlineStore(url) as online:
        online.put_keys(ring.to_json(), keyed=True)


def read(server: Served, token: str, asked: dict[str, object] = RATIO) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}".encode("latin-1")}
    return httpx.post(server.address + READ, json=asked, headers=headers, trust_env=False)


def test_a_token_opens_what_the_keys_of_its_groups_give(server: Served, issuer: Provider) -> None:
    fraud, both = issuer.token("fraud", "staff"), issuer.token("fraud", "risk")
    assert read(server, fraud).json()["results"][1]["values"] == [0.5]
    denied = read(server, fraud, AGE)
    assert (denied.status_code, denied.json()["error"]) == (403, "AccessDenied")
    assert read(server, both, AGE).status_code == 200  # private to dbt's group risk
    for page in ("/", "/feature-views/merchant__risk"):
        assert httpx.get(server.address + page, headers=bearing(fraud), trust_env=False).status_code == 200
    metrics = httpx.get(f"{server.address}/metrics", headers=bearing(fraud), trust_env=False)
    assert (metrics.status_code, "token of ada" in metrics.json()["what"]) == (403, True)


def test_the_client_sends_a_token_as_it_sends_a_key(server: Served, issuer: Provider) -> None:
    with FeatureClient(server.address, key=issuer.token("fraud", roles=["x" * 1_000])) as client:
        assert client.get(["merchant__risk:ratio"], merchant_id="a").values == {"ratio": 0.5}
    with FeatureClient(server.address, key=issuer.token("staff")) as client, pytest.raises(AccessDenied, match="group"):
        client.get(["merchant__risk:ratio"], merchant_id="a")
    with FeatureClient(server.address, key=issuer.token(aud="x")) as client, pytest.raises(NotSignedIn, match="token"):
        client.get(["merchant__risk:ratio"], merchant_id="a")


def bearing(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_a_token_of_no_known_group_is_denied(server: Served, issuer: Provider) -> None:
    for token in (issuer.token("staff"), issuer.token(), issuer.token(groups=None)):
        denied = read(server, token)
        assert (denied.status_code, denied.json()["error"]) == (403, "AccessDenied")
        assert "--oidc-group" in denied.json()["remedy"]


def wrong_tokens(issuer: Provider) -> dict[str, str]:
    now, good = int(time.time()), issuer.token("risk")
    claims = {"iss": issuer.issuer, "aud": "features", "sub": "eve", "exp": now + 300, "groups": ["risk"]}
    shown = json.dumps(issuer.shown[0]).encode()
    head = forged({"alg": "HS256", "kid": "first", "typ": "JWT"}, claims).rpartition(".")[0]
    by_public_key = hmac.digest(shown, head.encode(), hashlib.sha256)
    body = good.split(".")
    return {
        "alg none": forged({"alg": "none", "kid": "first", "typ": "JWT"}, claims, b""),
        "alg nOnE": forged({"alg": "nOnE", "kid": "first", "typ": "JWT"}, claims, b""),
        "HS256 by the public key": f"{head}.{forged({}, {}, by_public_key).rpartition('.')[2]}",
        "no algorithm": forged({"kid": "first"}, claims),
        "another audience": issuer.token("risk", aud="billing"),
        "no audience": issuer.token("risk", aud=None),
        "another issuer": issuer.token("risk", iss="https://evil.example"),
        "no issuer": issuer.token("risk", iss=None),
        "expired": issuer.token("risk", exp=now - 60),
        "without an end": issuer.token("risk", exp=None),
        "endless": issuer.token("risk", exp=float("inf")),
        "not yet": issuer.token("risk", nbf=now + 300),
        "issued later": issuer.token("risk", iat=now + 300),
        "without a subject": issuer.token("risk", sub=None),
        "a subject that is no text": forged({"alg": "RS256", "kid": "first"}, claims | {"sub": 1}),
        "another's key": issuer.token("risk", key=private_key("evil")),
        "an unknown key": issuer.token("risk", kid="evil"),
        "a key in the token": issuer.token("risk", key=private_key("evil"), header={"jwk": shown.decode()}),
        "a key elsewhere": issuer.token("risk", kid="evil", header={"jku": issuer.issuer + KEYS}),
        "a key id that is none": forged({"alg": "RS256", "kid": {"a": 1}}, claims),
        "what must be understood": issuer.token("risk", header={"crit": ["x"], "x": 1}),
        "another kind of key": issuer.token("risk", kind="EC", alg="ES256"),
        "a logout": issuer.token("risk", header={"typ": "logout+jwt"}),
        "a type that is none": forged({"alg": "RS256", "kid": "first", "typ": 1}, claims),
        "groups that are a number": issuer.token(groups=7),
        "groups that are none": issuer.token(groups=[{"name": "risk"}]),
        "claims changed": f"{body[0]}.{forged({}, claims).split('.')[1]}.{body[2]}",
        "cut short": good[:-20],
        "huge": issuer.token("risk", more="x" * 20_000),
        "deep": forged({"alg": "RS256", "kid": "first"}, claims).replace("e", "W1tb" * 2_000, 1),
        "dots": "..",
        "no base64": "a.b.c",
        "not ASCII": "\xe9.\xe9.\xe9",
    }  # fmt: skip


def test_no_other_token_opens_anything(server: Served, issuer: Provider) -> None:
    tokens = wrong_tokens(issuer)
    answers = {name: read(server, token) for name, token in tokens.items()}
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(tokens, 401)
    assert {answer.headers["www-authenticate"] for answer in answers.values()} == {"Bearer"}
    assert all(answer.json()["remedy"] and tokens[name] not in answer.text for name, answer in answers.items())
    for name in ("another audience", "deep", "huge"):
        page = httpx.get(server.address, headers=bearing(tokens[name]) | {"accept": "text/html"}, trust_env=False)
        assert page.status_code == 401
    assert read(server, issuer.token("risk")).status_code == 200
    assert not any(token in server.log() for token in tokens.values())
    assert len([path for path in issuer.asked if path == KEYS]) <= 2  # many unknown keys ask for them once


def test_a_token_in_the_cookie_opens_nothing(server: Served, issuer: Provider) -> None:
    headers = {"cookie": f"features_key={issuer.token('risk')}"}
    assert httpx.get(f"{server.address}/entities", headers=headers, trust_env=False).status_code == 401


def test_a_change_of_keys_counts_for_tokens_at_once(
    server: Served, issuer: Provider, ring: KeyRing, store: str
) -> None:
    token, other = issuer.token("fraud"), issuer.token("new")
    assert (read(server, token).status_code, read(server, other).status_code) == (200, 403)
    key, text = create_key(owner="new", scopes=("read:*",), now_us=time.time_ns() // 1000)
    put(store, ring.revoked(ring.keys[0].id, 1).added(for_tokens(key, "new")))
    try:
        assert (read(server, token).status_code, read(server, other).status_code) == (403, 200)
        assert read(server, text).status_code == 401  # it is kept nowhere, and is nobody's
    finally:
        put(store, ring)
    assert read(server, token).status_code == 200


def test_a_token_ends_with_its_time(server: Served, issuer: Provider) -> None:
    token = issuer.token("risk", exp=int(time.time()) - 28)  # clocks may differ by 30 seconds
    assert read(server, token).status_code == 200
    assert eventually(lambda: read(server, token).status_code == 401)


@pytest.mark.parametrize(
    ("kind", "alg", "more"),
    [("EC", "ES256", {}), ("OKP", "EdDSA", {}), ("RSA", "PS256", {}), ("RSA", "RS512", {"alg": "RS512"})],
)
def test_other_algorithms_with_two_keys(store: str, ring: KeyRing, kind: str, alg: str, more: dict[str, Any]) -> None:
    with provider() as issuer:
        issuer.show("one", kind=kind, **more)
        with served(store, **issuer.environment) as server:
            assert read(server, issuer.token("fraud", kid="one", kind=kind, alg=alg)).status_code == 200
            no_kid = issuer.token("fraud", kid=None, key=private_key("one", kind), kind=kind, alg=alg)
            assert read(server, no_kid).status_code == 200
            other = issuer.token("fraud", kid="one", kind=kind, alg="RS256") if kind == "RSA" and more else no_kid + "x"
            assert read(server, other).status_code == 401


def test_keys_rotate_and_an_issuer_that_is_away_locks_nobody_out(store: str, ring: KeyRing) -> None:
    with provider("old") as issuer, served(store, **issuer.environment) as server:
        old = issuer.token("fraud", kid="old")
        assert read(server, old).status_code == 200
        issuer.show("old", "new")
        new = issuer.token("fraud", kid="new")
        assert eventually(lambda: read(server, new).status_code == 200)  # not at once: who made it up waits, too
        issuer.status = 500
        unknown = issuer.token("fraud", kid="newer")
        assert eventually(lambda: read(server, unknown).status_code == 503)
        away = read(server, unknown)
        assert away.json()["error"] == "IssuerUnavailable"
        assert away.headers["retry-after"] == "5"
        assert read(server, issuer.token("fraud", kid="old", jti="1")).status_code == 200
        ready = httpx.get(f"{server.address}/ready", trust_env=False)
        assert (ready.status_code, "issuer of tokens" in ready.json()["degraded"][0]) == (200, True)
        assert server.log().count("cannot be fetched") >= 1


@pytest.mark.parametrize("described", [{"issuer": "https://evil.example"}, {"jwks_uri": "http://evil.example/keys"}])
def test_a_description_of_another_issuer_gives_no_keys(store: str, ring: KeyRing, described: dict[str, str]) -> None:
    with provider("first") as issuer:
        issuer.described = described
        with served(store, **issuer.environment) as server:
            assert read(server, issuer.token("fraud")).status_code == 503
        issuer.described = {}
        jwks = {"FEATURES_OIDC_JWKS_URL": issuer.issuer + KEYS, "FEATURES_OIDC_GROUPS": "realm.roles"}
        with served(store, **issuer.environment, **jwks) as server:
            assert read(server, issuer.token(realm={"roles": ["fraud"]})).status_code == 200


def test_the_audit_trail_names_the_subject_and_the_keys(
    store: str, issuer: Provider, ring: KeyRing, tmp_path: Path
) -> None:
    trail = tmp_path / "audit.jsonl"
    with served(store, **issuer.environment, FEATURES_AUDIT=str(trail)) as server:
        tokens = [issuer.token("fraud", "risk"), issuer.token("fraud"), issuer.token("staff"), issuer.token(aud="x")]
        assert [read(server, token, AGE).status_code for token in tokens] == [200, 403, 403, 401]
        assert server.stop() is not None
    lines = [json.loads(line) for line in trail.read_text().splitlines()]
    fraud, risk = (key.id for key in ring)
    assert [(line["outcome"], line["who"], line.get("key"), line.get("group")) for line in lines] == [
        ("allowed", "oidc:ada", f"{fraud}+{risk}", "risk"),
        ("denied", "oidc:ada", fraud, None),
        ("denied", "oidc:ada", None, None),
        ("denied", "unknown", None, None),
    ]
    assert not any(token in trail.read_text() for token in tokens)


def test_with_an_issuer_nobody_enters_before_there_is_a_key(valkey: str) -> None:  # the last: it empties the store
    with provider("first") as issuer, served(valkey, **issuer.environment) as server:
        assert "who is on this machine can read" not in server.log()
        assert httpx.get(f"{server.address}/metrics", trust_env=False).status_code == 401
        refused = read(server, issuer.token("fraud"))
        assert (refused.status_code, "no key of access yet" in refused.json()["what"]) == (401, True)
