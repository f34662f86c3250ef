"""Keys of access on a running feature server: who enters, what he may, how fast a key opens nothing any more, and
browsers that sign in."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import pytest
import redis

from feature_server.client.features import FeatureClient
from feature_server.definitions.facts import Owner
from feature_server.errors import AccessDenied, NotSignedIn, SettingsError
from feature_server.online.store import OnlineStore
from tests.support.keys import Keys, bearing
from tests.support.online_rows import NOW, OnlineRows
from tests.support.served import Served, eventually, served
from tests.support.serving_cases import FRAUD, PROFILE, RISK, TRANSACTIONS
from tests.support.stream_views import payment, put_online, stream_view

READ, PUSH = "/get-online-features", "/push"
RATIO = {"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"]}}
PAGES = ["/", "/openapi.json", "/entities", "/feature-views/merchant__risk", "/feature-services", "/metrics"]
EVENT = {"push_source_name": "payments.transactions", "df": {k: [v] for k, v in payment(1, customer_id=1).items()}}
FORM = re.compile(r'name="form" value="([^"]+)"')


@pytest.fixture
def store(valkey: str) -> str:
    rows = OnlineRows(valkey)
    private = msgspec.structs.replace(PROFILE, access="private", owner=Owner(name="Risk", group="risk"))
    rows.define(TRANSACTIONS, private, RISK, services=[FRAUD])
    rows.put("merchant__risk", "a", NOW, 0.5)
    return valkey


@pytest.fixture
def server(store: str) -> Iterator[Served]:
    with served(store) as running:
        yield running
        assert "Traceback" not in running.stop()


@pytest.fixture
def keys(store: str) -> Keys:
    return Keys(store)


def read(server: Served, key: str | None, asked: dict[str, object] = RATIO) -> httpx.Response:
    return httpx.post(server.address + READ, json=asked, headers=bearing(key), trust_env=False)


def test_this_machine_may_do_all_until_the_first_key_exists(server: Served, keys: Keys) -> None:
    assert read(server, None).status_code == 200
    assert "there is no key of access yet" in server.log()
    keys.make("read:view/merchant__risk")
    refused = read(server, None)  # the next request, for the epoch has moved
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "features keys create" in refused.json()["remedy"]
    for path in PAGES:
        for accept in ("application/json", "text/html"):
            answer = httpx.get(server.address + path, headers={"accept": accept}, trust_env=False)
            assert answer.status_code == 401, path
    for path in ("/health", "/ready"):
        assert httpx.get(server.address + path, trust_env=False).status_code == 200
    assert httpx.post(server.address + PUSH, json=EVENT, trust_env=False).status_code == 401


def test_a_key_opens_what_its_scopes_name_and_nothing_else(server: Served, keys: Keys) -> None:
    mine, other = keys.make("read:view/merchant__risk"), keys.make("read:view/customer__profile")
    assert read(server, mine).json()["results"][1]["values"] == [0.5]
    denied = read(server, other)
    assert denied.status_code == 403
    told = denied.json()
    assert told["error"] == "AccessDenied"
    assert told["where"] == "merchant__risk:ratio"
    assert told["expected"] == "the scope read:view/merchant__risk"
    assert read(server, mine).status_code == 200
    for path in ("/metrics", "/explain?feature=merchant__risk:ratio&merchant_id=a"):
        assert httpx.get(server.address + path, headers=bearing(mine), trust_env=False).status_code == 403, path
    assert httpx.get(f"{server.address}/metrics", headers=bearing(keys.make("metrics")), trust_env=False).is_success
    assert httpx.get(f"{server.address}/entities", headers=bearing(mine), trust_env=False).is_success


@pytest.mark.parametrize("count", [1, 5_000])
def test_many_entities_are_no_way_round(server: Served, keys: Keys, count: int) -> None:
    asked = RATIO | {"entities": {"merchant_id": ["a"] * count}}
    assert read(server, keys.make("read:view/customer__profile"), asked).status_code == 403
    assert len(read(server, keys.make("read:*"), asked).json()["results"][1]["values"]) == count


def test_a_key_that_is_revoked_while_much_is_read_gets_none_of_it(server: Served, keys: Keys) -> None:
    body = json.dumps(RATIO | {"entities": {"merchant_id": ["a"] * 400_000}}).encode()
    mine = keys.make("read:*")

    def reads() -> tuple[int, float]:
        answer = httpx.post(server.address + READ, content=body, headers=bearing(mine), trust_env=False, timeout=60)
        return answer.status_code, time.monotonic()

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(reads).result()[0] == 200
        answered = thread.submit(reads)
        time.sleep(0.1)  # of some 0.7
        keys.revoke(mine)
        revoked = time.monotonic()
        status, at = answered.result()
    assert status == 401 or at < revoked


def test_a_private_view_is_read_by_keys_of_its_group(server: Served, keys: Keys) -> None:
    asked = {"features": [f"{PROFILE.name}:{PROFILE.feature_names[0]}"], "entities": {"customer_id": [1]}}
    assert read(server, keys.make("read:*"), asked).status_code == 403
    assert read(server, keys.make("read:*", group="growth"), asked).status_code == 403
    assert read(server, keys.make("read:*", group="risk"), asked).status_code == 200


def test_a_key_that_was_revoked_or_expired_opens_nothing(server: Served, keys: Keys) -> None:
    mine, short = keys.make("read:*"), keys.make("read:*", lasts_us=300_000)
    assert read(server, short).status_code == 200
    assert read(server, mine).status_code == 200
    keys.revoke(mine)
    refused = read(server, mine)  # at once
    assert (refused.status_code, "is revoked" in refused.json()["what"]) == (401, True)
    assert eventually(lambda: read(server, short).status_code == 401)
    assert "is expired" in read(server, short).json()["what"]


def test_a_revocation_reaches_a_server_that_nobody_asks(server: Served, keys: Keys) -> None:
    admin, mine = keys.make("admin"), keys.make("metrics")
    ask = lambda: httpx.get(f"{server.address}/metrics", headers=bearing(mine), trust_env=False).status_code  # noqa: E731
    assert ask() == 200
    keys.revoke(mine)
    assert ask() == 401
    assert httpx.get(f"{server.address}/metrics", headers=bearing(admin), trust_env=False).status_code == 200


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Basic Zm9v", "Bearer fw_00000000_x", "Bearer a b", "Bearer \xff", "Token {}"]
)
def test_what_is_no_key_opens_nothing(server: Served, keys: Keys, header: str) -> None:
    mine = keys.make("read:*")
    headers = {"authorization": header.format(mine).encode("latin-1")}
    answer = httpx.post(server.address + READ, json=RATIO, headers=headers, trust_env=False)
    assert answer.status_code == 401
    assert mine not in answer.text
    twice = [("authorization", f"Bearer {mine}"), ("authorization", "Bearer x")]
    assert httpx.post(server.address + READ, json=RATIO, headers=twice, trust_env=False).status_code == 400


def test_a_key_is_kept_nowhere_and_not_logged(server: Served, keys: Keys) -> None:
    mine = keys.make("read:*")
    assert read(server, mine, {"features": [mine], "entities": {}}).status_code == 422
    link = redis.Redis.from_url(keys.url)
    secret = mine.split("_", 2)[2].encode()
    assert all(
        secret not in (link.get(name) or b"") for name in link.keys("features:*") if link.type(name) == b"string"
    )
    assert secret.decode() not in server.log()


def test_an_emptied_redis_opens_nothing_and_locks_nobody_out(server: Served, keys: Keys, store: str) -> None:
    mine = keys.make("read:*")
    assert read(server, mine).status_code == 200
    redis.Redis.from_url(store).flushall()
    assert read(server, None).status_code == 401
    assert read(server, mine).status_code == 503
    rows = OnlineRows(store)
    rows.define(RISK)
    rows.put("merchant__risk", "a", NOW, 0.5)
    assert read(server, mine).status_code == 200
    assert read(server, None).status_code == 401


def test_a_server_that_finds_the_keys_lost_answers_nobody(keys: Keys, store: str) -> None:
    mine = keys.make("read:*")
    redis.Redis.from_url(store).delete("features:keys")
    with served(store) as server:
        for key in (None, mine):
            refused = read(server, key)
            assert refused.status_code == 503
            assert "features sync" in refused.json()["remedy"]
            assert httpx.get(f"{server.address}/", headers=bearing(key), trust_env=False).status_code == 503
        ready = httpx.get(f"{server.address}/ready", trust_env=False)
        assert (ready.status_code, "keys of access" in ready.text) == (503, True)
        assert httpx.post(server.address + PUSH, json=EVENT, trust_env=False).status_code == 503
        with OnlineStore(store) as online:
            online.put_keys(keys.ring.to_json(), keyed=True)
        assert read(server, mine).status_code == 200


def test_pushes_need_the_scope_of_their_source(valkey: str) -> None:
    put_online(valkey, stream_view())
    keys = Keys(valkey)
    with served(valkey) as server:
        pusher, other = keys.make("push:payments.transactions"), keys.make("push:other", "read:*")
        answer = httpx.post(server.address + PUSH, json=EVENT, headers=bearing(other), trust_env=False)
        assert (answer.status_code, answer.json()["where"]) == (403, "payments.transactions")
        answer = httpx.post(server.address + PUSH, json=EVENT, headers=bearing(pusher), trust_env=False)
        assert answer.json() == {"accepted": 1, "rejected": []}


def test_the_client_shows_its_key(server: Served, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = keys.make("read:view/merchant__risk"), keys.make("metrics")
    with FeatureClient(server.address, key=mine) as client:
        assert client.get(["merchant__risk:ratio"], merchant_id="a").values == {"ratio": 0.5}
    with FeatureClient(server.address, key=other) as client, pytest.raises(AccessDenied, match="merchant__risk:ratio"):
        client.get(["merchant__risk:ratio"], merchant_id="a")
    with FeatureClient(server.address) as client, pytest.raises(NotSignedIn, match="shows no key"):
        client.get(["merchant__risk:ratio"], merchant_id="a")
    monkeypatch.setenv("FEATURES_KEY", mine)
    with FeatureClient(server.address) as client:
        assert client.get(["merchant__risk:ratio"], merchant_id="a").values == {"ratio": 0.5}
        assert mine not in repr(client) + repr(client._settings)
    for key, address in (("a\nb", server.address), ("é", server.address), (mine, "redis://localhost")):
        with pytest.raises(SettingsError) as error:
            FeatureClient(address, key=key)
        assert key not in str(error.value)


def test_json_tells_what_is_wrong_with_the_list(server: Served, keys: Keys, store: str) -> None:
    keys.make("admin")
    link = redis.Redis.from_url(store)
    link.set("features:keys", json.dumps({"format": 99}))
    link.incr("features:epoch")
    refused = read(server, None)
    assert refused.status_code in (500, 503)
    assert "format 99" in refused.json()["what"]


@pytest.fixture
def browser(server: Served) -> Iterator[httpx.Client]:
    headers = {"accept": "text/html"}
    with httpx.Client(base_url=server.address, headers=headers, follow_redirects=True, trust_env=False) as client:
        yield client


def form(answer: httpx.Response) -> str:
    (found,) = set(FORM.findall(answer.text))
    return found


def test_a_browser_signs_in_and_out(browser: httpx.Client, keys: Keys) -> None:
    mine = keys.make("read:view/merchant__risk")
    page = browser.get("/feature-views/merchant__risk")
    assert page.status_code == 401
    assert "Sign in" in page.text
    entered = browser.post("/sign-in", data={"key": mine, "form": form(page)})
    assert (entered.status_code, entered.url.path) == (200, "/")
    assert mine not in entered.text
    cookie = entered.history[0].headers.get_list("set-cookie")[0]
    assert cookie.startswith("features_key=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert browser.get("/feature-views/merchant__risk").status_code == 200
    assert browser.get("/metrics").status_code == 403
    keys.revoke(mine)
    again = browser.get("/feature-views/merchant__risk")
    assert (again.status_code, "is revoked" in again.text) == (401, True)
    left = browser.post("/sign-out", data={"form": form(again)})
    assert left.url.path == "/sign-in"
    assert "features_key" not in browser.cookies


def test_the_cookie_is_for_pages_alone(browser: httpx.Client, keys: Keys) -> None:
    mine = keys.make("admin")
    browser.post("/sign-in", data={"key": mine, "form": form(browser.get("/sign-in"))})
    assert browser.get("/entities").status_code == 200
    assert browser.post(READ, json=RATIO).status_code == 401
    assert browser.post("/push", json={}).status_code == 401


def test_a_wrong_key_gets_the_form_again(browser: httpx.Client, keys: Keys) -> None:
    keys.make("admin")
    for wrong in ("fw_00000000_x", " ", "é", "a; features_key=b"):
        again = browser.post("/sign-in", data={"key": wrong, "form": form(browser.get("/sign-in"))})
        assert again.status_code == 401
        assert "features_key" not in browser.cookies
        assert "that is no key" in again.text
    unknown = f"fw_00000000_{'x' * 43}"
    again = browser.post("/sign-in", data={"key": unknown, "form": form(browser.get("/sign-in"))})
    assert (again.status_code, "does not know" in again.text) == (401, True)


def test_cookies_of_others_do_not_hide_the_key(server: Served, keys: Keys) -> None:
    mine = keys.make("admin")
    for other in ('a={"x":1}', "a[b]=1", "a=b c"):
        headers = {"cookie": f"{other}; features_key={mine}"}
        assert httpx.get(f"{server.address}/entities", headers=headers, trust_env=False).status_code == 200


def started_anew(server: Served) -> None:
    (worker,) = server.workers()
    worker.kill()
    worker.wait(30)
    assert eventually(lambda: any(other.pid != worker.pid for other in server.workers()))
    assert eventually(lambda: httpx.get(f"{server.address}/health", trust_env=False).status_code == 200)


@pytest.mark.parametrize("when", ["before the server starts", "after"])
def test_a_worker_that_is_started_anew_knows_the_keys_that_redis_has_lost(keys: Keys, store: str, when: str) -> None:
    mine = keys.make("read:*", "metrics") if when != "after" else ""
    with served(store) as server:
        assert read(server, mine or None).status_code == 200
        mine = mine or keys.make("read:*", "metrics")
        assert read(server, mine).status_code == 200
        gone = keys.make("admin")
        assert read(server, gone).status_code == 200
        keys.revoke(gone)
        assert read(server, gone).status_code == 401
        redis.Redis.from_url(store).flushall()
        started_anew(server)
        for page in ("/metrics", "/sign-in"):
            assert httpx.get(server.address + page, headers=bearing(mine), trust_env=False).status_code == 200
        assert httpx.get(f"{server.address}/metrics", trust_env=False).status_code == 401
        rows = OnlineRows(store)
        rows.define(RISK)  # as a sync of a home without the keys does
        rows.put("merchant__risk", "a", NOW, 0.5)
        assert [read(server, key).status_code for key in (mine, None, gone)] == [200, 401, 401]
        started_anew(server)
        assert [read(server, key).status_code for key in (mine, None, gone)] == [200, 401, 401]
        assert 1 <= server.log().count("are not in Redis") <= 3  # once a worker


def test_keys_count_before_anything_is_synced(valkey: str) -> None:
    keys = Keys(valkey)
    with served(valkey) as server:

        def ask(key: str | None, page: str = "/metrics") -> int:
            return httpx.get(server.address + page, headers=bearing(key), trust_env=False).status_code

        assert (ask(None), ask(None, "/openapi.json")) == (200, 200)
        mine = keys.make("metrics")
        assert (ask(None), ask(mine), ask(None, "/openapi.json")) == (401, 200, 401)
        other = keys.make("metrics")
        assert (ask(mine), ask(other)) == (200, 200)
        keys.revoke(mine)
        assert (ask(mine), ask(other)) == (401, 200)
        answer = httpx.post(server.address + PUSH, json=EVENT, headers=bearing(mine), trust_env=False)
        assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/sign-in", "/sign-out"])
def test_a_form_that_is_not_ours_is_refused(browser: httpx.Client, keys: Keys, path: str) -> None:
    mine = keys.make("admin")
    for data in (
        {"key": mine},
        {"key": mine, "form": "guessed"},
        {"key": mine, "form": form(browser.get("/sign-in")) + "x"},
    ):
        assert browser.post(path, data=data).status_code == 422
    browser.cookies.clear()
    assert browser.post(path, data={"key": mine, "form": ""}).status_code == 422
    assert browser.post(path, content=b"x" * 10_000).status_code == 422
    foreign = {"origin": "http://evil.example"}
    assert browser.post(path, data={"key": mine}, headers=foreign).status_code == 403


def test_behind_a_proxy_that_ends_tls_the_cookie_is_secure(browser: httpx.Client, keys: Keys) -> None:
    mine = keys.make("admin")
    given = form(browser.get("/sign-in"))
    answer = browser.post(
        "/sign-in", data={"key": mine, "form": given}, headers={"x-forwarded-proto": "https"}, follow_redirects=False
    )
    assert "Secure" in answer.headers["set-cookie"]
