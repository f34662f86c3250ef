"""Signing in to the pages with a key of access: the cookie, what it opens, and what forms of others get."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.app.test_door import RATIO, READ, Keys, keys, server, store  # noqa: F401 - fixtures
from tests.support.served import Served

FORM = re.compile(r'name="form" value="([^"]+)"')


@pytest.fixture
def browser(server: Served) -> Iterator[httpx.Client]:  # noqa: F811
    headers = {"accept": "text/html"}
    with httpx.Client(base_url=server.address, headers=headers, follow_redirects=True, trust_env=False) as client:
        yield client


def form(answer: httpx.Response) -> str:
    (found,) = set(FORM.findall(answer.text))
    return found


def test_a_browser_signs_in_and_out(browser: httpx.Client, keys: Keys) -> None:  # noqa: F811
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


def test_the_cookie_is_for_pages_alone(browser: httpx.Client, keys: Keys) -> None:  # noqa: F811
    mine = keys.make("admin")
    browser.post("/sign-in", data={"key": mine, "form": form(browser.get("/sign-in"))})
    assert browser.get("/entities").status_code == 200
    assert browser.post(READ, json=RATIO).status_code == 401
    assert browser.post("/push", json={}).status_code == 401


def test_a_wrong_key_gets_the_form_again(browser: httpx.Client, keys: Keys) -> None:  # noqa: F811
    keys.make("admin")
    for wrong in ("fw_00000000_x", " ", "é", "a; features_key=b"):
        again = browser.post("/sign-in", data={"key": wrong, "form": form(browser.get("/sign-in"))})
        assert again.status_code == 401
        assert "features_key" not in browser.cookies
        assert "does not know" in again.text


@pytest.mark.parametrize("path", ["/sign-in", "/sign-out"])
def test_a_form_that_is_not_ours_is_refused(browser: httpx.Client, keys: Keys, path: str) -> None:  # noqa: F811
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


def test_behind_a_proxy_that_ends_tls_the_cookie_is_secure(browser: httpx.Client, keys: Keys) -> None:  # noqa: F811
    mine = keys.make("admin")
    given = form(browser.get("/sign-in"))
    answer = browser.post(
        "/sign-in", data={"key": mine, "form": given}, headers={"x-forwarded-proto": "https"}, follow_redirects=False
    )
    assert "Secure" in answer.headers["set-cookie"]
