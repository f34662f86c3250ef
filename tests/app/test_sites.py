"""Whom the feature server answers: no page of another site, and on loopback no name but its own."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.client import HTTPResponse

import httpx
import msgspec
import psutil
import pytest

from feature_server.app.sites import RepeatedHeader, Sites, create_sites, headers_of
from feature_server.app.supervisor import listen
from feature_server.errors import FeatureStoreError, SettingsError
from tests.support.served import Served, metrics, served
from tests.support.stream_views import payment, put_online, stream_view

READ = "/get-online-features"
PUSH = "/push"
RATIO = {"features": ["merchant__risk:ratio"], "entities": {"merchant_id": ["a"]}}
EVENT = {"push_source_name": "payments.transactions", "df": {k: [v] for k, v in payment(1, customer_id=1).items()}}
ROUTES = ["/", "/health", "/ready", "/metrics", "/openapi.json", "/entities", "/feature-views/merchant__risk",
          "/explain", READ, PUSH, "/no/such/page"]  # fmt: skip


@pytest.fixture
def http(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", "http://127.0.0.1", ""])
def test_a_page_of_another_site_gets_no_answer_from_any_path(http: httpx.Client, origin: str) -> None:
    for path in ROUTES:
        for method in ("GET", "POST", "OPTIONS", "DELETE"):
            refused = http.request(method, path, headers={"origin": origin}, content=json.dumps(RATIO))
            assert refused.status_code == 403, (method, path)
            assert set(refused.json()) == {"error", "what", "where", "expected", "got", "remedy"}
    assert "FEATURES_ALLOWED_HOSTS" in refused.json()["remedy"]
    assert "access-control-allow-origin" not in refused.headers


def test_the_servers_own_pages_are_answered(server: Served, http: httpx.Client) -> None:
    for host in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        own = f"{host}:{server.port}"
        headers = {"host": own, "origin": f"http://{own}", "sec-fetch-site": "same-origin"}
        assert http.post(READ, json=RATIO, headers=headers).status_code == 200


def test_a_browser_may_follow_a_link_to_a_page_but_not_embed_it_or_load_it_from_another_site(
    http: httpx.Client,
) -> None:
    def status(site: str, mode: str, target: str) -> int:
        headers = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": target, "accept": "text/html"}
        return http.get("/feature-views/merchant__risk", headers=headers).status_code

    for site in ("cross-site", "same-site"):
        assert status(site, "navigate", "document") == 200
        assert status(site, "navigate", "iframe") == 403
        assert status(site, "no-cors", "script") == 403
        assert status(site, "no-cors", "image") == 403
    assert status("same-origin", "cors", "empty") == 200
    assert status("none", "navigate", "document") == 200
    form = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert http.post(READ, json=RATIO, headers=form).status_code == 403


def test_pages_cannot_be_framed_and_run_nothing(http: httpx.Client) -> None:
    page = http.get("/", headers={"accept": "text/html"})
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:6566", "127.0.0.1.evil.example", "localhost.", "",
                                  "[::1", "a b", "127.0.0.1:x", "me@localhost", "localhost/", "10.0.0.1"])  # fmt: skip
def test_a_name_that_is_not_the_servers_own_is_not_answered(http: httpx.Client, host: str) -> None:
    for path in ROUTES:
        refused = http.get(path, headers={"host": host})
        assert (refused.status_code, refused.json()["got"]) == (421, repr(host))
    assert http.post(READ, json=RATIO, headers={"host": host}).status_code == 421
    assert "FEATURES_ALLOWED_HOSTS" in refused.json()["remedy"]


def test_refusals_are_counted(server: Served, http: httpx.Client) -> None:
    before = metrics(server.address)
    http.get("/health", headers={"host": "evil.example"})
    after = metrics(server.address)
    name = ("features_http_requests_total", "other", "421")
    assert after[name] - before.get(name, 0) == 1


def test_names_that_the_setting_gives_are_answered(server: Served, valkey_server: str) -> None:
    named = "features.internal, Shop.example:8443,[fd00::7]"
    with served(valkey_server, FEATURES_ALLOWED_HOSTS=named) as running, httpx.Client(trust_env=False) as client:

        def status(host: str, **headers: str) -> int:
            answer = client.post(f"{running.address}{READ}", json=RATIO, headers={"host": host} | headers)
            return answer.status_code

        assert [status(host) for host in ("features.internal:6566", "SHOP.example", "[fd00::7]:1", "localhost")] == (
            [200] * 4
        )
        assert status("evil.example") == 421
        assert status("localhost", origin="https://shop.example") == 200  # a proxy that names another host
        assert status("localhost", origin="https://evil.example") == 403
        assert status("features.internal", origin="https://features.internal") == 200


@pytest.mark.parametrize("name", ["*", "http://features.internal", "a b", "features.internal/x"])
def test_a_setting_that_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        create_sites("127.0.0.1", "localhost", ("shop.example", name))
    assert (refused.value.where, refused.value.got) == ("FEATURES_ALLOWED_HOSTS", repr(name))


def asked(sites: Sites, *, http_version: str = "1.1", **headers: str) -> int:
    """The status of a GET with these headers, 200 when it is let through."""
    given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    try:
        sites.check("GET", given, http_version=http_version)
    except FeatureStoreError as error:
        return error.status
    return 200


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "192.168.1.7", "8.8.8.8"])
def test_beyond_loopback_any_name_is_answered_unless_the_setting_names_them(bound: str) -> None:
    open_to_all = create_sites(bound, bound, ())
    assert open_to_all.beyond_loopback
    assert asked(open_to_all, host="features.internal:6566") == 200
    assert asked(open_to_all, host="features.internal", origin="http://evil.example") == 403
    assert asked(open_to_all, host="[::1") == 421
    named = create_sites(bound, bound, ("features.internal",))
    assert asked(named, host="features.internal") == 200
    assert asked(named, host="localhost") == 200
    assert asked(named, host="evil.example") == 421


@pytest.mark.parametrize("bound", ["127.0.0.1", "::1", "127.0.1.1", "::ffff:127.0.0.1"])
def test_on_loopback_the_address_and_the_name_that_were_bound_are_answered(bound: str) -> None:
    sites = create_sites(bound, "Devbox", ())
    assert not sites.beyond_loopback
    own = f"[{bound}]" if ":" in bound else bound
    assert [asked(sites, host=host) for host in (own, "devbox:6566", "other")] == [200, 200, 421]
    assert [asked(sites), asked(sites, http_version="1.0")] == [400, 200]  # no browser asks without a host
    assert msgspec.json.decode(msgspec.json.encode(sites), type=Sites) == sites


def test_a_push_wants_json_so_that_no_form_can_push(http: httpx.Client, valkey_server: str) -> None:
    put_online(valkey_server, stream_view())
    body = json.dumps(EVENT)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "",
                 "application/jsonx", "text/plain; application/json"):  # fmt: skip
        refused = http.post(PUSH, content=body, headers={"content-type": kind})
        assert (refused.status_code, refused.json()["got"]) == (415, repr(kind))
        assert "application/json" in refused.json()["remedy"]
    assert http.post(PUSH, content=body).status_code == 415
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"):
        taken = http.post(PUSH, content=body, headers={"content-type": kind})
        assert (taken.status_code, taken.json()["accepted"]) == (200, 1)


@pytest.mark.parametrize("name", ["host", "origin", "content-type"])
def test_a_header_that_is_there_twice_is_refused_whichever_comes_first(server: Served, name: str) -> None:
    own = f"127.0.0.1:{server.port}"
    good = {"host": own, "origin": f"http://{own}", "content-type": "application/json"}
    others = [(other, value) for other, value in good.items() if other != name]
    for twice in ((good[name], "evil.example"), ("evil.example", good[name]), (good[name], good[name])):
        headers = [*others, *((name, value) for value in twice)]
        request = "\r\n".join(["POST /push HTTP/1.1", *map(": ".join, headers), "content-length: 0", "", ""])
        with socket.create_connection(("127.0.0.1", server.port), 60) as connection:  # httpx sends no two hosts
            connection.sendall(request.encode())
            refused = HTTPResponse(connection)
            refused.begin()
            body = json.loads(refused.read())
        assert (refused.status, body["where"]) == (400, f"the header {name}")
        assert body["got"] == ", ".join(map(repr, twice))


def test_space_around_a_host_is_not_part_of_it() -> None:
    assert [asked(create_sites("127.0.0.1", "localhost", ()), host=host) for host in ("localhost \t", "evil ")] == [
        200, 421,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("bound", "beyond"),
    [("127.0.0.1", False), ("127.8.0.1", False), ("::1", False), ("::ffff:127.0.0.1", False),
     ("0.0.0.0", True), ("::", True), ("10.0.0.7", True), ("fe80::1%eth0", True)],
)  # fmt: skip
def test_a_server_that_other_machines_reach_does_not_start_without_keys(bound: str, beyond: bool) -> None:
    sites = create_sites(bound, "features.internal", ())
    for keyed in (True, None):  # None: Redis does not answer yet, and the door lets nobody in until it has
        sites.check_keyed(keyed, "features.internal")
    if beyond:
        with pytest.raises(SettingsError, match=r"no key of access yet(.|\n)*features keys create"):
            sites.check_keyed(False, "features.internal")
    else:
        sites.check_keyed(False, "features.internal")


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "no such host", ""])
def test_an_address_that_cannot_be_listened_on_is_named(host: str) -> None:
    with pytest.raises(SettingsError, match="the address cannot be listened on"):
        listen(host, 0)


def test_a_port_that_cannot_be_listened_on_leaves_no_socket_open() -> None:
    with listen("127.0.0.1", 0) as taken:
        before = psutil.Process().num_fds()
        with pytest.raises(SettingsError, match="the port is taken"):
            listen("127.0.0.1", taken.getsockname()[1])
        assert psutil.Process().num_fds() == before


def test_a_key_that_is_sent_twice_is_not_told_again() -> None:
    with pytest.raises(RepeatedHeader) as raised:
        headers_of([(b"authorization", b"Bearer fw_1"), (b"authorization", b"Bearer fw_2")])
    assert "fw_" not in str(raised.value)
    with pytest.raises(RepeatedHeader, match="more than once"):
        headers_of([(b"host", b"a.example"), (b"host", b"b.example")])
